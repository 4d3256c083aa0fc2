"""Which blocks a plan visits for given sizes and a given tile: the loops of a kernel, enumerated.

The executor runs them and the cost model counts them. The work is proportional to query blocks and
to blocks visited; nothing here is as large as the score matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Array, Environment, evaluate
from attndsl.expression import TRUE, Expression, Literal
from attndsl.planner.block_map import BlockInterval, Kind, Ranges
from attndsl.planner.plan import Attend

# Guards are evaluated for at most about this many blocks when blocks are counted.
MOST_GUARDS = 1 << 20


@dataclass(frozen=True)
class Problem:
    """The whole score matrix, or one residue class of it (see `Attend`).

    Query row `row'` of the problem is row `first_row + step * row'` of the call, key `j'` is key
    `first_key + step * j'`, and `i' = row' + offset`.
    """

    residue: int | None
    step: int
    first_row: int
    first_key: int
    rows: int
    keys: int
    offset: int


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


def problems(stage: Attend, sizes: dict[str, int]) -> tuple[Problem, ...]:
    """The independent problems of a stage, in the order of their residue."""
    rows, keys, offset = (sizes[name] for name in ("Lq", "Lk", "offset"))
    if stage.residue is None:
        return (Problem(None, 1, 0, 0, rows, keys, offset),)
    assert isinstance(stage.residue, Literal)
    step = int(stage.residue.value)
    result = []
    for residue in range(step):
        first_row = (residue - offset) % step
        result.append(
            Problem(
                residue,
                step,
                first_row,
                residue,
                max(0, -((first_row - rows) // step)),
                max(0, -((residue - keys) // step)),
                (first_row + offset - residue) // step,
            )
        )
    return tuple(result)


def visits(stage: Attend, base: Environment, block_m: int, block_n: int) -> Iterator[Visit]:
    """Every tile of queries with its key blocks, ascending. `base` holds sizes and inputs.

    Raises `InternalError` if a block is visited twice or does not exist.
    """
    sizes = dict(base.sizes)
    batches, heads = range(sizes["B"]), range(sizes["H"])
    everywhere = np.array(batches), np.array(heads)
    for problem in problems(stage, sizes):
        lists = _BlockLists(stage, base, problem, block_m, block_n)
        for query_block in range(-(-problem.rows // block_m)):
            start = query_block * block_m
            stop = min(start + block_m, problem.rows)
            same: dict[tuple[Block, ...], list[tuple[int, int]]] = {}
            for b in batches:
                for h in heads:
                    same.setdefault(lists.of(b, h, query_block), []).append((b, h))
            for blocks, members in same.items():
                if len(members) == len(batches) * len(heads):
                    places = [everywhere]
                else:
                    places = [(np.array([b]), np.array([h])) for b, h in members]
                for place in places:
                    yield Visit(problem, *place, start, stop, blocks)


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
    """Blocks visited over all batches and heads, and how many the score matrices have.

    `full_pairs` are the pairs in FULL blocks whose queries exist; all of them are visible.
    """

    partial: int
    full: int
    total: int
    full_pairs: int


def count_blocks(stage: Attend, base: Environment, block_m: int, block_n: int) -> Counts:
    """How many blocks `visits` would list, without listing them."""
    numbers = {Kind.PARTIAL: 0, Kind.FULL: 0}
    total = full_pairs = 0
    for problem in problems(stage, dict(base.sizes)):
        tiles = -(-problem.rows // block_m)
        total += tiles * -(-problem.keys // block_n) * base.sizes["B"] * base.sizes["H"]
        rows = np.minimum(problem.rows - np.arange(tiles) * block_m, block_m)
        lists = _BlockLists(stage, base, problem, block_m, block_n)
        for kind, counts in lists.counts():
            numbers[kind] += int(counts.sum())
            if kind == Kind.FULL:
                full_pairs += int((counts * rows).sum()) * block_n
    return Counts(numbers[Kind.PARTIAL], numbers[Kind.FULL], total, full_pairs)


def sample_tiles(
    stage: Attend, base: Environment, block_m: int, block_n: int, number: int
) -> Iterator[Visit]:
    """About `number` tiles of one head each, evenly over heads and queries of the first problem."""
    problem = problems(stage, dict(base.sizes))[0]
    lists = _BlockLists(stage, base, problem, block_m, block_n)
    shape = base.sizes["B"], base.sizes["H"], -(-problem.rows // block_m)
    everything = int(np.prod(shape))
    places = np.unique(np.linspace(0, everything - 1, min(number, everything)).astype(np.int64))
    for b, h, query_block in zip(*np.unravel_index(places, shape), strict=True):
        start = int(query_block) * block_m
        stop = min(start + block_m, problem.rows)
        blocks = lists.of(int(b), int(h), int(query_block))
        yield Visit(problem, np.array([b]), np.array([h]), start, stop, blocks)


def interval_bounds(
    interval: BlockInterval, base: Environment, problem: Problem, tile: tuple[int, int]
) -> tuple[Array, Array, Environment]:
    """First and last key block for every `[batch, head, query block]`, and the environment that
    they were evaluated in."""
    environment = _bounds_environment(base, problem, tile)
    shape = base.sizes["B"], base.sizes["H"], -(-problem.rows // tile[0])
    bounds = (evaluate(bound, environment) for bound in (interval.first, interval.last))
    first, last = (np.broadcast_to(bound[..., 0], shape) for bound in map(_on_grid, bounds))
    return first, last, environment


def _on_grid(array: Array) -> Array:
    """With four axes `[batch, head, query block, key block]`."""
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def _bounds_environment(base: Environment, problem: Problem, tile: tuple[int, int]) -> Environment:
    block_m, block_n = tile
    blocks = -(-problem.rows // block_m)
    first_row = np.arange(blocks).reshape(1, 1, -1, 1) * block_m
    last_row = np.minimum(first_row + block_m, problem.rows) - 1
    head = np.arange(base.sizes["H"]).reshape(1, -1, 1, 1)
    group = max(1, base.sizes["H"] // max(1, base.sizes["Hkv"]))
    indices = {
        "b": np.arange(base.sizes["B"]).reshape(-1, 1, 1, 1),
        "h": head,
        "g": head // group,
        "i_first": first_row + problem.offset,
        "i_last": last_row + problem.offset,
    }
    sizes = {**base.sizes, "BLOCK_M": block_m, "BLOCK_N": block_n}
    if problem.residue is not None:
        indices["residue"] = np.array(problem.residue).reshape(1, 1, 1, 1)
        sizes |= {
            "local.Lq": problem.rows,
            "local.Lk": problem.keys,
            "local.offset": problem.offset,
        }
    return dataclasses.replace(base, indices=indices, sizes=sizes)


class _BlockLists:
    """The key blocks of every tile of one problem."""

    def __init__(
        self, stage: Attend, base: Environment, problem: Problem, block_m: int, block_n: int
    ) -> None:
        self._problem = problem
        self._tile = block_m, block_n
        match stage.block_map:
            case Ranges(intervals):
                self._intervals = [
                    (one, *interval_bounds(one, base, problem, self._tile)) for one in intervals
                ]
            case _:
                raise InternalError("the executor has no rule for this block map")

    def of(self, b: int, h: int, query_block: int) -> tuple[Block, ...]:
        kinds: dict[int, Kind] = {}
        for interval, first, last, environment in self._intervals:
            place = b, h, query_block
            for number in _admitted(interval, first[place], last[place], environment, place):
                if number in kinds:
                    raise InternalError(f"block ({query_block}, {number}) is visited twice")
                kinds[number] = interval.kind
        return tuple(self._block(number, kind) for number, kind in sorted(kinds.items()))

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        """How many blocks of a kind each `[batch, head, query block]` has; a kind may come twice.

        An interval with a guard over very many blocks is counted from a sample of its tiles.
        """
        for interval, first, last, environment in self._intervals:
            candidates = np.maximum(0, -((first - last) // interval.step))
            if interval.guard == TRUE:
                yield interval.kind, candidates
            else:
                yield interval.kind, _guarded_counts(interval, first, candidates, environment)

    def _block(self, number: int, kind: Kind) -> Block:
        start = number * self._tile[1]
        stop = start + self._tile[1]
        if number < 0 or start >= self._problem.keys:
            raise InternalError(f"key block {number} is visited and does not exist")
        if kind == Kind.FULL and stop > self._problem.keys:
            raise InternalError(f"key block {number} is FULL and has keys that do not exist")
        return Block(kind, start, min(stop, self._problem.keys))


def _admitted(
    interval: BlockInterval,
    first: int,
    last: int,
    environment: Environment,
    place: tuple[int, int, int],
) -> list[int]:
    """The key blocks of one interval of one tile."""
    numbers = np.arange(first, last, interval.step)
    if interval.guard != TRUE and numbers.size:
        tiles = tuple(np.full(numbers.size, index) for index in place)
        numbers = numbers[_holds(interval.guard, environment, tiles, numbers)]
    return [int(number) for number in numbers]


def _guarded_counts(
    interval: BlockInterval, first: Array, candidates: Array, environment: Environment
) -> Array:
    """How many candidates of each tile the guard admits."""
    number = candidates.reshape(-1)
    # Every `apart`-th tile is looked at, so that the work is bounded.
    apart = max(1, -(-int(number.sum()) // MOST_GUARDS))
    looked = np.arange(0, number.size, apart)
    tiles = np.repeat(looked, number[looked])
    starts = np.repeat(np.cumsum(number[looked]) - number[looked], number[looked])
    key_blocks = first.reshape(-1)[tiles] + (np.arange(tiles.size) - starts) * interval.step
    places = np.unravel_index(tiles, first.shape)
    holds = _holds(interval.guard, environment, places, key_blocks)
    admitted = np.bincount(
        np.repeat(np.arange(looked.size), number[looked])[holds], minlength=looked.size
    )
    share = admitted / np.maximum(1, number[looked])
    return (
        np.rint(np.repeat(share, apart)[: number.size] * number)
        .astype(np.int64)
        .reshape(first.shape)
    )


def _holds(
    guard: Expression, environment: Environment, tiles: tuple[Array, ...], key_blocks: Array
) -> Array:
    """The guard at each pair of a tile (batch, head and query block) and a key block."""
    indices = {
        name: array[..., 0][
            tuple(np.minimum(tile, n - 1) for tile, n in zip(tiles, array.shape, strict=False))
        ]
        for name, array in environment.indices.items()
    }
    indices["K"] = key_blocks
    value = evaluate(guard, dataclasses.replace(environment, indices=indices))
    return np.broadcast_to(value, key_blocks.shape)
