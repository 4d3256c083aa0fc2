"""A05x: what analysis finds in a spec that is otherwise fine."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A050": CodeEntry(
        title="the mask hides every pair",
        explanation="""\
Two conditions of the mask contradict each other, so that no query ever sees a key, whatever
the call. Most often a comparison points the wrong way.""",
        wrong="""
attention local {
    mask = causal and j > i
}
""",
        right="""
attention local {
    mask = causal and j > i - 256
}
""",
    ),
    "A051": CodeEntry(
        title="a row can be empty",
        explanation="""\
Some query sees no key at all. That is no error: such a row gives 0 and a log-sum-exp of −∞.
But it is seldom meant; the label names a query, and the parameters' values, for which it
happens. A bound (`where`) excludes such values. This is a warning.""",
        wrong="""
attention strictly_before {
    mask = j < i
}
""",
        right="""
attention before {
    mask = j <= i
}
""",
    ),
    "A052": CodeEntry(
        title="a logarithm, root or division outside its domain",
        explanation="""\
For a pair that the mask leaves visible, the formula divides by zero, or takes the logarithm
or root of a number for which it has none. The score is then infinite or not a number, and
so is the whole row. This is a warning.""",
        wrong="""
attention far {
    score = dot(q, k) * scale - log(i - j)
    mask = causal
}
""",
        right="""
attention far {
    score = dot(q, k) * scale - log(i - j + 1)
    mask = causal
}
""",
    ),
    "A053": CodeEntry(
        title="an integer division by zero",
        explanation="""\
`//` and `%` by zero have no value that a kernel could go on with. Where a parameter divides, this
is a warning until the parameter is bound to zero; `where` tells callers beforehand.""",
        wrong="""
attention strided(step: int = 4) {
    mask = causal and (i - j) % step == 0
}
""",
        right="""
attention strided(step: int = 4 where step > 0) {
    mask = causal and (i - j) % step == 0
}
""",
    ),
    "A056": CodeEntry(
        title="declared and never used",
        explanation="""\
A parameter, an input or a `let` takes no part in the result. Often the formula should have
used it; otherwise leave it out, so that callers need not pass it. This is a warning.""",
        wrong="""
attention local(window: int = 256) {
    let near = i - j < window
    mask = causal
}
""",
        right="""
attention local(window: int = 256 where window > 0) {
    let near = i - j < window
    mask = causal and near
}
""",
    ),
}
