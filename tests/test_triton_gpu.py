"""Every example on a GPU agrees with the reference."""

from __future__ import annotations

import pytest
import torch
from naive import CASES, Case
from triton_calls import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

CALLS = [
    pytest.param(case, number, dtype, id=f"{case}-{case.shapes[number]}-{dtype}")
    for case in CASES
    for number in range(len(case.shapes))
    for dtype in ("fp32", "fp16", "bf16")
]


@pytest.mark.parametrize(("case", "number", "dtype"), CALLS)
def test_kernel_agrees(case: Case, number: int, dtype: str) -> None:
    run(case.load(), case.call(case.shapes[number]), dtype, "cuda").check(dtype)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_same_bits_every_time(dtype: str) -> None:
    """Two runs of one binary give the same error, to the last bit: nothing races."""
    case = next(case for case in CASES if case.name == "causal")
    call = case.call(case.shapes[1])
    assert run(case.load(), call, dtype, "cuda") == run(case.load(), call, dtype, "cuda")
