"""The plan executor for a backward: sums over pairs block by block, and folds, in NumPy float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Array, Environment, evaluate, evaluate_size
from attndsl.expression import Expression, Size
from attndsl.planner.execute import Call
from attndsl.planner.lists import Block
from attndsl.planner.normalization import combine
from attndsl.planner.plan import (
    Attend,
    Buffer,
    ElementSum,
    Fold,
    FoldTerm,
    PairSum,
    PairSums,
    Plan,
    Prepare,
    Scan,
    token_grid,
    written_buffers,
)
from attndsl.planner.visits import Visit, visits


def execute_backward(
    backward: Plan, call: Call, results: Mapping[str, Array], *, block_m: int, block_n: int
) -> dict[str, Array]:
    """The gradients that a backward plan computes, by the names of what they are gradients of.

    `call` is that of the forward. `results` holds `out` and `out.gradient`, float64
    `[B, H, Lq, Dv]`, and what else the plan reads of the forward's results: `log_sum_exp`,
    `log_sum_exp.gradient` and `weights.sum`, `[B, H, Lq]`.
    """
    vectors = {name: results[name] for name in ("out", "out.gradient")}
    rows = {name: array for name, array in results.items() if name not in vectors}
    inputs = {**call.base.inputs, **rows}
    call = Call({**call.given, **vectors}, dataclasses.replace(call.base, inputs=inputs))
    for stage in backward.stages:
        match stage:
            case Prepare():
                call = call.with_buffer(stage.buffer.name, call.prepare(stage))
            case Scan():
                call = call.with_buffer(stage.buffer.name, call.scan(stage))
            case PairSums():
                for name, array in _PairSums(call, stage).run(block_m, block_n).items():
                    call = call.with_buffer(name, array)
            case Fold():
                call = call.with_buffer(stage.buffer.name, _fold(call, stage, backward))
            case Attend():
                raise InternalError("a backward attends to nothing")
    return {name: call.base.inputs[buffer] for name, buffer in backward.gradients}


class _PairSums:
    """One stage over pairs. Every array is of float64, and holds what has been summed up so far."""

    def __init__(self, call: Call, stage: PairSums) -> None:
        self._call, self._stage = call, stage
        self._arrays = {
            buffer.name: np.zeros(_shape(buffer, call)) for buffer in written_buffers(stage)
        }

    def run(self, block_m: int, block_n: int) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            for visit in visits(self._stage, self._call.base, block_m, block_n):
                queries = self._call.queries(self._stage, visit)
                for block in visit.blocks:
                    self._block(visit, block, queries)
        return self._arrays

    def _block(self, visit: Visit, block: Block, queries: Sequence[Array]) -> None:
        stage, call = self._stage, self._call
        rows, keys = visit.queries.numbers, visit.problem.key_tokens(block.box).numbers
        pairs, visible = call.pairs(stage, visit, block, queries)
        shape = visible.shape

        def value_of(expression: Expression) -> Array:
            """Over the pairs of the block; 0 where they are hidden."""
            value = evaluate(expression, pairs)
            trailing = value.shape[4:]
            seen = visible.reshape(shape + (1,) * len(trailing))
            return np.where(seen, np.broadcast_to(value, shape + trailing), 0.0)

        for one in stage.sums:
            for expression, source in one.terms:
                value = value_of(expression)
                if one.side == "query":
                    total = (
                        value.sum(axis=3)
                        if source is None
                        else combine(value, visible, call.vectors(source, visit, keys))
                    )
                    self._add(one, visit, rows, total)
                else:
                    total = (
                        value.sum(axis=2)
                        if source is None
                        else combine(
                            np.swapaxes(value, -1, -2),
                            np.swapaxes(visible, -1, -2),
                            call.vectors(source, visit, rows),
                        )
                    )
                    self._add(one, visit, keys, total)
        for element in stage.elements:
            self._add_elements(element, visible, value_of(element.value), pairs)

    def _add(self, one: PairSum, visit: Visit, tokens: Array, total: Array) -> None:
        array = self._arrays[one.buffer.name]
        heads = visit.heads
        if one.buffer.dimensions[1] == Size("Hkv"):
            heads = heads // self._call.group
        np.add.at(array, np.ix_(visit.batches, heads, tokens), total)

    def _add_elements(
        self, one: ElementSum, visible: Array, value: Array, pairs: Environment
    ) -> None:
        array = self._arrays[one.buffer.name]
        places = tuple(
            np.broadcast_to(evaluate(index, pairs), visible.shape)[visible] for index in one.indices
        )
        if places:
            np.add.at(array, places, value[visible])
        else:
            array += value[visible].sum(axis=0)


def _fold(call: Call, stage: Fold, backward: Plan) -> Array:
    total = np.zeros(_shape(stage.buffer, call))
    for addend in stage.addends:
        total += call.base.inputs[addend.name]
    for term in stage.terms:
        _add_term(call, total, term, backward)
    return total


def _add_term(call: Call, total: Array, term: FoldTerm, backward: Plan) -> None:
    names, dimensions = token_grid(term, backward)
    environment, shape = call.tokens(names, dimensions)
    value = evaluate(term.value, environment)
    trailing = total.shape[len(term.indices) :]
    value = np.broadcast_to(value, shape + trailing)
    places = [np.broadcast_to(evaluate(index, environment), shape) for index in term.indices]
    exists = np.ones(shape, np.bool_)
    for place, length in zip(places, total.shape, strict=False):
        exists &= (place >= 0) & (place < length)
    if places:
        np.add.at(total, tuple(place[exists] for place in places), value[exists])
    else:
        total += value[exists].sum(axis=0)


def _shape(buffer: Buffer, call: Call) -> tuple[int, ...]:
    return tuple(evaluate_size(size, call.base.sizes) for size in buffer.dimensions)
