"""The backward on a GPU, or under Triton's interpreter: a program for each stage of a plan whose
stages sum over one side alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from attndsl.codegen import triton as emitter
from attndsl.codegen.program import Program, Specialization, Tile
from attndsl.evaluate import evaluate_size
from attndsl.planner.block_map import Table
from attndsl.planner.own_elements import own_axes
from attndsl.planner.plan import (
    ROW_RESULTS,
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
    is_packed = any(one.program.specialization.packed for one in launchers.values())
    return TritonBackward(plan, stages, is_packed)


@dataclass(frozen=True)
class BuiltStage:
    """What launches a stage's program, and the block lists of a map not in closed form."""

    launcher: Launcher
    table: BlockTables | None


class Launches(Protocol):
    """What stages run on: a batch, or packed sequences. `sizes` are those that kernels take."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def shape(self, buffer: Buffer) -> list[int]:
        """That of a buffer of the plan."""

    def launch(self, built: BuiltStage, arrays: Mapping[str, Tensor]) -> None: ...

    def add_up(
        self, built: BuiltStage, one: ElementSum, parts: Buffer, arrays: Mapping[str, Tensor]
    ) -> Tensor:
        """See the function `add_up`, of which it may take several."""

    def fold(self, stage: Fold, plan: Plan, arrays: Mapping[str, Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class TritonBackward:
    """Runs programs stage by stage; what is folded, torch adds up."""

    plan: Plan
    stages: Mapping[int, BuiltStage]
    is_packed: bool

    def run(self, call: Call, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Backward`."""
        return self.run_on(_Batch(call), tensors)

    def run_on(self, launches: Launches, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `run`."""
        device = tensors["q"].device
        # Statistics of some rows among others lie apart, head by head.
        dense = {name: tensors[name].contiguous() for name in tensors.keys() & set(ROW_RESULTS)}
        arrays = {**tensors, **dense}
        for number, stage in enumerate(self.plan.stages):
            if isinstance(stage, Fold):
                arrays[stage.buffer.name] = launches.fold(stage, self.plan, arrays)
                continue
            built = self.stages[number]
            program = built.launcher.program
            allocate = torch.zeros if _adds(stage) else torch.empty
            for buffer in written_buffers(stage):
                dtype = BUFFER_DTYPES[program.buffer_dtype(buffer)]
                shape = launches.shape(buffer)
                arrays[buffer.name] = allocate(shape, dtype=dtype, device=device)
            parts = _parts(stage, program)
            if parts is None:
                launches.launch(built, arrays)
            else:
                assert isinstance(stage, PairSums)
                (one,) = stage.elements
                arrays[one.buffer.name] = launches.add_up(built, one, parts, arrays)
        return {name: arrays[buffer] for name, buffer in self.plan.gradients}

    def forget_tables(self) -> None:
        for built in self.stages.values():
            if built.table is not None:
                built.table.clear()


@dataclass(frozen=True)
class _Batch:
    """A call on a batch."""

    call: Call

    @property
    def sizes(self) -> Mapping[str, int]:
        return self.call.launch_sizes

    def shape(self, buffer: Buffer) -> list[int]:
        return [evaluate_size(size, self.call.sizes) for size in buffer.dimensions]

    def launch(self, built: BuiltStage, arrays: Mapping[str, Tensor]) -> None:
        call, table = self.call, None
        if built.table is not None:
            read = {name: arrays[name] for name in built.table.reads}
            table = built.table.get(read, call.sizes, call.device)
        built.launcher.launch(arrays, call.launch_sizes, call.scale, table)

    def add_up(
        self, built: BuiltStage, one: ElementSum, parts: Buffer, arrays: Mapping[str, Tensor]
    ) -> Tensor:
        return add_up(self, built, one, parts, arrays)

    def fold(self, stage: Fold, plan: Plan, arrays: Mapping[str, Tensor]) -> Tensor:
        from attndsl.runtime.tiled import call_of
        from attndsl.runtime.tiled_backward import fold

        return fold(call_of(plan, self.call, arrays), stage, plan)


def _parts(stage: Stage, program: Program) -> Buffer | None:
    """What the stage's programs leave of the sums for the elements of an input."""
    if not isinstance(stage, PairSums):
        return None
    names = {f"{one.buffer.name}.parts" for one in stage.elements}
    return next((buffer for buffer in program.buffers if buffer.name in names), None)


def add_up(
    launches: Launches,
    built: BuiltStage,
    one: ElementSum,
    parts: Buffer,
    arrays: Mapping[str, Tensor],
) -> Tensor:
    """The sums for the elements of an input, of which each program leaves a part in `parts`."""
    shape = [evaluate_size(size, launches.sizes) for size in parts.dimensions]
    dtype = BUFFER_DTYPES[built.launcher.program.buffer_dtype(parts)]
    left = torch.zeros(shape, dtype=dtype, device=arrays["q"].device)
    launches.launch(built, {**arrays, parts.name: left})
    return added(one, left, launches.sizes)


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
