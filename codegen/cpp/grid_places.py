"""Tiles whose queries and keys are boxes of a grid.

The lanes are the tokens of the box. The keys in a tile's windows are numbered row-major and taken
BLOCK_N at a time, whichever boxes they lie in: there is no work on keys that no query sees, and
what a column of queries sees along the first axis is one interval of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.writer import Writer
from attndsl.expression import Coordinate, Expression, Index, Size, substitute
from attndsl.planner.block_map import Product
from attndsl.planner.grids import tile_pitch, tile_sides
from attndsl.planner.plan import Grid, GridAxis

# Other names give way to numbers: `axis_0`, …
_PLAIN = re.compile(r"(?!axis_)[A-Za-z][A-Za-z0-9_]{0,39}")


@dataclass
class GridPlaces:
    """Where tiles of `block_m` queries and their keys lie on the axes of a grid."""

    arguments: Arguments
    grid: Grid
    block_map: Product
    block_m: int
    expressions: Expressions = field(init=False)
    support: set[str] = field(default_factory=lambda: {"grid"})
    parameters: str = field(init=False)
    passed: str = "grid, tile"
    absorb: str = "int32_t first_key, int32_t last_key, auto kind"

    def __post_init__(self) -> None:
        self.parameters = f"const Grid<{self._axes}> &grid, int64_t tile"

    @property
    def members(self) -> tuple[str, ...]:
        return (f"Keys<{self._axes}> keys;",)

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        names: dict[Expression, Text] = {}
        for axis, name in self._named:
            names[Coordinate("i", axis.name)] = Text(f"i_{name}[column]", Level.LANE)
            names[Coordinate("j", axis.name)] = Text(f"j_{name}", Level.STEP)
            names[Index(f"residue.{axis.name}")] = Text(f"along_{name}.origin", Level.UNIFORM)
            names[Size(f"local.axis.{axis.name}")] = Text(f"along_{name}.keys", Level.UNIFORM)
            for end in ("i_first", "i_last"):
                names[Index(f"{end}.{axis.name}")] = Text(f"along_{name}.{end}", Level.UNIFORM)
        return names

    @property
    def _axes(self) -> int:
        return len(self.grid.axes)

    @property
    def _named(self) -> list[tuple[GridAxis, str]]:
        """The axes with names that are safe in C++."""
        return [
            (axis, axis.name if _PLAIN.fullmatch(axis.name) else f"axis_{number}")
            for number, axis in enumerate(self.grid.axes)
        ]

    # Ahead of the tiles ----------------------------------------------------------------------

    def write_functions(self, w: Writer) -> None:
        sides = tile_sides(self.block_m, self._axes)
        body = Writer(comment="//")
        body.line(f"Grid<{self._axes}> grid;")
        for number, (axis, side) in enumerate(zip(self.grid.axes, sides, strict=True)):
            length = self._size(axis)
            ends = "first, last" if number == 0 else f"0, {length} - 1"
            pitch = tile_pitch(side, axis.period)
            own = axis.shift if axis.shift is not None else axis.modulus
            lines, text = self._on_sizes(own)
            body.lines(*lines)
            function = "cut_axis" if axis.shift is None else "cut_rolled_axis"
            cut = f"{length}, {text}, {pitch}, {axis.phase}, {ends}"
            body.line(f"grid.axis[{number}] = {function}({cut});")
        body.line("return grid;")
        inner = " * ".join(self._size(axis) for axis in self.grid.axes[1:])
        w.comment("How the axes are cut into tiles of queries.")
        head = f"static Grid<{self._axes}> grid_of(const {self.arguments.struct} &arguments) {{"
        with w.block(head, "}"):
            self.arguments.write_locals(w, f"{body.text()} {inner} offset Lq")
            w.line(f"const int32_t inner = {inner};")
            w.line("const int32_t first = floor_divide(offset, inner);")
            w.line("const int32_t last = floor_divide(offset + Lq - 1, inner);")
            w.line(body.text().rstrip())
        w.blank()

    def _size(self, axis: GridAxis) -> str:
        return self.arguments.size(f"axis.{axis.name}")

    def _on_sizes(self, expression: Expression | None) -> tuple[list[str], str]:
        """An expression over sizes in the scope of `grid_of`: what it needs, and its text."""
        if expression is None:
            return [], "1"
        expressions, own = self.expressions, Scope("size")
        kept, expressions.scopes[Level.UNIFORM] = expressions.scopes[Level.UNIFORM], own
        text = expressions.text(expression, Level.UNIFORM).text
        expressions.scopes[Level.UNIFORM] = kept
        return own.lines, text

    def write_tiles(self, w: Writer) -> None:
        w.line(f"const Grid<{self._axes}> grid = grid_of(arguments);")
        w.line("const int64_t tiles = grid.tiles();")

    def write_key_blocks(self, w: Writer) -> None:
        w.comment("Each tile has blocks of its own.")
        w.line("const int64_t blocks = 0;")

    def write_tasks(self, w: Writer) -> None:
        self.write_tiles(w)
        w.line("const int64_t tasks = tiles * heads;")
        w.comment("Neighbouring tasks share a head, whose keys stay in a cache.")

    def write_task(self, w: Writer) -> None:
        w.line("const int64_t head = task / tiles, tile = task % tiles;")

    # A tile ----------------------------------------------------------------------------------

    def write_extent(self, w: Writer, body: str) -> None:
        sides = ", ".join(map(str, tile_sides(self.block_m, self._axes)))
        w.line(f"Along along[{self._axes}];")
        w.line(f"Queries<{sides}> queries;")
        w.line("if (!grid.place(tile, along) || !queries.place(along, offset, Lq)) return;")
        w.line("constexpr int32_t rows = BLOCK_M;")
        for number, (_, name) in enumerate(self._named):
            if uses(body, f"along_{name}"):
                w.line(f"const Along &along_{name} = along[{number}];")

    def write_windows(self, w: Writer) -> None:
        w.comment("The keys that the tile may see, and those that all its queries do.")
        for kind in ("windows", "full"):
            self._write_bounds(w, kind)
        w.line("const Numbers numbers = number_keys(windows, full);")

    def _write_bounds(self, w: Writer, kind: str) -> None:
        with w.block(f"const Window {kind}[{self._axes}] = {{", "};"):
            for number in range(self._axes):
                first, last = self._bounds(number, kind)
                w.line(f"{{{first}, {last}}},")

    def _bounds(self, number: int, kind: str) -> tuple[str, str]:
        window, axis = self.block_map.windows[number], self.grid.axes[number].name
        first, last = window.first, window.last
        if kind == "full":
            first, last = window.full_first, window.full_last
        ends: dict[Expression, Expression] = {
            Index(end): Index(f"{end}.{axis}") for end in ("i_first", "i_last")
        }
        first, last = (substitute(bound, ends) for bound in (first, last))
        text = self.expressions.text
        return text(first, Level.UNIFORM).text, text(last, Level.UNIFORM).text

    def write_positions(self, w: Writer, used: set[str], lanes: str) -> None:
        for index, member in (("i", "positions"), ("row", "rows")):
            if index in used:
                w.line(f"const Ints *const {index} = lanes_of(queries.{member});")
        for number, (_, name) in enumerate(self._named):
            if uses(lanes, f"i_{name}"):
                w.line(f"const Ints *const i_{name} = lanes_of(queries.local[{number}]);")

    def write_lane_positions(self, w: Writer, used: set[str]) -> None:
        pass

    # A block of keys -------------------------------------------------------------------------

    def write_block_start(self, w: Writer) -> None:
        w.line("const int32_t keys = minimum(BLOCK_N, last_key - first_key);")
        w.line("scratch.keys.place(along, windows, first_key, keys);")

    def write_key(self, w: Writer, used: set[str], body: str) -> None:
        if uses(body, "j"):
            w.line("const int32_t j = scratch.keys.numbers[key];")
        for number, (_, name) in enumerate(self._named):
            if uses(body, f"j_{name}"):
                w.line(f"const int32_t j_{name} = scratch.keys.local[{number}][key];")

    def write_blocks(self, w: Writer) -> None:
        for first, last, tag in (
            ("0", "numbers.full_first", "Partial"),
            ("numbers.full_first", "numbers.full_last", "Full"),
            ("numbers.full_last", "numbers.count", "Partial"),
        ):
            w.line(f"for (int32_t first_key = {first}; first_key < {last}; first_key += BLOCK_N)")
            with w.indented():
                w.line(f"absorb(first_key, {last}, {tag}{{}});")
