"""A00x: syntax."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A001": CodeEntry(
        title="a word or sign that cannot stand here",
        explanation="""\
The text is made of known pieces, but this one does not fit where it stands. The label says
what may stand there. Statements need no separator; each begins with a keyword (`input`,
`let`, `axes`, …) or with a name and `=`.""",
        wrong="""
attention local {
    mask = causal and
}
""",
        right="""
attention local {
    mask = causal and i - j < 256
}
""",
    ),
    "A002": CodeEntry(
        title="a character or operator that the language does not have",
        explanation="""\
Often it comes from another language or from a paper: `&&` for `and`, `^` for `**`, `≤` for
`<=`, typographic quotes. Names are written with the letters a to z, digits and `_`.""",
        wrong="""
attention local {
    mask = causal && i - j < 256
}
""",
        right="""
attention local {
    mask = causal and i - j < 256
}
""",
    ),
    "A003": CodeEntry(
        title="brackets that do not pair",
        explanation="""\
A closing bracket closes nothing, or another kind of bracket than the one that is open.""",
        wrong="""
attention local {
    mask = abs(i - j] < 256
}
""",
        right="""
attention local {
    mask = abs(i - j) < 256
}
""",
    ),
    "A004": CodeEntry(
        title="the text ends too early",
        explanation="""\
Something that was begun is not finished where the file ends: most often a `}` or `)` is
missing.""",
        wrong="""
attention local {
    mask = causal
""",
        right="""
attention local {
    mask = causal
}
""",
    ),
    "A005": CodeEntry(
        title="a text that is too long or nests too deep",
        explanation="""\
A spec is a few lines. A text of more than 256 kilobytes, brackets or operations that nest
more than 200 levels deep are refused before they cost time or memory. A program that writes
specs should put long lists of facts into inputs, which are tensors.""",
        wrong="""
attndsl.parse("attention deep { score = " + "(" * 1000 + "0.0" + ")" * 1000 + " }")
""",
        right="""
attndsl.parse("attention flat { score = " + "(" * 100 + "0.0" + ")" * 100 + " }")
""",
        language="python",
    ),
    "A006": CodeEntry(
        title="a number that is malformed or out of range",
        explanation="""\
Integers are 32-bit, because positions are computed in 32 bits in every kernel. A larger
constant is written as a float. A number ends before a letter: `2 * x` needs its operator,
and `1_000` is `1000`.""",
        wrong="""
attention far {
    mask = i - j < 10000000000
}
""",
        right="""
attention far {
    mask = float(i - j) < 1e10
}
""",
    ),
    "A007": CodeEntry(
        title="a name of the language was used outside a kernel",
        explanation="""\
The names of `attndsl.language` have no value in Python. They stand for what varies from
pair to pair, and mean something only in the body of a function with `@attndsl.kernel` or
`@attndsl.define`, which is read and never run.""",
        wrong="""
from attndsl.language import i, j

near = i - j < 256
""",
        right="""
from attndsl.language import i, j

@attndsl.define
def near(window):
    return i - j < window
""",
        language="python",
    ),
    "A008": CodeEntry(
        title="Python that the language does not have",
        explanation="""\
The body of a kernel is a list of formulas, not a program: assignments to `score`, `mask`,
`normalize`, or to a name of your own; `Input(…)`, `axes(…)`, and `assert` for the bounds of
a parameter. There are no loops, branches, strings, imports or calls of Python's functions
in it. What holds under a condition is written as `a if condition else b`.""",
        wrong="""
from attndsl.language import causal

@attndsl.kernel
def local(window: int = 256):
    if window > 0:
        mask = causal
""",
        right="""
from attndsl.language import causal

@attndsl.kernel
def local(window: int = 256):
    mask = causal if window > 0 else True
""",
        language="python",
    ),
    "A009": CodeEntry(
        title="a kernel's source cannot be read",
        explanation="""\
`@attndsl.kernel` reads the function's source from its file. A function that was made by
`exec`, typed into Python's plain prompt, written as a `lambda` or implemented in C has
none. Put the kernel into a file (a notebook's cell will do), or give its text to
`attndsl.parse`.""",
        wrong="""
attndsl.kernel(lambda window: window)
""",
        right="""
module = attndsl.parse("attention causal_attention { mask = causal }")
""",
        language="python",
    ),
}
