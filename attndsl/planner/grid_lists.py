"""The key blocks of every tile of queries of one problem over a grid, from its windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Array, Environment, evaluate
from attndsl.expression import Expression
from attndsl.planner.block_map import Kind, Product, Window
from attndsl.planner.grids import Span, tile_sides
from attndsl.planner.lists import Block
from attndsl.planner.problems import GridProblem


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

    def of(self, b: int, h: int, tile: int, only: Kind | None = None) -> tuple[Block, ...]:
        places = np.unravel_index(tile, self._shape)
        pieces = (
            along.pieces(b, h, int(place)) for along, place in zip(self._along, places, strict=True)
        )
        blocks = []
        for combination in product(*pieces):
            is_full = all(full for _, _, full in combination)
            kind = Kind.FULL if is_full else Kind.PARTIAL
            if only in (None, kind):
                box = tuple((start, stop) for start, stop, _ in combination)
                blocks.append(Block(kind, box))
        return tuple(blocks)

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        visited, full = (
            _product([getattr(along, name) for along in self._along])
            for name in ("count", "full_count")
        )
        yield Kind.PARTIAL, visited - full
        yield Kind.FULL, full


@dataclass(frozen=True)
class _Along:
    """The blocks along one axis, for every `[batch, head, tile]`: `count` from coordinate `first`
    on, of which `full_count` from number `full_from` on are FULL."""

    side: int
    keys: int
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
        return _Along(side, span.keys, first, count, full_from, np.maximum(0, full_to - full_from))

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
