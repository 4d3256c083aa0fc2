"""Which sums over tokens may be taken over all packed sequences at once.

Those that ask of a token nothing but what packed arrays hold of it: not its position, nor how long
its sequence is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from attndsl.planner.plan import Fold
from attndsl.runtime.packed_arguments import Place

_TOKENS = {"Lq": {"row"}, "Lk": {"j", "t"}}
_POSITIONS = {"i", "row", "j", "t"}
_OF_ONE_SEQUENCE = {"B", "Lq", "Lk", "offset"}


def names_of(stage: Fold) -> set[str]:
    """The arrays that a stage reads."""
    names = {one.name for one in stage.addends}
    for term in stage.terms:
        for expression in (term.value, *term.indices):
            for node in walk(expression):
                if isinstance(node, Read | Operand):
                    names.add(node.name)
    return names


def takes_all_at_once(
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
