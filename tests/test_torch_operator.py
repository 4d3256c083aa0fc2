"""A kernel as an operator of torch: its contract, graphs, autocast, `torch.func`, checkpoints.

Numbers are compared with `scaled_dot_product_attention` or with the same formula in torch.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.language import causal as causal_pairs
from attndsl.language import i, j
from attndsl.runtime import operator

ROOT = Path(__file__).parent.parent
SPEC = """
attention causal_softmax { mask = causal }
attention alibi {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask  = causal
}
attention window(width: int = 20 where width > 0) { mask = abs(i - j) < width }
attention documents {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}
attention near {
    axes y, x
    mask = abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1
}
attention tempered {
    input temperature: float
    score = dot(q, k) * temperature
}
attention everywhere { normalize = sigmoid }
attention weighted {
    score = exp(dot(q, k) * scale)
    normalize = sum
}
attention added {
    input first: float[H]
    input second: float[H]
    score = dot(q, k) * scale + (first[h] + second[h]) * j * 0.1
}
attention routed(block: int = 64) {
    mask = causal
    route blocks of block {
        affinity = dot(q, mean(k))
        keep     = top(3)
    }
}
"""
attend = torch.ops.attndsl.attend.default
attend_backward = torch.ops.attndsl.attend_backward.default
close = torch.testing.assert_close


@attndsl.kernel
def decorated(width: int = 7):
    assert width > 0
    mask = causal_pairs and i - j < width
    return mask


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attndsl.SpecWarning)
        return attndsl.parse(SPEC)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def operands(
    length: int = 30, *, heads: int = 4, grad: bool = False, seed: int = 0
) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, count, length, 16, generator=random).requires_grad_(grad)
        for count in (heads, 2, 2)
    ]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def alibi_in_torch(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    place = torch.arange(q.shape[2])
    distance = place[:, None] - place
    bias = torch.where(distance >= 0, -slope[:, None, None] * distance, -torch.inf)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)


# The operator's contract


def calls(module: attndsl.Module, grad: bool) -> dict[str, tuple[Any, ...]]:
    """Arguments of the operator, by what is special about them."""
    slope = torch.rand(4).requires_grad_(grad)
    doc = (torch.arange(30) // 7).expand(2, 30)
    one = torch.tensor(0.3).requires_grad_(grad)

    def call(
        kernel: attndsl.Kernel,
        inputs: list[Tensor],
        scale: Any = None,
        offset: Any = None,
        grid: Any = None,
    ) -> tuple[Any, ...]:
        return kernel.bind().spec, *operands(grad=grad), inputs, None, None, scale, offset, grid

    return {
        "plain": call(module.causal_softmax, []),
        "per head": call(module.alibi, [slope]),
        "integers": call(module.documents, [doc], 0.3, 2),
        "grid": call(module.near, [], None, None, [5, 6]),
        "scalar": call(module.tempered, [one]),
        "no statistic": call(module.everywhere, []),
        "sum": call(module.weighted, []),
    }


KINDS = ["plain", "per head", "integers", "grid", "scalar", "no statistic", "sum"]


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(module: attndsl.Module, kind: str) -> None:
    torch.library.opcheck(attend, calls(module, True)[kind])


def test_opcheck_without_gradients(module: attndsl.Module) -> None:
    torch.library.opcheck(attend, calls(module, False)["per head"])


@pytest.mark.parametrize("of_statistic", [False, True])
def test_opcheck_of_the_backward(module: attndsl.Module, of_statistic: bool) -> None:
    call = calls(module, False)["per head"]
    out, statistic = attend(*call)
    gradients = torch.randn_like(out), torch.randn_like(statistic) if of_statistic else None
    needed = [True, False, True, True]
    torch.library.opcheck(attend_backward, (out, statistic, *gradients, needed, *call))


def test_the_operator_computes_what_the_kernel_does(module: attndsl.Module) -> None:
    slope = torch.rand(4)
    out, log_sum_exp = module.alibi(*operands(), slope=slope, return_lse=True)
    by_operator = attend(module.alibi.spec, *operands(), [slope], *[None] * 5)
    assert torch.equal(out, by_operator[0])
    assert torch.equal(log_sum_exp, by_operator[1])
    close(out, alibi_in_torch(*operands(), slope))


def test_the_operator_takes_any_spec_that_is_text(module: attndsl.Module) -> None:
    text = "attention mine { mask = causal }"
    close(attend(text, *operands(), [], *[None] * 5)[0], sdpa(*operands()))
    assert operator.kernel_of(text) is operator.kernel_of(text)
    for wrong, code in (("attention a { mask = casual }", "A012"), ("nonsense", "A00")):
        with pytest.raises(AttnError, match=code):
            attend(wrong, *operands(), [], *[None] * 5)


def test_a_kernel_s_spec_is_its_key(module: attndsl.Module) -> None:
    kernel = module.window(width=5)
    assert operator.kernel_of(operator.spec_of(kernel)) is kernel
    assert "< 5" in kernel.spec
    with pytest.raises(AttnError, match="A080"):
        _ = module.routed.spec


def test_two_inputs_of_one_gradient_get_memory_of_their_own(module: attndsl.Module) -> None:
    first, second = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    out = module.added(*operands(), first=first, second=second)
    of_first, of_second = torch.autograd.grad(out.sin().sum(), (first, second))
    close(of_first, of_second)
    assert of_first.data_ptr() != of_second.data_ptr()


# Graphs

LENGTHS = (30, 17, 44, 9)


def compiled_like_eager(
    function: Callable[..., Any],
    inputs: Callable[[int], list[Tensor]],
    *,
    backend: str = "aot_eager",
    lengths: tuple[int, ...] = LENGTHS,
) -> None:
    """In one dynamic graph for all lengths: output and gradients are those of eager mode."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for length in lengths:
        results = []
        for called in (compiled, function):
            given = [one.detach().requires_grad_(one.requires_grad) for one in inputs(length)]
            out = called(*given)
            floats = [one for one in given if one.requires_grad]
            total = sum(one.sin().sum() for one in (out if isinstance(out, tuple) else (out,)))
            gradients = torch.autograd.grad(total, floats) if floats else ()
            results.append((out, gradients))
        close(*results)
    assert counter.frame_count == 1
    assert not counters["graph_break"]


