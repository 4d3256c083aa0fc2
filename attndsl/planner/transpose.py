"""Block maps the other way round: for a tile of keys, the blocks of queries that see some of them.

With i = j' + offset and j = i' + offset, a mask over queries i and keys j is one over "queries" i'
and "keys" j' in which the two have changed places: there are Lk of the first, at positions from
-offset on, and Lq of the second, which are rows. Its block map in closed form is derived as any
other is, and written back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from attndsl.expression import Expression, Index, Literal, Size, substitute
from attndsl.planner import algebra
from attndsl.planner.block_map import BlockInterval, Kind, Ranges
from attndsl.planner.prove import BLOCK_M, BLOCK_N, I_FIRST, I_LAST
from attndsl.planner.ranges import derive_ranges, renamed
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import on_positions
from attndsl.planner.stripes import Stripes

J_FIRST, J_LAST = Index("j_first"), Index("j_last")
_OFFSET = Size("offset")
_ROWS = Size("Lq")

EVERY_QUERY = Ranges(
    (BlockInterval(Literal(0), algebra.ceil_divide(_ROWS, BLOCK_N), Kind.PARTIAL),)
)
"""Every block of queries, whatever the keys."""

_SWAPPED: dict[Expression, Expression] = {
    Index("i"): algebra.add(Index("j"), _OFFSET),
    Index("j"): algebra.add(Index("i"), _OFFSET),
    Size("Lq"): Size("Lk"),
    Size("Lk"): Size("Lq"),
}
_BACK: dict[Expression, Expression] = {
    I_FIRST: algebra.subtract(J_FIRST, _OFFSET),
    I_LAST: algebra.subtract(J_LAST, _OFFSET),
    Size("Lq"): Size("Lk"),
    Size("Lk"): Size("Lq"),
}
_OF_CLASS = ("Lq", "Lk", "offset")


def transposed_ranges(
    mask: Expression,
    *,
    axes: tuple[str, ...] = (),
    of_class: bool = False,
    stripes: Stripes | None = None,
) -> Ranges | None:
    """The transposed block map of an arithmetic mask; None where no closed form is found.

    Its bounds are over `j_first` and `j_last`, the positions of the first and the last key of a
    tile of `BLOCK_M` keys, and name blocks of `BLOCK_N` queries. With `of_class` the mask is that
    of a residue class, which has sizes of its own. With `stripes` a tile has `BLOCK_M` keys of
    these: what lies between them counts too, so that a block is FULL, or visited, as if all keys
    from the first to the last were there.
    """
    if of_class:
        mask = _renamed(mask, {name: f"all.{name}" for name in _OF_CLASS})
        mask = _renamed(mask, {f"local.{name}": name for name in _OF_CLASS})
    positional = on_positions(simplify(mask), axes)
    if positional is None:
        return None
    found = derive_ranges(simplify(substitute(positional, _SWAPPED)))
    if found is None:
        return None
    back = dict(_BACK)
    if stripes is not None:
        # No more positions than this lie between the first and the last of so many keys.
        around = algebra.add(algebra.floor_divide(BLOCK_M, Literal(stripes.width)), Literal(2))
        back[BLOCK_M] = algebra.multiply(Literal(stripes.period), around)
    found = _substituted(found, back)
    if of_class:
        found = renamed(found, {name: f"local.{name}" for name in _OF_CLASS})
        found = renamed(found, {f"all.{name}": name for name in _OF_CLASS})
    return found


def _substituted(ranges: Ranges, names: Mapping[Expression, Expression]) -> Ranges:
    def back(expression: Expression) -> Expression:
        return simplify(substitute(expression, names))

    return Ranges(
        tuple(
            dataclasses.replace(
                one, first=back(one.first), last=back(one.last), guard=back(one.guard)
            )
            for one in ranges.intervals
        )
    )


def _renamed(expression: Expression, names: Mapping[str, str]) -> Expression:
    return substitute(expression, {Size(old): Size(new) for old, new in names.items()})
