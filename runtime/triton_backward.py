"""The backward on a GPU, or under Triton's interpreter: a program for each stage of a plan whose
stages sum over one side alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attndsl.codegen import triton as emitter
from attndsl.codegen.program import Program, Specialization, Tile
from attndsl.evaluate import evaluate_size
from attndsl.planner.block_map import Table
from attndsl.planner.own_elements import own_axes
from attndsl.planner.plan import (
    Buffer,
    ElementSum,
    Fold,
    PairStage,
    PairSums,
    Plan,
    Stage,
    is_transposed,
    written_buffers,
)
from attndsl.records import dataclass
from attndsl.runtime.arguments import BUFFER_DTYPES, Call
from attndsl.runtime.block_tables import BlockTables
from attndsl.runtime.triton import GpuProgram, InterpretedProgram
from attndsl.runtime.triton_compile import choose_stage, compile_ahead
from attndsl.runtime.triton_source import load_module

if TYPE_CHECKING:
    from attndsl.runtime.execution import Launcher


def build(
    plan: Plan,
    specialization: Specialization,
    target: str,
    tile: Tile | None = None,
    tiles: Mapping[int, Tile] | None = None,
) -> TritonBackward:
    """What runs a plan that is `by_side`. Where Triton interprets, `tile` is that of every stage.
    `tiles` are better ones than the defaults, by the number of the stage; one that does not fit is
    passed over.

    Raises `AttnError` as `compile_ahead` does, and A083 where no tile of a stage fits.
    """
    import triton

    stages: dict[int, Launcher] = {}
    for number in stages_with_kernels(plan):
        if triton.knobs.runtime.interpret:
            chosen = tile or emitter.stage_tiles(plan.stages[number], specialization, target)[0]
            program = emitter.emit_stage(plan, number, specialization, chosen, target)
            stages[number] = InterpretedProgram(program, load_module(program))
        else:
            better = (tiles or {}).get(number)
            stages[number] = _compiled(plan, number, specialization, target, better)
    return on_gpu(plan, stages)


def _compiled(
    plan: Plan, number: int, specialization: Specialization, target: str, better: Tile | None
) -> GpuProgram:
    if better is not None:
        program = emitter.emit_stage(plan, number, specialization, better, target)
        binaries = compile_ahead(program)
        if binaries.fit:
            return GpuProgram(program, binaries)
    return GpuProgram(*choose_stage(plan, number, specialization, target))


def stages_with_kernels(plan: Plan) -> list[int]:
    """The numbers of the stages that kernels run; what is folded, torch adds up."""
    return [number for number, stage in enumerate(plan.stages) if not isinstance(stage, Fold)]


def on_gpu(plan: Plan, launchers: Mapping[int, Launcher]) -> TritonBackward:
    """The backward that built programs are, one for each stage that has a kernel."""
    stages = {}
    for number, launcher in launchers.items():
        stage, table = plan.stages[number], None
        if isinstance(stage, PairStage):
            table = _table(stage, launcher.program.tile, plan.attention.axes)
        stages[number] = BuiltStage(launcher, table)
    return TritonBackward(plan, stages)


@dataclass(frozen=True)
class BuiltStage:
    """What launches a stage's program, and the block lists of a map not in closed form."""

    launcher: Launcher
    table: BlockTables | None


@dataclass(frozen=True)
class TritonBackward:
    """Runs programs stage by stage; what is folded, torch adds up."""

    plan: Plan
    stages: Mapping[int, BuiltStage]

    def run(self, call: Call, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Backward`."""
        from attndsl.runtime.tiled import call_of
        from attndsl.runtime.tiled_backward import fold

        device, sizes = tensors["q"].device, call.sizes
        arrays = dict(tensors)
        for number, stage in enumerate(self.plan.stages):
            if isinstance(stage, Fold):
                arrays[stage.buffer.name] = fold(call_of(self.plan, call, arrays), stage, self.plan)
                continue
            built = self.stages[number]
            program = built.launcher.program
            allocate = torch.zeros if _adds(stage) else torch.empty
            for buffer in (*written_buffers(stage), *_parts(stage, program)):
                shape = [evaluate_size(size, sizes) for size in buffer.dimensions]
                dtype = BUFFER_DTYPES[program.buffer_dtype(buffer)]
                arrays[buffer.name] = allocate(shape, dtype=dtype, device=device)
            table = None
            if built.table is not None:
                read = {name: tensors[name] for name in built.table.reads}
                table = built.table.get(read, sizes, device)
            built.launcher.launch(arrays, call.launch_sizes, call.scale, table)
            if isinstance(stage, PairSums):
                for one, buffer in zip(stage.elements, _parts(stage, program), strict=False):
                    arrays[one.buffer.name] = added(one, arrays.pop(buffer.name), sizes)
        return {name: arrays[buffer] for name, buffer in self.plan.gradients}

    def forget_tables(self) -> None:
        for built in self.stages.values():
            if built.table is not None:
                built.table.clear()


def _parts(stage: Stage, program: Program) -> tuple[Buffer, ...]:
    """What the stage's programs leave of the sums for the elements of an input."""
    if not isinstance(stage, PairSums):
        return ()
    names = {f"{one.buffer.name}.parts" for one in stage.elements}
    return tuple(buffer for buffer in program.buffers if buffer.name in names)


def added(one: ElementSum, parts: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """The sums, of which `parts` are `[programs, …]`: a head's programs follow one another."""
    axes = own_axes(one)
    batches, heads, groups = (sizes[name] for name in ("B", "H", "Hkv"))
    rest = parts.shape[1:]
    by_head = parts.reshape(batches, heads, -1, *rest).sum(2)
    named = {name: axis for axis, name in axes.own}
    if "g" in named:
        by_head = by_head.reshape(batches, groups, -1, *rest).sum(2)
    kept = [name for name in ("b", "h", "g") if name in named]
    if not {"h", "g"} & named.keys():
        by_head = by_head.sum(1)
    if "b" not in named:
        by_head = by_head.sum(0)
    order = [named[name] for name in kept]
    order += [axis for axis in range(len(one.buffer.dimensions)) if axis not in order]
    return by_head.permute([order.index(axis) for axis in range(len(order))]).contiguous()


def _adds(stage: object) -> bool:
    """Whether a stage leaves numbers as they are, of tokens or pairs that none of its tiles has."""
    return isinstance(stage, PairSums) and (stage.stripes is not None or bool(stage.elements))


def _table(stage: PairStage, tile: Tile, axes: tuple[str, ...]) -> BlockTables | None:
    match stage.block_map:
        case Table() as table:
            return BlockTables(
                stage.mask,
                table,
                axes,
                tile.block_m,
                tile.block_n,
                transposed=is_transposed(stage),
            )
    return None