def graph_calls(module: attndsl.Module) -> dict[str, Callable[..., Any]]:
    return {
        "plain": lambda q, k, v: module.causal_softmax(q, k, v),
        "log-sum-exp": lambda q, k, v: module.causal_softmax(q, k, v, return_lse=True),
        "input": lambda q, k, v: module.alibi(q, k, v, slope=q[0, :, 0, 0].abs()),
        "number": lambda q, k, v: module.tempered(q, k, v, temperature=0.3),
        "tokens": lambda q, k, v: module.documents(q, k, v, doc=k[:, 0, :, 0].int()),
        "parameter": lambda q, k, v: module.window(q, k, v, width=5),
        "bound inside": lambda q, k, v: module.window(width=5)(q, k, v),
        "defaults": lambda q, k, v: module.window(q, k, v),
        "scale and offset": lambda q, k, v: module.alibi(
            q, k, v, slope=q[0, :, 0, 0], scale=0.2, offset=q.shape[2] - 3
        ),
        "grid": lambda q, k, v: module.near(q, k, v, grid=(q.shape[2], 1)),
        "named grid": lambda q, k, v: module.near(q, k, v, grid={"x": q.shape[2], "y": 1}),
        "no statistic": lambda q, k, v: module.everywhere(q, k, v),
        "decorated": lambda q, k, v: decorated(q, k, v, width=3),
    }


@pytest.mark.parametrize("kind", graph_calls(attndsl.parse("attention full {}")))
def test_one_graph_for_all_lengths(module: attndsl.Module, kind: str) -> None:
    compiled_like_eager(graph_calls(module)[kind], lambda length: operands(length, grad=True))


@pytest.mark.slow
def test_inductor(module: attndsl.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its cache outlives this version of the operator, and knows nothing of its arguments.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled_like_eager(
        graph_calls(module)["input"],
        lambda length: operands(length, grad=True),
        backend="inductor",
        lengths=(30, 17),
    )


def tokens(length: int) -> Tensor:
    return torch.randn(2, length, 64, generator=torch.Generator().manual_seed(length))


class Block(torch.nn.Module):
    def __init__(self, module: attndsl.Module) -> None:
        super().__init__()
        self.project = torch.nn.Linear(64, 3 * 64)
        self.slope = torch.nn.Parameter(torch.rand(4))
        self.module = module
        self.attention = module.window(width=4)
        self.width = 6

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        out = self.attention(q, k, v) + self.module.alibi(q, k, v, slope=self.slope)
        out = out + self.module.window(width=self.width)(q, k, v)
        return x + out.transpose(1, 2).flatten(2)


def test_a_module_in_one_graph(module: attndsl.Module) -> None:
    block = Block(module)
    compiled_like_eager(block, lambda length: [tokens(length).requires_grad_()])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counter)
    x = tokens(20)
    for width, attention, frames in ((6, 4, 1), (2, 4, 2), (2, 9, 3)):
        block.width, block.attention = width, module.window(width=attention)
        close(compiled(x), block(x))
        assert counter.frame_count == frames


