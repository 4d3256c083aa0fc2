"""A02x: types."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A020": CodeEntry(
        title="an operator that does not take such operands",
        explanation="""\
`and`, `or`, `not` and `if` take bools; arithmetic takes ints, floats and vectors;
comparisons take scalars. A bool is never a number by itself: `int(x)` makes one of it. An
int meets a float as a float.""",
        wrong="""
attention local {
    mask = causal and i - j
}
""",
        right="""
attention local {
    mask = causal and i - j != 1
}
""",
    ),
    "A021": CodeEntry(
        title="a mask is a bool",
        explanation="""\
`mask` says whether a pair is visible: true or false. What is to be added to the score
belongs into `score`.""",
        wrong="""
attention local {
    mask = i - j
}
""",
        right="""
attention local {
    mask = i - j >= 0
}
""",
    ),
    "A022": CodeEntry(
        title="a score is a float",
        explanation="""\
`score` is one float for each pair of a query and a key. `q * k` is a vector; `dot(q, k)` is
the sum of its elements.""",
        wrong="""
attention scaled {
    score = q * k * scale
}
""",
        right="""
attention scaled {
    score = dot(q, k) * scale
}
""",
    ),
    "A023": CodeEntry(
        title="the wrong number of arguments",
        explanation="""\
A call gives each parameter of the function that has no default exactly one value. A
definition whose parameters all have defaults, or that has none, needs no parentheses.""",
        wrong="""
attention scaled {
    score = dot(q) * scale
}
""",
        right="""
attention scaled {
    score = dot(q, k) * scale
}
""",
    ),
    "A024": CodeEntry(
        title="a value of the wrong type",
        explanation="""\
A function's argument, a default, an index or a prepared vector has another type than its
place needs. The label says what it is.""",
        wrong="""
attention lengths {
    score = norm(scale)
}
""",
        right="""
attention lengths {
    score = norm(q - k)
}
""",
    ),
    "A025": CodeEntry(
        title="vectors of different sizes",
        explanation="""\
Elementwise arithmetic and `dot` take vectors of one size. Slices, `concat` and the inputs'
dimensions are compared by what can be proved about them; `D` and `Dv` are different sizes.""",
        wrong="""
attention halves {
    score = dot(q[0:32], k[0:16])
}
""",
        right="""
attention halves {
    score = dot(q[0:32], k[0:32])
}
""",
    ),
    "A026": CodeEntry(
        title="a tuple that does not fit",
        explanation="""\
A tuple, as in `neighborhood((5, 7, 7))`, gives a pattern over all axes a value for each of
them, in the order in which `axes` declares them; it needs as many values as there are axes.
Everything else takes a single value.""",
        wrong="""
attention video {
    axes time, y, x
    mask = neighborhood(window = (5, 7))
}
""",
        right="""
attention video {
    axes time, y, x
    mask = neighborhood(window = (5, 7, 7))
}
""",
    ),
    "A027": CodeEntry(
        title="something that cannot be indexed",
        explanation="""\
Inputs, token scans and vectors are indexed; a scalar is not. An input without dimensions is
a scalar.""",
        wrong="""
attention shifted(amount: float = 1.0) {
    score = dot(q, k) * scale + amount[h]
}
""",
        right="""
attention shifted {
    input amount: float[H]
    score = dot(q, k) * scale + amount[h]
}
""",
    ),
    "A028": CodeEntry(
        title="a declaration without a usable type",
        explanation="""\
A parameter is a `bool`, an `int` or a `float`: it has a type, or a default that shows it.
What has dimensions comes with the call and is an `input`.""",
        wrong="""
attention local(window: integer = 256) {
    mask = abs(i - j) < window
}
""",
        right="""
attention local(window: int = 256 where window > 0) {
    mask = abs(i - j) < window
}
""",
    ),
    "A029": CodeEntry(
        title="something that must be a constant",
        explanation="""\
A parameter's default and `epsilon` are numbers that are known when the spec is read. A
bound (`where`) speaks of parameters alone: sizes are known only at the call.""",
        wrong="""
attention local(window: int = Lk) {
    mask = abs(i - j) < window
}
""",
        right="""
attention local(window: int = 4096 where window > 0) {
    mask = abs(i - j) < window
}
""",
    ),
}
