"""A04x: structure: duplicates, recursion, imports, axes, normalisers."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A040": CodeEntry(
        title="declared or assigned twice",
        explanation="""\
A name has one meaning in a spec, and `score`, `mask` and `normalize` have one formula each.
There is no order of execution in which a second one could replace the first.""",
        wrong="""
attention local {
    mask = causal
    mask = i - j < 256
}
""",
        right="""
attention local {
    mask = causal and i - j < 256
}
""",
    ),
    "A041": CodeEntry(
        title="a definition that uses itself",
        explanation="""\
Definitions and `let`s are written out where they are used, so one that uses itself,
directly or through others, has no end.""",
        wrong="""
def power(x, n) = x * power(x, n - 1)

attention powered {
    score = power(dot(q, k) * scale, 3)
}
""",
        right="""
attention powered {
    score = (dot(q, k) * scale) ** 3
}
""",
    ),
    "A042": CodeEntry(
        title="definitions that expand without measure",
        explanation="""\
Definitions are written out where they are used. A few that use their parameter twice and
call each other double the formula with each call; past 50 000 operations or 200 levels it
is refused.""",
        wrong="""
def a(x) = x + x + x + x
def b4(x) = a(a(a(a(x))))
def c(x) = b4(b4(b4(x)))

attention large {
    score = c(dot(q, k) * scale)
}
""",
        right="""
def a(x) = 4.0 * x
def b4(x) = a(a(a(a(x))))
def c(x) = b4(b4(b4(x)))

attention large {
    score = c(dot(q, k) * scale)
}
""",
    ),
    "A043": CodeEntry(
        title="a file that cannot be read",
        explanation="""\
The spec, or a file that it imports, does not exist, may not be read, or is not UTF-8 text.
Paths of imports are relative to the file that has them; a spec that was given as text has
no place to import from.""",
        wrong="""
import "no_such_file.attn"
""",
        right="""
import "patterns.attn"
""",
    ),
    "A044": CodeEntry(
        title="files that import each other",
        explanation="""\
A file that imports itself, directly or through others, has no end. Move what both files
need into a third.""",
        wrong="""
import "example.attn"    # this file's own name

attention local_attention { mask = causal }
""",
        right="""
import "patterns.attn"

attention local_attention { mask = local(256) }
""",
    ),
    "A045": CodeEntry(
        title="axes declared twice",
        explanation="""\
One statement names all axes of the grid, from the slowest to the fastest.""",
        wrong="""
attention grid {
    axes y
    axes x
    mask = i.x == j.x
}
""",
        right="""
attention grid {
    axes y, x
    mask = i.x == j.x
}
""",
    ),
    "A046": CodeEntry(
        title="a route, state or branch that lacks a part",
        explanation="""\
A `route` has an `affinity` and a `keep` (`top(n)`, `threshold(x)` or `mass(p)`); a `state`
has two dimensions and is read; a `branch` names an attention, or `pooled(block)` or
`routed(block, top)`.""",
        wrong="""
attention moba(block: int = 512) {
    mask = causal
    route blocks of block {
        affinity = dot(q, mean(k))
    }
}
""",
        right="""
attention moba(block: int = 512) {
    mask = causal
    route blocks of block {
        affinity = dot(q, mean(k))
        keep = top(3)
    }
}
""",
    ),
    "A047": CodeEntry(
        title="not a normaliser",
        explanation="""\
`normalize` is `softmax`, `softmax1`, `sum`, `none`, a function of one argument (`sigmoid`,
`relu2`, a `def` of your own), or `weight(…)` with a formula of `score`.""",
        wrong="""
attention normal {
    normalize = softmx
}
""",
        right="""
attention normal {
    normalize = softmax
}
""",
    ),
    "A048": CodeEntry(
        title="a definition's parameters out of order",
        explanation="""\
Parameters without a default come first. Bounds (`where`) belong to the parameters of an
`attention`, which are checked when they are bound.""",
        wrong="""
def near(window = 256, step) = abs(i - j) < window * step

attention local { mask = near(256, 2) }
""",
        right="""
def near(step, window = 256) = abs(i - j) < window * step

attention local { mask = near(2) }
""",
    ),
}