def test_lengths_alone_recompile_nothing(module: attndsl.Module) -> None:
    """Without `dynamic`, torch makes a static graph first, and a dynamic one at a second length."""
    compiled = torch.compile(
        lambda q, k, v: module.causal_softmax(q, k, v), fullgraph=True, backend="aot_eager"
    )
    compiled(*operands(30))
    compiled(*operands(31))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (12, 40, 70):
            close(compiled(*operands(length)), sdpa(*operands(length)))


def test_no_grad_and_inference_mode_in_a_graph(module: attndsl.Module) -> None:
    compiled = torch.compile(
        lambda q, k, v: module.causal_softmax(q, k, v), fullgraph=True, backend="aot_eager"
    )
    with torch.no_grad():
        assert not compiled(*operands(grad=True)).requires_grad
    with torch.inference_mode():
        out = compiled(*operands())
        assert out.is_inference()
        close(out, sdpa(*operands()))


@pytest.mark.parametrize(
    ("code", "called"),
    [
        ("A073", lambda module, q, k, v: module.causal_softmax(q, k[..., :8], v)),
        ("A073", lambda module, q, k, v: module.alibi(q, k, v, slope=k[0, 0, 0])),
        ("A074", lambda module, q, k, v: module.causal_softmax(q, k.double(), v)),
        ("A071", lambda module, q, k, v: module.alibi(q, k, v)),
        ("A072", lambda module, q, k, v: module.causal_softmax(q, k, v, slope=k[0, 0, 0])),
        ("A077", lambda module, q, k, v: module.near(q, k, v, grid={"x": 1, "z": 1})),
        ("A079", lambda module, q, k, v: module.everywhere(q, k, v, return_lse=True)),
        ("A063", lambda module, q, k, v: module.window(q, k, v, width=0)),
    ],
)
def test_what_is_wrong_is_said_while_the_graph_is_made(
    module: attndsl.Module, code: str, called: Callable[..., Any]
) -> None:
    compiled = torch.compile(
        lambda *tensors: called(module, *tensors), fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match=rf"error\[{code}\]"):
        compiled(*operands())


def test_a_program_runs_in_another_process(module: attndsl.Module, tmp_path: Path) -> None:
    """Which has never seen the spec."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.rand(4))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return module.alibi(q, k, v, slope=self.slope)

    layer = Layer()
    length = torch.export.Dim("length", min=2, max=4096)
    for strict in (True, False):
        program = torch.export.export(
            layer, tuple(operands()), dynamic_shapes=({2: length},) * 3, strict=strict
        )
        close(program.module()(*operands(55)), layer(*operands(55)))
    program = program.run_decompositions()
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((operands(55), layer(*operands(55)).detach()), tmp_path / "numbers.pt")
    script = """
import torch, attndsl.runtime.operator
given, expected = torch.load("numbers.pt")
torch.testing.assert_close(torch.export.load("program.pt2").module()(*given), expected)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_the_operator(module: attndsl.Module, mode: str) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda q, k, v: module.causal_softmax(q, k, v), tracing_mode=mode)(*operands())
    assert "attndsl.attend" in graph.code
    close(graph(*operands(seed=1)), sdpa(*operands(seed=1)))


def test_fake_tensors(module: attndsl.Module) -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode() as mode:
        given = operands(grad=True)
        out, log_sum_exp = module.causal_softmax(*given, return_lse=True)
        assert out.shape == (2, 4, 30, 16)
        assert log_sum_exp.shape == (2, 4, 30)
        assert log_sum_exp.dtype is torch.float32
        (gradient,) = torch.autograd.grad(out.sum(), given[1])
        assert gradient.shape == given[1].shape
        with pytest.raises(AttnError, match="A073"):
            module.causal_softmax(given[0], given[1], given[2][:, :, 1:])
    outside = [mode.from_tensor(one) for one in operands()]
    assert type(module.causal_softmax(*outside)) is type(outside[0])


