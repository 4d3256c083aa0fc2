"""Emitted Triton source of backwards, as a reader meets it; `test_triton_backward.py` runs it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from naive import CASES

from attndsl.codegen.program import DType, Specialization
from attndsl.codegen.triton import emit_stage, stage_tiles
from attndsl.planner.pipeline import plan_backward
from attndsl.planner.plan import PairSums

GOLDEN = Path(__file__).parent / "golden" / "triton_backward"
KERNELS = {
    "causal_queries": ("causal", 0),
    "causal_keys": ("causal", 1),
    "mega_bias": ("mega", 2),
}


@pytest.mark.parametrize("name", KERNELS)
def test_emitted_source(name: str, golden: Callable[[Path, str], None]) -> None:
    """Of one of the stages over pairs."""
    example, place = KERNELS[name]
    case = next(case for case in CASES if case.name == example)
    backward = plan_backward(case.load(), by_side=True)
    numbers = [n for n, one in enumerate(backward.stages) if isinstance(one, PairSums)]
    number, specialization = numbers[place], Specialization(DType.BFLOAT16, 64, 64)
    tile = stage_tiles(backward.stages[number], specialization, "cuda:90")[0]
    program = emit_stage(backward, number, specialization, tile, "cuda:90")
    ast.parse(program.text)
    golden(GOLDEN / f"{name}.txt", program.text)
