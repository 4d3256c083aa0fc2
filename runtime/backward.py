"""The backward of a call: a compiled program where the target has one, else the plan in torch.

What is computed per pair runs in kernels; what is added up over tokens afterwards, gradients of
small inputs, torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from attndsl.attention import Attention
from attndsl.codegen.program import Program, Specialization, Tile
from attndsl.diagnostics import AttnError, error
from attndsl.expression import FLOAT
from attndsl.planner.plan import Fold, PairSums, Plan, written_buffers
from attndsl.records import dataclass
from attndsl.runtime.arguments import Call
from attndsl.runtime.execution import BufferShapes, block_tables
from attndsl.runtime.large_memory import LargeMemory
from attndsl.runtime.targets import Target

if TYPE_CHECKING:
    from attndsl.runtime.block_tables import BlockTables
    from attndsl.runtime.cpp import CompiledProgram

_NO_COMPILER = "A090"


class Backward(Protocol):
    """The backward of one attention on one target, for one dtype and head dimension.

    `tensors` are the operands, the inputs as kernels read them, the results `out` and those of
    `ROW_RESULTS` that it reads, and `out.gradient`. Gives float32 gradients by name; none for what
    the output does not depend on.
    """

    @property
    def is_packed(self) -> bool:
        """Whether its kernels are for packed sequences, all in one launch."""

    def run(self, call: Call, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def forget_tables(self) -> None: ...


@dataclass(frozen=True)
class Backwards:
    """The backwards of one attention. `find` gives what differentiates a call: for the gradients of
    such names, and whether the log-sum-exp has one.

    With `takes_log_sum_exp_gradient` what it gives reads that gradient in any case, be it zeros.
    """

    find: Callable[[Call, tuple[str, ...], bool], Backward]
    takes_log_sum_exp_gradient: bool = False


@lru_cache(maxsize=256)
def backward_plan(
    attention: Attention,
    wanted: tuple[str, ...],
    log_sum_exp_gradient: bool,
    dropout: bool,
    *,
    by_side: bool = False,
) -> Plan:
    """The backward's plan for these gradients; `by_side` as kernels for GPUs need it."""
    from attndsl.planner.pipeline import plan_backward

    return plan_backward(
        attention,
        wanted,
        log_sum_exp_gradient=log_sum_exp_gradient,
        dropout=dropout,
        by_side=by_side,
    )


def backward_for(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    *,
    log_sum_exp_gradient: bool,
    tiles: Mapping[int, Tile] | None = None,
) -> Backward:
    """What computes these gradients on a target of this machine.

    `tiles` are better ones than the defaults: by the number of the stage on a GPU, number 0 for all
    of them on a CPU.
    """
    asked = attention, wanted, log_sum_exp_gradient, specialization.dropout
    if target.language == "triton":
        plan = backward_plan(*asked, by_side=True)
        if plan.gradients:
            from attndsl.codegen.triton import is_packable
            from attndsl.runtime.triton_backward import build as build_triton

            packed = specialization.packed and is_packable(plan)
            specialization = replace(specialization, packed=packed)
            return build_triton(plan, specialization, target.name, tiles=tiles)
    elif target.language == "cpp":
        try:
            tile = (tiles or {}).get(0)
            return _compiled(attention, specialization, target, wanted, log_sum_exp_gradient, tile)
        except AttnError as problem:
            if problem.diagnostics[0].code != _NO_COMPILER:
                raise
    return TiledBackward(backward_plan(*asked))


def gradients_of(attention: Attention, names: Iterable[str] | None) -> tuple[str, ...]:
    """Those of `names`, in the order of a call; all that there are where none are named.

    Raises `AttnError` A072 for a name that has none.
    """
    floats = [one.name for one in attention.inputs if one.element is FLOAT]
    known = ("q", "k", "v", *floats)
    given = tuple(names or known)
    for name in given:
        if name not in known:
            raise error(
                "A072",
                f"`{attention.name}` has no gradient of `{name}`",
                help=f"it has those of {', '.join(known)}",
            )
    return tuple(name for name in known if name in given)


def check_depends(plan: Plan, wanted: tuple[str, ...]) -> None:
    """Raises `AttnError` A082 where the backward has nothing to compute."""
    if not plan.gradients:
        raise error(
            "A082",
            f"the output of `{plan.attention.name}` does not depend on {' or '.join(wanted)}, "
            "so there is no backward",
            help="name what it depends on",
        )


