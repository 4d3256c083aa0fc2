"""A backward plan run in torch, tile by tile, in float32; see `tiled.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attndsl.diagnostics import InternalError
from attndsl.expression import Call as Function
from attndsl.expression import Expression, Index, Read, Size
from attndsl.planner.lists import Block
from attndsl.planner.plan import (
    Attend,
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
from attndsl.planner.visits import Visit
from attndsl.runtime.tiled import BLOCK_M, BLOCK_N, Call, combine
from attndsl.runtime.torch_evaluate import Environment, evaluate


def run(
    backward: Plan, call: Call, *, block_m: int = BLOCK_M, block_n: int = BLOCK_N
) -> dict[str, Tensor]:
    """The gradients, float32, by the names of what they are gradients of.

    `call` has the forward's operands, its `out` and `out.gradient`, the inputs, and those of
    `ROW_RESULTS` that the plan reads.
    """
    for stage in backward.stages:
        match stage:
            case PairSums():
                for name, array in _PairSums(call, stage).run(block_m, block_n).items():
                    call = call.with_buffer(name, array)
            case Prepare():
                call = call.with_buffer(stage.buffer.name, call.prepare(stage))
            case Scan():
                call = call.with_buffer(stage.buffer.name, call.scan(stage))
            case Fold():
                call = call.with_buffer(stage.buffer.name, fold(call, stage, backward))
            case Attend():
                raise InternalError("a backward attends to nothing")
    return {name: call.base.inputs[buffer] for name, buffer in backward.gradients}


def fold(call: Call, stage: Fold, backward: Plan) -> Tensor:
    """Values of many tokens, added up where they belong, in float32; in an order that does not
    vary from run to run."""
    shape = call.shape(stage.buffer.dimensions)
    parts = [call.base.inputs[addend.name] for addend in stage.addends]
    parts += [_folded(call, term, backward, shape) for term in stage.terms]
    if not parts:
        return torch.zeros(shape, device=call.base.device)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _folded(call: Call, term: FoldTerm, backward: Plan, target: tuple[int, ...]) -> Tensor:
    names, dimensions = token_grid(term, backward)
    shape = call.shape(dimensions)
    indexed, width = target[: len(term.indices)], target[len(term.indices) :]
    if not all(shape):
        return torch.zeros(target, device=call.base.device)
    value = _of_tokens(call, term, names, dimensions)
    along = _folded_along(term, value, dict(zip(names, shape, strict=True)), call.group, indexed)
    if along is not None:
        return along
    environment, _ = call.tokens(names, dimensions)
    places = [evaluate(index, environment).expand(shape) for index in term.indices]
    # One number for the element of each token; tokens without one have the number past the last.
    number = torch.zeros(shape, dtype=torch.int64, device=call.base.device)
    exists = torch.ones(shape, dtype=torch.bool, device=call.base.device)
    for place, length in zip(places, indexed, strict=True):
        exists &= (place >= 0) & (place < length)
        number = number * length + place
    count = 1
    for length in indexed:
        count *= length
    number = torch.where(exists, number, count).flatten()
    value = value.reshape(-1, *value.shape[len(shape) :])
    sums = torch.zeros((count + 1, *value.shape[1:]), device=call.base.device)
    if sums.is_cuda:
        # Sorts, and adds up in order; `index_add_` adds in whatever order threads arrive.
        sums.index_put_((number,), value, accumulate=True)
    else:
        sums.index_add_(0, number, value)
    return sums[:count].reshape((*indexed, *width))


def _folded_along(
    term: FoldTerm,
    value: Tensor,
    lengths: dict[str, int],
    group: int,
    indexed: tuple[int, ...],
) -> Tensor | None:
    """A value for each token, of which there are `lengths`, where every index is one of the tokens'
    own, or the key head of their query head: a sum over the others. None where one is not."""
    names = list(lengths)
    kept = [index.name for index in term.indices if isinstance(index, Index)]
    if "g" in kept and "h" in lengths:
        position = names.index("h")
        names.insert(position, "g")
        lengths = {**lengths, "g": lengths["h"] // group, "h": group}
        before, after = value.shape[:position], value.shape[position + 1 :]
        value = value.reshape(*before, lengths["g"], group, *after)
    is_plain = len(set(kept)) == len(term.indices) and set(kept) <= set(names)
    if not is_plain or [lengths[name] for name in kept] != list(indexed):
        return None
    summed = [axis for axis, name in enumerate(names) if name not in kept]
    if all(value.shape[axis] == 1 for axis in summed):
        value = value.squeeze(tuple(summed))
    else:
        value = value.sum(summed)
    order = [name for name in names if name in kept]
    trailing = range(len(kept), value.dim())
    return value.permute([*(order.index(name) for name in kept), *trailing]).contiguous()


def _of_tokens(
    call: Call, term: FoldTerm, names: tuple[str, ...], dimensions: tuple[Expression, ...]
) -> Tensor:
    """A term's value for every token."""
    match term.value:
        case Read(name=name, indices=indices) if indices == tuple(map(Index, names)):
            whole = call.base.inputs[name]
            if whole.shape[: len(names)] == call.shape(dimensions):
                return whole.float()
    environment, shape = call.tokens(names, dimensions)
    value = evaluate(term.value, environment)
    return value.expand(shape + value.shape[len(shape) :])


