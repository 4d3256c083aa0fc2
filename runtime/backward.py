"""The backward of a call: a compiled program where the target has one, else the plan in torch.

What is computed per pair runs in kernels; what is added up over tokens afterwards, gradients of
small inputs, torch does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from attndsl.attention import Attention
from attndsl.codegen.program import Program, Specialization
from attndsl.diagnostics import AttnError
from attndsl.planner.plan import Fold, PairSums, Plan
from attndsl.records import dataclass
from attndsl.runtime.arguments import Call
from attndsl.runtime.execution import BufferShapes, allocate, block_tables
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
) -> Backward:
    """What computes these gradients on a target of this machine."""
    asked = attention, wanted, log_sum_exp_gradient, specialization.dropout
    if target.language == "triton":
        plan = backward_plan(*asked, by_side=True)
        if plan.gradients:
            from attndsl.codegen.triton import is_packable
            from attndsl.runtime.triton_backward import build as build_triton

            packed = specialization.packed and is_packable(plan)
            return build_triton(plan, replace(specialization, packed=packed), target.name)
    elif target.language == "cpp":
        try:
            return _compiled(attention, specialization, target, wanted, log_sum_exp_gradient)
        except AttnError as problem:
            if problem.diagnostics[0].code != _NO_COMPILER:
                raise
    return TiledBackward(backward_plan(*asked))


def _compiled(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    log_sum_exp_gradient: bool,
) -> Backward:
    from attndsl.runtime.cpp import build
    from attndsl.runtime.programs import backward_program_of

    def emit() -> tuple[Plan, Program]:
        from attndsl.codegen import cpp

        plan = backward_plan(attention, wanted, log_sum_exp_gradient, specialization.dropout)
        return plan, cpp.emit(plan, specialization)

    plan, program = backward_program_of(
        attention, specialization, target, wanted, log_sum_exp_gradient, emit
    )
    if not plan.gradients:
        return TiledBackward(plan)
    return CompiledBackward(plan, program, build(program), _tables(plan, program))


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

    def run(self, call: Call, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device, sizes = tensors["q"].device, call.sizes
        arrays = {**tensors, **allocate(self._shapes.of(sizes), device)}
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
