"""From a bound attention to something that runs: plan, emit, build, with what the cache holds."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

from attndsl.attention import Attention
from attndsl.codegen.program import DType, Program, Specialization, Tile
from attndsl.diagnostics import AttnError, error
from attndsl.evaluate import evaluate_size
from attndsl.expression import Vector
from attndsl.planner.plan import Plan
from attndsl.runtime.targets import Target

if TYPE_CHECKING:
    from attndsl.runtime.execution import Execution, Launcher

# No C++ compiler on this machine.
NO_COMPILER = "A090"


def plan_of(attention: Attention, *, dropout: bool = False) -> Plan:
    """The plan of a bound attention, with `dropout` one that drops pairs.

    Raises `AttnError` A080 for what no target compiles yet.
    """
    return _plan_of(attention, dropout)


@lru_cache(maxsize=256)
def _plan_of(attention: Attention, dropout: bool) -> Plan:
    from attndsl.planner import plan

    return plan(attention, dropout=dropout)


def launches_at_once(attention: Attention, target: Target, *, dropout: bool) -> bool:
    """Whether the target's kernels run on packed sequences, all in one launch."""
    if target.language != "triton":
        return False
    from attndsl.codegen import triton

    return triton.is_packable(plan_of(attention, dropout=dropout))


def specialize(
    attention: Attention,
    head_dim: int,
    value_dim: int | None,
    dtype: str | DType,
    *,
    return_lse: bool = False,
    dropout: bool = False,
    packed: bool = False,
) -> Specialization:
    """What one binary is compiled for. `value_dim` is `head_dim` where it is None, and what the
    spec says where it makes the values itself.

    Raises `AttnError` A074 for a dtype that kernels do not have.
    """
    if isinstance(dtype, str):
        names = {one.value: one for one in DType}
        if dtype not in names:
            raise error("A074", f"unknown dtype `{dtype}`", help=f"it is one of {', '.join(names)}")
        dtype = names[dtype]
    values = dict(attention.prepared).get("v")
    if values is not None and isinstance(values.type, Vector):
        sizes = {"D": head_dim, "Dv": value_dim or head_dim}
        value_dim = evaluate_size(values.type.size, sizes)
    return Specialization(dtype, head_dim, value_dim or head_dim, return_lse, dropout, packed)


def emit(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    tile: Tile | None = None,
) -> tuple[Plan, Program]:
    """The plan and the emitted program. Raises `AttnError` A08x for what the target cannot do."""
    from attndsl.runtime.slices import check_slices

    dims = {"D": specialization.head_dim, "Dv": specialization.value_dim}
    check_slices(attention, dims)
    plan = plan_of(attention, dropout=specialization.dropout)
    if target.language == "cpp":
        from attndsl.codegen import cpp

        return plan, cpp.emit(plan, specialization, tile)
    from attndsl.codegen import triton

    return plan, triton.emit(plan, specialization, tile, target.name)


def compile_for(
    attention: Attention, specialization: Specialization, target: Target, tile: Tile | None = None
) -> Execution:
    """What runs this attention on a target of this machine; built at first, cached after.

    Without a tile, the default that fits the target. Without a C++ compiler the CPU runs the plan
    in torch, with a warning that says so.
    """
    try:
        return compile_with_tile(attention, specialization, target, tile)
    except AttnError as problem:
        if problem.diagnostics[0].code != NO_COMPILER:
            raise
    from attndsl.runtime.execution import TiledExecution

    _warn_of_tiled(attention.name)
    plan = plan_of(attention, dropout=specialization.dropout)
    return TiledExecution(plan, specialization.log_sum_exp)


def compile_with_tile(
    attention: Attention, specialization: Specialization, target: Target, tile: Tile | None
) -> Execution:
    """As `compile_for`, but raises `AttnError` A090 where there is no compiler."""
    from attndsl.runtime.execution import CompiledExecution, block_tables

    plan, program, launcher = _built(attention, specialization, target, tile)
    return CompiledExecution(
        plan, program, launcher, block_tables(plan.attend, program, plan.attention.axes)
    )


def _built(
    attention: Attention, specialization: Specialization, target: Target, tile: Tile | None
) -> tuple[Plan, Program, Launcher]:
    if target.language == "cpp":
        from attndsl.runtime.cpp import build as build_cpp
        from attndsl.runtime.programs import program_of

        plan, program = program_of(attention, specialization, target, tile, emit)
        return plan, program, build_cpp(program)
    from attndsl.runtime.triton import GpuProgram
    from attndsl.runtime.triton_compile import choose, compile_ahead

    plan = plan_of(attention, dropout=specialization.dropout)
    if tile is None:
        program, binaries = choose(plan, specialization, target.name)
    else:
        program = emit(attention, specialization, target, tile)[1]
        binaries = compile_ahead(program)
        if not binaries.fit:
            raise error(
                "A083", f"{tile.block_m} × {tile.block_n} spills or needs too much shared memory"
            )
    return plan, program, GpuProgram(program, binaries)


def _warn_of_tiled(name: str) -> None:
    warnings.warn(
        f"there is no C++ compiler, so `{name}` runs on the tiled torch path: correct, and several "
        "times slower. Install g++ or clang++, or name one in CXX",
        RuntimeWarning,
        stacklevel=6,
    )
