"""Calls with dropout: seeds, gradients through torch, and what does not change."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from cpp_calls import attention_of
from dropout_cases import DROPOUT, case_of
from torch.utils.checkpoint import checkpoint

from attndsl.diagnostics import AttnError
from attndsl.dropout import Dropout
from attndsl.runtime import operator  # noqa: F401 (what `torch.ops.attndsl` is)
from attndsl.runtime.kernel import Kernel

SUNK = """
attention sunk {
    input sink: float[H]
    input held: float[H, Dv]
    mask = causal
    normalize = softmax(sink = sink[h], value = held[h])
}
"""
PLAIN = "attention plain { mask = causal }"
P, SEED = 0.2, 987654321987654321


def arguments(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        **{"q": (2, 4, 30, 16), "k": (2, 2, 45, 16), "v": (2, 2, 45, 24)},
        **{"sink": (4,), "held": (4, 24)},
    }
    return {
        name: torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        for name, shape in shapes.items()
    }


def eager(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sink: torch.Tensor, held: torch.Tensor
) -> torch.Tensor:
    """The formula in float64, differentiated by torch; the mask of dropout is drawn in NumPy."""
    k, v = (one.repeat_interleave(2, 1) for one in (k, v))
    batches, heads, rows, width = q.shape
    keys = k.shape[2]
    scores = q @ k.transpose(-1, -2) / math.sqrt(width)
    hidden = torch.ones(rows, keys).triu(keys - rows + 1).bool()
    scores = scores.masked_fill(hidden, -torch.inf)
    extra = sink[None, :, None, None].expand(batches, heads, rows, 1)
    weights = torch.softmax(torch.cat([scores, extra], -1), -1)
    places = np.ix_(range(batches), range(heads), range(keys - rows, keys), range(keys))
    kept = torch.from_numpy(Dropout(P, SEED).kept(*places))
    return weights[..., :-1] * kept @ v + weights[..., -1:] * held[None, :, None]


def test_outputs_and_gradients_are_those_of_the_formula() -> None:
    mine, theirs = arguments(), arguments(torch.float64)
    kernel = Kernel(attention_of(SUNK))
    found = kernel(**mine, dropout=P, seed=SEED)
    wanted = eager(**theirs)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    of_out = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(found, list(mine.values()), of_out)
    expected = torch.autograd.grad(wanted, list(theirs.values()), of_out.double())
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_the_log_sum_exp_is_that_without_dropout() -> None:
    given, kernel = arguments(), Kernel(attention_of(SUNK))
    with torch.no_grad():
        _, found = kernel(**given, return_lse=True, dropout=P, seed=SEED)
        _, wanted = kernel(**given, return_lse=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def call(**options: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = Kernel(attention_of(SUNK))(**arguments(), **options)
    return result


def test_a_seed_says_which_pairs() -> None:
    once, again, other = (call(dropout=P, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(call(dropout=P, seed=-1), call(dropout=P, seed=2**64 - 1))


def test_without_a_seed_torch_draws_one() -> None:
    torch.manual_seed(5)
    first, second = call(dropout=P), call(dropout=P)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(first, call(dropout=P))


def test_dropout_of_nothing_is_the_call_without() -> None:
    """Down to the kernel that runs, and without a seed being drawn."""
    given, kernel = arguments(), Kernel(attention_of(SUNK))
    state = torch.get_rng_state()
    with torch.no_grad():
        plain, nothing = kernel(**given), kernel(**given, dropout=0.0, seed=7)
        assert torch.equal(kernel(**given, dropout=0), plain)
    assert torch.equal(plain, nothing)
    assert torch.equal(state, torch.get_rng_state())
    assert len(kernel._executions) == 1


def test_another_probability_builds_nothing_anew() -> None:
    given, kernel = arguments(), Kernel(attention_of(SUNK))
    with torch.no_grad():
        for probability, seed in ((0.1, 1), (0.5, 1), (0.5, 2)):
            kernel(**given, dropout=probability, seed=seed)
    assert len(kernel._executions) == 1


def test_a_checkpoint_drops_the_same_pairs_again() -> None:
    given, kernel = arguments(), Kernel(attention_of(SUNK))

    def gradients(attend: Any) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(11)
        return torch.autograd.grad(attend().square().sum(), list(given.values()))

    def plain() -> torch.Tensor:
        result: torch.Tensor = kernel(**given, dropout=P)
        return result

    wanted = gradients(plain)
    found = gradients(lambda: checkpoint(plain, use_reentrant=False))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


# Through torch's dispatcher


def operator_call(grad: bool = True) -> tuple[Any, ...]:
    """Arguments of the operator; the seed is its last."""
    *operands, sink, held = (one.detach().requires_grad_(grad) for one in arguments().values())
    spec = Kernel(attention_of(SUNK)).spec
    return spec, *operands, [sink, held], *[None] * 5, P, torch.tensor(SEED)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.attndsl.attend.default, operator_call())


def test_opcheck_of_the_backward() -> None:
    *call, dropout, seed = operator_call(grad=False)
    results = torch.ops.attndsl.attend(*call, dropout, seed)
    gradients = [torch.randn_like(one) for one in results]
    needed = [True] * 5
    torch.library.opcheck(
        torch.ops.attndsl.attend_backward.default,
        (*results, *gradients, needed, *call, dropout, seed),
    )


def test_the_operator_draws_no_seed() -> None:
    *call, _ = operator_call()
    with pytest.raises(AttnError, match="A079"):
        torch.ops.attndsl.attend(*call, None)


def test_the_operator_drops_the_same_pairs() -> None:
    call = operator_call()
    *operands, (sink, held) = call[1:5]
    floats = [*operands, sink, held]
    found = torch.ops.attndsl.attend(*call)[0]
    wanted = Kernel(attention_of(SUNK))(*operands, sink=sink, held=held, dropout=P, seed=SEED)
    assert torch.equal(found, wanted)
    gradients = (torch.autograd.grad(one.square().sum(), floats) for one in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_compiled_whole() -> None:
    """No break in the graph, and one graph for all seeds; without one, torch draws it."""
    torch._dynamo.reset()
    kernel, graphs = Kernel(attention_of(SUNK)), []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, backend=backend)
    def attend(seed: torch.Tensor | None, **given: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = kernel(**given, dropout=P, seed=seed)
        return result

    given = arguments()
    for number in (SEED, 5):
        found = attend(torch.tensor(number), **given)
        assert torch.equal(found, kernel(**given, dropout=P, seed=number))
        gradients = [
            torch.autograd.grad(one.square().sum(), list(given.values()))
            for one in (found, kernel(**given, dropout=P, seed=number))
        ]
        for one, other in zip(*gradients, strict=True):
            assert torch.equal(one, other)
    assert len(graphs) == 1
    torch.manual_seed(1)
    first, second = attend(None, **given), attend(None, **given)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(attend(None, **given), first)
    assert len(graphs) == 2
    torch._dynamo.reset()


def test_a_seed_that_is_a_number_is_compiled_too() -> None:
    torch._dynamo.reset()
    kernel, given = Kernel(attention_of(SUNK)), arguments()
    attend = torch.compile(
        lambda **given: kernel(**given, dropout=P, seed=2**64 - 3), fullgraph=True, backend="eager"
    )
    assert torch.equal(attend(**given), kernel(**given, dropout=P, seed=2**64 - 3))
    torch._dynamo.reset()


@pytest.mark.parametrize("compiled", [False, True])
def test_the_backward_drops_what_the_forward_did(compiled: bool) -> None:
    """The output is linear in v, by the very weights that the gradient of v is a sum of."""
    torch._dynamo.reset()
    kernel = Kernel(attention_of(PLAIN))

    def attend(*given: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = kernel(*given, dropout=0.5)
        return result

    run = torch.compile(attend, fullgraph=True, backend="aot_eager") if compiled else attend
    q, k, v = (arguments()[name] for name in "qkv")
    out = run(q, k, v)
    of_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (of_v,) = torch.autograd.grad(out, v, of_out)
    torch.testing.assert_close((out * of_out).sum(), (of_v * v).sum(), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_slices_of_a_batch_choose_whether_they_share_a_seed() -> None:
    kernel = Kernel(attention_of(PLAIN))
    q, k, v = (arguments()[name].detach() for name in "qkv")
    twice = torch.stack([q, q])

    def attend(q: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = kernel(q, k, v, dropout=P)
        return result

    first, second = torch.vmap(attend, randomness="same")(twice)
    assert torch.equal(first, second)
    first, second = torch.vmap(attend, randomness="different")(twice)
    assert not torch.equal(first, second)


def test_under_autocast() -> None:
    given, kernel = arguments(), Kernel(attention_of(SUNK))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, again = (kernel(**given, dropout=P, seed=SEED) for _ in range(2))
        with pytest.raises(AttnError, match="A079"):
            kernel(**given, dropout="a little")
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, again)
    wanted = eager(**arguments(torch.float64))
    torch.testing.assert_close(found.double(), wanted, rtol=3e-2, atol=3e-2)


def test_without_a_compiler_the_same_pairs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("sink")
    tensors = {name: one.requires_grad_() for name, one in case.tensors().items()}
    options = {"dropout": DROPOUT.probability, "seed": DROPOUT.seed}

    def run() -> list[torch.Tensor]:
        out = Kernel(case.attention)(**tensors, **options)
        return [out, *torch.autograd.grad(out.square().sum(), list(tensors.values()))]

    compiled = run()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(RuntimeWarning, match="tiled torch path"):
        in_torch = run()
    for one, other in zip(compiled, in_torch, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_packed_sequences_drop_what_a_batch_of_them_does() -> None:
    kernel = Kernel(attention_of("attention it { mask = causal }"))
    generator = torch.Generator().manual_seed(0)
    lengths = (5, 40, 1, 33)
    packed = [
        torch.randn(sum(lengths), heads, 16, generator=generator).requires_grad_()
        for heads in (4, 2, 2)
    ]
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    found = kernel(*packed, cu_seqlens=bounds, dropout=P, seed=SEED)
    parts = [one.split(lengths) for one in packed]
    rows = []
    for number, sequence in enumerate(zip(*parts, strict=True)):
        alone = [one.transpose(0, 1)[None] for one in sequence]
        before = [one.new_zeros(number, *one.shape[1:]) for one in alone]
        batch = [torch.cat(pair) for pair in zip(before, alone, strict=True)]
        rows.append(kernel(*batch, dropout=P, seed=SEED)[-1].transpose(0, 1))
    wanted = torch.cat(rows)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(one.square().sum(), packed) for one in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