def emit_backward(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
) -> tuple[Plan, tuple[Program, ...]]:
    """The plan and the emitted programs, each of its default tile: one for a CPU, and one for each
    stage that has a kernel on a GPU.

    Raises `AttnError` A082 where the output depends on nothing of what is wanted.
    """
    from attndsl.runtime.slices import check_slices

    check_slices(attention, {"D": specialization.head_dim, "Dv": specialization.value_dim})
    by_side = target.language == "triton"
    plan = backward_plan(attention, wanted, False, specialization.dropout, by_side=by_side)
    check_depends(plan, wanted)
    if not by_side:
        from attndsl.codegen import cpp

        return plan, (cpp.emit(plan, specialization),)
    from attndsl.codegen import triton

    programs = []
    for number, stage in enumerate(plan.stages):
        if not isinstance(stage, Fold):
            tile = triton.stage_tiles(stage, specialization, target.name)[0]
            programs.append(triton.emit_stage(plan, number, specialization, tile, target.name))
    return plan, tuple(programs)


def source_of(plan: Plan, programs: tuple[Program, ...]) -> str:
    """What `emit_backward` gave, as one text: several programs are files of their own."""
    if len(programs) == 1:
        return programs[0].text
    parts = {entry.stage: program for program in programs for entry in program.entries}
    texts = []
    for number, stage in enumerate(plan.stages):
        title = f"# Stage {number + 1} of {len(plan.stages)}"
        if number in parts:
            texts.append(f"{title}\n\n{parts[number].text}")
        else:
            (buffer,) = written_buffers(stage)
            texts.append(f"{title}: {buffer.name}, which torch adds up.\n")
    return "\n\n".join(texts)


def program_for_cpu(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    log_sum_exp_gradient: bool,
    tile: Tile | None = None,
) -> tuple[Plan, Program]:
    """The plan and the emitted C++, from the cache if it has them."""
    from attndsl.runtime.programs import backward_program_of

    def emit() -> tuple[Plan, Program]:
        from attndsl.codegen import cpp

        plan = backward_plan(attention, wanted, log_sum_exp_gradient, specialization.dropout)
        return plan, cpp.emit(plan, specialization, tile)

    return backward_program_of(
        attention, specialization, target, wanted, log_sum_exp_gradient, tile, emit
    )


def _compiled(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    log_sum_exp_gradient: bool,
    tile: Tile | None,
) -> Backward:
    from attndsl.runtime.cpp import build

    plan, program = program_for_cpu(
        attention, specialization, target, wanted, log_sum_exp_gradient, tile
    )
    if not plan.gradients:
        return TiledBackward(plan)
    return on_cpu(plan, program, build(program))


def on_cpu(plan: Plan, program: Program, launcher: CompiledProgram) -> CompiledBackward:
    """The backward that a built program is."""
    return CompiledBackward(plan, program, launcher, _tables(plan, program))


def _tables(plan: Plan, program: Program) -> dict[int, BlockTables]:
    """By stage: the block lists of maps that are not in closed form."""
    found = {
        number: block_tables(stage, program, plan.attention.axes)
        for number, stage in enumerate(plan.stages)
        if isinstance(stage, PairSums)
    }
    return {number: lists for number, lists in found.items() if lists is not None}


@dataclass(frozen=True)
class CompiledBackward:
    """Runs a compiled program, stage by stage."""

    plan: Plan
    program: Program
    launcher: CompiledProgram
    tables: Mapping[int, BlockTables]
    is_packed: ClassVar[bool] = False

    @cached_property
    def _shapes(self) -> BufferShapes:
        return BufferShapes(self.program)

    @cached_property
    def _memory(self) -> LargeMemory:
        return LargeMemory()

    def run(self, call: Call, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device, sizes = tensors["q"].device, call.sizes
        arrays = {**tensors, **self._memory.allocate(self._shapes.of(sizes))}
        for number, stage in enumerate(self.plan.stages):
            if isinstance(stage, Fold):
                arrays[stage.buffer.name] = self._fold(stage, call, arrays)
                continue
            table = None
            if number in self.tables:
                lists = self.tables[number]
                table = lists.get({name: tensors[name] for name in lists.reads}, sizes, device)
            self.launcher.launch_stage(number, arrays, call.launch_sizes, call.scale, table)
        return {name: arrays[buffer] for name, buffer in self.plan.gradients}

    def forget_tables(self) -> None:
        for lists in self.tables.values():
            lists.clear()

    def _fold(self, stage: Fold, call: Call, arrays: Mapping[str, Tensor]) -> Tensor:
        from attndsl.runtime.tiled import call_of
        from attndsl.runtime.tiled_backward import fold

        return fold(call_of(self.plan, call, arrays), stage, self.plan)


@dataclass(frozen=True)
class TiledBackward:
    """Runs the plan in torch."""

    plan: Plan
    is_packed: ClassVar[bool] = False

    def run(self, call: Call, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from attndsl.runtime import tiled_backward
        from attndsl.runtime.tiled import call_of

        return tiled_backward.run(self.plan, call_of(self.plan, call, tensors))

    def forget_tables(self) -> None:
        pass
