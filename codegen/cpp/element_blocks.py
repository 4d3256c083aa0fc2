"""Sums for elements of an input that are made block by block, with vectors of pairs at a time.

An element for every pair lies along the keys, so that a block of pairs is turned and added row by
row. An element for every distance takes the sum of a diagonal of the block, of which there are few.
"""

from __future__ import annotations

from attndsl.codegen.cpp.distances import over_distance
from attndsl.codegen.cpp.element_total import ElementTotal
from attndsl.codegen.cpp.reads import DTYPES, FIRST_DISTANCE
from attndsl.codegen.cpp.scope import Level, Scope
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.writer import Writer
from attndsl.expression import FLOAT, TRUE, Binary, Expression, Index, Scalar, Size
from attndsl.planner.plan import ElementSum


def lies_along_keys(one: ElementSum, frame: TileFrame) -> bool:
    """Whether consecutive keys of a query have consecutive elements."""
    *others, last = one.indices
    return (
        _is_of_a_line(frame)
        and last == Index("j")
        and one.buffer.dimensions[-1] == Size("Lk")
        and not any(frame.expressions.level(index) & Level.STEP for index in others)
        and any(frame.expressions.level(index) & Level.LANE for index in others)
    )


def see_distance_only(one: ElementSum, frame: TileFrame) -> bool:
    """Whether the element depends on how far apart query and key are, and on no more of them."""
    return _is_of_a_line(frame) and all(over_distance(index) is not None for index in one.indices)


def scaled_query_vector(
    value: Expression, frame: TileFrame
) -> tuple[Expression, Expression] | None:
    """A float of the pair and a vector of the query whose product the value is."""
    match value:
        case Binary("*", left, right):
            for scalar, vector in ((left, right), (right, left)):
                is_scalar = isinstance(scalar.type, Scalar) and not isinstance(vector.type, Scalar)
                if is_scalar and not frame.expressions.level(vector) & Level.STEP:
                    return scalar, vector
    return None


def _is_of_a_line(frame: TileFrame) -> bool:
    """Whether a tile's queries, and a block's keys, follow each other."""
    stage = frame.stage
    return stage.grid is None and stage.stripes is None and stage.residue is None


class AlongKeysTotal(ElementTotal):
    """A block of pairs, turned so that lanes are keys, is added to the rows of its queries."""

    @property
    def support(self) -> frozenset[str]:
        return frozenset({"pair_sums"})

    @property
    def is_cleared(self) -> bool:
        """Not where every pair has an element of its own, and all are visible."""
        own = {"h", "row", "j"} <= {one.name for one in self.one.indices if isinstance(one, Index)}
        return not own or self.frame.stage.mask != TRUE

    def write_block(self, w: Writer, cells: str) -> None:
        base, rows = self.address(Level.LANE, self.indices[:-1])
        stride = self.frame.arguments.stride(self.target.name, len(self.target.dimensions) - 1)
        rows = rows.removesuffix("[column]")
        to = f"{base} + first_key * {stride}"
        add = f"({cells}, {rows}, {stride}, rows, keys, {to}, {self.count()});"
        if self.is_cleared:
            w.line(f"add_pairs<false>{add}")
        elif not self.is_shared_by_batches:
            w.line(f"add_pairs<true>{add}")
        else:
            w.line("if (b == 0)")
            with w.indented():
                w.line(f"add_pairs<true>{add}")
            w.line("else")
            with w.indented():
                w.line(f"add_pairs<false>{add}")


class DistanceTotal(ElementTotal):
    """The sums of a block's diagonals are added to the elements of their distances."""

    @property
    def support(self) -> frozenset[str]:
        return frozenset({"diagonals"})

    def write_members(self, w: Writer) -> None:
        w.line(f"alignas(64) float skewed_{self.number}[LANES * DIAGONALS * LANES];")

    def write_block(self, w: Writer, cells: str) -> None:
        with w.block("{", "}"):
            w.line("Floats sums[DIAGONALS];")
            cell = f"{cells}[key * COLUMNS + column]"
            with w.block("const auto value = [&](int key, int column) {", "};"):
                w.line(f"return select(exists[column], {cell}, floats(0.0f));")
            w.line(f"sum_diagonals(keys, scratch.skewed_{self.number}, value, sums);")
            base = self._write_places(w)
            w.line(f"add_diagonals(sums, place, rows, keys, {base});")

    def _write_places(self, w: Writer) -> str:
        """The offset of every diagonal's element from the pointer that this gives."""
        frame, name = self.frame, self.target.name
        frame.arguments.tensor(name, DTYPES[FLOAT], written=True)
        base, offsets, lines = frame.reads.by_distance(
            frame.expressions, name, self.indices, self.one.value.type
        )
        w.line("Longs place[DIAGONALS];")
        with w.block("for (int part = 0; part < DIAGONALS; ++part) {", "}"):
            w.line(FIRST_DISTANCE)
            w.lines(*lines)
            w.line(f"place[part] = {offsets};")
        return base


class DistanceVectorTotal(DistanceTotal):
    """The same for a vector of the query times a float of the pair."""

    @property
    def support(self) -> frozenset[str]:
        return frozenset({"diagonal_rows"})

    @property
    def values(self) -> tuple[Expression, ...]:
        return (self._parts[0],)

    @property
    def _parts(self) -> tuple[Expression, Expression]:
        parts = scaled_query_vector(self.one.value, self.frame)
        assert parts is not None
        return parts

    @property
    def _size(self) -> int:
        expressions = self.frame.expressions
        return expressions.vectors.size(expressions, self.one.value)

    def write_members(self, w: Writer) -> None:
        size, number = self._size, self.number
        w.line(f"alignas(64) float vectors_{number}[BLOCK_M * padded({size})];")
        w.line(f"Floats values_{number}[PADDED_KEYS * COLUMNS];")
        w.line(f"alignas(64) float diagonals_{number}[DIAGONALS * LANES * padded({size})];")

    def write_start(self, w: Writer) -> None:
        expressions = self.frame.expressions
        vector, size, number = self._parts[1], self._size, self.number
        # The elements of lanes are declared in a scope of their own, inside the loop.
        scopes = self.frame.scopes
        before, scopes[Level.LANE] = scopes[Level.LANE], Scope("element")
        d, element = expressions.vectors.loop(expressions, vector, Level.LANE)
        lines, scopes[Level.LANE] = scopes[Level.LANE].lines, before
        with w.block(f"const auto element_{number} = [&](int {d}, int column) {{", "};"):
            w.lines(*lines)
            w.line(f"return {element.text};")
        w.line(f"store_query_rows<{size}>(element_{number}, scratch.vectors_{number});")
        w.line(
            f"const bool vectors_{number}_finite = "
            f"all_finite<{size}>(scratch.vectors_{number}, padded({size}), rows);"
        )

    def write_block(self, w: Writer, cells: str) -> None:
        size, number = self._size, self.number
        vectors, sums = f"scratch.vectors_{number}", f"scratch.diagonals_{number}"
        with w.block("{", "}"):
            arguments = f"<{size}>({cells}, {vectors}, rows, keys"
            w.line(f"if (vectors_{number}_finite)")
            with w.indented():
                padded = f"scratch.values_{number}, {sums}"
                w.line(f"sum_rows_of_diagonals{arguments}, {padded});")
            w.line("else")
            with w.indented():
                w.line(f"sum_rows_of_diagonals_guarded{arguments}, {sums});")
            base = self._write_places(w)
            w.line(f"add_rows_of_diagonals<{size}>({sums}, place, rows, keys, {base});")
