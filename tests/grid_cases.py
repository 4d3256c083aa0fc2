"""Grids of every sort: what tests of grid tiles run over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.module import load_file, load_text
from attndsl.planner.lower import lower
from attndsl.planner.passes.simplify_expressions import simplify_expressions
from attndsl.planner.passes.take_grids import take_grids
from attndsl.planner.plan import Plan
from attndsl.planner.verify import verify

EXAMPLES = Path(__file__).parent.parent / "examples"
SIDES = SMALL, ODD, FLAT, LONG = (8, 8), (13, 11), (3, 29), (21, 5)
VIDEO, DEEP = (5, 6, 7), (9, 4, 5)


@dataclass(frozen=True)
class GridCase:
    """An example, or the text of one, with its parameters, and the grids to try it on."""

    source: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    grids: tuple[tuple[int, ...], ...] = SIDES

    def __str__(self) -> str:
        named = "-".join(f"{name}={value}" for name, value in self.parameters.items())
        return f"{self.source}-{named}" if named else self.source

    def attention(self) -> Attention:
        if (EXAMPLES / f"{self.source}.attn").exists():
            loaded = load_file(EXAMPLES / f"{self.source}.attn")
        else:
            names = "time, y, x" if "time" in self.source else "y, x"
            loaded = load_text(f"attention it {{\naxes {names}\nmask = {self.source}\n}}")
        (attention,) = loaded.attentions.values()
        return bind(attention, **self.parameters)

    def plan(self) -> Plan:
        return grid_plan(self.attention())


def grid_plan(attention: Attention) -> Plan:
    """The plan with the pass applied by itself."""
    made = take_grids(simplify_expressions(lower(attention)))
    verify(made)
    return made


CASES = (
    GridCase("neighborhood2d"),
    GridCase("neighborhood2d", {"window": 4}),
    GridCase("neighborhood2d", {"window": 5, "stride": 3}),
    GridCase("neighborhood2d", {"window": 4, "stride": 4}),
    GridCase("neighborhood2d", {"window": 3, "dilation": 2}),
    GridCase("neighborhood2d", {"window": 2, "dilation": 4}),
    GridCase("neighborhood2d", {"window": 4, "dilation": 3, "stride": 2}),
    GridCase("neighborhood3d", {"frames": 2, "window": 3}, (VIDEO, DEEP)),
    GridCase("neighborhood3d", {"frames": 3, "window": 2, "dilation": 2}, (VIDEO, DEEP)),
    GridCase("neighborhood3d", {"window": 4, "stride": 2}, (VIDEO, DEEP)),
    GridCase("maxvit_block"),
    GridCase("maxvit_block", {"window": 4}),
    GridCase("maxvit_block", {"window": 14}, ((28, 30), ODD)),
    GridCase("maxvit_grid", {"side": 3}),
    GridCase("maxvit_grid", {"side": 7}, ((14, 21), ODD, FLAT)),
    GridCase("swin"),
    GridCase("swin", {"window": 4, "shift": 2}),
    GridCase("swin", {"window": 8, "shift": 0}),
    GridCase("swin", {"window": 5, "shift": 9}),
    GridCase("halonet"),
    GridCase("halonet", {"block": 4, "halo": 2}),
    GridCase("halonet", {"block": 5, "halo": 1}),
    GridCase("lkca"),
    *(GridCase("clear", {"radius": one}, (*SIDES, (32, 40))) for one in (1, 3, 8, 20)),
    GridCase("abs(i.y - j.y) + 2 * abs(i.x - j.x) <= 7"),
    GridCase("12 > 4 * (i.y - j.y - 2) ** 2 + abs(j.x - i.x + 1)"),
    GridCase("(i.y - j.y) * (i.y - j.y) + (i.x - j.x) ** 2 <= 50"),
    GridCase("abs(i.y - j.y) + abs(i.x - j.x) <= 3 * h"),
    GridCase("(i.time - j.time) ** 2 + abs(i.x - j.x) <= 4", grids=(VIDEO, DEEP)),
    GridCase(
        "(i.time - j.time) ** 2 + (i.y - j.y) ** 2 + 2 * (i.x - j.x) ** 2 <= 14",
        grids=(VIDEO, DEEP),
    ),
    GridCase("abs(i.x - j.x) <= 2"),
    GridCase("i.y == j.y"),
    GridCase("j.y <= i.y and abs(i.x - j.x) < 4"),
    GridCase("h == 0 and abs(i.y - j.y) < 2"),
    GridCase("(h == 1 or abs(i.y - j.y) < 2) and j.x <= i.x"),
    GridCase("(i.y - j.y) % 3 == 0 and abs(i.y - j.y) <= 6 and (i.x - j.x) % 2 == 0"),
    GridCase("(i.y - j.y) % 30 == 0 and abs(i.x - j.x) <= 1"),
    GridCase("j.time <= i.time and i.y == j.y and (i.x - j.x) % 4 == 0", grids=(VIDEO, DEEP)),
)


@dataclass(frozen=True)
class Rows:
    """Which positions the queries of a call have."""

    count: int
    offset: int

    def __str__(self) -> str:
        return f"{self.count}-at-{self.offset}"


def row_choices(grid: tuple[int, ...]) -> Iterator[Rows]:
    """All positions; the last; a few in the middle, cut anywhere; from before the first key, and to
    behind the last."""
    keys, line = math.prod(grid), grid[-1]
    yield Rows(keys, 0)
    yield Rows(keys // 3, keys - keys // 3)
    yield Rows(min(2 * line, keys - line), line)
    yield Rows(min(7, keys), min(line + 2, keys - 7))
    yield Rows(5 + line, -line - 2)
    yield Rows(keys + line, line + 1)


def sizes_of(attention: Attention, grid: tuple[int, ...], rows: Rows, heads: int) -> dict[str, int]:
    lengths = {f"axis.{name}": n for name, n in zip(attention.axes, grid, strict=True)}
    return {
        **{"B": 1, "H": heads, "Hkv": heads, "D": 4, "Dv": 4},
        **{"Lq": rows.count, "Lk": math.prod(grid), "offset": rows.offset, **lengths},
    }


def inputs_of(attention: Attention, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Any numbers of the shapes that the examples ask for, at two heads and four channels."""
    shapes = {
        "bias": (40**2, 2),
        "kernel": (2, 7, 7),
        "row_embedding": (60, 4),
        "column_embedding": (60, 4),
    }
    return {one.name: random.normal(size=shapes[one.name]) for one in attention.inputs}
