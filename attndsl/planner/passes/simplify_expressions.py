"""Fewer operations for the same values, in every expression of the plan.

What is shared stays shared. Sizes of buffers and sources are simplified too, so that equal sizes
look equal to an emitter.
"""

from __future__ import annotations

import dataclasses

from attndsl.attention import map_normalizer
from attndsl.planner.plan import Attend, Buffer, Dot, Plan, Prepare, Scan, Source, Stage
from attndsl.planner.simplify import simplify


def simplify_expressions(plan: Plan) -> Plan:
    """The same plan in simpler expressions. Block maps are left to the pass that derives them."""
    return dataclasses.replace(plan, stages=tuple(_stage(stage) for stage in plan.stages))


def _stage(stage: Stage) -> Stage:
    match stage:
        case Prepare(buffer, side, element):
            return Prepare(_buffer(buffer), side, simplify(element))
        case Scan(buffer, indices, element):
            return Scan(_buffer(buffer), indices, simplify(element))
        case Attend():
            return dataclasses.replace(
                stage,
                dots=tuple(Dot(_source(dot.query), _source(dot.key)) for dot in stage.dots),
                score=simplify(stage.score),
                mask=simplify(stage.mask),
                value=_source(stage.value),
                vectors=tuple((name, _source(source)) for name, source in stage.vectors),
                normalizer=map_normalizer(stage.normalizer, simplify),
            )


def _buffer(buffer: Buffer) -> Buffer:
    return dataclasses.replace(buffer, dimensions=tuple(map(simplify, buffer.dimensions)))


def _source(source: Source) -> Source:
    return Source(source.name, simplify(source.start), simplify(source.size))
