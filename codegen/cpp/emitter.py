"""From a plan to one C++ file: constants, the support pieces in use, and a kernel per stage."""

from __future__ import annotations

from attndsl.codegen.cpp.attend import AttendKernel
from attndsl.codegen.cpp.kernel import Kernel
from attndsl.codegen.cpp.layout import wrap
from attndsl.codegen.cpp.pair_sums import PairSumsKernel
from attndsl.codegen.cpp.reads import Array
from attndsl.codegen.cpp.support import support_text
from attndsl.codegen.cpp.tokens import emit_prepare, emit_scan
from attndsl.codegen.program import Program, Specialization, Tile
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import FLOAT, Size
from attndsl.planner.plan import ROW_RESULTS, Attend, Fold, PairSums, Plan, Prepare, Scan, Stage

DEFAULT_TILE = Tile(64, 64)


def emit(plan: Plan, specialization: Specialization, tile: Tile | None = None) -> Program:
    """C++ for a plan. Rows of a tile must be a multiple of 16, its keys of 8.

    Raises `AttnError` A084 and A085 for what this target cannot express.
    """
    tile = DEFAULT_TILE if tile is None else tile
    arrays = {
        declared.name: Array(declared.name, declared.element, declared.dimensions)
        for declared in plan.attention.inputs
    } | {one.name: Array(one.name, one.element, one.dimensions) for one in plan.buffers}
    if plan.gradients:
        rows = (Size("B"), Size("H"), Size("Lq"))
        arrays |= {name: Array(name, FLOAT, rows) for name in ROW_RESULTS}
    kernels = [
        _kernel(plan, stage, number, specialization, arrays, tile)
        for number, stage in enumerate(plan.stages)
        if not isinstance(stage, Fold)
    ]
    return Program(
        target="cpu",
        text=_text(plan, kernels, specialization, tile),
        entries=tuple(kernel.entry for kernel in kernels),
        buffers=(*plan.buffers, *(one for kernel in kernels for one in kernel.buffers)),
        specialization=specialization,
        tile=tile,
    )


def _kernel(
    plan: Plan,
    stage: Stage,
    number: int,
    specialization: Specialization,
    arrays: dict[str, Array],
    tile: Tile,
) -> Kernel:
    match stage:
        case Attend():
            return AttendKernel(plan, stage, number, specialization, arrays, tile).emit()
        case PairSums():
            return PairSumsKernel(plan, stage, number, specialization, arrays, tile).emit()
        case Prepare():
            return emit_prepare(plan, stage, number, specialization, arrays)
        case Scan():
            return emit_scan(plan, stage, number, specialization, arrays)
    raise InternalError("folds are no kernels")


def _text(plan: Plan, kernels: list[Kernel], specialization: Specialization, tile: Tile) -> str:
    w = Writer(comment="//")
    w.comment(plan.attention.span.text)
    w.comment("")
    w.comment(
        f"{specialization.dtype.value}, D = {specialization.head_dim}, "
        f"Dv = {specialization.value_dim}"
    )
    w.line("#include <cstdint>")
    w.line("#include <utility>")
    w.blank()
    w.line(f"constexpr int D = {specialization.head_dim}, Dv = {specialization.value_dim};")
    w.line(f"constexpr int BLOCK_M = {tile.block_m}, BLOCK_N = {tile.block_n};")
    w.blank()
    w.line(support_text(set().union(*(kernel.support for kernel in kernels))))
    for kernel in kernels:
        w.blank()
        w.line(wrap(kernel.text.rstrip()))
    return w.text()
