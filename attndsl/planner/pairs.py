"""What stages over pairs have in common, for passes that change where their tokens lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

from attndsl.attention import map_normalizer
from attndsl.expression import Expression, Kept
from attndsl.planner.lower import EVERYTHING
from attndsl.planner.plan import Attend, ElementSum, PairStage, PairSum, Plan, Stage

Pairs = TypeVar("Pairs", bound=PairStage)


def map_pairs(stage: Pairs, function: Callable[[Expression], Expression]) -> Pairs:
    """The stage with `function` applied to all that it computes for pairs and rows; its mask and
    its block map are left to the caller."""
    if isinstance(stage, Attend):
        return dataclasses.replace(
            stage,
            score=function(stage.score),
            normalizer=map_normalizer(stage.normalizer, function),
            kept=None if stage.kept is None else Kept(tuple(map(function, stage.kept.indices))),
        )
    return dataclasses.replace(
        stage,
        score=None if stage.score is None else function(stage.score),
        sums=tuple(
            PairSum(
                one.buffer,
                one.side,
                tuple((function(value), source) for value, source in one.terms),
            )
            for one in stage.sums
        ),
        elements=tuple(
            ElementSum(one.buffer, tuple(map(function, one.indices)), function(one.value))
            for one in stage.elements
        ),
    )


def pair_expressions(stage: PairStage) -> Iterator[Expression]:
    """All that a stage computes for pairs: scores or what is summed up, and the mask."""
    yield stage.mask
    if isinstance(stage, Attend):
        yield stage.score
        if stage.kept is not None:
            yield stage.kept
        return
    for one in stage.sums:
        yield from (value for value, _ in one.terms)
    for element in stage.elements:
        yield from (element.value, *element.indices)


def improve_pairs(
    plan: Plan, improve: Callable[[PairStage], tuple[PairStage, list[str]] | None]
) -> Plan:
    """The plan with every stage improved whose block map nothing has derived yet, and the notes
    that say why. Where `improve` gives None the stage stays."""
    stages: list[Stage] = []
    notes = list(plan.notes)
    for stage in plan.stages:
        if isinstance(stage, PairStage) and stage.block_map is EVERYTHING:
            improved = improve(stage)
            if improved is not None:
                stage, added = improved
                notes += [one for one in added if one not in notes]
        stages.append(stage)
    if stages == list(plan.stages):
        return plan
    return dataclasses.replace(plan, stages=tuple(stages), notes=tuple(notes))
