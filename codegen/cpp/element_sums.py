"""Sums for elements of an input that both tokens of a pair decide on, such as a table of distances.

Pairs are added one at a time, in the order of tiles, keys and queries, so that a sum never depends
on how many threads there are. Where an element belongs to several heads of keys, each of these has
a copy, and the copies are added up at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.constants import constant
from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.reads import DTYPES, Array, Reads
from attndsl.codegen.cpp.scope import Level
from attndsl.codegen.program import Specialization
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    FLOAT,
    Call,
    Expression,
    Index,
    Literal,
    Matrix,
    Read,
    Scalar,
    Size,
    index_names,
)
from attndsl.planner import algebra
from attndsl.planner.plan import Buffer, ElementSum


@dataclass
class ElementTotal:
    """One `ElementSum` of a stage. `arrays` is told of the copies."""

    number: int
    one: ElementSum
    arrays: dict[str, Array]
    specialization: Specialization
    copies: Buffer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self._names.isdisjoint({"h", "g"}):
            name = f"copies.{self.one.buffer.name}"  # which nothing else can have
            dimensions = (Size("Hkv"), *self.one.buffer.dimensions)
            self.copies = Buffer(name, FLOAT, dimensions)
            self.arrays[name] = Array(name, FLOAT, dimensions)

    @property
    def _names(self) -> frozenset[str]:
        return frozenset().union(*map(index_names, self.one.indices))

    @property
    def is_shared_by_batches(self) -> bool:
        return "b" not in self._names

    @property
    def target(self) -> Buffer:
        """What the pairs are added to."""
        return self.one.buffer if self.copies is None else self.copies

    @property
    def count(self) -> Expression:
        """How many numbers the target holds."""
        result: Expression = Literal(1)
        for dimension in self.target.dimensions:
            result = algebra.multiply(result, dimension)
        return result

    def write_members(self, w: Writer) -> None:
        match self.one.value.type:
            case Matrix(rows, columns):
                size = self._constant(rows) * self._constant(columns)
                w.line(f"Floats {self._member}[{size}];")

    def write_start(self, w: Writer) -> None:
        if isinstance(self.one.value.type, Matrix):
            w.line(f"for (Floats &element : scratch.{self._member}) element = Floats{{}};")

    def write_cell(
        self,
        w: Writer,
        expressions: Expressions,
        reads: Reads,
        summed: Expression,
        value: str | None,
    ) -> None:
        """Add the pairs of one key and one column that `counts` holds for. `summed` is over
        products as they are stored; it has the name `value` if it is a float."""
        match self.one.value.type:
            case Scalar():
                base, offsets = self._address(expressions, reads)
                w.line(f"scatter_add({base}, {offsets}, {value}, counts);")
            case Matrix():
                self._write_outer(w, expressions, summed)
            case _:
                base, offsets = self._address(expressions, reads)
                stride = expressions.arguments.stride(
                    self.target.name, len(self.target.dimensions) - 1
                )
                size = expressions.vectors.size(expressions, summed)
                d, element = expressions.vectors.loop(expressions, summed, Level.PAIR)
                w.line(f"for (int {d} = 0; {d} < {size}; ++{d})")
                with w.indented():
                    place = f"{base} + {d} * {stride}, {offsets}"
                    w.line(f"scatter_add({place}, {element.text}, counts);")

    def _write_outer(self, w: Writer, expressions: Expressions, summed: Expression) -> None:
        """The matrix of every lane is added up in place; lanes are added at the tile's end."""
        match summed:
            case Call("outer", (left, right)):
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

    def write_finish(self, w: Writer, expressions: Expressions, reads: Reads) -> None:
        match self.one.value.type:
            case Matrix(rows, columns):
                base, _ = self._address(expressions, reads, Level.UNIFORM)
                rank = len(self.target.dimensions)
                strides = [
                    expressions.arguments.stride(self.target.name, axis)
                    for axis in (rank - 2, rank - 1)
                ]
                width = self._constant(columns)
                with w.block(f"for (int m = 0; m < {self._constant(rows)}; ++m) {{", "}"):
                    w.line(f"for (int n = 0; n < {width}; ++n)")
                    with w.indented():
                        w.line(
                            f"({base})[m * {strides[0]} + n * {strides[1]}] += "
                            f"sum_of_lanes(scratch.{self._member}[m * {width} + n]);"
                        )

    def write_merge(self, w: Writer, arguments: Arguments, count: str) -> None:
        """After all tiles: the copies, added up in order."""
        if self.copies is None:
            return
        copies = arguments.tensor(self.copies.name, DTYPES[FLOAT], written=True)
        total = arguments.tensor(self.one.buffer.name, DTYPES[FLOAT], written=True)
        w.line(f"add_copies({copies}, arguments.Hkv, {count}, {total}, threads);")

    def _address(
        self, expressions: Expressions, reads: Reads, level: Level = Level.PAIR
    ) -> tuple[str, str]:
        """The pointer that lanes share and the offset of each."""
        indices = self.one.indices
        if self.copies is not None:
            indices = (Index("g"), *indices)
        read = Read(self.target.name, indices, self.one.value.type)
        return reads.target(expressions, read, level)

    def _constant(self, size: Expression) -> int:
        known = constant(size, self.specialization)
        if known is None:
            raise InternalError("a matrix whose size is not known before the call")
        return known

    @property
    def _member(self) -> str:
        return f"matrix_{self.number}"
