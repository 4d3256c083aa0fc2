"""Every example under Triton's interpreter agrees with the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from naive import CASES, Case
from triton_interpreted import Interpreter

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


@pytest.mark.parametrize(("case", "number", "dtype"), named(QUICK))
def test_kernel_agrees(interpreter: Interpreter, case: Case, number: int, dtype: str) -> None:
    interpreter.compare(case.name, number, dtype).check(dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "number", "dtype"), named(MATRIX))
def test_kernel_agrees_everywhere(
    interpreter: Interpreter, case: Case, number: int, dtype: str
) -> None:
    interpreter.compare(case.name, number, dtype).check(dtype)
