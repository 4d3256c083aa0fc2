"""Which form a sum for elements of an input has, and the forms that add pair by pair."""

from __future__ import annotations

from attndsl.codegen.cpp.constants import constant
from attndsl.codegen.cpp.element_blocks import (
    AlongKeysTotal,
    DistanceTotal,
    DistanceVectorTotal,
    lies_along_keys,
    scaled_query_vector,
    see_distance_only,
)
from attndsl.codegen.cpp.element_total import ElementTotal
from attndsl.codegen.cpp.reads import Array
from attndsl.codegen.cpp.scope import Level
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import Call, Expression, Matrix, Scalar
from attndsl.planner.plan import ElementSum


def element_total(
    number: int,
    one: ElementSum,
    frame: TileFrame,
    arrays: dict[str, Array],
    parts: Expression | None,
) -> ElementTotal:
    """The sum in the cheapest form that it has."""
    arguments = number, one, frame, arrays, parts
    match one.value.type:
        case Matrix():
            return MatrixTotal(*arguments)
        case Scalar():
            if lies_along_keys(one, frame):
                return AlongKeysTotal(*arguments)
            if see_distance_only(one, frame):
                return DistanceTotal(*arguments)
        case _:
            if see_distance_only(one, frame) and scaled_query_vector(one.value, frame):
                return DistanceVectorTotal(*arguments)
    return ScatteredTotal(*arguments)


class ScatteredTotal(ElementTotal):
    """Pairs are added one at a time, in the order of keys and queries."""

    def write_cell(self, w: Writer, summed: Expression, value: str | None) -> None:
        base, offsets = self.address()
        if value is not None:
            w.line(f"scatter_add({base}, {offsets}, {value}, counts);")
            return
        expressions = self.frame.expressions
        stride = expressions.arguments.stride(self.target.name, len(self.target.dimensions) - 1)
        size = expressions.vectors.size(expressions, summed)
        d, element = expressions.vectors.loop(expressions, summed, Level.PAIR)
        w.line(f"for (int {d} = 0; {d} < {size}; ++{d})")
        with w.indented():
            place = f"{base} + {d} * {stride}, {offsets}"
            w.line(f"scatter_add({place}, {element.text}, counts);")


class MatrixTotal(ElementTotal):
    """The matrix of every lane is added up in place; lanes are added at the tile's end."""

    def write_members(self, w: Writer) -> None:
        rows, columns = self._sizes
        w.line(f"Floats {self._member}[{rows * columns}];")

    def write_start(self, w: Writer) -> None:
        w.line(f"for (Floats &element : scratch.{self._member}) element = Floats{{}};")

    def write_cell(self, w: Writer, summed: Expression, value: str | None) -> None:
        match summed:
            case Call("outer", (left, right)):
                expressions = self.frame.expressions
                vectors = expressions.vectors
                rows, columns = (vectors.size(expressions, one) for one in (left, right))
                row, column = (vectors.whole(expressions, one, Level.PAIR) for one in (left, right))
                with w.block(f"for (int m = 0; m < {rows}; ++m) {{", "}"):
                    w.line(f"for (int n = 0; n < {columns}; ++n)")
                    with w.indented():
                        w.line(
                            f"scratch.{self._member}[m * {columns} + n] += "
                            f"select(counts, {row}[m] * {column}[n], floats(0.0f));"
                        )
                return
        raise InternalError("a matrix that is no product of two vectors")

    def write_finish(self, w: Writer) -> None:
        base, _ = self.address(Level.UNIFORM)
        rank = len(self.target.dimensions)
        arguments = self.frame.arguments
        strides = [arguments.stride(self.target.name, axis) for axis in (rank - 2, rank - 1)]
        rows, columns = self._sizes
        with w.block(f"for (int m = 0; m < {rows}; ++m) {{", "}"):
            w.line(f"for (int n = 0; n < {columns}; ++n)")
            with w.indented():
                w.line(
                    f"({base})[m * {strides[0]} + n * {strides[1]}] += "
                    f"sum_of_lanes(scratch.{self._member}[m * {columns} + n]);"
                )

    @property
    def _sizes(self) -> tuple[int, int]:
        assert isinstance(self.one.value.type, Matrix)
        specialization = self.frame.sources.specialization
        rows, columns = (
            constant(size, specialization)
            for size in (self.one.value.type.rows, self.one.value.type.columns)
        )
        if rows is None or columns is None:
            raise InternalError("a matrix whose size is not known before the call")
        return rows, columns

    @property
    def _member(self) -> str:
        return f"matrix_{self.number}"
