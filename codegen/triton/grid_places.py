"""Tiles whose queries and keys are boxes of a grid.

Lanes lie in a box row-major, so how far they are from its corner is the same for every box, and an
address is a scalar for the corner and this distance. Lanes beyond the end of an axis would be
tokens of the next line; the last token bounds them, and no mask shows them.

Along a rolled axis a box may cross the end of the axis: distances are then counted anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from attndsl.codegen.program import Tile
from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START, lane_of, start_of
from attndsl.codegen.triton.grid_loops import BoxLoops
from attndsl.codegen.triton.grid_spans import ONE, ZERO, AxisSpan, axis_spans, product
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.places import Block, Body, KeyTile
from attndsl.codegen.triton.turns import AllAtOnce, Turns
from attndsl.codegen.triton.values import Binding, Value, atom
from attndsl.expression import Coordinate, Expression, Index, Size
from attndsl.planner.algebra import ceil_divide, floor_divide, modulo, multiply, subtract
from attndsl.planner.block_map import Kind, Product
from attndsl.planner.grids import tile_sides
from attndsl.planner.plan import Grid


@dataclass(frozen=True)
class _Lanes:
    """Of the keys of a box: offsets along each axis, and how many tokens they are from its corner
    if no axis is rolled."""

    along: tuple[str, ...]
    tokens: str


class GridPlaces:
    """Boxes of the grid, of all its tokens or of those in one choice of residue classes."""

    step = 1
    first_row = first_key = ""

    def __init__(
        self,
        kernel: Kernel,
        grid: Grid,
        block_map: Product,
        tile: Tile,
        turns: Turns | None = None,
    ):
        self.kernel = kernel
        self.turns = turns or AllAtOnce()
        self.spans = axis_spans(grid, tile.block_m, kernel.specialization)
        self.block_n = tile.block_n
        self.key_sides = tile_sides(tile.block_n, len(self.spans))
        self.loops = BoxLoops(kernel, grid, block_map, self.key_sides)
        self._shifts: dict[str, str] = {}
        self._laps: dict[str, str] = {}
        self._exists: list[str] = []

    # Queries ---------------------------------------------------------------------------------

    def write_program(self) -> None:
        kernel = self.kernel
        tiles = kernel.named(product(one.tiles for one in self.spans), "query_tiles").atom
        program = kernel.assign("program", Value("tl.program_id(0)")).text
        place, number = self.turns.split(kernel, program, tiles)
        kernel.line("# The last queries come first: under a causal mask they take longest.")
        tile = kernel.assign("query_tile", Value(f"{tiles} - 1 - {place}")).text
        for span in reversed(self.spans):
            if span.has_classes:
                number = kernel.assign("number", Value(number)).text
                modulus = self._atom(span.modulus, f"modulus_{span.axis.name}")
                residue = kernel.assign(f"residue_{span.axis.name}", Value(f"{number} % {modulus}"))
                kernel.define(_residue(span), residue)
                number = f"{number} // {modulus}"
        self.turns.define_head(kernel, number)
        self._write_extent(tile)
        self._write_rows()

    def _write_extent(self, tile: str) -> None:
        """The first and the last local coordinate of the tile along each axis."""
        kernel = self.kernel
        places = []
        for span in reversed(self.spans[1:]):
            tiles = self._atom(span.tiles, f"tiles_{span.axis.name}")
            places.append(f"{tile} % {tiles}")
            tile = f"{tile} // {tiles}"
        empty = []
        self.starts: list[str] = []
        for number, (span, place) in enumerate(
            zip(self.spans, [tile, *reversed(places)], strict=True)
        ):
            name = span.axis.name
            self._write_length(span)
            if span.laps != ONE:
                place = kernel.assign(f"tile_{name}", Value(place)).text
                tiles = self._atom(span.lap_tiles, f"tiles_{name}")
                first_lap = self._atom(span.first_lap, "first_lap")
                self._laps[name] = kernel.assign(
                    "lap", Value(f"{first_lap} + {place} // {tiles}")
                ).text
                place = f"{place} % {tiles}"
            if span.first_tile != ZERO:
                place = f"{self._atom(span.first_tile, f'first_tile_{name}')} + {place}"
            start = f"{atom(place)} * {span.pitch}"
            if span.axis.phase:
                start += f" - {span.axis.phase}"
            start = kernel.assign(f"start_{name}", Value(start)).text
            self.starts.append(start)
            first, last = self._ends(span, start, cut=number == 0 and span.shift is None)
            if span.has_classes:
                empty.append(f"({last} < {first})")
        if empty:
            with kernel.inside(f"if {' | '.join(empty)}:"):
                kernel.line("return")

    def _write_length(self, span: AxisSpan) -> None:
        """How many keys the class has along an axis."""
        kernel, name = self.kernel, span.axis.name
        length = kernel.value(span.length)
        if span.has_classes:
            modulus = self._atom(span.modulus, f"modulus_{name}")
            residue = kernel.value(_residue(span)).text
            count = f"({length.text} + {modulus} - 1 - {residue}) // {modulus}"
            length = kernel.assign(f"count_{name}", Value(count))
        kernel.define(Size(f"local.axis.{name}"), length)
        if span.shift is not None:
            shift = modulo(span.shift, span.length)
            self._shifts[name] = self._atom(shift, f"shift_{name}")

    def _ends(self, span: AxisSpan, start: str, *, cut: bool) -> tuple[str, str]:
        """`i_first` and `i_last` along an axis, of which queries may be missing if it is `cut`."""
        kernel, name = self.kernel, span.axis.name
        if cut:
            residue: Expression = _residue(span) if span.has_classes else ZERO
            low = kernel.value(ceil_divide(subtract(span.first_query, residue), span.modulus)).text
            high = kernel.value(floor_divide(subtract(span.last_query, residue), span.modulus)).text
        else:
            low, high = "0", f"{kernel.value(Size(f'local.axis.{name}')).text} - 1"
        first = start
        if cut or span.axis.phase:
            first = kernel.assign(f"first_{name}", Value(f"tl.maximum({start}, {low})")).text
        last = f"tl.minimum({start} + {span.pitch - 1}, {high})"
        last = kernel.assign(f"last_{name}", Value(last)).text
        kernel.define(Index(f"i_first.{name}"), Value(first))
        kernel.define(Index(f"i_last.{name}"), Value(last))
        return first, last

    def _write_rows(self) -> None:
        kernel = self.kernel
        length, offset = kernel.size("Lq"), kernel.size("offset")
        kernel.line("# Lanes without a query repeat another one; they are not stored.")
        along = []
        sides = tuple(span.side for span in self.spans)
        for span, start, lane in zip(
            self.spans, self.starts, offsets_in_box("tl.arange(0, BLOCK_M)", sides), strict=True
        ):
            name = span.axis.name
            first, last = (
                kernel.value(Index(f"{end}.{name}")).text for end in ("i_first", "i_last")
            )
            lane = kernel.assign(f"lane_{name}", Value(f"{start} + ({lane})", "m")).text
            inside = f"tl.maximum({lane}, {first})" if first != start else lane
            inside = kernel.assign(f"i_{name}", Value(f"tl.minimum({inside}, {last})", "m")).text
            kernel.define(Coordinate("i", name), Value(inside, "m"))
            self._exists.append(f"({lane} == {inside})")
            along.append(inside)
        position = kernel.assign("i", Value(self._position(along, laps=True), "m"))
        kernel.define(Index("i"), position)
        row = f"tl.minimum(tl.maximum({position.text} - {offset}, 0), {length} - 1)"
        row_value = kernel.assign("row", Value(row, "m"))
        kernel.define(Index("row"), row_value)
        self._exists.append(f"({row_value.text} == {position.text} - {offset})")
        corner = [kernel.value(Index(f"i_first.{span.axis.name}")).text for span in self.spans]
        start = f"{self._position(corner, laps=True)} - {offset}"
        self.query_start = kernel.assign("query_start", Value(start)).text
        lanes = f"{row_value.text} - {self.query_start}"
        self.row_lane = kernel.assign("row_lane", Value(lanes, "m")).text

    def row_exists(self) -> str:
        return " & ".join(self._exists)

    def _position(self, along: Sequence[str], *, laps: bool = False) -> str:
        """The position in the call of local coordinates, row-major."""
        result = ""
        for span, local in zip(self.spans, along, strict=True):
            whole = self._whole(span, local)
            if laps and span.axis.name in self._laps:
                whole += f" + {self._laps[span.axis.name]} * {self._length(span)}"
            result = f"{atom(result)} * {self._length(span)} + {whole}" if result else whole
        return result

    def _whole(self, span: AxisSpan, local: str) -> str:
        """The coordinate of the axis that a local coordinate is, as a sum."""
        if span.shift is not None:
            turned = f"{local} + {self._shifts[span.axis.name]}"
            length = self._length(span)
            return f"{turned} - tl.where({turned} < {length}, 0, {length})"
        if span.has_classes:
            modulus = self._atom(span.modulus, "modulus")
            return f"{self.kernel.value(_residue(span)).text} + {local} * {modulus}"
        return local

    def _length(self, span: AxisSpan) -> str:
        return self.kernel.value(span.length).atom

    def _atom(self, expression: Expression, wanted: str) -> str:
        """A value outside of all loops: an identifier, or a number."""
        with self.kernel.at_depth(0):
            return self.kernel.named(expression, wanted).atom

    # Keys ------------------------------------------------------------------------------------

    def write_key_lanes(self) -> None:
        self._steps = []
        for span in self.spans:
            step = multiply(span.modulus, span.inner)
            self._steps.append("" if step == ONE else self._atom(step, f"step_{span.axis.name}"))
        self.lanes = self._write_lanes("tl.arange(0, BLOCK_N)")

    def _write_lanes(self, lane: str) -> _Lanes:
        kernel = self.kernel
        along = [
            kernel.assign(f"key_{span.axis.name}", Value(offset, "n"))
            for span, offset in zip(self.spans, offsets_in_box(lane, self.key_sides), strict=True)
        ]
        names = tuple(one.text for one in along)
        tokens = kernel.assign("key_lanes", Value(self._distance(names), "n"))
        for span, offset in zip(self.spans, along, strict=True):
            kernel.define(lane_of(span.axis.name), offset)
        kernel.define(KEY_LANE, tokens)
        return _Lanes(names, tokens.text)

    def _distance(self, along: Sequence[str]) -> str:
        """How many tokens lie between a corner and what has these offsets from it."""
        terms = zip(along, self._steps, strict=True)
        return " + ".join(f"{one} * {step}" if step else one for one, step in terms)

    def has(self, kind: Kind) -> bool:
        return self.loops.has(kind)

    def write_loop(self, kind: Kind, body: Body, *, pipelined: bool = True) -> None:
        self.loops.write(kind, body, pipelined=pipelined)

    def begin_tile(self, kind: Kind, block: Block) -> KeyTile:
        return self._begin(kind, block, self.lanes)

    def _begin(self, kind: Kind, block: Block, lanes: _Lanes) -> KeyTile:
        kernel = self.kernel
        start = kernel.assign("key_start", Value(self._position(block))).text
        kernel.define(KEY_START, Value(start))
        conditions = []
        for span, corner, offset in zip(self.spans, block, lanes.along, strict=True):
            name = span.axis.name
            kernel.define(start_of(name), Value(corner))
            kernel.define_lazily(
                Coordinate("j", name),
                f"j_{name}",
                Value(f"{corner} + {offset}", "n", Binding.SUM),
            )
            count = kernel.value(Size(f"local.axis.{name}")).text
            conditions.append(f"({offset} < {count} - {corner})")
        tokens = lane = self._rolled(block, lanes.along, lanes.tokens)
        if tokens != lanes.tokens:
            named = kernel.assign("key_lanes", Value(tokens, "n"))
            kernel.define(KEY_LANE, named)
            tokens = lane = named.text
        if kind is Kind.PARTIAL:
            bounded = f"tl.minimum({tokens}, {kernel.size('Lk')} - 1 - {start})"
            lane = kernel.assign("key_lane", Value(bounded, "n")).text
        kernel.define_lazily(Index("j"), "j", Value(f"{start} + {lane}", "n", Binding.SUM))
        return KeyTile(start, tokens, lane, " & ".join(conditions))

    def _rolled(self, block: Block, along: Sequence[str], tokens: str) -> str:
        """Distances from the corner of a block, less the whole axis for what lies past its end."""
        for number, span in enumerate(self.spans):
            if span.shift is not None:
                length, inner = self._length(span), self.kernel.value(span.inner).atom
                past = f"{self._whole(span, block[number])} + {along[number]} >= {length}"
                size = length if span.inner == ONE else f"{length} * {inner}"
                tokens = f"{tokens} - tl.where({past}, {size}, 0)"
        return tokens

    @contextmanager
    def few_keys(self, count: int) -> Iterator[Value]:
        kernel = self.kernel
        few = kernel.assign("few_lanes", Value(f"tl.arange(0, {count})", "n"))
        self._few = few.text
        leaves = (KEY_LANE, *(lane_of(span.axis.name) for span in self.spans))
        with kernel.other_lanes(leaves, str(count)):
            yield few

    def begin_few(self, block: Block, first: str) -> KeyTile:
        self._few_block = block
        return self._begin(Kind.PARTIAL, block, self._write_lanes(f"({first} + {self._few})"))

    def key_count(self, tile: KeyTile, first: str, count: int) -> str:
        return str(count)

    def key_number(self, tile: KeyTile, first: str, key: str) -> str:
        along = [f"({one})" for one in offsets_in_box(f"({first} + {key})", self.key_sides)]
        distance = self._rolled(self._few_block, along, self._distance(along))
        return f"tl.minimum({tile.start} + {distance}, {self.kernel.size('Lk')} - 1)"


def offsets_in_box(lane: str, sides: Sequence[int]) -> list[str]:
    """The offset along each axis of lane number `lane` in a box, row-major; sides are powers of
    two."""
    result = []
    shift = 0
    for number in reversed(range(len(sides))):
        side = sides[number]
        offset = f"{lane} >> {shift}" if shift else lane
        result.append(f"{offset} & {side - 1}" if number else offset)
        shift += side.bit_length() - 1
    return result[::-1]


def _residue(span: AxisSpan) -> Index:
    return Index(f"residue.{span.axis.name}")
