"""Sums over pairs under masks such as "near, or every m-th": the every-m-th part is a stage apart.

As in a forward (see `split_strides`), each of the two costs its visible pairs. What they sum up is
added token by token, and element by element.

Applies where both parts of the mask have a closed form.
"""

from __future__ import annotations

import dataclasses

from attndsl.expression import FLOAT, Expression, Index, Read, Size, Vector
from attndsl.planner.floats import plus
from attndsl.planner.passes.split_strides import apart, listed, strided_part
from attndsl.planner.plan import Buffer, Fold, PairSums, Plan, Prepare, Stage
from attndsl.planner.ranges import derive_ranges


def split_sums(plan: Plan) -> Plan:
    """The same plan, with strided alternatives of its masks in stages of their own."""
    names = _Names(plan)
    stages: list[Stage] = []
    notes: list[str] = []
    for stage in plan.stages:
        split = _split(plan, stage, names) if isinstance(stage, PairSums) else None
        if split is None:
            stages.append(stage)
            continue
        made, note = split
        stages += made
        notes.append(note)
    if not notes:
        return plan
    return dataclasses.replace(plan, stages=tuple(stages), notes=(*plan.notes, *notes))


class _Names:
    """Names that neither an input nor a buffer has."""

    def __init__(self, plan: Plan) -> None:
        self._taken = {one.name for one in plan.attention.inputs}
        self._taken |= {one.name for one in plan.buffers}

    def renamed(self, buffer: Buffer, stem: str) -> Buffer:
        name, number = f"{stem}_{buffer.name}", 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{buffer.name}_{number}"
        self._taken.add(name)
        return dataclasses.replace(buffer, name=name)


def _split(plan: Plan, stage: PairSums, names: _Names) -> tuple[list[Stage], str] | None:
    """The stages in place of one, and why."""
    parts = strided_part(stage.mask)
    if parts is None:
        return None
    strided, rest = parts
    first = apart(dataclasses.replace(_renamed(stage, names, "strided"), mask=strided))
    ranges = derive_ranges(rest, axes=plan.attention.axes)
    if first is None or ranges is None:
        return None
    last = dataclasses.replace(_renamed(stage, names, "other"), mask=rest, block_map=ranges)
    totals: list[Stage] = []
    for total, one, other in zip(stage.sums, first.sums, last.sums, strict=True):
        both = plus(_read(one.buffer, total.side), _read(other.buffer, total.side))
        totals.append(Prepare(total.buffer, total.side, both))
    for element, left, right in zip(stage.elements, first.elements, last.elements, strict=True):
        totals.append(Fold(element.buffer, (), (left.buffer, right.buffer)))
    note = f"{listed(first)}, and the others, are summed up in stages of their own"
    return [first, last, *totals], note


def _renamed(stage: PairSums, names: _Names, stem: str) -> PairSums:
    """The stage with buffers of its own."""
    return dataclasses.replace(
        stage,
        sums=tuple(
            dataclasses.replace(one, buffer=names.renamed(one.buffer, stem)) for one in stage.sums
        ),
        elements=tuple(
            dataclasses.replace(one, buffer=names.renamed(one.buffer, stem))
            for one in stage.elements
        ),
    )


def _read(buffer: Buffer, side: str) -> Expression:
    """The sum of the token at hand."""
    head = "h" if buffer.dimensions[1] == Size("H") else "g"
    indices = Index("b"), Index(head), Index("row" if side == "query" else "j")
    type = Vector(buffer.dimensions[3]) if len(buffer.dimensions) > 3 else FLOAT
    return Read(buffer.name, indices, type)
