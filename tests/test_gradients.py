"""Gradients of every example by C++ kernels, against PyTorch's autograd of independent
implementations in float64: the error is at most twice that of the same in the kernels' dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive import CASES, Case, Shape
from test_cpp_catalogue import tensor

from attndsl import reference
from attndsl.binding import bind
from attndsl.module import load_file, load_text
from attndsl.planner.backward import differentiate
from attndsl.planner.execute import call_of
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.lower import lower
from attndsl.planner.pipeline import plan
from attndsl.runtime.kernel import Kernel

Array = np.ndarray[Any, Any]
EXAMPLES = Path(__file__).parent.parent / "examples"
# What differs most in its backward; the others belong to the whole matrix.
QUICK = {
    *("causal", "alibi", "gpt_oss", "forgetting", "retention", "hedgehog", "t5", "pair_bias"),
    *("music_transformer", "additive", "neural", "neighborhood2d", "clear", "dilated", "documents"),
    *("mla", "rope", "cosine"),
}
# Relative to a gradient: errors as small as this need no comparison. For short floats it is what
# rounding the gradient itself may cost; in float32 some of PyTorch's gradients are all but exact.
FLOORS = {torch.float32: 2.0**-19, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
# By name and number of queries, in float32. The forward sums up the scores of few queries in an
# order of its own. Where scores reach 100, those that the backward makes again differ by their last
# digit, 8e-6, and so do the weights: errors are 8e-6 at most, 9e-6 without vector instructions.
# By the forward for many queries they are 1.3e-6, but one query takes six times as long by it.
WIDER = {("cosine", 1): 6.0}
CALLS = [
    pytest.param(
        case,
        shape,
        id=f"{case}-{shape}",
        marks=() if case.name in QUICK and shape is case.shapes[0] else pytest.mark.slow,
    )
    for case in CASES
    for shape in case.shapes
]


def check(case: Case, shape: Shape, dtype: torch.dtype) -> None:
    """Of the numbers that PyTorch gets too: in `dtype`, inputs rounded to it."""
    call = case.call(shape)
    call = call.replaced(
        {
            name: torch.from_numpy(array).to(dtype).double().numpy()
            for name, array in call.floats().items()
        }
    )
    operands = {name: tensor(getattr(call, name), dtype) for name in ("q", "k", "v")}
    inputs = {name: tensor(value, torch.float32) for name, value in call.inputs.items()}
    floats = {
        name: one.requires_grad_()
        for name, one in {**operands, **inputs}.items()
        if one is not None and one.is_floating_point()
    }
    out = Kernel(case.load())(
        *operands.values(), scale=call.scale, offset=shape.offset, grid=shape.grid, **inputs
    )
    out_gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = torch.autograd.grad(out, list(floats.values()), out_gradient)
    wanted = case.gradients(call, out_gradient.double().numpy())
    theirs = case.gradients(call, out_gradient.double().numpy(), dtype)
    for name, gradient in zip(floats, found, strict=True):
        expected = wanted[name]
        error, allowed = (
            float(np.linalg.norm(one - expected))
            for one in (gradient.double().numpy(), theirs[name])
        )
        wider = WIDER.get((case.name, shape.queries), 1.0) if dtype is torch.float32 else 1.0
        floor = wider * FLOORS[dtype] * float(np.linalg.norm(expected))
        assert error <= max(2 * allowed, floor), (name, error / floor, allowed / floor)


@pytest.mark.parametrize(("case", "shape"), CALLS)
def test_example(case: Case, shape: Shape) -> None:
    check(case, shape, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_example_on_short_floats(case: Case, dtype: torch.dtype) -> None:
    check(case, case.shapes[0], dtype)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "heads", "length"),
    [("t5", 2, 70), ("t5", 1, 1100), ("pair_bias", 1, 1030), ("strided", 1, 1300)],
)
def test_two_runs_agree_bit_for_bit(name: str, heads: int, length: int, threads: int) -> None:
    """Whatever the number of threads, and however few heads there are."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"t5": {"bias": (32, heads)}, "pair_bias": {"bias": (heads, length, length)}}
    inputs = {
        name: torch.randn(shape, generator=generator, requires_grad=True)
        for name, shape in shapes.get(name, {}).items()
    }
    operands = [torch.randn(1, heads, length, 32, generator=generator) for _ in range(3)]
    floats = [*(one.requires_grad_() for one in operands), *inputs.values()]
    (attention,) = load_file(EXAMPLES / f"{name}.attn").attentions.values()
    kernel = Kernel(bind(attention))

    def gradients() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(kernel(*operands, **inputs).square().sum(), floats)

    before = torch.get_num_threads()
    expected = gradients()
    try:
        torch.set_num_threads(threads)
        for found, wanted in zip(gradients(), expected, strict=True):
            assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("causal", {}),
        ("sliding_window", {}),
        ("dilated", {}),
        ("star", {}),
        ("documents", {"doc": "document"}),
        ("music_transformer", {"embedding": (1100, 32)}),
        ("pair_bias", {"bias": (1, 1100, 1100)}),
    ],
)
def test_one_head_in_parts(name: str, inputs: dict[str, Any]) -> None:
    """Of one long head parts of the queries meet parts of the keys, one after the other."""
    generator = torch.Generator().manual_seed(0)
    operands = [torch.randn(1, 1, 1100, 32, generator=generator) for _ in range(3)]
    tensors = {
        name: (torch.arange(1100) // 300).int()[None]
        if shape == "document"
        else torch.randn(shape, generator=generator)
        for name, shape in inputs.items()
    }
    (attention,) = load_file(EXAMPLES / f"{name}.attn").attentions.values()
    attention = bind(attention)
    learned = {name: one for name, one in tensors.items() if one.is_floating_point()}
    floats = [one.requires_grad_() for one in (*operands, *learned.values())]
    out = Kernel(attention)(*operands, **tensors)
    out_gradient = torch.randn(out.shape, generator=generator)
    found = torch.autograd.grad(out, floats, out_gradient)
    arrays = [one.detach().double().numpy() for one in operands]
    numbers = {name: one.detach().numpy() for name, one in tensors.items()}
    numbers |= {name: numbers[name].astype(np.float64) for name in learned}
    results = reference.run(attention, *arrays, numbers)
    assert results.log_sum_exp is not None
    wanted = execute_backward(
        differentiate(lower(attention)),
        call_of(plan(attention), *arrays, numbers),
        {
            "out": results.output,
            "out.gradient": out_gradient.double().numpy(),
            "log_sum_exp": results.log_sum_exp,
        },
        block_m=256,
        block_n=256,
    )
    for own, gradient in zip(("q", "k", "v", *learned), found, strict=True):
        scale = max(1.0, float(np.abs(wanted[own]).max()))
        error = float(np.abs(gradient.double().numpy() - wanted[own]).max()) / scale
        assert error <= 2e-5, (own, error)


@pytest.mark.parametrize("size", [1.0, 10.0, 40.0])
def test_errors_are_those_of_pytorch_whatever_the_size_of_scores(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, out_gradient = (
        torch.randn(1, 4, 300, 64, generator=generator) * factor for factor in (size, 1, 1, 1)
    )
    kernel = Kernel(next(case for case in CASES if case.name == "causal").load())

    def torch_s(*operands: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*operands, is_causal=True)

    def gradients(attend: Any, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        operands = [one.to(dtype).requires_grad_() for one in (q, k, v)]
        return torch.autograd.grad(attend(*operands), operands, out_gradient.to(dtype))

    for found, theirs, exact_one in zip(
        gradients(kernel, torch.float32),
        gradients(torch_s, torch.float32),
        gradients(torch_s, torch.float64),
        strict=True,
    ):
        error, allowed = ((one.double() - exact_one).norm() for one in (found, theirs))
        assert error <= 2 * allowed


def test_rows_that_see_nothing_have_gradient_0() -> None:
    """And neither they nor hidden keys spoil what others have."""
    (attention,) = load_text("attention far { mask = j <= i - 3 }").attentions.values()
    q, k, v = (torch.randn(1, 2, 9, 16) for _ in range(3))
    k[:, :, -1] = v[:, :, -1] = torch.nan  # which no query sees
    floats = [one.requires_grad_() for one in (q, k, v)]
    of_q, of_k, of_v = torch.autograd.grad(Kernel(attention)(*floats).square().sum(), floats)
    for gradient in (of_q, of_k, of_v):
        assert torch.isfinite(gradient).all()
    assert not of_q[:, :, :3].any()
    assert not of_k[:, :, -3:].any()
    assert not of_v[:, :, -3:].any()
    assert of_q[:, :, 3:].abs().sum(-1).min() >= 0


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (1, 0, 5, 5), (1, 2, 0, 5), (1, 2, 5, 0)])
def test_tensors_of_nothing(shape: tuple[int, int, int, int]) -> None:
    batch, heads, queries, keys = shape
    q = torch.randn(batch, heads, queries, 16, requires_grad=True)
    k, v = (torch.randn(batch, heads, keys, 16, requires_grad=True) for _ in range(2))
    kernel = Kernel(next(case for case in CASES if case.name == "full").load())
    for gradient in torch.autograd.grad(kernel(q, k, v).sum(), (q, k, v)):
        assert not gradient.any()


def test_what_only_a_mask_reads_has_gradient_0() -> None:
    """A mask does not move by little."""
    text = "attention near { input reach: float[H]\nmask = abs(i - j) < reach[h] }"
    (attention,) = load_text(text).attentions.values()
    q, k, v = (torch.randn(1, 2, 9, 16) for _ in range(3))
    reach = torch.tensor([2.0, 4.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(Kernel(attention)(q, k, v, reach=reach).sum(), reach)
    assert not gradient.any()


def test_the_log_sum_exp_has_a_gradient() -> None:
    q, k, v = (torch.randn(2, 2, 40, 16) for _ in range(3))
    kernel = Kernel(next(case for case in CASES if case.name == "causal").load())
    floats = [one.requires_grad_() for one in (q, k)]
    _, log_sum_exp = kernel(*floats, v, return_lse=True)
    found = torch.autograd.grad(log_sum_exp.sin().sum(), floats)
    exact_q, exact_k = (one.detach().double().requires_grad_() for one in floats)
    scores = exact_q @ exact_k.transpose(-1, -2) / 4
    scores = scores.masked_fill(torch.ones(40, 40).triu(1).bool(), -torch.inf)
    wanted = torch.autograd.grad(scores.logsumexp(-1).sin().sum(), (exact_q, exact_k))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["divisor", "out_gradient", "shift", "delta", "weights", "copies", "gradient_0"]
)
def test_no_name_of_an_input_is_taken(name: str) -> None:
    """What a backward reads and writes beside the inputs has names of its own."""
    text = """
    attention a {
        input NAME: float[7]
        score = exp(dot(q, k) * scale * NAME[min(abs(i - j), 6)])
        normalize = sum
    }"""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, 30, 16, generator=generator) for _ in range(3)]
    table = torch.rand(7, generator=generator)

    def gradients(called: str) -> tuple[torch.Tensor, ...]:
        (attention,) = load_text(text.replace("NAME", called)).attentions.values()
        q, k, v, own = (one.clone().requires_grad_() for one in (*tensors, table))
        out = Kernel(attention)(q, k, v, **{called: own})
        return torch.autograd.grad(out.square().sum(), (q, k, v, own))

    for found, expected in zip(gradients(name), gradients("plain"), strict=True):
        assert torch.equal(found, expected)
