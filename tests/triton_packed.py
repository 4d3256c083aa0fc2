"""Calls on packed sequences by Triton's kernels, interpreted: all sequences in one launch, or one
after the other, forward and backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from attndsl.attention import has_statistic
from attndsl.binding import bind
from attndsl.codegen import triton as emitter
from attndsl.codegen.program import Program, Tile
from attndsl.module import load_text
from attndsl.runtime.backward import Backward, backward_plan
from attndsl.runtime.compilation import plan_of, specialize
from attndsl.runtime.dropout import dropout_of
from attndsl.runtime.execution import CompiledExecution, block_tables
from attndsl.runtime.options import Options
from attndsl.runtime.packed import Packed
from attndsl.runtime.packed_arguments import check_packed
from attndsl.runtime.triton import InterpretedProgram
from attndsl.runtime.triton_backward import build
from attndsl.runtime.triton_source import load_module

TARGET = "cuda:90"


class Counted(InterpretedProgram):
    """Counts launches."""

    launches = 0

    def launch(self, *arguments: Any) -> None:
        Counted.launches += 1
        super().launch(*arguments)


class Interpreted(dict[Any, Backward]):
    """Backwards, interpreted with one tile."""

    def __init__(self, attention: Any, tile: Tile) -> None:
        super().__init__()
        self._attention, self._tile = attention, tile

    def get(self, key: Any, default: Any = None) -> Any:
        specialization, _, wanted, log_sum_exp_gradient = key
        made = backward_plan(
            self._attention, wanted, log_sum_exp_gradient, specialization.dropout, by_side=True
        )
        packed = specialization.packed and emitter.is_packable(made)
        assert packed == specialization.packed
        backward = build(made, specialization, TARGET, self._tile)
        stages = {
            number: dataclasses.replace(
                stage, launcher=Counted(stage.launcher.program, stage.launcher.module)
            )
            for number, stage in backward.stages.items()
        }
        return dataclasses.replace(backward, stages=stages)


@dataclasses.dataclass
class Results:
    """`launches`: how many programs were launched forward, and both ways."""

    out: Tensor
    statistic: Tensor
    gradients: list[Tensor]
    launches: tuple[int, int]


def run(
    text: str,
    tensors: Mapping[str, Tensor | None],
    inputs: Mapping[str, Tensor],
    ends: tuple[Tensor, Tensor | None],
    *,
    packed: bool,
    gradients: tuple[Tensor | None, Tensor | None] | None = None,
    wanted: Sequence[str] = (),
    offset: int | None = None,
    dropout: float | None = None,
    seed: int | None = None,
    tile: tuple[int, int] = (32, 16),
) -> Results:
    """The one attention of `text`; `packed`: in one launch, which its plan has to allow."""
    (unbound,) = load_text(text).attentions.values()
    attention = bind(unbound)
    chosen = Tile(*tile, 4, 1)
    options = Options(
        offset=offset, dropout=dropout, seed=seed, cu_seqlens=ends[0], cu_seqlens_k=ends[1]
    )
    call, places = check_packed(attention, tensors, inputs, options)
    call = dataclasses.replace(call, dropout=dropout_of(dropout, seed))
    statistics = has_statistic(attention.normalizer)
    drops = call.dropout is not None
    plan = plan_of(attention, dropout=drops)
    assert emitter.is_packable(plan) or not packed
    specialization = specialize(
        attention,
        *(call.sizes["D"], call.sizes["Dv"], call.dtype),
        return_lse=statistics,
        dropout=drops,
        packed=packed,
    )
    program: Program = emitter.emit(plan, specialization, chosen)
    tables = block_tables(plan.attend, program, plan.attention.axes)
    launcher = Counted(program, load_module(program))
    execution = CompiledExecution(plan, program, launcher, tables)
    operation = Packed(
        attention,
        *(call, places, options, execution, Interpreted(attention, chosen)),
        statistics=statistics,
    )
    before = Counted.launches
    arguments = {**tensors, **inputs}
    out, statistic = operation.forward(arguments)
    forward = Counted.launches - before
    found = []
    if gradients is not None:
        results = out, statistic
        found = operation.gradients(arguments, results, gradients, tuple(wanted))
    return Results(out, statistic, found, (forward, Counted.launches - before))
