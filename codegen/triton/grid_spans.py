"""How the axes of a grid are cut into tiles of queries, as expressions over sizes.

The launch counts tiles with them on the host, and a kernel finds its own place with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attndsl.codegen.program import Specialization
from attndsl.codegen.triton.constants import with_known_sizes
from attndsl.expression import Expression, Literal, Size
from attndsl.planner.algebra import add, floor_divide, minimum, multiply, subtract
from attndsl.planner.grids import tile_pitch, tile_sides
from attndsl.planner.plan import Grid, GridAxis

ZERO: Expression = Literal(0)
ONE: Expression = Literal(1)


@dataclass(frozen=True)
class AxisSpan:
    """One axis, in the words of `Grid`: its length, its modulus or shift, how many positions one
    step along it passes (`inner`), the coordinates y0 and y1 of queries, the number of the first
    tile, the tiles of a lap, the first lap and their number."""

    axis: GridAxis
    side: int
    pitch: int
    length: Expression
    modulus: Expression
    shift: Expression | None
    inner: Expression
    first_query: Expression
    last_query: Expression
    first_tile: Expression
    lap_tiles: Expression
    first_lap: Expression
    laps: Expression

    @property
    def tiles(self) -> Expression:
        return multiply(self.lap_tiles, self.laps)

    @property
    def has_classes(self) -> bool:
        return self.modulus != ONE


def axis_spans(grid: Grid, block_m: int, specialization: Specialization) -> tuple[AxisSpan, ...]:
    """What each axis of the grid has; see `Grid`."""
    lengths: list[Expression] = [Size(f"axis.{axis.name}") for axis in grid.axes]
    sides = tile_sides(block_m, len(grid.axes))
    spans = []
    for number, (axis, side) in enumerate(zip(grid.axes, sides, strict=True)):
        length, inner = lengths[number], product(lengths[number + 1 :])
        first, last = ZERO, subtract(length, ONE)
        first_lap, laps = ZERO, ONE
        if number == 0:
            after = add(Size("offset"), Size("Lq"))
            ends = floor_divide(Size("offset"), inner), floor_divide(subtract(after, ONE), inner)
            if axis.shift is None:
                first, last = ends
            else:
                first_lap = floor_divide(ends[0], length)
                laps = add(subtract(floor_divide(ends[1], length), first_lap), ONE)
        modulus = ONE if axis.modulus is None else with_known_sizes(axis.modulus, specialization)
        shift = None if axis.shift is None else with_known_sizes(axis.shift, specialization)
        pitch = tile_pitch(side, axis.period)
        first_tile, last_tile = (
            floor_divide(add(floor_divide(end, modulus), Literal(axis.phase)), Literal(pitch))
            for end in (first, last)
        )
        spans.append(
            AxisSpan(
                axis,
                side,
                pitch,
                length,
                modulus,
                shift,
                inner,
                first,
                last,
                first_tile,
                add(subtract(last_tile, first_tile), ONE),
                first_lap,
                laps,
            )
        )
    return tuple(spans)


def tile_count(spans: tuple[AxisSpan, ...]) -> Expression:
    """How many tiles of queries each choice of classes has: none without queries."""
    return product([minimum(Size("Lq"), ONE), *(one.tiles for one in spans)])


def class_count(spans: tuple[AxisSpan, ...]) -> Expression:
    """How many choices of a residue class an axis there are."""
    return product([one.modulus for one in spans])


def product(factors: Iterable[Expression]) -> Expression:
    result: Expression = ONE
    for factor in factors:
        result = multiply(result, factor)
    return result
