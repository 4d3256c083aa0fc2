"""The key blocks of every tile of queries of one problem over a grid, from its windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Array, Environment, evaluate
from attndsl.expression import Expression, index_names
from attndsl.planner.block_map import Kind, Product, Window, bounds
from attndsl.planner.grids import Span, tile_sides
from attndsl.planner.lists import Block
from attndsl.planner.problems import GridProblem

# Conditions are evaluated for at most about this many boxes at a time.
MOST_BOXES = 1 << 20


class GridLists:
    """The block lists of a `Product`; `block_lists` makes them."""

    def __init__(
        self,
        block_map: Product,
        base: Environment,
        problem: GridProblem,
        block_m: int,
        block_n: int,
    ) -> None:
        sides_m = tile_sides(block_m, len(problem.spans))
        sides_n = tile_sides(block_n, len(problem.spans))
        environment = _environment(base, problem)
        self._shape = problem.shape
        self._along = [
            _Along.of(window, span, environment, side_m, side_n)
            for window, span, side_m, side_n in zip(
                block_map.windows, problem.spans, sides_m, sides_n, strict=True
            )
        ]
        self._conditions: _Conditions | None = None
        if block_map.conditions is not None:
            self._conditions = _Conditions(
                block_map, environment, problem.names, self._along, self._shape
            )

    def of(self, b: int, h: int, tile: int, only: Kind | None = None) -> tuple[Block, ...]:
        places = np.unravel_index(tile, self._shape)
        pieces = (
            along.pieces(b, h, int(place)) for along, place in zip(self._along, places, strict=True)
        )
        boxes = [
            (
                tuple((start, stop) for start, stop, _ in combination),
                Kind.FULL if all(full for _, _, full in combination) else Kind.PARTIAL,
            )
            for combination in product(*pieces)
        ]
        if self._conditions is not None and boxes:
            kinds = self._conditions.kinds_of_tile(b, h, tile)
            boxes = [(box, kind) for (box, _), kind in zip(boxes, kinds, strict=True)]
        wanted = (Kind.PARTIAL, Kind.FULL) if only is None else (only,)
        return tuple(Block(kind, box) for box, kind in boxes if kind in wanted)

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        if self._conditions is not None:
            yield from self._conditions.counts()
            return
        visited, full = (
            _product([getattr(along, name) for along in self._along])
            for name in ("count", "full_count")
        )
        yield Kind.PARTIAL, visited - full
        yield Kind.FULL, full


@dataclass(frozen=True)
class _Along:
    """The blocks along one axis, for every `[batch, head, tile]`: `count` from coordinate `first`
    on, of which `full_count` from number `full_from` on are FULL. `ends` are the first and the last
    query of every tile."""

    side: int
    keys: int
    ends: Array
    first: Array
    count: Array
    full_from: Array
    full_count: Array

    @staticmethod
    def of(window: Window, span: Span, environment: Environment, side_m: int, side: int) -> _Along:
        tiles = span.tiles * span.laps
        ends = np.array([span.tile(number) for number in range(tiles)]).reshape(-1, 2)
        indices = {
            **environment.indices,
            "i_first": ends[:, 0].reshape(1, 1, -1),
            "i_last": ends[:, 1].reshape(1, 1, -1),
        }
        sizes = {**environment.sizes, "BLOCK_M": side_m, "BLOCK_N": side}
        environment = dataclasses.replace(environment, indices=indices, sizes=sizes)
        shape = sizes["B"], sizes["H"], tiles

        def bound(expression: Expression) -> Array:
            return np.broadcast_to(evaluate(expression, environment), shape)

        first, last = bound(window.first), bound(window.last)
        full_first, full_last = bound(window.full_first), bound(window.full_last)
        exists = ends[:, 1] >= ends[:, 0]
        _check(first, last, full_first, full_last, exists, span.keys)
        count = np.where(exists, np.maximum(0, -((first - last) // side)), 0)
        full_from = np.maximum(0, -((first - full_first) // side))
        full_to = np.minimum(count, (full_last - first) // side)
        return _Along(
            side, span.keys, ends, first, count, full_from, np.maximum(0, full_to - full_from)
        )

    def pieces(self, b: int, h: int, tile: int) -> list[tuple[int, int, bool]]:
        """Start, end and whether it is FULL of each block of one tile, ascending."""
        place = b, h, tile
        first, count = int(self.first[place]), int(self.count[place])
        full_from = int(self.full_from[place])
        full = range(full_from, full_from + int(self.full_count[place]))
        return [
            (start, min(start + self.side, self.keys), number in full)
            for number in range(count)
            for start in [first + number * self.side]
        ]


class _Conditions:
    """The boxes of tiles whose kinds a `BoxConditions` decides. Boxes have numbers along each axis,
    and one number among all of a tile, row-major."""

    def __init__(
        self,
        block_map: Product,
        environment: Environment,
        names: tuple[str, ...],
        along: list[_Along],
        shape: tuple[int, ...],
    ) -> None:
        assert block_map.conditions is not None
        self._conditions = block_map.conditions
        self._environment = environment
        self._names = names
        self._along = along
        self._shape = shape
        read = frozenset().union(*map(index_names, bounds(block_map)))
        self._varies = bool(read & {"b", "h", "g"})

    def kinds_of_tile(self, b: int, h: int, tile: int) -> list[Kind]:
        """The kinds of all boxes in the windows of one tile."""
        places = np.unravel_index(tile, self._shape)
        counts = [int(a.count[b, h, p]) for a, p in zip(self._along, places, strict=True)]
        numbers = np.arange(prod(counts))
        some, every = self._hold((np.array(b), np.array(h), np.array(tile)), numbers)
        return [
            Kind.FULL if whole else Kind.PARTIAL if any_pair else Kind.EMPTY
            for any_pair, whole in zip(some, every, strict=True)
        ]

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        boxes = _product([one.count for one in self._along])
        # One head stands for all that see alike.
        looked = boxes if self._varies else boxes[:1, :1]
        partial, full = (np.zeros(looked.shape, np.int64).reshape(-1) for _ in range(2))
        ends = np.cumsum(looked.reshape(-1))
        start = 0
        while start < ends.size:
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + MOST_BOXES, side="right")))
            places = np.repeat(np.arange(start, stop), looked.reshape(-1)[start:stop])
            numbers = np.arange(places.size) + done - np.concatenate(([0], ends))[places]
            some, every = self._hold(np.unravel_index(places, looked.shape), numbers)
            for counted, holds in ((partial, some & ~every), (full, every)):
                counted += np.bincount(places[holds], minlength=counted.size)
            start = stop
        for kind, counted in ((Kind.PARTIAL, partial), (Kind.FULL, full)):
            yield kind, np.broadcast_to(counted.reshape(looked.shape), boxes.shape)

    def _hold(self, tiles: tuple[Array, ...], numbers: Array) -> tuple[Array, Array]:
        """Whether some pair of each box is visible, and whether the box is FULL; `tiles` are the
        batch, the head and the tile of every box."""
        environment = self._environment
        b, h, tile = tiles
        group = max(1, environment.sizes["H"] // max(1, environment.sizes["Hkv"]))
        indices: dict[str, Array] = {"b": b, "h": h, "g": h // group}
        lies_within = np.ones(numbers.shape, bool)
        places = np.unravel_index(tile, self._shape)
        for name, along, place in reversed(
            list(zip(self._names, self._along, places, strict=True))
        ):
            count = along.count[b, h, place]
            numbers, number = np.divmod(numbers, np.maximum(1, count))
            first = along.first[b, h, place] + number * along.side
            lies_within &= number < along.full_count[b, h, place]
            indices[f"i_first.{name}"] = along.ends[place, 0]
            indices[f"i_last.{name}"] = along.ends[place, 1]
            indices[f"j_first.{name}"] = first
            indices[f"j_last.{name}"] = np.minimum(first + along.side, along.keys) - 1
        environment = dataclasses.replace(environment, indices=indices)
        some, every = (
            np.broadcast_to(evaluate(condition, environment), numbers.shape).astype(bool)
            for condition in (self._conditions.some, self._conditions.every)
        )
        return some, every & lies_within


def _check(
    first: Array, last: Array, full_first: Array, full_last: Array, exists: Array, keys: int
) -> None:
    """A window lies within the keys, and what all see within what some see."""
    some = exists & (last > first)
    every = exists & (full_last > full_first)
    if np.any(some & ((first < 0) | (last > keys))):
        raise InternalError("a window holds keys that do not exist")
    if np.any(every & ((full_first < first) | (full_last > last))):
        raise InternalError("a window is full where it is empty")


def _product(along: list[Array]) -> Array:
    """`[batch, head, tile]` from one array an axis, tiles row-major."""
    result = along[0]
    for one in along[1:]:
        result = (result[..., :, None] * one[..., None, :]).reshape(*result.shape[:2], -1)
    return result


def _environment(base: Environment, problem: GridProblem) -> Environment:
    heads = base.sizes["H"]
    head = np.arange(heads).reshape(1, -1, 1)
    group = max(1, heads // max(1, base.sizes["Hkv"]))
    indices = {
        "b": np.arange(base.sizes["B"]).reshape(-1, 1, 1),
        "h": head,
        "g": head // group,
        **{name: np.asarray(value) for name, value in problem.local_indices.items()},
    }
    sizes = {**base.sizes, **problem.local_sizes}
    return dataclasses.replace(base, indices=indices, sizes=sizes)
