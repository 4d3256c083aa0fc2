"""A03x: index roles and dimensions."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A030": CodeEntry(
        title="an index that does not belong to the dimension",
        explanation="""\
A dimension knows what may index it: `B` takes `b`, `H` takes `h`, `Hkv` takes `g`, `Lq`
takes `row`, `Lk` takes `j`, or `i`, the query's position. `slope[i]` of a `slope: float[H]`
would read some element of the tensor, and never the one that was meant. An expression, such
as `i // block` or `i - j`, may index any dimension that fits it.""",
        wrong="""
attention biased {
    input slope: float[H]
    score = dot(q, k) * scale - slope[i]
}
""",
        right="""
attention biased {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h]
}
""",
    ),
    "A031": CodeEntry(
        title="the wrong number of indices",
        explanation="""\
An input takes at most as many indices as it has dimensions; what is left makes a vector or
a matrix. Only a vector can be sliced.""",
        wrong="""
attention biased {
    input slope: float[H]
    score = dot(q, k) * scale - slope[b, h]
}
""",
        right="""
attention biased {
    input slope: float[B, H]
    score = dot(q, k) * scale - slope[b, h]
}
""",
    ),
    "A032": CodeEntry(
        title="an input that still needs an index",
        explanation="""\
Without an index for each of its dimensions an input is a vector or a matrix of floats, of a
size that does not depend on lengths or head counts. A dimension such as `H` or `Lk`, and
any dimension of a bool or int input, needs its index.""",
        wrong="""
attention biased {
    input slope: float[H]
    score = dot(q, k) * scale - slope
}
""",
        right="""
attention biased {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h]
}
""",
    ),
    "A033": CodeEntry(
        title="a dimension that cannot be used so",
        explanation="""\
An input's dimensions are ints over sizes and parameters: no tensor is read to know the
shape of another. `cumsum` runs over an input whose last dimension is a length.""",
        wrong="""
attention forgetting {
    input decay: float[Lk, H]
    let c = cumsum(decay)
    score = dot(q, k) * scale + c[i, h] - c[j, h]
    mask = causal
}
""",
        right="""
attention forgetting {
    input decay: float[H, Lk]
    let c = cumsum(decay)
    score = dot(q, k) * scale + c[h, i] - c[h, j]
    mask = causal
}
""",
    ),
    "A034": CodeEntry(
        title="something that varies where it must not, or the reverse",
        explanation="""\
The bounds of a slice, an element of a vector, the length of `arange` and the size of a
block are ints over sizes and parameters: the same for every token. `cumsum` needs something
that varies along the sequence.""",
        wrong="""
attention varying {
    score = q[j] * k[0]
}
""",
        right="""
attention varying {
    score = q[1] * k[0]
}
""",
    ),
    "A035": CodeEntry(
        title="a slice or element outside its vector",
        explanation="""\
The index lies outside the vector whatever the sizes are, or the slice is empty. Vectors are
not indexed from their end: the last 16 elements of `q` are `q[D - 16:]`.""",
        wrong="""
attention tail {
    score = dot(q[-16:], k[-16:])
}
""",
        right="""
attention tail {
    score = dot(q[D - 16:], k[D - 16:])
}
""",
    ),
}
