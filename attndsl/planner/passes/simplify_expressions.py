"""Fewer operations for the same values, in every expression of the plan.

What is shared stays shared. Sizes of buffers and sources are simplified too, so that equal sizes
look equal to an emitter.
"""

from __future__ import annotations

import dataclasses

from attndsl.attention import map_normalizer
from attndsl.planner.plan import (
    Attend,
    Buffer,
    Dot,
    ElementSum,
    Fold,
    FoldTerm,
    PairSum,
    PairSums,
    Plan,
    Prepare,
    Scan,
    Source,
    Stage,
)
from attndsl.planner.simplify import simplify


def simplify_expressions(plan: Plan) -> Plan:
    """The same plan in simpler expressions. Block maps are left to the pass that derives them."""
    return dataclasses.replace(plan, stages=tuple(_stage(stage) for stage in plan.stages))


def _stage(stage: Stage) -> Stage:
    match stage:
        case Prepare(buffer, side, element):
            return Prepare(_buffer(buffer), side, simplify(element))
        case Scan(buffer, indices, element, from_end):
            return Scan(_buffer(buffer), indices, simplify(element), from_end)
        case Attend():
            return dataclasses.replace(
                stage,
                dots=_dots(stage.dots),
                score=simplify(stage.score),
                mask=simplify(stage.mask),
                value=_source(stage.value),
                vectors=tuple((name, _source(source)) for name, source in stage.vectors),
                normalizer=map_normalizer(stage.normalizer, simplify),
            )
        case PairSums():
            return dataclasses.replace(
                stage,
                dots=_dots(stage.dots),
                sums=tuple(map(_pair_sum, stage.sums)),
                elements=tuple(map(_element_sum, stage.elements)),
                score=None if stage.score is None else simplify(stage.score),
                mask=simplify(stage.mask),
                vectors=tuple((name, _source(source)) for name, source in stage.vectors),
            )
        case Fold(buffer, terms, addends):
            return Fold(
                _buffer(buffer),
                tuple(
                    FoldTerm(term.side, simplify(term.value), tuple(map(simplify, term.indices)))
                    for term in terms
                ),
                tuple(map(_buffer, addends)),
            )


def _dots(dots: tuple[Dot, ...]) -> tuple[Dot, ...]:
    return tuple(Dot(_source(dot.query), _source(dot.key)) for dot in dots)


def _pair_sum(one: PairSum) -> PairSum:
    terms = tuple(
        (simplify(value), None if source is None else _source(source))
        for value, source in one.terms
    )
    return PairSum(_buffer(one.buffer), one.side, terms)


def _element_sum(one: ElementSum) -> ElementSum:
    return ElementSum(_buffer(one.buffer), tuple(map(simplify, one.indices)), simplify(one.value))


def _buffer(buffer: Buffer) -> Buffer:
    return dataclasses.replace(buffer, dimensions=tuple(map(simplify, buffer.dimensions)))


def _source(source: Source) -> Source:
    return Source(source.name, simplify(source.start), simplify(source.size))
