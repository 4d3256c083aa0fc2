"""Every example under Triton's interpreter agrees with the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from naive import CASES, Case
from triton_interpreted import Comparison, Interpreter

# Unit roundoff, and how many roundings of the score and of the output a row may collect.
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11}
ROUNDINGS = 16

# The first case of every example at its first shape, and some at another one in half precision.
QUICK = [
    *[(case, 0, "fp32") for case in {case.example: case for case in reversed(CASES)}.values()],
    *[
        (case, 1, "fp16")
        for case in CASES
        if case.name in ("causal", "gemma2", "alibi", "documents", "rope", "flash_sigmoid", "swin")
        and len(case.shapes) > 1
    ],
]
MATRIX = [
    (case, number, dtype)
    for case in CASES
    for number in range(len(case.shapes))
    for dtype in ("fp32", "fp16")
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def named(calls: list[tuple[Case, int, str]]) -> list[object]:
    return [
        pytest.param(case, number, dtype, id=f"{case}-{case.shapes[number]}-{dtype}")
        for case, number, dtype in calls
    ]


def check(compared: Comparison, dtype: str) -> None:
    """The kernel's rounding errors stay within a few units of its element type.

    A score of 100 is rounded to 100 units, and its weight is off by that many; the statistics
    are as large as the scores are.
    """
    unit = ROUNDINGS * ROUNDOFF[dtype] * max(1.0, compared.largest_statistics)
    assert compared.statistics_error <= unit
    assert compared.output_error <= unit * max(1.0, compared.largest)


@pytest.mark.parametrize(("case", "number", "dtype"), named(QUICK))
def test_kernel_agrees(interpreter: Interpreter, case: Case, number: int, dtype: str) -> None:
    check(interpreter.compare(case.name, number, dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "number", "dtype"), named(MATRIX))
def test_kernel_agrees_everywhere(
    interpreter: Interpreter, case: Case, number: int, dtype: str
) -> None:
    check(interpreter.compare(case.name, number, dtype), dtype)
