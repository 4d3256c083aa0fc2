"""Every example compiles for every GPU target, without spills and within the target's memory."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import pytest
from naive import CASES, Case

from attndsl.codegen import triton as emitter
from attndsl.codegen.program import DType, Program, Specialization, Tile
from attndsl.codegen.triton.targets import parse_target
from attndsl.planner import plan
from attndsl.planner.plan import Plan

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton cannot compile where it interprets", allow_module_level=True)

from attndsl.runtime.triton_compile import Binaries, Binary, choose, compile_ahead
from attndsl.runtime.triton_resources import amdgcn, matrix_loops, sass

TARGETS = ("cuda:80", "cuda:86", "cuda:90", "hip:gfx942")
# One case for every example; further cases of it differ in parameters only.
EXAMPLES = {case.example: case for case in reversed(CASES)}

QUICK = [
    ("causal", "cuda:90", 128, "bf16"),
    ("causal", "cuda:80", 64, "fp16"),
    ("causal", "cuda:86", 128, "bf16"),
    ("causal", "hip:gfx942", 64, "bf16"),
    ("documents", "cuda:90", 64, "fp16"),
    ("rope", "cuda:80", 64, "bf16"),
    ("neighborhood2d", "hip:gfx942", 64, "fp16"),
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
    return plan(EXAMPLES[name].load())


def specialization(case: Case, dim: int, dtype: str) -> Specialization:
    return Specialization(DType(dtype), dim, dim, log_sum_exp=True)


def check(name: str, target: str, dim: int, dtype: str) -> None:
    made = plan_of(name)
    program, binaries = choose(made, specialization(EXAMPLES[name], dim, dtype), target)
    gpu = parse_target(target)
    assert len(binaries.kernels) == len(made.stages)
    for kernel in binaries.kernels:
        assert kernel.resources.stack == 0, kernel.entry.function
        assert kernel.resources.shared <= gpu.shared, kernel.entry.function
        assert kernel.resources.instructions > 50, kernel.entry.function
        assert kernel.data[:4] == b"\x7fELF"
    main = binaries.main
    if made.attend.dots:
        assert main.resources.tensor_instructions > 0
    if target == "cuda:90" and made.attend.dots and program.tile.block_m >= 64:
        # Warp-group products need 64 rows; a smaller tile is taken only where scores are complex.
        assert any("HGMMA" in text for _, text in sass(main.data))


@pytest.mark.parametrize(("name", "target", "dim", "dtype"), QUICK)
def test_binary_fits(name: str, target: str, dim: int, dtype: str) -> None:
    check(name, target, dim, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "dim", "dtype"), MATRIX)
def test_every_binary_fits(name: str, target: str, dim: int, dtype: str) -> None:
    check(name, target, dim, dtype)


def loops_of(binary: Binary, target: str) -> list[list[str]]:
    """The loops that multiply queries by keys and weights by values; the repair of a spoiled sum
    has the first of these products only."""
    listing = sass(binary.data) if target.startswith("cuda") else amdgcn(binary.assembly)
    loops = matrix_loops(listing)
    products = [sum("MMA" in text or "mfma" in text for text in loop) for loop in loops]
    most = max(products)
    return [loop for loop, count in zip(loops, products, strict=True) if count == most]


def dense_loop(target: str, tile: Tile, dim: int) -> list[str]:
    """The loop of the plain dense kernel, compiled with the same tile for the same target."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton_dense import dense

    gpu = parse_target(target)
    signature: dict[str, str] = {}
    attributes: dict[Any, Any] = {}
    for number, name in enumerate(dense.arg_names):
        if name in ("q", "k", "v", "out"):
            signature[name] = "*bf16"
            attributes[(number,)] = [["tt.divisibility", 16]]
        elif "_" in name and name.islower():
            signature[name] = "i64"
            attributes[(number,)] = [["tt.divisibility", 8]]
        else:
            signature[name] = "fp32" if name == "scale" else "i32"
    constants = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "D": dim}
    signature |= dict.fromkeys(constants, "constexpr")
    architecture = gpu.generation if gpu.kind == "cuda" else gpu.architecture
    kernel = triton.compile(
        ASTSource(dense, signature, constants, attributes),
        target=GPUTarget(gpu.kind, architecture, gpu.warp_size),
        options={"num_warps": tile.warps, "num_stages": tile.stages},
    )
    listing = sass(kernel.asm["cubin"]) if gpu.kind == "cuda" else amdgcn(kernel.asm["amdgcn"])
    (loop,) = matrix_loops(listing)
    return loop


@pytest.mark.parametrize(("target", "dim"), [("cuda:80", 64), ("cuda:90", 128), ("hip:gfx942", 64)])
def test_full_loop_costs_no_more_than_a_dense_one(target: str, dim: int) -> None:
    """FULL blocks run without mask arithmetic: at most 5 % more instructions than no mask."""
    made = plan_of("causal")
    program, binaries = choose(made, specialization(EXAMPLES["causal"], dim, "bf16"), target)
    loops = loops_of(binaries.main, target)
    assert len(loops) == 2
    full = min(map(len, loops))
    assert full <= 1.05 * len(dense_loop(target, program.tile, dim))
    assert max(map(len, loops)) > full, "the other loop evaluates the mask"


def emitted(name: str, dtype: str = "bf16", dim: int = 64, target: str = "cuda:90") -> Program:
    made = plan_of(name)
    return emitter.emit(made, specialization(EXAMPLES[name], dim, dtype), target=target)


def test_loads_are_asynchronous() -> None:
    """Divisibility reaches the loads: tiles are copied to shared memory behind the arithmetic."""
    binaries: Binaries = compile_ahead(emitted("sliding_window", target="cuda:80"))
    for loop in loops_of(binaries.main, "cuda:80"):
        assert any("LDGSTS" in text for text in loop)
