"""The key blocks of every tile of queries, read off a block map for given sizes and tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Array, Environment, evaluate
from attndsl.expression import TRUE, Expression
from attndsl.planner.block_map import BlockInterval, BlockTable, Kind, Product, Ranges, Table
from attndsl.planner.grid_lists import GridLists
from attndsl.planner.lists import Block, BlockLists
from attndsl.planner.plan import PairStage, is_transposed
from attndsl.planner.problems import GridProblem, LineProblem, Problem, TransposedProblem
from attndsl.planner.table import build_table

# Guards are evaluated for at most about this many blocks when blocks are counted.
MOST_GUARDS = 1 << 20

_OnLine = LineProblem | TransposedProblem


def block_lists(
    stage: PairStage,
    base: Environment,
    problem: Problem | TransposedProblem,
    block_m: int,
    block_n: int,
) -> BlockLists:
    """The lists of a stage's block map. `base` holds sizes and the inputs that the map reads."""
    match stage.block_map, problem:
        case Product() as windows, GridProblem():
            return GridLists(windows, base, problem, block_m, block_n)
        case Ranges(intervals), LineProblem() | TransposedProblem():
            return _RangeLists(intervals, base, problem, block_m, block_n)
        case Table() as table, LineProblem() | TransposedProblem():
            inputs = {name: base.inputs[name] for name in table.inputs}
            return _TableLists(
                build_table(
                    stage.mask,
                    table,
                    base.sizes,
                    inputs,
                    block_m,
                    block_n,
                    axes=base.axes,
                    transposed=is_transposed(stage),
                ),
                (base.sizes["B"], base.sizes["H"]),
                problem,
                block_n,
            )
    raise InternalError("a routed block map has no lists before it runs")


def _blocks(kinds: Mapping[int, Kind], problem: _OnLine, block_n: int) -> tuple[Block, ...]:
    """The blocks of one tile, ascending; each must exist, and a FULL one wholly."""
    blocks = []
    for number in sorted(kinds):
        start, stop = number * block_n, (number + 1) * block_n
        if number < 0 or start >= problem.keys:
            raise InternalError(f"key block {number} is visited and does not exist")
        if kinds[number] == Kind.FULL and stop > problem.keys:
            raise InternalError(f"key block {number} is FULL and has keys that do not exist")
        blocks.append(Block(kinds[number], ((start, min(stop, problem.keys)),)))
    return tuple(blocks)


class _TableLists:
    """Lists that were built for one call."""

    def __init__(
        self, table: BlockTable, heads: tuple[int, int], problem: _OnLine, block_n: int
    ) -> None:
        self._table, self._heads = table, heads
        self._problem, self._block_n = problem, block_n

    def of(self, b: int, h: int, tile: int, only: Kind | None = None) -> tuple[Block, ...]:
        table = self._table
        line = int(table.map_index[b * self._heads[1] + h]) * table.query_blocks + tile
        kinds: dict[int, Kind] = {}
        for kind, offsets, blocks in (
            (Kind.PARTIAL, table.partial_offsets, table.partial_blocks),
            (Kind.FULL, table.full_offsets, table.full_blocks),
        ):
            if only in (None, kind):
                for number in blocks[offsets[line] : offsets[line + 1]]:
                    _add(kinds, tile, int(number), kind)
        return _blocks(kinds, self._problem, self._block_n)

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        table = self._table
        for kind, offsets in (
            (Kind.PARTIAL, table.partial_offsets),
            (Kind.FULL, table.full_offsets),
        ):
            of_map = np.diff(offsets).reshape(-1, table.query_blocks)
            yield kind, of_map[table.map_index].reshape(*self._heads, table.query_blocks)


def _add(kinds: dict[int, Kind], query_block: int, number: int, kind: Kind) -> None:
    if number in kinds:
        raise InternalError(f"block ({query_block}, {number}) is visited twice")
    kinds[number] = kind


class _RangeLists:
    """Intervals in closed form, evaluated for every tile at once."""

    def __init__(
        self,
        intervals: tuple[BlockInterval, ...],
        base: Environment,
        problem: _OnLine,
        block_m: int,
        block_n: int,
    ) -> None:
        tile = block_m, block_n
        self._problem, self._block_n = problem, block_n
        self._intervals = [(one, *interval_bounds(one, base, problem, tile)) for one in intervals]

    def of(self, b: int, h: int, tile: int, only: Kind | None = None) -> tuple[Block, ...]:
        kinds: dict[int, Kind] = {}
        for interval, first, last, environment in self._intervals:
            if only not in (None, interval.kind):
                continue
            place = b, h, tile
            for number in _admitted(interval, first[place], last[place], environment, place):
                _add(kinds, tile, number, interval.kind)
        return _blocks(kinds, self._problem, self._block_n)

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        # An interval with a guard over very many blocks is counted from a sample of its tiles.
        for interval, first, last, environment in self._intervals:
            candidates = np.maximum(0, -((first - last) // interval.step))
            if interval.guard == TRUE:
                yield interval.kind, candidates
            else:
                yield interval.kind, _guarded_counts(interval, first, candidates, environment)


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


def interval_bounds(
    interval: BlockInterval, base: Environment, problem: _OnLine, tile: tuple[int, int]
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


def _bounds_environment(base: Environment, problem: _OnLine, tile: tuple[int, int]) -> Environment:
    block_m, block_n = tile
    head = np.arange(base.sizes["H"]).reshape(1, -1, 1, 1)
    group = max(1, base.sizes["H"] // max(1, base.sizes["Hkv"]))
    indices = {
        "b": np.arange(base.sizes["B"]).reshape(-1, 1, 1, 1),
        "h": head,
        "g": head // group,
        **{name: ends.reshape(1, 1, -1, 1) for name, ends in problem.tile_ends(block_m).items()},
    }
    sizes = {**base.sizes, **problem.local_sizes, "BLOCK_M": block_m, "BLOCK_N": block_n}
    if problem.residue is not None:
        indices["residue"] = np.array(problem.residue).reshape(1, 1, 1, 1)
    return dataclasses.replace(base, indices=indices, sizes=sizes)
