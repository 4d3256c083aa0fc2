"""A01x: names."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A012": CodeEntry(
        title="unknown name",
        explanation="""\
A name in an expression is an index (`b h g i j row`), a size (`B H Hkv Lq Lk D Dv`),
`scale`, one of `q k v`, a parameter, an input, a `let`, or a definition of this file, of an
imported one, or of the standard patterns. This one is none of them; often it is a slip of
the keyboard, and the diagnostic suggests the nearest name.""",
        wrong="""
attention local(window: int = 256) {
    mask = causal and i - j < windw
}
""",
        right="""
attention local(window: int = 256 where window > 0) {
    mask = causal and i - j < window
}
""",
    ),
    "A013": CodeEntry(
        title="unknown function",
        explanation="""\
What is called must be a built-in function, a standard pattern, or a definition of this file
or of an imported one. A plain value cannot be called. Functions of Python or torch do not
exist here; write the formula out, or define it with `def`.""",
        wrong="""
attention capped {
    score = 30.0 * tnh(dot(q, k) * scale / 30.0)
}
""",
        right="""
attention capped {
    score = 30.0 * tanh(dot(q, k) * scale / 30.0)
}
""",
    ),
    "A014": CodeEntry(
        title="an argument that the function does not take",
        explanation="""\
An argument by name must be one of the definition's parameters, or an option of the
normaliser, and be given once. Built-in functions take their arguments by position.""",
        wrong="""
attention sinks {
    input sink: float[H]
    normalize = softmax(snk = sink[h])
}
""",
        right="""
attention sinks {
    input sink: float[H]
    normalize = softmax(sink = sink[h])
}
""",
    ),
    "A015": CodeEntry(
        title="a name that has a meaning already",
        explanation="""\
Indices, sizes, `q k v`, `scale` and the built-in functions keep their meaning in every
spec, so that a formula reads the same everywhere. (`g`, `n` and `t` may be names of your
own.) `out` and `log_sum_exp` are what a kernel writes, so no input may be called so; nor may
an input or a parameter have the name of an argument of every call: `offset`, `grid`,
`return_lse`, `dropout`, `seed`, `cu_seqlens`, `cu_seqlens_k`.""",
        wrong="""
attention local(D: int = 64) {
    mask = abs(i - j) < D
}
""",
        right="""
attention local(distance: int = 64 where distance > 0) {
    mask = abs(i - j) < distance
}
""",
    ),
    "A016": CodeEntry(
        title="unknown coordinate",
        explanation="""\
`i.y` is the coordinate of position `i` along the axis `y`, which `axes y, x` declares. Only
the positions `i` and `j` have coordinates.""",
        wrong="""
attention grid {
    axes y, x
    mask = i.z == j.z
}
""",
        right="""
attention grid {
    axes y, x
    mask = i.x == j.x
}
""",
    ),
    "A017": CodeEntry(
        title="the imported file has no such name",
        explanation="""\
`from "file.attn" import name` takes definitions (and attentions, for `branch`) of that file
by name.""",
        wrong="""
from "patterns.attn" import locl

attention local_attention { mask = locl(256) }
""",
        right="""
from "patterns.attn" import local

attention local_attention { mask = local(256) }
""",
    ),
    "A018": CodeEntry(
        title="something that cannot be assigned",
        explanation="""\
A spec assigns `score`, `mask`, `normalize`, `output`, and `q`, `k` or `v`, which prepares a
vector before scoring. A name of your own is introduced by `let`. A `route` has its own
fields, and a `state` assigns the state and `read`.""",
        wrong="""
attention local {
    near = i - j < 256
    mask = causal and near
}
""",
        right="""
attention local {
    let near = i - j < 256
    mask = causal and near
}
""",
    ),
    "A019": CodeEntry(
        title="a name that has no meaning in this place",
        explanation="""\
What may be used depends on what varies. A dimension of an input is known before there is
any pair, so it has no `i`; a sink belongs to a row, so it has no `j`; a prepared `q`
belongs to a query, so it has no `k`.""",
        wrong="""
attention sinks {
    input sink: float[Lk]
    normalize = softmax(sink = sink[j])
}
""",
        right="""
attention sinks {
    input sink: float[H]
    normalize = softmax(sink = sink[h])
}
""",
    ),
}
