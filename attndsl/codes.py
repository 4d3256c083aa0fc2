"""Every diagnostic code, explained: what `attndsl explain CODE` prints.

`wrong` gives the diagnostic and `right` does not; both are checked by a test. Where an example is a
spec it is `.attn` text; where the fault lies in a call or in the machine it is Python or a shell
command, which the entry's `language` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent


@dataclass(frozen=True)
class CodeEntry:
    """What a code means. `title` fits on a line; `explanation` is prose of a few lines.

    `language` is `"attn"` for a spec that a test checks as it stands, `"python"` for a call (with
    `q`, `k`, `v` at hand), `"shell"` for a command.
    """

    title: str
    explanation: str
    wrong: str
    right: str
    language: str = "attn"


def explain(code: str) -> str | None:
    """The explanation of a code as plain text, or None for a code that does not exist."""
    entry = CODES.get(code.upper())
    if entry is None:
        return None
    return "\n".join(
        [
            f"{code.upper()}: {entry.title}",
            "",
            entry.explanation.strip(),
            "",
            "wrong:",
            "",
            indent(entry.wrong.strip("\n"), "    "),
            "",
            "right:",
            "",
            indent(entry.right.strip("\n"), "    "),
        ]
    )


CODES: dict[str, CodeEntry] = {
    "A007": CodeEntry(
        title="a name of the language was used outside a kernel",
        explanation="""\
The names of `attndsl.language` have no value in Python. They stand for what varies from pair to
pair, and mean something only in the body of a function with `@attndsl.kernel` or
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
`normalize`, or to a name of your own; `Input(…)`, `axes(…)`, and `assert` for the bounds of a
parameter. There are no loops, branches, strings, imports or calls of Python's functions in it.
What holds under a condition is written as `a if condition else b`.""",
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
`@attndsl.kernel` reads the function's source from its file. A function that was made by `exec`,
typed into Python's plain prompt, written as a `lambda` or implemented in C has none. Put the kernel
into a file (a notebook's cell will do), or give its text to `attndsl.parse`.""",
        wrong="""
attndsl.kernel(lambda window: window)
""",
        right="""
module = attndsl.parse("attention causal_attention { mask = causal }")
""",
        language="python",
    ),
    "A012": CodeEntry(
        title="unknown name",
        explanation="""\
A name in an expression is an index (`b h g i j row`), a size (`B H Hkv Lq Lk D Dv`), `scale`,
one of `q k v`, a parameter, an input, a `let`, or a definition of this file, of an imported one,
or of the standard patterns. This one is none of them; often it is a slip of the keyboard, and
the diagnostic suggests the nearest name.""",
        wrong="""
attention local(window: int = 256) {
    mask = causal and i - j < windw
}
""",
        right="""
attention local(window: int = 256) {
    mask = causal and i - j < window
}
""",
    ),
    "A078": CodeEntry(
        title="a visible pair reads an input out of range",
        explanation="""\
An index of an input lies outside its dimension for a pair that the mask leaves visible. Kernels
clamp such an index, so that hidden pairs may compute what they like; for a visible pair the result
would be an arbitrary element, and the reference reports it. Hide the pairs in the mask, bound the
index with `min` and `max`, or pass a tensor that is large enough.""",
        wrong='''
module = attndsl.parse(
    """
    attention local(window: int = 8) {
        input bias: float[H, window]
        score = dot(q, k) * scale + bias[h, i - j]
        mask = causal
    }
    """
)
module.local(q, k, v, bias=torch.zeros(4, 8))
''',
        right='''
module = attndsl.parse(
    """
    attention local(window: int = 8) {
        input bias: float[H, window]
        score = dot(q, k) * scale + bias[h, i - j]
        mask = causal and i - j < window
    }
    """
)
module.local(q, k, v, bias=torch.zeros(4, 8))
''',
        language="python",
    ),
}
