"""Which blocks a plan visits for given sizes and a given tile: the loops of a kernel, enumerated.

The executor runs them and the cost model counts them. The work is proportional to query blocks and
to blocks visited; nothing here is as large as the score matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from attndsl.evaluate import Array, Environment
from attndsl.planner.block_lists import block_lists
from attndsl.planner.block_map import Kind
from attndsl.planner.lists import Block, BlockLists
from attndsl.planner.plan import PairStage, is_transposed
from attndsl.planner.problems import Box, LineProblem, Problem, Tokens, TransposedProblem, problems


@dataclass(frozen=True)
class Visit:
    """One tile of queries of a problem, for the heads that share its list of key blocks: every head
    in `heads` (query heads) of every batch in `batches`."""

    problem: Problem
    batches: Array
    heads: Array
    tile: int
    queries: Tokens
    blocks: tuple[Block, ...]


def visits(stage: PairStage, base: Environment, block_m: int, block_n: int) -> Iterator[Visit]:
    """Every tile of queries with its key blocks, ascending. `base` holds sizes and inputs.

    Raises `InternalError` if a block is visited twice or does not exist.
    """
    for problem in problems(stage, base.sizes, block_m):
        if is_transposed(stage):
            yield from _by_tiles_of_keys(stage, base, problem, block_m, block_n)
            continue
        lists = block_lists(stage, base, problem, block_m, block_n)
        for tile in range(problem.tiles(block_m)):
            queries = problem.queries(tile, block_m)
            if not queries.numbers.size:
                continue
            for batches, heads, blocks in _lists_of(lists, tile, base.sizes):
                yield Visit(problem, batches, heads, tile, queries, blocks)


def _by_tiles_of_keys(
    stage: PairStage, base: Environment, problem: Problem, block_m: int, block_n: int
) -> Iterator[Visit]:
    """Block by block, in the order in which tiles of keys go through them: the tile of a visit is
    a block of queries, and its one block the tile of keys."""
    assert isinstance(problem, LineProblem)
    transposed = TransposedProblem(problem)
    lists = block_lists(stage, base, transposed, block_m, block_n)
    for tile in range(transposed.tiles(block_m)):
        keys: Box = ((tile * block_m, min((tile + 1) * block_m, problem.keys)),)
        for batches, heads, blocks in _lists_of(lists, tile, base.sizes):
            for block in blocks:
                number = block.box[0][0] // block_n
                queries = problem.queries(number, block_n)
                yield Visit(problem, batches, heads, number, queries, (Block(block.kind, keys),))


def _lists_of(
    lists: BlockLists, tile: int, sizes: Mapping[str, int]
) -> Iterator[tuple[Array, Array, tuple[Block, ...]]]:
    """The blocks of a tile, for the batches and heads that have these in common."""
    batches, heads = range(sizes["B"]), range(sizes["H"])
    same: dict[tuple[Block, ...], list[tuple[int, int]]] = {}
    for b in batches:
        for h in heads:
            same.setdefault(lists.of(b, h, tile), []).append((b, h))
    for blocks, members in same.items():
        if len(members) == len(batches) * len(heads):
            yield np.array(batches), np.array(heads), blocks
        else:
            for b, h in members:
                yield np.array([b]), np.array([h]), blocks


def tile_indices(visit: Visit, sizes: Mapping[str, int]) -> dict[str, Array]:
    """The indices of a tile's rows on the grid `[batch, head, i, j]`, as stages' expressions name
    them."""
    group = max(1, sizes["H"] // max(1, sizes["Hkv"]))
    indices = {
        "b": visit.batches.reshape(-1, 1, 1, 1),
        "h": visit.heads.reshape(1, -1, 1, 1),
        "g": (visit.heads // group).reshape(1, -1, 1, 1),
    }
    for name, value in visit.problem.local_indices.items():
        indices[name] = np.array(value).reshape(1, 1, 1, 1)
    for name, values in visit.queries.indices.items():
        indices[name] = values.reshape(1, 1, -1, 1)
    return indices


def pair_indices(visit: Visit, block: Block, sizes: Mapping[str, int]) -> dict[str, Array]:
    """`tile_indices` and the keys of one block."""
    keys = visit.problem.key_tokens(block.box).indices
    return {
        **tile_indices(visit, sizes),
        **{name: values.reshape(1, 1, 1, -1) for name, values in keys.items()},
    }


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


def count_blocks(stage: PairStage, base: Environment, block_m: int, block_n: int) -> Counts:
    """How many blocks `visits` would list, without listing them."""
    numbers = {Kind.PARTIAL: 0, Kind.FULL: 0}
    full_pairs = 0
    for problem in problems(stage, base.sizes, block_m):
        rows = problem.rows_of_tiles(block_m)
        lists = block_lists(stage, base, problem, block_m, block_n)
        for kind, counts in lists.counts():
            # A tile without rows visits nothing.
            numbers[kind] += int((counts * (rows > 0)).sum())
            if kind == Kind.FULL:
                full_pairs += int((counts * rows).sum()) * block_n
    return Counts(numbers[Kind.PARTIAL], numbers[Kind.FULL], full_pairs)


def sample_partial_blocks(
    stage: PairStage, base: Environment, block_m: int, block_n: int, number: int
) -> Iterator[Visit]:
    """About `number` tiles of one head each, evenly over heads and queries of the first problem,
    with their PARTIAL blocks only."""
    problem = problems(stage, base.sizes, block_m)[0]
    lists = block_lists(stage, base, problem, block_m, block_n)
    shape = base.sizes["B"], base.sizes["H"], problem.tiles(block_m)
    everything = int(np.prod(shape))
    places = np.unique(np.linspace(0, everything - 1, min(number, everything)).astype(np.int64))
    for b, h, tile in zip(*np.unravel_index(places, shape), strict=True):
        queries = problem.queries(int(tile), block_m)
        if queries.numbers.size:
            blocks = lists.of(int(b), int(h), int(tile), Kind.PARTIAL)
            yield Visit(problem, np.array([b]), np.array([h]), int(tile), queries, blocks)
