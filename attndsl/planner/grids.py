"""The geometry of grid tiles: how a tile of tokens lies on the axes, and which tokens it holds.

`Grid` in `plan.py` says what the numbers mean; emitters use the first two functions, so that a
kernel and the executor cut the grid alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from attndsl.evaluate import Array, evaluate_size
from attndsl.planner.plan import Grid, GridAxis


def tile_sides(tile: int, axes: int) -> tuple[int, ...]:
    """The side of a tile of `tile` tokens along each of `axes` axes; their product is `tile`.

    Powers of two as equal as can be, the last axes the longest; a factor that is no power of two
    goes to the last axis. 64 tokens are 8 × 8 or 4 × 4 × 4, 128 are 8 × 16 or 4 × 4 × 8.
    """
    exponent = (tile & -tile).bit_length() - 1
    each, more = divmod(exponent, axes)
    sides = [1 << each + (place >= axes - more) for place in range(axes)]
    sides[-1] *= tile >> exponent
    return tuple(sides)


def tile_pitch(side: int, period: int) -> int:
    """How many coordinates of one axis a query tile holds: of `side` as many as keep the tile's
    edges on edges of groups of `period` queries, or cut a longer group evenly; else all."""
    if period <= side:
        return side // period * period
    parts = -(-period // side)
    return side if period % parts else period // parts


@dataclass(frozen=True)
class Span:
    """What one axis has, for one residue class, in a call.

    Local coordinate `c` is coordinate `residue + modulus * c`, or `(c + shift) % length` if the
    axis is rolled. Keys have `0 <= c < keys`, queries `first_query <= c <= last_query`, which
    differ along the first axis where the queries are not all positions. A lap has `tiles` tiles of
    queries; tile 0 is tile `first_tile` counted from coordinate `-phase`. There is one lap but
    along a rolled first axis, whose laps are `first_lap` and those after it.
    """

    length: int
    residue: int
    modulus: int
    keys: int
    first_query: int
    last_query: int
    first_tile: int
    tiles: int
    pitch: int
    phase: int
    shift: int | None
    first_lap: int
    laps: int

    def tile(self, number: int) -> tuple[int, int]:
        """The local coordinates of the first and the last query of a tile along this axis; the last
        lies before the first where there is none."""
        start = (self.first_tile + number % self.tiles) * self.pitch - self.phase
        return max(start, self.first_query), min(start + self.pitch - 1, self.last_query)

    def query_coordinates(self, number: int) -> tuple[Array, Array]:
        """Local coordinates of the queries of a tile, and coordinates of the axis."""
        first, last = self.tile(number)
        local = np.arange(first, last + 1)
        lap = self.first_lap + number // self.tiles
        return local, self.key_coordinates(local) + self.length * lap

    def key_coordinates(self, local: Array) -> Array:
        """The coordinates of the axis that local coordinates are."""
        if self.shift is not None:
            return (local + self.shift) % self.length
        return self.residue + self.modulus * local


def spans(grid: Grid, sizes: Mapping[str, int], block_m: int) -> tuple[tuple[Span, ...], ...]:
    """Every problem of a grid, as what each axis has in it; row-major over the residues."""
    sides = tile_sides(block_m, len(grid.axes))
    lengths = [sizes[f"axis.{axis.name}"] for axis in grid.axes]
    inner = math.prod(lengths[1:])
    outer = sizes["offset"] // inner, (sizes["offset"] + sizes["Lq"] - 1) // inner
    bounds = [outer, *((0, length - 1) for length in lengths[1:])]
    each = [
        _spans_of_axis(axis, sizes, side, bound)
        for axis, side, bound in zip(grid.axes, sides, bounds, strict=True)
    ]
    return tuple(product(*each))


def _spans_of_axis(
    axis: GridAxis, sizes: Mapping[str, int], side: int, bound: tuple[int, int]
) -> list[Span]:
    length = sizes[f"axis.{axis.name}"]
    modulus = 1 if axis.modulus is None else evaluate_size(axis.modulus, sizes)
    pitch = tile_pitch(side, axis.period)
    shift, first_lap, last_lap = None, 0, 0
    if axis.shift is not None:
        shift = evaluate_size(axis.shift, sizes)
        first_lap, last_lap = (end // length for end in bound)
        bound = 0, length - 1
    first_tile, last_tile = ((end // modulus + axis.phase) // pitch for end in bound)
    return [
        Span(
            length=length,
            residue=residue,
            modulus=modulus,
            keys=max(0, -((residue - length) // modulus)),
            first_query=-((residue - bound[0]) // modulus),
            last_query=(bound[1] - residue) // modulus,
            first_tile=first_tile,
            tiles=last_tile - first_tile + 1,
            pitch=pitch,
            phase=axis.phase,
            shift=shift,
            first_lap=first_lap,
            laps=last_lap - first_lap + 1,
        )
        for residue in range(modulus)
    ]
