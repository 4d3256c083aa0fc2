"""Tiles over a grid whose keys are taken box by box, for masks that mix axes.

A condition on the tile and a box says whether the box is worked on at all, and whether the mask is
evaluated in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attndsl.codegen.cpp.grid_places import GridPlaces
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression, Index
from attndsl.planner.block_map import BoxConditions
from attndsl.planner.grids import tile_sides


@dataclass
class BoxPlaces(GridPlaces):
    """Blocks of keys are boxes of `block_n`, from the corner of the windows on."""

    conditions: BoxConditions = field(kw_only=True)
    block_n: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.absorb = f"const Window (&box)[{self._axes}], auto kind"

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        names = dict(super().spelled)
        for number, axis in enumerate(self.grid.axes):
            first, last = f"box[{number}].first", f"(box[{number}].last - 1)"
            names[Index(f"j_first.{axis.name}")] = Text(first, Level.STEP)
            names[Index(f"j_last.{axis.name}")] = Text(last, Level.STEP)
        return names

    def write_windows(self, w: Writer) -> None:
        w.comment("No query of the tile sees a key outside.")
        self._write_bounds(w, "windows")

    def write_block_start(self, w: Writer) -> None:
        sizes = " * ".join(f"box[{number}].size()" for number in range(self._axes))
        w.line(f"const int32_t keys = {sizes};")
        w.line("scratch.keys.place(along, box, 0, keys);")

    def write_blocks(self, w: Writer) -> None:
        expressions, own = self.expressions, Scope("box")
        kept, expressions.scopes[Level.STEP] = expressions.scopes[Level.STEP], own
        some = expressions.text(self.conditions.some, Level.STEP).text
        needed = len(own.lines)
        every = expressions.text(self.conditions.every, Level.STEP).text
        expressions.scopes[Level.STEP] = kept
        body = Writer(comment="//")
        body.lines(*own.lines[:needed])
        body.line(f"if (!({some})) continue;")
        body.lines(*own.lines[needed:])
        body.line(f"if ({every})")
        with body.indented():
            body.line("absorb(box, Full{});")
        body.line("else")
        with body.indented():
            body.line("absorb(box, Partial{});")
        w.line(f"Window box[{self._axes}];")
        self._write_loops(w, list(enumerate(tile_sides(self.block_n, self._axes))), body.text())

    def _write_loops(self, w: Writer, axes: list[tuple[int, int]], body: str) -> None:
        """Loops over the boxes along each of `axes`, by number and side."""
        if not axes:
            w.line(body.rstrip())
            return
        (number, side), *others = axes
        first, window = f"first_{self._named[number][1]}", f"windows[{number}]"
        loop = f"int32_t {first} = {window}.first; {first} < {window}.last; {first} += {side}"
        with w.block(f"for ({loop}) {{", "}"):
            w.line(f"box[{number}] = {{{first}, minimum({first} + {side}, {window}.last)}};")
            self._write_loops(w, others, body)
