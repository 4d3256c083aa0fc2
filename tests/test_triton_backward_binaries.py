"""The kernels of every example's backward compile for every GPU target, without spills and within
the target's memory."""

from __future__ import annotations

import os
from functools import lru_cache

import pytest
from naive import CASES

from attndsl.codegen.program import Tile
from attndsl.codegen.triton import emit_stage
from attndsl.codegen.triton.targets import parse_target
from attndsl.planner.pipeline import plan_backward
from attndsl.planner.plan import Fold, PairSums, Plan, Prepare

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton cannot compile where it interprets", allow_module_level=True)

from attndsl.runtime.compilation import specialize
from attndsl.runtime.triton_compile import choose_stage, promises

TARGETS = ("cuda:80", "cuda:90", "hip:gfx942")
# One case for every example; further cases of it differ in parameters only.
EXAMPLES = {case.example: case for case in reversed(CASES)}
QUICK = [
    ("causal", "cuda:90", 128, "bf16"),
    ("causal", "hip:gfx942", 64, "fp16"),
]
MATRIX = [
    (name, target, dim, dtype)
    for name in sorted(EXAMPLES)
    for target in TARGETS
    for dim in (64, 128)
    for dtype in ("bf16", "fp16")
]


@lru_cache
def plan_of(name: str) -> Plan:
    return plan_backward(EXAMPLES[name].load(), by_side=True)


def check(name: str, target: str, dim: int, dtype: str) -> None:
    made, gpu = plan_of(name), parse_target(target)
    specialization = specialize(EXAMPLES[name].load(), dim, None, dtype)
    for number, stage in enumerate(made.stages):
        if isinstance(stage, Fold):
            continue
        _, binaries = choose_stage(made, number, specialization, target)
        (kernel,) = binaries.kernels
        assert kernel.resources.stack == 0, kernel.entry.function
        assert kernel.resources.shared <= gpu.shared, kernel.entry.function
        assert kernel.resources.instructions > 50, kernel.entry.function
        assert kernel.data[:4] == b"\x7fELF"
        if isinstance(stage, PairSums) and stage.dots:
            assert kernel.resources.tensor_instructions > 0


@pytest.mark.parametrize(("name", "target", "dim", "dtype"), QUICK)
def test_binaries_fit(name: str, target: str, dim: int, dtype: str) -> None:
    check(name, target, dim, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "dim", "dtype"), MATRIX)
def test_all_binaries_fit(name: str, target: str, dim: int, dtype: str) -> None:
    check(name, target, dim, dtype)


def test_statistics_are_read_as_they_lie() -> None:
    """A copy with padded rows would be another array to kernels, which take them as contiguous."""
    made = plan_of("hedgehog")
    specialization = specialize(EXAMPLES["hedgehog"].load(), 64, None, "bf16")
    read = set()
    for number, stage in enumerate(made.stages):
        if isinstance(stage, Prepare):
            program = emit_stage(made, number, specialization, Tile(64, 32, 4, 1), "cuda:90")
            read |= {argument.name for argument in program.entries[0].arguments}
            assert "weights.sum" not in promises(program)
    assert "weights.sum" in read
