"""Fewer operations for the same values, in every expression of the plan.

What is shared stays shared. Sizes of buffers and sources are simplified too, so that equal sizes
look equal to an emitter.
"""

from __future__ import annotations

import dataclasses

from attndsl.planner.pairs import Pairs, map_pairs
from attndsl.planner.plan import (
    Attend,
    Buffer,
    Dot,
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
            return dataclasses.replace(_pairs(stage), value=_source(stage.value))
        case PairSums():
            stage = _pairs(stage)
            return dataclasses.replace(
                stage,
                sums=tuple(map(_pair_sum, stage.sums)),
                elements=tuple(
                    dataclasses.replace(one, buffer=_buffer(one.buffer)) for one in stage.elements
                ),
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


def _pairs(stage: Pairs) -> Pairs:
    """What stages over pairs have in common, and all that they compute for pairs."""
    return dataclasses.replace(
        map_pairs(stage, simplify),
        dots=tuple(Dot(_source(dot.query), _source(dot.key)) for dot in stage.dots),
        mask=simplify(stage.mask),
        vectors=tuple((name, _source(source)) for name, source in stage.vectors),
    )


def _pair_sum(one: PairSum) -> PairSum:
    """With simpler sizes; its values are simplified already."""
    terms = tuple(
        (value, None if source is None else _source(source)) for value, source in one.terms
    )
    return PairSum(_buffer(one.buffer), one.side, terms)


def _buffer(buffer: Buffer) -> Buffer:
    return dataclasses.replace(buffer, dimensions=tuple(map(simplify, buffer.dimensions)))


def _source(source: Source) -> Source:
    return Source(source.name, simplify(source.start), simplify(source.size))
