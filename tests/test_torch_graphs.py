"""A kernel in graphs: `torch.compile`, `torch.export`, `make_fx` and fake tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_cases import Block, close, decorated, operands, parsed, sdpa, tokens
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import attndsl
from attndsl.diagnostics import AttnError


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    return parsed()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


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


def test_autocast_in_a_graph(module: attndsl.Module) -> None:
    def called(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return module.causal_softmax(q, k, v)

    out = torch.compile(called, fullgraph=True, backend="aot_eager")(*operands())
    assert out.dtype is torch.bfloat16
    assert torch.equal(out, called(*operands()))