# Autocast and modes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_sdpa(module: attndsl.Module, dtype: torch.dtype) -> None:
    results = []
    for function in (module.causal_softmax, sdpa):
        given = operands(grad=True)
        with torch.autocast("cpu", dtype):
            out = function(*given)
        assert out.dtype is dtype
        gradients = torch.autograd.grad(out.float().sin().sum(), given)
        assert all(one.dtype is torch.float32 for one in gradients)
        results.append((out, *gradients))
    close(*results, rtol=2e-2, atol=2e-2)


def test_autocast_mixes_and_leaves_the_rest_alone(module: attndsl.Module) -> None:
    q, k, v = operands()
    slope = torch.rand(4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, log_sum_exp = module.alibi(q, k.bfloat16(), v.half(), slope=slope, return_lse=True)
        assert out.dtype is torch.bfloat16
        assert log_sum_exp.dtype is torch.float32
        (gradient,) = torch.autograd.grad(out.sum(), slope)
        assert gradient.dtype is torch.float32
        with pytest.raises(AttnError, match="A074"):
            module.causal_softmax(q.double(), k.double(), v.double())
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(module.causal_softmax(q, k, v), module.causal_softmax(q, k, v))
            assert module.causal_softmax(q, k, v).dtype is torch.float32


def test_autocast_in_a_graph(module: attndsl.Module) -> None:
    def called(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return module.causal_softmax(q, k, v)

    out = torch.compile(called, fullgraph=True, backend="aot_eager")(*operands())
    assert out.dtype is torch.bfloat16
    assert torch.equal(out, called(*operands()))


def test_modes_without_gradients(module: attndsl.Module) -> None:
    with torch.no_grad():
        assert not module.causal_softmax(*operands(grad=True)).requires_grad
    with torch.inference_mode():
        assert module.causal_softmax(*operands(grad=True)).is_inference()


@pytest.mark.parametrize("layout", ["length first", "expanded", "spread", "turned"])
def test_gradients_of_tensors_of_any_strides(module: attndsl.Module, layout: str) -> None:
    def arranged(one: Tensor) -> Tensor:
        match layout:
            case "length first":
                return one.transpose(1, 2).contiguous().transpose(1, 2)
            case "expanded":
                return one[:1, :1].expand(2, 4, -1, -1)
            case "spread":
                return torch.stack([one, one], -1)[..., 0]
        return one.transpose(2, 3).contiguous().transpose(2, 3)

    results = []
    for function in (module.causal_softmax, sdpa):
        leaves = operands(grad=True)
        given = [arranged(one) for one in leaves]
        assert not given[0].is_contiguous()
        out = function(*given)
        # A sum's gradient is one number, expanded.
        results.append((out, torch.autograd.grad(out.sum(), leaves)))
    close(*results)


# torch.func


def test_vmap(module: attndsl.Module) -> None:
    q, k, v = (torch.stack([one, one.flip(2), one.sin()]) for one in operands())
    close(
        torch.vmap(module.causal_softmax)(q, k, v),
        torch.stack([sdpa(*one) for one in zip(q, k, v, strict=True)]),
    )
    mixed = torch.vmap(module.causal_softmax, in_dims=(1, None, None))
    close(mixed(q.movedim(0, 1), k[0], v[0]), torch.stack([sdpa(one, k[0], v[0]) for one in q]))
    slopes, given = torch.rand(3, 4), operands()
    out, log_sum_exp = torch.vmap(lambda slope: module.alibi(*given, slope=slope, return_lse=True))(
        slopes
    )
    close(out, torch.stack([alibi_in_torch(*operands(), slope) for slope in slopes]))
    assert log_sum_exp.shape == (3, 2, 4, 30)


def test_grad_vjp_and_per_sample_gradients(module: attndsl.Module) -> None:
    def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *tensors: function(*tensors).sin().sum()

    stacked = [torch.stack([one, one.cos()]) for one in operands()]
    for transformed in (
        lambda function: torch.func.grad(loss(function), argnums=(0, 1, 2))(*operands()),
        lambda function: torch.func.vjp(function, *operands())[1](torch.ones(2, 4, 30, 16)),
        lambda function: torch.vmap(torch.func.grad(loss(function)))(*stacked),
    ):
        close(transformed(module.causal_softmax), transformed(sdpa))


def test_functional_call(module: attndsl.Module) -> None:
    block = Block(module)
    x = tokens(12)
    named = {name: one.detach().clone() for name, one in block.named_parameters()}
    found = torch.func.grad(lambda named: torch.func.functional_call(block, named, (x,)).sum())(
        named
    )
    expected = torch.autograd.grad(block(x).sum(), list(block.parameters()))
    close(list(found.values()), list(expected))


def test_levels_of_autograd_stay_apart(module: attndsl.Module) -> None:
    """A tensor that autograd follows outside of a transformation keeps its gradient."""
    results = []
    for function in (module.causal_softmax, sdpa):
        q, k, v = operands(grad=True)
        out = torch.vmap(lambda q, k=k, v=v, call=function: call(q, k, v))(
            torch.stack([q, q.sin()])
        )
        results.append(torch.autograd.grad(out.sin().sum(), (q, k, v)))
    close(*results)


# What there is not


def second_by_autograd(module: attndsl.Module) -> None:
    given = operands(grad=True)
    out, log_sum_exp = module.causal_softmax(*given, return_lse=True)
    total = out.sin().sum() + log_sum_exp.sum()
    (gradient,) = torch.autograd.grad(total, given[:1], create_graph=True)
    assert gradient.requires_grad  # which is fine as long as nobody follows it
    gradient.sum().backward()


def second_by_func(module: attndsl.Module) -> None:
    q, k, v = operands()
    inner = torch.func.grad(lambda q: module.causal_softmax(q, k, v).sin().sum())
    torch.func.grad(lambda q: inner(q).sum())(q)


def second_of_both(module: attndsl.Module) -> None:
    q, k, v = operands()
    q.requires_grad_()
    gradient = torch.func.grad(lambda k: module.causal_softmax(q, k, v).sin().sum())(k)
    gradient.sum().backward()


def second_of_the_operator(module: attndsl.Module) -> None:
    call = calls(module, True)["plain"]
    results = attend(*call)
    gradients = torch.ones_like(results[0]), None
    found = attend_backward(*results, *gradients, [True, True, True], *call)
    found[0].sum().backward()


def forward_of_duals(module: attndsl.Module, grad: bool = False) -> None:
    with torch.autograd.forward_ad.dual_level():
        q, k, v = operands(grad=grad)
        module.causal_softmax(torch.autograd.forward_ad.make_dual(q, torch.ones_like(q)), k, v)


def forward_of_duals_with_gradients(module: attndsl.Module) -> None:
    forward_of_duals(module, True)


def forward_by_func(module: attndsl.Module) -> None:
    q, k, v = operands()
    torch.func.jvp(lambda q: module.causal_softmax(q, k, v), (q,), (q,))


@pytest.mark.parametrize(
    "called",
    [
        second_by_autograd,
        second_by_func,
        second_of_both,
        second_of_the_operator,
        forward_of_duals,
        forward_of_duals_with_gradients,
        forward_by_func,
    ],
)
def test_derivatives_that_there_are_not(
    module: attndsl.Module, called: Callable[[attndsl.Module], None]
) -> None:
    with pytest.raises(AttnError, match="A086"):
        called(module)


# Checkpoints


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(module: attndsl.Module, reentrant: bool) -> None:
    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return module.causal_softmax(q.tanh(), k, v)

    results = []
    for run in (layer, lambda *given: checkpoint(layer, *given, use_reentrant=reentrant)):
        given = operands(grad=True)
        run(*given).sin().sum().backward()
        results.append([one.grad for one in given])
    close(*results)


def test_selective_checkpoints_see_the_operator(module: attndsl.Module) -> None:
    seen = []

    def policy(context: Any, called: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
        seen.append(called)
        kept = called is attend
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    given = operands(grad=True)
    out = checkpoint(
        lambda *tensors: module.causal_softmax(*tensors).sin(),
        *given,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )
    found = torch.autograd.grad(out.sum(), given)
    again = operands(grad=True)
    close(found, torch.autograd.grad(sdpa(*again).sin().sum(), again))
    assert attend in seen


def test_binding_needs_no_torch() -> None:
    script = """
import sys, attndsl
module = attndsl.parse("attention a(width: int = 3) { mask = abs(i - j) <= width }")
assert module.a(width=4).spec
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