class _PairSums:
    """One stage over pairs. Arrays are float32, and hold what has been summed up so far."""

    def __init__(self, call: Call, stage: PairSums) -> None:
        self._call, self._stage = call, stage
        self._arrays = {
            buffer.name: torch.zeros(call.shape(buffer.dimensions), device=call.base.device)
            for buffer in written_buffers(stage)
        }

    def run(self, block_m: int, block_n: int) -> dict[str, Tensor]:
        for visit in self._call.visits(self._stage, block_m, block_n):
            queries = self._call.queries(self._stage, visit)
            for block in visit.blocks:
                self._block(visit, block, queries)
        return self._arrays

    def _block(self, visit: Visit, block: Block, queries: Sequence[Tensor]) -> None:
        stage, call = self._stage, self._call
        rows = call.tensor(visit.queries.numbers)
        keys = call.tensor(visit.problem.key_tokens(block.box).numbers)
        pairs, visible = call.pairs(stage, visit, block, queries)
        shape = visible.shape

        def value_of(expression: Expression) -> Tensor:
            """Over the pairs of the block; 0 where they are hidden."""
            value = evaluate(expression, pairs)
            trailing = value.shape[4:]
            seen = visible.reshape(shape + (1,) * len(trailing))
            return torch.where(seen, value.expand(shape + trailing), 0.0)

        for one in stage.sums:
            for expression, source in one.terms:
                value = value_of(expression)
                if one.side == "query":
                    total = (
                        value.sum(3)
                        if source is None
                        else combine(value, visible, call.vectors(source, visit, keys))
                    )
                    self._add(one, visit, rows, total)
                else:
                    total = (
                        value.sum(2)
                        if source is None
                        else combine(
                            value.transpose(-1, -2),
                            visible.transpose(-1, -2),
                            call.vectors(source, visit, rows),
                        )
                    )
                    self._add(one, visit, keys, total)
        for element in stage.elements:
            self._add_elements(element, visible, pairs, value_of)

    def _add(self, one: PairSum, visit: Visit, tokens: Tensor, total: Tensor) -> None:
        array = self._arrays[one.buffer.name]
        batches, heads = self._call.tensor(visit.batches), self._call.tensor(visit.heads)
        if one.buffer.dimensions[1] == Size("Hkv"):
            heads = torch.div(heads, self._call.group, rounding_mode="floor")
        places = batches[:, None, None], heads[:, None], tokens
        array.index_put_(places, total, accumulate=True)

    def _add_elements(
        self,
        one: ElementSum,
        visible: Tensor,
        pairs: Environment,
        value_of: Callable[[Expression], Tensor],
    ) -> None:
        array = self._arrays[one.buffer.name]
        match one.value:
            case Function("outer", (left, right)) if not one.indices:
                # A matrix for every pair would be large; their sum is one product.
                columns = evaluate(right, pairs)
                columns = columns.expand(*visible.shape, columns.shape[-1]).flatten(0, -2)
                array += value_of(left).flatten(0, -2).T @ torch.where(
                    visible.flatten()[:, None], columns, 0.0
                )
                return
        value = value_of(one.value)
        places = tuple(
            evaluate(index, pairs).expand(visible.shape)[visible] for index in one.indices
        )
        if places:
            array.index_put_(places, value[visible], accumulate=True)
        else:
            array += value[visible].sum(0)
