"""Gradients of every example on a GPU, against PyTorch's autograd of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from naive import CASES, Case
from test_cpp_catalogue import tensor
from test_gradients import WIDER

from attndsl.runtime.kernel import Kernel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FLOORS = {torch.float32: 2.0**-16, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}


def gradients(
    case: Case, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By name: what kernels find, what is exact, and what PyTorch finds in `dtype`."""
    shape = case.shapes[0]
    call = case.call(shape)
    call = call.replaced(
        {
            name: torch.from_numpy(array).to(dtype).double().numpy()
            for name, array in call.floats().items()
        }
    )
    given = {name: tensor(getattr(call, name), dtype) for name in ("q", "k", "v")}
    operands = {name: None if one is None else one.cuda() for name, one in given.items()}
    inputs = {name: tensor(one, torch.float32).cuda() for name, one in call.inputs.items()}
    floats = {
        name: one.requires_grad_()
        for name, one in {**operands, **inputs}.items()
        if one is not None and one.is_floating_point()
    }
    out = Kernel(case.load())(
        *operands.values(), scale=call.scale, offset=shape.offset, grid=shape.grid, **inputs
    )
    out_gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = torch.autograd.grad(out, list(floats.values()), out_gradient.cuda())
    exact, theirs = (
        case.gradients(call, out_gradient.double().numpy(), one) for one in (torch.float64, dtype)
    )
    return dict(zip(floats, found, strict=True)), exact, theirs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_errors_are_those_of_pytorch(case: Case, dtype: torch.dtype) -> None:
    found, exact, theirs = gradients(case, dtype)
    for name, gradient in found.items():
        error, allowed = (
            float(np.linalg.norm(one - exact[name]))
            for one in (gradient.double().cpu().numpy(), theirs[name])
        )
        floor = WIDER.get(case.name, 1.0) * FLOORS[dtype] * float(np.linalg.norm(exact[name]))
        assert error <= max(2 * allowed, floor), (name, error, allowed, floor)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_runs_agree_bit_for_bit(case: Case) -> None:
    (first, _, _), (second, _, _) = (gradients(case, torch.float16) for _ in range(2))
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name
