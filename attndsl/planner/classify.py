"""The block grid as a kernel would visit it, for tests, pictures and explanations.

A block that a map visits twice is a bug of the map and raises `InternalError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Environment, evaluate
from attndsl.expression import TRUE, Expression
from attndsl.planner.block_map import (
    BlockInterval,
    BlockTable,
    Kind,
    Ranges,
)

Array = NDArray[np.int64]

# Guards are evaluated for at most this many blocks at a time.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Visits:
    """How many blocks a head visits, of each kind, and how many there are in all."""

    partial: int
    full: int
    blocks: int


def classes(
    block_map: Ranges | BlockTable,
    *,
    sizes: Mapping[str, int],
    inputs: Mapping[str, NDArray[np.generic]] | None = None,
    block_m: int,
    block_n: int,
    batch: int = 0,
    head: int = 0,
    indices: Mapping[str, int] | None = None,
) -> NDArray[np.uint8]:
    """The `Kind` of every block of one head: uint8[query blocks, key blocks].

    `sizes` holds `Lq`, `Lk`, `offset` (by default `Lk - Lq`), `H` and `Hkv` (by default `H`), and
    whatever else the map mentions; `inputs` the arrays that it reads; `indices` further indices
    such as `residue`. Raises `InternalError` for a block that is visited twice or does not exist.
    """
    grid = np.zeros((-(-sizes["Lq"] // block_m), -(-sizes["Lk"] // block_n)), dtype=np.uint8)
    if isinstance(block_map, BlockTable):
        _mark_table(grid, block_map, batch * sizes.get("H", 1) + head)
        return grid
    tiles = _Tiles.of(sizes, inputs, block_m, block_n, batch, head, indices)
    for interval in block_map.intervals:
        rows, columns = tiles.blocks(interval)
        _mark(grid, rows, columns, interval.kind)
    return grid


def count_visits(
    block_map: Ranges | BlockTable,
    *,
    sizes: Mapping[str, int],
    inputs: Mapping[str, NDArray[np.generic]] | None = None,
    block_m: int,
    block_n: int,
    batch: int = 0,
    head: int = 0,
    indices: Mapping[str, int] | None = None,
) -> Visits:
    """The number of blocks that one head visits, without the grid of all blocks.

    Time and memory are proportional to the number of query blocks, except for intervals with a
    guard, which is evaluated for every block in them.
    """
    query_blocks, key_blocks = -(-sizes["Lq"] // block_m), -(-sizes["Lk"] // block_n)
    counts = {Kind.PARTIAL: 0, Kind.FULL: 0}
    if isinstance(block_map, BlockTable):
        start = int(block_map.map_index[batch * sizes.get("H", 1) + head]) * query_blocks
        stop = start + query_blocks
        counts[Kind.PARTIAL] = int(np.diff(block_map.partial_offsets[[start, stop]])[0])
        counts[Kind.FULL] = int(np.diff(block_map.full_offsets[[start, stop]])[0])
    else:
        tiles = _Tiles.of(sizes, inputs, block_m, block_n, batch, head, indices)
        for interval in block_map.intervals:
            counts[interval.kind] += tiles.count(interval)
    return Visits(counts[Kind.PARTIAL], counts[Kind.FULL], query_blocks * key_blocks)


@dataclass(frozen=True)
class _Tiles:
    """The query blocks of one head, and the value of an expression for each of them."""

    environment: Environment
    count_of_tiles: int

    @staticmethod
    def of(
        sizes: Mapping[str, int],
        inputs: Mapping[str, NDArray[np.generic]] | None,
        block_m: int,
        block_n: int,
        batch: int,
        head: int,
        indices: Mapping[str, int] | None,
    ) -> _Tiles:
        queries = sizes["Lq"]
        heads = sizes.get("H", 1)
        everything = {
            "offset": sizes["Lk"] - queries,
            "H": heads,
            "Hkv": heads,
            "B": 1,
            **sizes,
            "BLOCK_M": block_m,
            "BLOCK_N": block_n,
        }
        first = np.arange(0, queries, block_m, dtype=np.int64)
        last = np.minimum(first + block_m, queries) - 1
        fixed = {"b": batch, "h": head, "g": head // (heads // everything["Hkv"])}
        fixed |= dict(indices or {})
        environment = Environment(
            indices={
                "i_first": first + everything["offset"],
                "i_last": last + everything["offset"],
                **{name: np.asarray(value, np.int64) for name, value in fixed.items()},
            },
            sizes=everything,
            inputs=dict(inputs or {}),
            clamp=True,
        )
        return _Tiles(environment, len(first))

    def _value(self, expression: Expression) -> Array:
        value = evaluate(expression, self.environment)
        return np.broadcast_to(value, (self.count_of_tiles,)).astype(np.int64)

    def _lengths(self, interval: BlockInterval) -> tuple[Array, Array]:
        first, last = self._value(interval.first), self._value(interval.last)
        return first, np.maximum(-(-(last - first) // interval.step), 0)

    def blocks(self, interval: BlockInterval) -> tuple[Array, Array]:
        """Rows and columns of the blocks that the interval visits."""
        first, lengths = self._lengths(interval)
        rows = np.repeat(np.arange(self.count_of_tiles), lengths)
        starts = np.cumsum(lengths) - lengths
        places = np.arange(len(rows)) - np.repeat(starts, lengths)
        columns = np.repeat(first, lengths) + places * interval.step
        if interval.guard != TRUE:
            kept = self._holds(interval.guard, rows, columns)
            rows, columns = rows[kept], columns[kept]
        return rows, columns

    def count(self, interval: BlockInterval) -> int:
        """How many blocks the interval visits."""
        first, lengths = self._lengths(interval)
        if interval.guard == TRUE:
            return int(lengths.sum())
        total = 0
        # Whole tiles at a time, as many as keep the chunk small.
        ends = np.cumsum(lengths)
        start = 0
        while start < self.count_of_tiles:
            base = ends[start] - lengths[start]
            stop = max(start + 1, int(np.searchsorted(ends, base + _CHUNK, side="right")))
            for row in range(start, stop) if lengths[start] > _CHUNK else (slice(start, stop),):
                chosen = slice(row, row + 1) if isinstance(row, int) else row
                rows = np.repeat(np.arange(self.count_of_tiles)[chosen], lengths[chosen])
                offsets = np.cumsum(lengths[chosen]) - lengths[chosen]
                places = np.arange(len(rows)) - np.repeat(offsets, lengths[chosen])
                columns = np.repeat(first[chosen], lengths[chosen]) + places * interval.step
                total += int(self._holds(interval.guard, rows, columns).sum())
            start = stop
        return total

    def _holds(self, guard: Expression, rows: Array, columns: Array) -> NDArray[np.bool_]:
        indices = dict(self.environment.indices)
        for name in ("i_first", "i_last"):
            indices[name] = indices[name][rows]
        indices["K"] = columns
        environment = Environment(
            indices=indices,
            sizes=self.environment.sizes,
            inputs=self.environment.inputs,
            clamp=True,
        )
        value = np.broadcast_to(evaluate(guard, environment), columns.shape)
        return value.astype(bool)


def _mark_table(grid: NDArray[np.uint8], table: BlockTable, place: int) -> None:
    base = int(table.map_index[place]) * table.query_blocks
    for kind, offsets, blocks in (
        (Kind.PARTIAL, table.partial_offsets, table.partial_blocks),
        (Kind.FULL, table.full_offsets, table.full_blocks),
    ):
        bounds = offsets[base : base + table.query_blocks + 1].astype(np.int64)
        rows = np.repeat(np.arange(table.query_blocks), np.diff(bounds))
        _mark(grid, rows, blocks[bounds[0] : bounds[-1]].astype(np.int64), kind)


def _mark(grid: NDArray[np.uint8], rows: Array, columns: Array, kind: Kind) -> None:
    if not len(rows):
        return
    if columns.min() < 0 or columns.max() >= grid.shape[1]:
        raise InternalError("a block map visits a key block that does not exist")
    if np.any(grid[rows, columns]) or len(np.unique(rows * grid.shape[1] + columns)) < len(rows):
        raise InternalError("a block map visits a block twice")
    grid[rows, columns] = kind
