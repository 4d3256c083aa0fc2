"""Emitted Triton source, as a reader meets it; `test_triton_parity.py` runs the same kernels."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from naive import CASES

from attndsl.codegen.program import DType, Specialization
from attndsl.codegen.triton import emit
from attndsl.planner import plan

GOLDEN = Path(__file__).parent / "golden" / "triton"
EXAMPLES = ("documents", "flash_sigmoid", "gemma2", "rope")


@pytest.mark.parametrize("name", EXAMPLES)
def test_emitted_source(name: str, golden: Callable[[Path, str], None]) -> None:
    case = next(case for case in CASES if case.name == name)
    specialization = Specialization(DType.BFLOAT16, 64, 64, log_sum_exp=True)
    program = emit(plan(case.load()), specialization, target="cuda:90")
    ast.parse(program.text)
    golden(GOLDEN / f"{name}.txt", program.text)


def test_emitted_source_for_packed_sequences(golden: Callable[[Path, str], None]) -> None:
    case = next(case for case in CASES if case.name == "forgetting")
    specialization = Specialization(DType.BFLOAT16, 64, 64, log_sum_exp=True, packed=True)
    program = emit(plan(case.load()), specialization, target="cuda:90")
    ast.parse(program.text)
    golden(GOLDEN / "packed_forgetting.txt", program.text)
