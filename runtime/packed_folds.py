"""Sums over the tokens of packed sequences that torch takes, of all sequences at once where it may.

It may where they ask of a token nothing but what packed arrays hold of it: not its position, nor
how long its sequence is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Protocol

import torch
from torch import Tensor

from attndsl.evaluate import evaluate_size
from attndsl.expression import (
    OPERANDS,
    Coordinate,
    Expression,
    Index,
    Operand,
    Read,
    Size,
    children,
    walk,
)
from attndsl.planner.plan import Fold, Plan
from attndsl.runtime.packed_arguments import PackedCall, Place, part

_TOKENS = {"Lq": {"row"}, "Lk": {"j", "t"}}
_POSITIONS = {"i", "row", "j", "t"}
_OF_ONE_SEQUENCE = {"B", "Lq", "Lk", "offset"}


class Arrays(Protocol):
    """The arrays of packed sequences: `names` of all, and the places of those of which a `whole`
    may be `readable` in place of every sequence's part."""

    @property
    def names(self) -> Set[str]: ...

    @property
    def readable(self) -> Mapping[str, Place | None]: ...

    def whole(self, name: str) -> Tensor: ...

    def part(self, name: str, number: int) -> Tensor: ...


def fold_sequences(
    stage: Fold, plan: Plan, call: PackedCall, place: Place | None, arrays: Arrays
) -> Tensor:
    """What torch adds up after the kernels: of all tokens at once where it does not matter which
    sequence they belong to, else sequence by sequence, in their order. `place` is the result's."""
    from attndsl.runtime.tiled import call_of
    from attndsl.runtime.tiled_backward import fold

    names = (_names_of(stage) | {"q"}) & arrays.names
    if _takes_all_at_once(stage, place, arrays.readable, call.is_aligned):
        whole = {name: arrays.whole(name) for name in names}
        return fold(call_of(plan, call.whole, whole), stage, plan)
    shape = [evaluate_size(size, call.whole.sizes) for size in stage.buffer.dimensions]
    if place is not None and place.length is None:
        shape[0] = call.bounds.count
    total = torch.zeros(shape, device=call.whole.device)
    for number, (queries, _) in enumerate(call.lengths):
        if not queries:
            continue
        parts = {name: arrays.part(name, number) for name in names}
        found = fold(call_of(plan, call.alone(number), parts), stage, plan)
        if place is None:
            total += found
        else:
            part(total, place, call.bounds, number).copy_(found)
    return total


def _names_of(stage: Fold) -> set[str]:
    """The arrays that a stage reads."""
    names = {one.name for one in stage.addends}
    for term in stage.terms:
        for expression in (term.value, *term.indices):
            for node in walk(expression):
                if isinstance(node, Read | Operand):
                    names.add(node.name)
    return names


def _takes_all_at_once(
    stage: Fold,
    place: Place | None,
    places: Mapping[str, Place | None],
    aligned: bool,
) -> bool:
    """`place` is the result's, `places` are those of the arrays that may be read whole; `aligned`
    says that a query's position is its row, in every sequence."""
    if place is not None and place.length is None:
        return False
    return all(
        _is_free(term.value, places, aligned) and _are_free(term.indices, place, places, aligned)
        for term in stage.terms
    )


def _is_free(expression: Expression, places: Mapping[str, Place | None], aligned: bool) -> bool:
    match expression:
        case Index(name=name):
            return name not in _POSITIONS
        case Size(name=name):
            return name not in _OF_ONE_SEQUENCE
        case Coordinate():
            return False
        case Operand(name=name):
            return name in OPERANDS or places.get(name, Place(None, 0)) != Place(None, 0)
        case Read(name=name, indices=indices):
            if name not in places:
                return False
            place = places[name]
            if place is not None and place.length is None:
                return False
            return _are_free(indices, place, places, aligned)
    return all(_is_free(child, places, aligned) for child in children(expression))


def _are_free(
    indices: Sequence[Expression],
    place: Place | None,
    places: Mapping[str, Place | None],
    aligned: bool,
) -> bool:
    """Indices of an array: the one of its tokens is a token's own."""
    for axis, index in enumerate(indices):
        if place is not None and place.length is not None and axis == place.axis:
            own = _TOKENS[place.length] | ({"i", "row", "j", "t"} if aligned else set())
            if not (isinstance(index, Index) and index.name in own):
                return False
        elif not _is_free(index, places, aligned):
            return False
    return True
