"""Reads of inputs and of buffers that earlier stages wrote.

Indices are moved into range (a hidden pair may ask for anything), addresses are 64-bit. What lies
along the keys for each query is turned once per tile, so that lanes are queries; what depends on
the distance of a pair is read once for each diagonal of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attndsl.codegen.cpp.arguments import ELEMENT_TYPES, Arguments
from attndsl.codegen.cpp.distances import DISTANCE, over_distance
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import BOOL, FLOAT, INT, Expression, Index, Read, Scalar, Size, Type

if TYPE_CHECKING:
    from attndsl.codegen.cpp.expressions import Expressions

DTYPES = {FLOAT: "fp32", INT: "int32", BOOL: "bool"}

# An index that is in range whatever happens, by the dimension that it runs over.
_CANONICAL = {"b": "B", "h": "H", "g": "Hkv", "row": "Lq", "j": "Lk"}


@dataclass(frozen=True)
class Array:
    """What a spec may read: an input, or a buffer of the plan."""

    name: str
    element: Scalar
    dimensions: tuple[Expression, ...]


@dataclass(frozen=True)
class PairTile:
    """A part of an input that is turned once per tile: `rows` are offsets per query, and
    `base` points to key 0."""

    member: str
    kind: str
    element: str
    base: str
    rows: Text
    stride: str

    @property
    def declaration(self) -> str:
        """The member of the scratch block."""
        return f"{self.kind} {self.member}[BLOCK_N * COLUMNS];"

    @property
    def load(self) -> str:
        """Fills it for the block of keys at hand."""
        rows = self.rows.text.removesuffix("[column]")
        return (
            f"load_pairs({self.base} + first_key * {self.stride}, {rows}, {self.stride}, keys, "
            f"scratch.{self.member});"
        )


@dataclass(frozen=True)
class DistanceTile:
    """What a block's pairs read by how far apart they are: one element for every diagonal of it.
    `lines` compute the offsets `rows` of the elements for the lanes of `distance`."""

    member: str
    kind: str
    base: str
    rows: str
    lines: tuple[str, ...]

    @property
    def declaration(self) -> str:
        """The member of the scratch block."""
        return f"{self.kind} {self.member}[DIAGONALS];"

    @property
    def load(self) -> str:
        """Fills it for the block of keys at hand."""
        w = Writer(comment="//")
        with w.block("for (int part = 0; part < DIAGONALS; ++part) {", "}"):
            w.line(FIRST_DISTANCE)
            w.lines(*self.lines)
            w.line(f"scratch.{self.member}[part] = gather({self.base}, {self.rows});")
        return w.text().rstrip()


FIRST_DISTANCE = (
    "const Ints distance = "
    "start + offset - first_key - LAST_DIAGONAL + part * LANES + lane_numbers();"
)
"""The distances on the diagonals of part `part` of a block."""


@dataclass(frozen=True)
class StagedVector:
    """A vector per query, kept as [element][query] for as long as the tile lasts."""

    member: str
    size: int
    base: str
    rows: Text
    stride: str


@dataclass
class Reads:
    """`stages`: whether the kernel has a scratch block that tiles and vectors can be kept in.
    `scattered_keys`: whether a block's keys are not consecutive ones."""

    arguments: Arguments
    arrays: Mapping[str, Array]
    stages: bool = False
    residue: bool = False
    scattered_keys: bool = False
    pair_tiles: dict[Read, PairTile | DistanceTile] = field(default_factory=dict)
    staged_vectors: dict[Read, StagedVector] = field(default_factory=dict)

    def scalar(self, expressions: Expressions, node: Read, level: Level) -> Text:
        """One element, in each lane where the index varies with the lane."""
        array = self._array(node)
        if not level & Level.LANE:
            offset = " + ".join(self._offsets(expressions, node, level)) or "0"
            text = f"{self._pointer(array)}[{offset}]"
            return Text(f"{text} != 0", level, 8) if array.element == BOOL else Text(text, level)
        if self.stages and level == Level.PAIR and self._lies_along_keys(expressions, node):
            tile = self._pair_tile(expressions, node, array)
            return Text(f"scratch.{tile.member}[key * COLUMNS + column]", level)
        if self.stages and level == Level.PAIR and self._sees_distance(node):
            member = self._distance_tile(expressions, node, array).member
            diagonal = "LAST_DIAGONAL - key + column * LANES"
            return Text(f"load_diagonal(scratch.{member}, {diagonal})", level)
        expressions.used_support.add("gather")
        base, rows = self._split(expressions, node, level)
        return Text(f"gather({base}, {rows.text})", level)

    def vector_base(
        self, expressions: Expressions, node: Read, level: Level
    ) -> tuple[str, Text | None, str]:
        """Of a read that leaves its last dimension open: the pointer to element 0 (or to that of
        lane offset 0), the offsets of the lanes, and the stride between elements."""
        array = self._array(node)
        stride = self.arguments.stride(node.name, len(array.dimensions) - 1)
        if not level & Level.LANE:
            offsets = self._offsets(expressions, node, level)
            return " + ".join([self._pointer(array), *offsets]), None, stride
        base, rows = self._split(expressions, node, level)
        return base, rows, stride

    def target(self, expressions: Expressions, node: Read, level: Level) -> tuple[str, str]:
        """Where elements are added to: the pointer that lanes share, and the offset of each lane
        (none below the level of a lane)."""
        self.arguments.tensor(node.name, DTYPES[FLOAT], written=True)
        base, rows = self._split(expressions, node, level)
        if not rows.text:
            return base, ""
        key = Read("target", (node,), INT)
        known = expressions.declared_text(key, level)
        return base, (known or expressions.declare_text(key, rows, "Longs")).text

    def dimension(self, node: Read, axis: int) -> Expression:
        return self._array(node).dimensions[axis]

    def stage_vector(self, expressions: Expressions, node: Read, size: int) -> StagedVector:
        """A per-query vector, to be gathered once per tile."""
        known = self.staged_vectors.get(node)
        if known is None:
            expressions.used_support.add("gather")
            base, rows, stride = self.vector_base(expressions, node, Level.LANE)
            assert rows is not None
            member = f"query_vector_{len(self.staged_vectors) + 1}"
            known = StagedVector(member, size, base, rows, stride)
            self.staged_vectors[node] = known
        return known

    def _array(self, node: Read) -> Array:
        array = self.arrays.get(node.name)
        if array is None:
            raise InternalError(f"the plan reads `{node.name}`, which nothing declares")
        return array

    def _pointer(self, array: Array) -> str:
        return self.arguments.tensor(array.name, DTYPES[array.element])

    def _offsets(self, expressions: Expressions, node: Read, level: Level) -> list[str]:
        """The scalar parts of the address, in elements."""
        return [
            f"{self._index(expressions, node, axis, level).inside(13)} * "
            f"{self.arguments.stride(node.name, axis)}"
            for axis in range(len(node.indices))
            if not expressions.level(node.indices[axis]) & Level.LANE
        ]

    def _split(self, expressions: Expressions, node: Read, level: Level) -> tuple[str, Text]:
        """A pointer that all lanes share, and an offset for each lane."""
        array = self._array(node)
        base = " + ".join([self._pointer(array), *self._offsets(expressions, node, level)])
        expressions.used_support.add("gather")
        parts = []
        for axis, index in enumerate(node.indices):
            own = expressions.level(index)
            if own & Level.LANE:
                stride = self.arguments.stride(node.name, axis)
                part = f"longs({self._index(expressions, node, axis, own).text}) * {stride}"
                parts.append(self._offset_part(expressions, node, axis, Text(part, own, 13), level))
        return base, Text(" + ".join(parts), level, 12)

    def _offset_part(
        self, expressions: Expressions, node: Read, axis: int, part: Text, level: Level
    ) -> str:
        """A part that varies with less than the whole is computed where it varies."""
        if part.level == level:
            return part.text
        key = Read(f"offset {axis}", (node,), INT)
        known = expressions.declared_text(key, part.level)
        return (known or expressions.declare_text(key, part, "Longs")).text

    def _index(self, expressions: Expressions, node: Read, axis: int, level: Level) -> Text:
        index = node.indices[axis]
        dimension = self.dimension(node, axis)
        value = expressions.text(index, level)
        if (
            isinstance(index, Index)
            and isinstance(dimension, Size)
            and _CANONICAL.get(index.name) == dimension.name
            and not (self.residue and index.name in ("row", "j"))
        ):
            return value
        size = expressions.text(dimension, Level.UNIFORM)
        return Text(f"inside({value.text}, {size.text})", value.level)

    def _lies_along_keys(self, expressions: Expressions, node: Read) -> bool:
        *others, last = node.indices
        return (
            last == Index("j")
            and not (self.residue or self.scattered_keys)
            and self.dimension(node, len(others)) == Size("Lk")
            and all(not expressions.level(index) & Level.STEP for index in others)
        )

    def _sees_distance(self, node: Read) -> bool:
        is_of_a_line = not (self.residue or self.scattered_keys)
        return is_of_a_line and all(over_distance(index) is not None for index in node.indices)

    def _distance_tile(
        self, expressions: Expressions, node: Read, array: Array
    ) -> PairTile | DistanceTile:
        known = self.pair_tiles.get(node)
        if known is None:
            expressions.used_support.add("diagonals")
            base, rows, lines = self.by_distance(expressions, node.name, node.indices, node.type)
            kind = "Floats" if array.element == FLOAT else "Ints"
            member = f"pairs_{len(self.pair_tiles) + 1}"
            known = self.pair_tiles[node] = DistanceTile(member, kind, base, rows, lines)
        return known

    def by_distance(
        self, expressions: Expressions, name: str, indices: tuple[Expression, ...], type: Type
    ) -> tuple[str, str, tuple[str, ...]]:
        """A pointer, the offset from it of each lane of `distance`, and what computes that."""
        over = tuple(one for one in map(over_distance, indices) if one is not None)
        expressions.spell(DISTANCE, Text("distance", Level.PAIR))
        expressions.count(over)
        scopes = expressions.scopes
        before, scopes[Level.PAIR] = scopes[Level.PAIR], Scope("apart")
        base, rows = self._split(expressions, Read(name, over, type), Level.PAIR)
        lines, scopes[Level.PAIR] = scopes[Level.PAIR].lines, before
        return base, rows.text, tuple(lines)

    def _pair_tile(
        self, expressions: Expressions, node: Read, array: Array
    ) -> PairTile | DistanceTile:
        known = self.pair_tiles.get(node)
        if known is None:
            expressions.used_support.add("pair_tile")
            last = len(node.indices) - 1
            rows = Read(node.name, node.indices[:-1], node.type)
            base, offsets = self._split(expressions, rows, Level.LANE)
            key = Read("rows", (node,), INT)
            named = expressions.declare_text(key, offsets, "Longs")
            kind = "Floats" if array.element == FLOAT else "Ints"
            member = f"pairs_{len(self.pair_tiles) + 1}"
            element = ELEMENT_TYPES[DTYPES[array.element]]
            stride = self.arguments.stride(node.name, last)
            known = PairTile(member, kind, element, base, named, stride)
            self.pair_tiles[node] = known
        return known
