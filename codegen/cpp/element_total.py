"""Sums for elements of an input that both tokens of a pair decide on, such as a table of distances.

Whatever its form, a sum is added up in the order of tiles and blocks, so that it never depends on
how many threads there are. Where an element belongs to several heads of keys or parts of queries,
each of these has a copy, and the copies are added up at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attndsl.codegen.cpp.parts import PART, is_of_one_part
from attndsl.codegen.cpp.reads import DTYPES, Array
from attndsl.codegen.cpp.scope import Level
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.writer import Writer
from attndsl.expression import FLOAT, Expression, Index, Read, Size, index_names
from attndsl.planner.plan import Buffer, ElementSum


@dataclass
class ElementTotal:
    """One `ElementSum` of a stage, `number` of them, where the queries are cut into `parts` (None:
    they are not). `arrays` is told of the copies."""

    number: int
    one: ElementSum
    frame: TileFrame
    arrays: dict[str, Array]
    parts: Expression | None
    copies: Buffer | None = field(init=False, default=None)
    copied: tuple[tuple[Index, Expression], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.parts is not None and not is_of_one_part(self.one):
            self.copied = ((PART, self.parts),)
        if self._names.isdisjoint({"h", "g"}):
            self.copied += ((Index("g"), Size("Hkv")),)
        if self.copied:
            name = f"copies.{self.one.buffer.name}"  # which nothing else can have
            dimensions = (*(count for _, count in self.copied), *self.one.buffer.dimensions)
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
    def indices(self) -> tuple[Expression, ...]:
        """Those of the target's element."""
        return (*(index for index, _ in self.copied), *self.one.indices)

    def count(self) -> str:
        """How many numbers the target holds."""
        return self._product(self.target.dimensions)

    def _product(self, factors: Iterable[Expression]) -> str:
        texts = [self.frame.expressions.text(one, Level.UNIFORM).inside(13) for one in factors]
        return " * ".join(["INT64_C(1)", *texts])

    @property
    def values(self) -> tuple[Expression, ...]:
        """What a kernel computes for every pair, floats and vectors."""
        return (self.one.value,)

    @property
    def support(self) -> frozenset[str]:
        return frozenset()

    @property
    def is_cleared(self) -> bool:
        """Whether the target has to be 0 before the first pair."""
        return True

    def write_members(self, w: Writer) -> None:
        """Members of the scratch block."""

    def write_start(self, w: Writer) -> None:
        """At the start of a tile."""

    def write_cell(self, w: Writer, summed: Expression, value: str | None) -> None:
        """Add the pairs of one key and one column that `counts` holds for. `summed` is over
        products as they are stored; it has the name `value` if it is a float."""

    def write_block(self, w: Writer, cells: str) -> None:
        """Add the pairs of a block. `cells` are the first of `values`, 0 where they are hidden."""

    def write_finish(self, w: Writer) -> None:
        """At the end of a tile."""

    def write_merge(self, w: Writer) -> None:
        """After all tiles: the copies, added up in order."""
        if self.copies is None:
            return
        arguments = self.frame.arguments
        copies = arguments.tensor(self.copies.name, DTYPES[FLOAT], written=True)
        total = arguments.tensor(self.one.buffer.name, DTYPES[FLOAT], written=True)
        number = self._product(count for _, count in self.copied)
        w.line(f"add_copies({copies}, {number}, {self.count()}, {total}, threads);")

    def address(
        self, level: Level = Level.PAIR, indices: tuple[Expression, ...] | None = None
    ) -> tuple[str, str]:
        """The pointer that lanes share and the offset of each."""
        indices = self.indices if indices is None else indices
        read = Read(self.target.name, indices, self.one.value.type)
        return self.frame.reads.target(self.frame.expressions, read, level)
