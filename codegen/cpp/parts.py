"""How the pairs of a head of keys are shared by threads, so that results depend on none of them.

A sum of a key is over all queries, and one of a query over all keys. Queries and keys are cut into
`P` parts each; in phase `s` part `p` of the queries meets part `(p + s) mod P` of the keys, so that
no two tasks of a phase add to the same token, and every sum is added up in one order. `P` depends
on the call's sizes alone: where there are many heads each of them is one task, and `P` is 1.
"""

from __future__ import annotations

from attndsl.codegen.program import Tile
from attndsl.expression import INT, Binary, Expression, Index, Literal, Size, index_names, walk
from attndsl.planner import algebra
from attndsl.planner.plan import ElementSum, PairSums

PART = Index("part")
"""The number of a task's part of the queries."""

# Tasks that are enough for all threads of a machine, and tiles that are enough for one: starting on
# a tile costs about what a block of keys does, and is worth more where heads are few.
_TASKS = 32
_FEWEST_TILES, _MOST_TILES = 4, 32


def part_count(stage: PairSums, residue: int | None, tile: Tile) -> Expression | None:
    """P, over the sizes of a call; None for a stage that is never cut."""
    if stage.grid is not None or not all(map(_fits_in_copies, stage.elements)):
        return None
    tasks: Expression = Size("Hkv")
    if not is_shared_by_batches(stage):
        tasks = algebra.multiply(Size("B"), tasks)
    classes = residue or 1
    if not stage.elements:
        tasks = algebra.multiply(Literal(classes), tasks)
    tasks = algebra.maximum(Literal(1), tasks)
    wanted = algebra.ceil_divide(Literal(_TASKS), tasks)
    tiles = algebra.minimum(
        algebra.floor_divide(Size("Lq"), Literal(classes * tile.block_m)),
        algebra.floor_divide(Size("Lk"), Literal(classes * tile.block_n)),
    )
    enough = algebra.minimum(algebra.multiply(Literal(_FEWEST_TILES), tasks), Literal(_MOST_TILES))
    parts = algebra.minimum(wanted, Binary("//", tiles, enough, INT))
    return algebra.maximum(Literal(1), parts)


def is_shared_by_batches(stage: PairSums) -> bool:
    """Whether batches add to one element of an input."""
    return any("b" not in _names(one) for one in stage.elements)


def is_of_one_part(one: ElementSum) -> bool:
    """Whether no two parts of the queries add to the same element."""
    return any(index in (Index("row"), Index("i")) for index in one.indices)


def _fits_in_copies(one: ElementSum) -> bool:
    """Whether there can be a copy of the sums for each part: not of something for every pair."""
    if is_of_one_part(one):
        return True
    lengths = [size for size in one.buffer.dimensions if not _is_small(size)]
    return len(lengths) <= 1


def _is_small(size: Expression) -> bool:
    names = {node.name for node in walk(size) if isinstance(node, Size)}
    return names <= {"H", "Hkv", "D", "Dv"}


def _names(one: ElementSum) -> frozenset[str]:
    return frozenset().union(*map(index_names, one.indices))
