"""A08x: what a target, or the compiler as it is, cannot do."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A080": CodeEntry(
        title="a construct that is not compiled yet",
        explanation="""\
`route`, `state`, `branch`, `output`, `grouped_softmax`, and masks that depend on `q` or `k`
are part of the language and are checked, but no target compiles them yet. `attndsl check`
accepts such a spec.""",
        wrong='''
module = attndsl.parse(
    """
    attention landmark(block: int = 4) {
        mask = causal
        normalize = grouped_softmax(
            group = j // block, own = i // block, gate = j % block == block - 1)
    }
    """
)
module.landmark(q, k, v)
''',
        right="""
module = attndsl.parse("attention full { mask = causal }")
module.full(q, k, v)
""",
        language="python",
    ),
    "A081": CodeEntry(
        title="unknown target",
        explanation="""\
A target is `cpu`; `cuda:` and a compute capability, as in `cuda:80`, `cuda:90`; or `hip:`
and an architecture, as in `hip:gfx942`. A call runs where its tensors are: on a CPU, or on
an NVIDIA or AMD GPU of this machine.""",
        wrong="""
module = attndsl.parse("attention full {}")
module.full.source("gpu")
""",
        right="""
module = attndsl.parse("attention full {}")
module.full.source("cpu")
""",
        language="python",
    ),
    "A082": CodeEntry(
        title="a gradient that an artifact does not have",
        explanation="""\
An artifact holds the forward, and the backward if it was compiled in both directions: with
`--direction both`, for the gradients that `--gradient` names. A tensor that requires another
gradient is refused, because a result without its gradient would train nothing and say nothing.
Kernels that come from a spec are differentiable as they are.""",
        wrong="""
module = attndsl.parse("attention full {}")
artifact = attndsl.compile(module.full, target="cpu", head_dim=q.shape[-1], dtype="fp32")
artifact(q.requires_grad_(), k, v)
""",
        right="""
module = attndsl.parse("attention full {}")
artifact = attndsl.compile(
    module.full, target="cpu", head_dim=q.shape[-1], dtype="fp32", direction="both"
)
artifact(q.requires_grad_(), k, v).sum().backward()
""",
        language="python",
    ),
    "A084": CodeEntry(
        title="an integer that does not fit into 32 bits",
        explanation="""\
After the parameters were bound, an integer constant of the formula lies outside of 32 bits,
in which kernels compute. Use a float, or smaller parameters.""",
        wrong="""
module = attndsl.parse(
    "attention far(a: int = 100000) { mask = i - j < a * a }"
)
module.far(q, k, v)
""",
        right="""
module = attndsl.parse(
    "attention far(a: int = 10000) { mask = i - j < a * a }"
)
module.far(q, k, v)
""",
        language="python",
    ),
    "A085": CodeEntry(
        title="a vector whose length is known only at the call",
        explanation="""\
A kernel is compiled for the sizes `D` and `Dv` and for the parameters' values, and serves
all lengths and head counts. A vector inside a formula may have a length of those, and not
of `Lk` or `H`.""",
        wrong="""
module = attndsl.parse(
    "attention ramp { score = dot(q, k) * scale + sum(sin(arange(Lk))) }"
)
module.ramp(q, k, v)
""",
        right="""
module = attndsl.parse(
    "attention ramp { score = dot(q, k) * scale + sum(sin(arange(D))) }"
)
module.ramp(q, k, v)
""",
        language="python",
    ),
    "A083": CodeEntry(
        title="a kernel that does not fit the GPU",
        explanation="""\
Every tile of the kernel needs more shared memory than one multiprocessor of the target has,
or more registers than a thread may use. Smaller head dimensions or 16-bit elements need
less.""",
        wrong="""
attndsl compile spec.attn --target cuda:80 --head-dim 2048 --dtype fp32
""",
        right="""
attndsl compile spec.attn --target cuda:80 --head-dim 128 --dtype bf16
""",
        language="shell",
    ),
    "A086": CodeEntry(
        title="a derivative that attention does not have",
        explanation="""\
Attention is differentiated once, in reverse: by `backward`, `torch.autograd.grad`,
`torch.func.grad` or `vjp`. There is no gradient of its gradient, and no forward mode (`jvp`,
dual tensors). `create_graph=True` itself is fine, as long as nothing comes back through the
gradients of attention.""",
        wrong="""
module = attndsl.parse("attention full {}")
output = module.full(q.requires_grad_(), k, v)
(gradient,) = torch.autograd.grad(output.square().sum(), q, create_graph=True)
gradient.sum().backward()
""",
        right="""
module = attndsl.parse("attention full {}")
output = module.full(q.requires_grad_(), k, v)
(gradient,) = torch.autograd.grad(output.square().sum(), q)
""",
        language="python",
    ),
    "A087": CodeEntry(
        title="an artifact that was made for something else",
        explanation="""\
An artifact runs on the targets, and for the dtype and head dimensions, that it was compiled
for. On a CPU, the processor needs the vector instructions of the one that compiled it.""",
        wrong="""
module = attndsl.parse("attention full {}")
artifact = attndsl.compile(module.full, target="cpu", head_dim=64, dtype="fp32")
artifact(q, k, v)     # whose head dimension is 8
""",
        right="""
module = attndsl.parse("attention full {}")
artifact = attndsl.compile(module.full, target="cpu", head_dim=8, dtype="fp32")
artifact(q, k, v)
""",
        language="python",
    ),
    "A088": CodeEntry(
        title="something that cannot be packed",
        explanation="""\
With `cu_seqlens`, or as nested tensors, sequences of different lengths are packed one after
the other, and so are inputs that have a batch and one length: `[B, H, Lk]` is `[H, T]`. An
input without lengths is shared, and one of `[B, H]` has a row for each sequence. What belongs
to pairs of tokens, what has a length and no batch, and a grid of `axes` cannot be packed:
call the kernel on every such sequence by itself.""",
        wrong='''
module = attndsl.parse(
    """
    attention pairs {
        input bias: float[H, Lq, Lk]
        score = dot(q, k) * scale + bias[h, row, j]
    }
    """
)
packed = torch.randn(9, 4, 8)
bounds = torch.tensor([0, 4, 9])
module.pairs(packed, packed, packed, bias=torch.zeros(4, 9, 9), cu_seqlens=bounds)
''',
        right='''
module = attndsl.parse(
    """
    attention keys {
        input bias: float[B, H, Lk]
        score = dot(q, k) * scale + bias[b, h, j]
    }
    """
)
packed = torch.randn(9, 4, 8)
bounds = torch.tensor([0, 4, 9])
module.keys(packed, packed, packed, bias=torch.zeros(4, 9), cu_seqlens=bounds)
''',
        language="python",
    ),
}
