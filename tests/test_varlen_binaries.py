"""Kernels for packed sequences compile with the tiles of those for a batch, without spills and
within the target's memory."""

from __future__ import annotations

import os
from functools import lru_cache

import pytest
from naive import CASES

from attndsl.attention import Attention
from attndsl.codegen.program import DType, Program, Specialization
from attndsl.codegen.triton import stage_tiles, tiles
from attndsl.codegen.triton.targets import parse_target
from attndsl.planner.pipeline import plan, plan_backward
from attndsl.planner.plan import Fold, PairSums

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton cannot compile where it interprets", allow_module_level=True)

from attndsl.runtime.triton_compile import Binaries, choose, choose_stage
from attndsl.runtime.triton_resources import sass

TARGETS = ("cuda:80", "cuda:90", "hip:gfx942")
EXAMPLES = ("alibi", "causal", "documents", "forgetting", "gpt_oss", "rope", "sliding_window", "t5")
FORWARD = [("causal", "cuda:80", 64), ("gpt_oss", "cuda:90", 128), ("documents", "hip:gfx942", 64)]
BACKWARD = [("causal", "cuda:90", 64)]
MATRIX = [(name, target, dim) for name in EXAMPLES for target in TARGETS for dim in (64, 128)]


@lru_cache
def attention_of(name: str) -> Attention:
    return next(case for case in CASES if case.name == name).load()


def check(program: Program, binaries: Binaries, *, multiplies: bool) -> None:
    gpu = parse_target(program.target)
    for kernel in binaries.kernels:
        assert kernel.resources.stack == 0, kernel.entry.function
        assert kernel.resources.shared <= gpu.shared, kernel.entry.function
        assert kernel.resources.instructions > 50, kernel.entry.function
    if multiplies:
        assert binaries.main.resources.tensor_instructions > 0
        if program.target == "cuda:90" and program.tile.block_m >= 64:
            assert any("HGMMA" in text for _, text in sass(binaries.main.data))


def check_forward(name: str, target: str, dim: int) -> None:
    made = plan(attention_of(name))
    specialization = Specialization(DType.BFLOAT16, dim, dim, log_sum_exp=True, packed=True)
    program, binaries = choose(made, specialization, target)
    check(program, binaries, multiplies=bool(made.attend.dots))
    assert program.tile in tiles(made, specialization, target)


def check_backward(name: str, target: str, dim: int) -> None:
    made = plan_backward(attention_of(name), by_side=True)
    specialization = Specialization(DType.BFLOAT16, dim, dim, packed=True)
    for number, stage in enumerate(made.stages):
        if isinstance(stage, Fold):
            continue
        program, binaries = choose_stage(made, number, specialization, target)
        check(program, binaries, multiplies=isinstance(stage, PairSums) and bool(stage.sums))
        assert program.tile in stage_tiles(stage, specialization, target)


@pytest.mark.parametrize(("name", "target", "dim"), FORWARD)
def test_forward_fits(name: str, target: str, dim: int) -> None:
    check_forward(name, target, dim)


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_dropout_fits(target: str) -> None:
    made = plan(attention_of("causal"), dropout=True)
    specialization = Specialization(DType.BFLOAT16, 64, 64, dropout=True, packed=True)
    check(*choose(made, specialization, target), multiplies=True)


@pytest.mark.parametrize(("name", "target", "dim"), BACKWARD)
def test_backward_fits(name: str, target: str, dim: int) -> None:
    check_backward(name, target, dim)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "dim"), MATRIX)
def test_every_binary_fits(name: str, target: str, dim: int) -> None:
    check_forward(name, target, dim)
    check_backward(name, target, dim)
