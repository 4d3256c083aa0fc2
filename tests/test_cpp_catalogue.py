"""Every example on the cpp target, against the naive implementation of its paper's formula."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from naive import CASES, Case, Shape

from attndsl.runtime.kernel import Kernel

CALLS = [pytest.param(case, shape, id=f"{case}-{shape}") for case in CASES for shape in case.shapes]
SHORT = [torch.bfloat16, torch.float16]


def tensor(array: np.ndarray[Any, Any] | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The array as a kernel takes it: floats of `dtype`, 32-bit integers, bools."""
    if array is None:
        return None
    found = torch.from_numpy(np.ascontiguousarray(array))
    if found.dtype == torch.float64:
        return found.to(dtype)
    return found.int() if found.dtype == torch.int64 else found


def largest_error(case: Case, shape: Shape, dtype: torch.dtype) -> float:
    """Relative to the output's greatest magnitude, on the very numbers that the kernel gets."""
    call = case.call(shape)
    q, k, v = (tensor(one, dtype) for one in (call.q, call.k, call.v))
    rounded = [None if one is None else one.double().numpy() for one in (q, k, v)]
    call = dataclasses.replace(call, q=rounded[0], k=rounded[1], v=rounded[2])
    inputs = {name: tensor(value, torch.float32) for name, value in call.inputs.items()}
    out = Kernel(case.load())(
        q, k, v, scale=call.scale, offset=shape.offset, grid=shape.grid, **inputs
    )
    wanted = case.naive(call)
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    return float(np.abs(out.double().numpy() - wanted).max(initial=0.0)) / scale


@pytest.mark.parametrize(("case", "shape"), CALLS)
def test_example(case: Case, shape: Shape) -> None:
    assert largest_error(case, shape, torch.float32) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SHORT, ids=["bf16", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_example_on_short_floats(case: Case, dtype: torch.dtype) -> None:
    tolerance = 1.5e-2 if dtype == torch.bfloat16 else 2e-3
    assert largest_error(case, case.shapes[0], dtype) <= tolerance
