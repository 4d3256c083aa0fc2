"""The block-sparsity IR: which blocks of the score matrix exist.

For a tile of BLOCK_M queries by BLOCK_N keys the score matrix is a grid of blocks. A block is

- EMPTY: no pair in it is visible; the kernel never touches it;
- FULL: every pair in it is visible, and all its BLOCK_N keys exist; the mask is not evaluated;
- PARTIAL: anything else; the mask (and the key tail) is evaluated pair by pair.

Rows past the last query do not count. Invariants, which `verify` and the tests check: no visible
pair lies in an EMPTY block, no hidden one in a FULL block, and no block is visited twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

from attndsl.expression import TRUE, Expression
from attndsl.records import dataclass

if TYPE_CHECKING:  # checking a spec should not wait for NumPy
    import numpy as np


class Kind(IntEnum):
    EMPTY = 0
    PARTIAL = 1
    FULL = 2


@dataclass(frozen=True)
class BlockInterval:
    """Key blocks `first, first + step, …` below `last`, all of one kind.

    The bounds are integer expressions over `Index("i_first")` and `Index("i_last")` (the absolute
    positions of the tile's first and last existing query), the indices `b`, `h`, `g`, sizes,
    `Size("BLOCK_M")` and `Size("BLOCK_N")`. They need not be clamped among themselves
    (`last <= first` is an empty interval), but lie within `[0, ceil(Lk / BLOCK_N)]`.

    `guard` is a bool over the same and `Index("K")`, the key block: the block is visited only where
    it holds. `TRUE` where the interval alone is exact.
    """

    first: Expression
    last: Expression
    kind: Kind
    step: int = 1
    guard: Expression = TRUE


@dataclass(frozen=True)
class Ranges:
    """Closed form: no memory and no planning time at any length. The intervals are disjoint."""

    intervals: tuple[BlockInterval, ...]


@dataclass(frozen=True)
class Window:
    """Along one axis of a grid: the keys that a tile of queries may see, as coordinates.

    Every key in `[first, last)` is seen by some query of the tile, as far as this axis goes, and
    none outside is; every query sees all of `[full_first, full_last)`. `0 <= first`,
    `last <= local.axis.NAME` and the same for the other two; either may be empty (its end at or
    before its start).
    """

    first: Expression
    last: Expression
    full_first: Expression
    full_last: Expression


@dataclass(frozen=True)
class BoxConditions:
    """Of a mask that mixes axes, such as a circle: whether some pair of a tile and a box of keys is
    visible, and whether all are.

    Bools over `Index("i_first.NAME")` and `Index("i_last.NAME")`, the first and the last query of
    the tile along each axis, `Index("j_first.NAME")` and `Index("j_last.NAME")`, the first and the
    last existing key of the box (local coordinates), heads and sizes.
    """

    some: Expression
    every: Expression


@dataclass(frozen=True)
class Product:
    """The block map of a stage over a grid: a window an axis, in the order of the axes.

    Blocks of keys are boxes that begin at the corner of the windows, so that a tile touches as few
    of them as its window needs. A box is visited iff it lies in the windows, and FULL iff it lies
    in all that are full. `Grid` in `plan.py` says how they are numbered.

    With `conditions`, the windows are what bounds the mask along each axis, and both parts of each
    are the same: a box in them is visited iff `some` holds, and FULL iff it lies in them wholly and
    `every` holds. A kernel may take a box whose conditions it does not ask for as PARTIAL: the mask
    hides what is not visible.
    """

    windows: tuple[Window, ...]
    conditions: BoxConditions | None = None


@dataclass(frozen=True)
class Table:
    """Block lists that are built at call time from the inputs that the mask reads.

    `varies_with` says which of `b`, `h`, `g` the map depends on; heads that share a pattern share
    a map.
    `inputs` are the names of the inputs read. `planner/table.py` builds the lists.
    """

    varies_with: frozenset[str]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class BlockTable:
    """A `Table` built for one call: int32 arrays in compressed sparse row form.

    `map_index[b * H + h]` numbers the map of a head; equal maps are stored once. The key blocks of
    query block Q of map m are `partial_blocks[partial_offsets[r] : partial_offsets[r + 1]]` with
    `r = m * query_blocks + Q`, ascending, and likewise for `full_*`. Transposed, `query_blocks` is
    the number of tiles of keys, and blocks are of queries.
    """

    query_blocks: int
    map_index: np.ndarray
    partial_offsets: np.ndarray
    partial_blocks: np.ndarray
    full_offsets: np.ndarray
    full_blocks: np.ndarray


@dataclass(frozen=True)
class Routed:
    """Block lists that a `Route` stage writes at run time, intersected with `static`."""

    route: str
    static: Ranges | Table


BlockMap = Ranges | Product | Table | Routed


def bounds(block_map: BlockMap) -> Iterator[Expression]:
    """Every expression of a block map in closed form; none of a table."""
    match block_map:
        case Product(windows, conditions):
            for window in windows:
                yield from (window.first, window.last, window.full_first, window.full_last)
            if conditions is not None:
                yield from (conditions.some, conditions.every)
        case Ranges(intervals):
            for interval in intervals:
                yield from (interval.first, interval.last, interval.guard)
        case Routed(static=static):
            yield from bounds(static)
