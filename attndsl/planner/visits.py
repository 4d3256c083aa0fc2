"""Which blocks a plan visits for given sizes and a given tile: the loops of a kernel, enumerated.

The executor runs them and the cost model counts them. The work is proportional to query blocks and
to blocks visited; nothing here is as large as the score matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Array, Environment
from attndsl.planner.block_lists import Problem, block_lists, problems
from attndsl.planner.block_map import Kind
from attndsl.planner.plan import Attend


@dataclass(frozen=True)
class Block:
    """A block of keys `[start, stop)` of the problem."""

    kind: Kind
    start: int
    stop: int


@dataclass(frozen=True)
class Visit:
    """One tile of queries, rows `[start, stop)` of the problem, for the heads that share its list
    of key blocks: every head in `heads` (query heads) of every batch in `batches`."""

    problem: Problem
    batches: Array
    heads: Array
    start: int
    stop: int
    blocks: tuple[Block, ...]


def visits(stage: Attend, base: Environment, block_m: int, block_n: int) -> Iterator[Visit]:
    """Every tile of queries with its key blocks, ascending. `base` holds sizes and inputs.

    Raises `InternalError` if a block is visited twice or does not exist.
    """
    batches, heads = range(base.sizes["B"]), range(base.sizes["H"])
    everywhere = np.array(batches), np.array(heads)
    for problem in problems(stage, base.sizes):
        lists = block_lists(stage, base, problem, block_m, block_n)
        for query_block in range(-(-problem.rows // block_m)):
            start = query_block * block_m
            stop = min(start + block_m, problem.rows)
            same: dict[tuple[Block, ...], list[tuple[int, int]]] = {}
            for b in batches:
                for h in heads:
                    blocks = _blocks(lists.of(b, h, query_block), problem, block_n)
                    same.setdefault(blocks, []).append((b, h))
            for blocks, members in same.items():
                if len(members) == len(batches) * len(heads):
                    places = [everywhere]
                else:
                    places = [(np.array([b]), np.array([h])) for b, h in members]
                for place in places:
                    yield Visit(problem, *place, start, stop, blocks)


def _blocks(kinds: Mapping[int, Kind], problem: Problem, block_n: int) -> tuple[Block, ...]:
    """The blocks of one tile, ascending; each must exist, and a FULL one wholly."""
    blocks = []
    for number in sorted(kinds):
        start, stop = number * block_n, (number + 1) * block_n
        if number < 0 or start >= problem.keys:
            raise InternalError(f"key block {number} is visited and does not exist")
        if kinds[number] == Kind.FULL and stop > problem.keys:
            raise InternalError(f"key block {number} is FULL and has keys that do not exist")
        blocks.append(Block(kinds[number], start, min(stop, problem.keys)))
    return tuple(blocks)


def tile_indices(visit: Visit, sizes: Mapping[str, int]) -> dict[str, Array]:
    """The indices of a tile's rows on the grid `[batch, head, i, j]`, as stages' expressions name
    them."""
    problem = visit.problem
    local = np.arange(visit.start, visit.stop)
    group = max(1, sizes["H"] // max(1, sizes["Hkv"]))
    indices = {
        "b": visit.batches.reshape(-1, 1, 1, 1),
        "h": visit.heads.reshape(1, -1, 1, 1),
        "g": (visit.heads // group).reshape(1, -1, 1, 1),
        "i": (local + problem.offset).reshape(1, 1, -1, 1),
    }
    if problem.residue is None:
        indices["row"] = local.reshape(1, 1, -1, 1)
    else:
        indices["residue"] = np.array(problem.residue).reshape(1, 1, 1, 1)
    return indices


def pair_indices(visit: Visit, block: Block, sizes: Mapping[str, int]) -> dict[str, Array]:
    """`tile_indices` and the keys of one block."""
    keys = np.arange(block.start, block.stop).reshape(1, 1, 1, -1)
    return {**tile_indices(visit, sizes), "j": keys}


@dataclass(frozen=True)
class Counts:
    """Blocks visited over all batches and heads.

    `full_pairs` are the pairs in FULL blocks whose queries exist; all of them are visible.
    """

    partial: int
    full: int
    full_pairs: int

    @property
    def visited(self) -> int:
        return self.partial + self.full


def count_blocks(stage: Attend, base: Environment, block_m: int, block_n: int) -> Counts:
    """How many blocks `visits` would list, without listing them."""
    numbers = {Kind.PARTIAL: 0, Kind.FULL: 0}
    full_pairs = 0
    for problem in problems(stage, base.sizes):
        tiles = -(-problem.rows // block_m)
        rows = np.minimum(problem.rows - np.arange(tiles) * block_m, block_m)
        lists = block_lists(stage, base, problem, block_m, block_n)
        for kind, counts in lists.counts():
            numbers[kind] += int(counts.sum())
            if kind == Kind.FULL:
                full_pairs += int((counts * rows).sum()) * block_n
    return Counts(numbers[Kind.PARTIAL], numbers[Kind.FULL], full_pairs)


def sample_partial_blocks(
    stage: Attend, base: Environment, block_m: int, block_n: int, number: int
) -> Iterator[Visit]:
    """About `number` tiles of one head each, evenly over heads and queries of the first problem,
    with their PARTIAL blocks only."""
    problem = problems(stage, base.sizes)[0]
    lists = block_lists(stage, base, problem, block_m, block_n)
    shape = base.sizes["B"], base.sizes["H"], -(-problem.rows // block_m)
    everything = int(np.prod(shape))
    places = np.unique(np.linspace(0, everything - 1, min(number, everything)).astype(np.int64))
    for b, h, query_block in zip(*np.unravel_index(places, shape), strict=True):
        start = int(query_block) * block_m
        stop = min(start + block_m, problem.rows)
        kinds = lists.of(int(b), int(h), int(query_block), Kind.PARTIAL)
        blocks = _blocks(kinds, problem, block_n)
        yield Visit(problem, np.array([b]), np.array([h]), start, stop, blocks)
