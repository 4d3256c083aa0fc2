"""A07x: calls: tensors, inputs, sizes."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

_FULL = 'module = attndsl.parse("attention full {}")\n'
_ALIBI = '''
module = attndsl.parse(
    """
    attention alibi {
        input slope: float[H]
        score = dot(q, k) * scale - slope[h] * (i - j)
        mask = causal
    }
    """
)
'''
_GRID = '''
module = attndsl.parse(
    """
    attention near {
        axes y, x
        mask = abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1
    }
    """
)
'''

CODES: dict[str, CodeEntry] = {
    "A070": CodeEntry(
        title="not a tensor",
        explanation="""\
`q`, `k`, `v` and inputs with dimensions are torch tensors. An array of NumPy becomes one
with `torch.from_numpy`, without a copy. An input without dimensions may be a plain number.""",
        wrong=_FULL + "module.full(q.numpy(), k, v)\n",
        right=_FULL + "module.full(q, k, v)\n",
        language="python",
    ),
    "A071": CodeEntry(
        title="an input is missing",
        explanation="""\
Every input that the spec declares is passed by its name.""",
        wrong=_ALIBI + "module.alibi(q, k, v)\n",
        right=_ALIBI + "module.alibi(q, k, v, slope=torch.ones(4))\n",
        language="python",
    ),
    "A072": CodeEntry(
        title="an input that the spec does not have",
        explanation="""\
Tensors other than `q`, `k`, `v` are passed by the names that the spec declares with
`input`.""",
        wrong=_ALIBI + "module.alibi(q, k, v, slope=torch.ones(4), slopes=torch.ones(4))\n",
        right=_ALIBI + "module.alibi(q, k, v, slope=torch.ones(4))\n",
        language="python",
    ),
    "A073": CodeEntry(
        title="a tensor of another shape",
        explanation="""\
`q` is `[B, H, Lq, D]`, `k` `[B, Hkv, Lk, D]`, `v` `[B, Hkv, Lk, Dv]`; an input has the
dimensions that the spec declares. The diagnostic gives the declaration, its sizes in this
call, and the shape that came. Tensors laid out as `[B, L, H, D]` are passed as
`q.transpose(1, 2)`: any strides are fine, and nothing is copied.""",
        wrong=_ALIBI + "module.alibi(q, k, v, slope=torch.ones(16))\n",
        right=_ALIBI + "module.alibi(q, k, v, slope=torch.ones(4))\n",
        language="python",
    ),
    "A074": CodeEntry(
        title="a tensor of another dtype",
        explanation="""\
`q`, `k` and `v` have one dtype: float32, float16 or bfloat16. A `bool` input takes bools,
an `int` input integers of any width (that fit into 32 bits), a `float` input floats of any
width.""",
        wrong=_FULL + "module.full(q.double(), k.double(), v.double())\n",
        right=_FULL + "module.full(q.bfloat16(), k.bfloat16(), v.bfloat16())\n",
        language="python",
    ),
    "A075": CodeEntry(
        title="tensors on different devices",
        explanation="""\
All tensors of a call are on the device of `q`. Nothing is moved behind your back, because
moving is slow.""",
        wrong=_FULL + 'module.full(q, k.to("meta"), v)\n',
        right=_FULL + "module.full(q, k, v)\n",
        language="python",
    ),
    "A076": CodeEntry(
        title="heads that cannot be grouped",
        explanation="""\
With grouped heads, each head of `k` and `v` serves `H // Hkv` heads of `q`, so `H` is a
multiple of `Hkv`.""",
        wrong=_FULL + "module.full(q, k[:, :3], v[:, :3])\n",
        right=_FULL + "module.full(q, k[:, :2], v[:, :2])\n",
        language="python",
    ),
    "A077": CodeEntry(
        title="a grid that does not fit",
        explanation="""\
A spec with `axes` lays its tokens on a grid, row-major, whose lengths come with the call.
Their product is the number of keys.""",
        wrong=_GRID + "module.near(q, k, v, grid=(4, 5))\n",
        right=_GRID + "module.near(q, k, v, grid=(4, 4))\n",
        language="python",
    ),
    "A078": CodeEntry(
        title="a visible pair reads an input out of range",
        explanation="""\
An index of an input lies outside its dimension for a pair that the mask leaves visible.
Kernels clamp such an index, so that hidden pairs may compute what they like; for a visible
pair the result would be an arbitrary element, and the reference reports it. Hide the pairs
in the mask, bound the index with `min` and `max`, or pass a tensor that is large enough.""",
        wrong='''
from attndsl.reference import run

module = attndsl.parse(
    """
    attention local(window: int = 8) {
        input bias: float[H, window]
        score = dot(q, k) * scale + bias[h, i - j]
        mask = causal
    }
    """
)
attention = module.local(window=8).attention
run(attention, q.numpy(), k.numpy(), v.numpy(), {"bias": torch.zeros(4, 8).numpy()})
''',
        right='''
from attndsl.reference import run

module = attndsl.parse(
    """
    attention local(window: int = 8) {
        input bias: float[H, window]
        score = dot(q, k) * scale + bias[h, i - j]
        mask = causal and i - j < window
    }
    """
)
attention = module.local(window=8).attention
run(attention, q.numpy(), k.numpy(), v.numpy(), {"bias": torch.zeros(4, 8).numpy()})
''',
        language="python",
    ),
    "A079": CodeEntry(
        title="a number that the call cannot use",
        explanation="""\
`scale` is a finite number, `offset` an int (the position of query row 0); positions and
`int` inputs fit into 32 bits. Only a softmax has a log-sum-exp to return. `dropout` is a
probability, at least 0 and less than 1, and `seed`, which goes with it, an int of 64 bits.""",
        wrong=_FULL + "module.full(q, k, v, offset=0.5)\n",
        right=_FULL + "module.full(q, k, v, offset=0)\n",
        language="python",
    ),
}
