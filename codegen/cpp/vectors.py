"""Vector expressions: element by element, with what needs a whole vector kept in an array.

Lanes are tokens, so an array holds one `Floats` for each element of the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from attndsl.codegen.cpp.constants import constant
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.diagnostics import InternalError, error
from attndsl.expression import (
    FLOAT,
    INT,
    Binary,
    Call,
    Element,
    Expression,
    Index,
    Literal,
    Operand,
    Read,
    Scalar,
    Select,
    Slice,
    Unary,
    Vector,
    children,
)
from attndsl.functions import FUNCTIONS, Shape

if TYPE_CHECKING:
    from attndsl.codegen.cpp.expressions import Expressions

# Gives C++ for element `index` of an operand, and what it varies with.
ElementOf = Callable[[str], Text]


class Vectors:
    """`operands` says how the elements of `q`, `k` and `v` are reached."""

    def __init__(self, operands: Mapping[str, ElementOf]):
        self._operands = dict(operands)
        self._arrays: dict[tuple[Expression, Level], Operand] = {}
        self._array_levels: dict[str, Level] = {}
        self._loops = 0
        self._loop_names: set[str] = set()

    def reduction(self, expressions: Expressions, node: Call, level: Level) -> Text:
        """`dot`, `sum`, `mean`, `amax` or `norm` of vectors, as a loop in the scope of `level`."""
        if isinstance(node.type, Vector):
            raise InternalError("a vector where a scalar is needed")
        first = node.arguments[0]
        size = self.size(expressions, first)
        with_self = Call("dot", (first, first), FLOAT)
        self._prepare(expressions, node, level)
        match node.function:
            case "dot":
                return self._sum(expressions, node.arguments, size, level)
            case "norm":
                expressions.used_support.add("sqrt")
                total = self._sum(expressions, with_self.arguments, size, level)
                return Text(f"sqrt({total.text})", level)
            case "mean":
                total = self._sum(expressions, node.arguments, size, level)
                return Text(f"{total.text} * (1.0f / {size}.0f)", level, 13)
            case "sum":
                return self._sum(expressions, node.arguments, size, level)
            case "amax":
                index = self._loop_index(expressions, level)
                element = self._text(expressions, first, index, level)
                name = self._name(expressions, level)
                kind = self._kind(level)
                lines = expressions.scopes[level].lines
                lines.append(f"{kind} {name} = {self._splat('-INFINITE', level)};")
                lines.append(
                    f"for (int {index.name} = 0; {index.name} < {size}; ++{index.name}) "
                    f"{name} = maximum({name}, {element});"
                )
                return Text(name, level)
        raise InternalError(f"`{node.function}` is no reduction")

    def element_of(
        self, expressions: Expressions, vector: Expression, index: Expression, level: Level
    ) -> Text:
        """One element of a vector, at an index known at compile time or at run time."""
        self._prepare(expressions, vector, level)
        scalar = self._scalarize(expressions, vector, index, level)
        if isinstance(scalar, Element):
            return self._leaf_element(expressions, scalar, level)
        return expressions.text(scalar, level)

    def array_level(self, name: str) -> Level | None:
        """The level of an array made here; None for `q`, `k` and `v`."""
        return self._array_levels.get(name)

    def leaf(self, expressions: Expressions, node: Element, level: Level) -> Text | None:
        """C++ for an element of an operand, an array or a read; None for any other vector."""
        if isinstance(node.vector, Operand | Read):
            return self._leaf_element(expressions, node, level)
        return None

    def loop(self, expressions: Expressions, vector: Expression, level: Level) -> tuple[str, Text]:
        """The name of a loop index, and the vector's element there, a vector of lanes."""
        index = self._loop_index(expressions, level)
        self._prepare(expressions, vector, level)
        return index.name, Text(self._text(expressions, vector, index, level), level, 2)

    def whole(self, expressions: Expressions, node: Expression, level: Level) -> str:
        """The name of an array that holds the vector."""
        return self._array(expressions, node, level).name

    def size(self, expressions: Expressions, node: Expression) -> int:
        """The vector's length, which has to be known here."""
        assert isinstance(node.type, Vector)
        known = constant(node.type.size, expressions.specialization)
        if known is None:
            raise error(
                "A085",
                "a vector whose length is not known before the call is not supported on cpu",
                node.span,
                help="a vector's length may use D, Dv and parameters",
            )
        return known

    def _sum(
        self, expressions: Expressions, factors: tuple[Expression, ...], size: int, level: Level
    ) -> Text:
        index = self._loop_index(expressions, level)
        parts = [self._text(expressions, factor, index, level) for factor in factors]
        product = " * ".join(f"({part})" if " " in part else part for part in parts)
        name = self._name(expressions, level)
        scope = expressions.scopes[level]
        scope.lines.append(f"{self._kind(level)} {name}{{}};")
        d = index.name
        scope.lines.append(f"for (int {d} = 0; {d} < {size}; ++{d}) {name} += {product};")
        return Text(name, level)

    def _text(
        self, expressions: Expressions, vector: Expression, index: Index, level: Level
    ) -> str:
        scalar = self._scalarize(expressions, vector, index, level)
        value = expressions.text(scalar, level)
        if level & Level.LANE and not value.is_vector:
            return self._splat(value.text, level)
        return value.text

    def _prepare(self, expressions: Expressions, node: Expression, level: Level) -> None:
        """Name the scalars inside a vector expression once, outside of the loops over elements."""
        for child in children(node):
            if isinstance(child.type, Vector):
                self._prepare(expressions, child, level)
            elif (
                isinstance(child.type, Scalar)
                and children(child)
                and not isinstance(node, Slice | Element)
            ):
                expressions.declare(child)

    def _scalarize(
        self, expressions: Expressions, node: Expression, index: Expression, level: Level
    ) -> Expression:
        """The scalar expression for element `index` of a vector."""
        if not isinstance(node.type, Vector):
            return node

        def element(child: Expression) -> Expression:
            return self._scalarize(expressions, child, index, level)

        match node:
            case Operand():
                return Element(node, index)
            case Read():
                return Element(node, index)
            case Unary() | Binary() | Select():
                return _with_scalars(node, tuple(map(element, children(node))))
            case Slice(vector, start, _):
                return self._scalarize(expressions, vector, add(start, index), level)
            case Call("arange", _):
                return Call("float", (index,), FLOAT)
            case Call(function, arguments) if FUNCTIONS[function].shape == Shape.ELEMENTWISE:
                return Call(function, tuple(map(element, arguments)), FLOAT)
            case Call():
                return Element(self._array(expressions, node, level), index)
        raise InternalError(f"the cpp target has no form for the vector {type(node).__name__}")

    def _array(self, expressions: Expressions, node: Expression, level: Level) -> Operand:
        """An array with the vector's elements, filled in the scope of `level`."""
        known = self._arrays.get((node, level))
        if known is not None:
            return known
        size = self.size(expressions, node)
        self._prepare(expressions, node, level)
        name = f"vector_{len(self._arrays) + 1}"
        assert isinstance(node.type, Vector)
        operand = Operand(name, node.type)
        self._arrays[node, level] = operand
        self._array_levels[name] = level
        lines = list(self._filling(expressions, node, name, size, level))
        scope = expressions.scopes[level]
        scope.lines.append(f"{self._kind(level)} {name}[{size}];")
        scope.lines += lines
        self._operands[name] = lambda index: Text(f"{name}[{index}]", level)
        return operand

    def _filling(
        self, expressions: Expressions, node: Expression, name: str, size: int, level: Level
    ) -> Iterator[str]:
        """Statements that fill the array `name` with the vector's elements."""
        match node:
            case Call("concat", parts):
                start = 0
                for part in parts:
                    length = self.size(expressions, part)
                    yield from self._copy(expressions, part, name, 0, start, length, level)
                    start += length
            case Call("rotate_half", (inner,)):
                half = size // 2
                negative = Unary("-", inner, inner.type)
                yield from self._copy(expressions, negative, name, half, 0, half, level)
                yield from self._copy(expressions, inner, name, 0, half, half, level)
            case Call("rotate_pairs", (inner,)):
                source = self._array(expressions, inner, level).name
                d = self._loop_index(expressions, level).name
                yield f"for (int {d} = 0; {d} < {size}; {d} += 2) {{"
                yield f"    {name}[{d}] = -{source}[{d} + 1];"
                yield f"    {name}[{d} + 1] = {source}[{d}];"
                yield "}"
            case Call("softmax", (inner,)):
                expressions.used_support.add("exp")
                greatest = self.reduction(expressions, Call("amax", (inner,), FLOAT), level).text
                index = self._loop_index(expressions, level)
                element = self._text(expressions, inner, index, level)
                total = self._name(expressions, level)
                d = index.name
                yield f"{self._kind(level)} {total}{{}};"
                yield f"for (int {d} = 0; {d} < {size}; ++{d}) {{"
                yield f"    {name}[{d}] = exp({element} - {greatest});"
                yield f"    {total} += {name}[{d}];"
                yield "}"
                yield f"{total} = 1.0f / {total};"
                yield f"for (int {d} = 0; {d} < {size}; ++{d}) {name}[{d}] *= {total};"
            case Call("dot", (left, right)):
                yield from self._matrix_product(expressions, left, right, name, size, level)
            case _:
                yield from self._copy(expressions, node, name, 0, 0, size, level)

    def _copy(
        self,
        expressions: Expressions,
        vector: Expression,
        name: str,
        source: int,
        target: int,
        size: int,
        level: Level,
    ) -> Iterator[str]:
        index = self._loop_index(expressions, level)
        d = index.name
        element = self._scalarize(expressions, vector, add(Literal(source), index), level)
        value = expressions.text(element, level)
        text = value.text
        if level & Level.LANE and not value.is_vector:
            text = self._splat(text, level)
        place = f"{target} + {d}" if target else d
        yield f"for (int {d} = 0; {d} < {size}; ++{d}) {name}[{place}] = {text};"

    def _matrix_product(
        self,
        expressions: Expressions,
        left: Expression,
        right: Expression,
        name: str,
        size: int,
        level: Level,
    ) -> Iterator[str]:
        """A matrix times a vector, or a vector times a matrix."""
        from_left = isinstance(left.type, Vector)
        vector, matrix = (left, right) if from_left else (right, left)
        if not isinstance(matrix, Read):
            raise InternalError("a matrix that is not read from an input")
        if not isinstance(vector, Operand | Read):
            vector = self._array(expressions, vector, level)
        depth = self.size(expressions, vector)
        outer, inner = self._loop_index(expressions, level), self._loop_index(expressions, level)
        arguments = expressions.arguments
        own = expressions.level(matrix)
        base, lanes, stride = expressions.reads.vector_base(expressions, matrix, own)
        row_stride = arguments.stride(matrix.name, len(matrix.indices))
        row, column = (inner, outer) if from_left else (outer, inner)
        address = f"{row.name} * {row_stride} + {column.name} * {stride}"
        if lanes is None:
            entry = f"({base})[{address}]"
        else:
            entry = f"gather({base} + {address}, {lanes.text})"
        element = self._text(expressions, vector, inner, level)
        yield f"for (int {outer.name} = 0; {outer.name} < {size}; ++{outer.name}) {{"
        yield f"    {self._kind(level)} sum{{}};"
        yield (
            f"    for (int {inner.name} = 0; {inner.name} < {depth}; ++{inner.name}) "
            f"sum += {entry} * {element};"
        )
        yield f"    {name}[{outer.name}] = sum;"
        yield "}"

    def _leaf_element(self, expressions: Expressions, node: Element, level: Level) -> Text:
        index = self._address(expressions, node.index)
        match node.vector:
            case Operand(name=name):
                value = self._operands[name](index)
            case Read() as read:
                value = self._read_element(expressions, read, index)
            case _:
                raise InternalError("an element of a vector that is not in memory")
        return value

    def _address(self, expressions: Expressions, index: Expression) -> str:
        """An element's number: loop indices are plain integers here, not one for each lane."""
        known = constant(index, expressions.specialization)
        if known is not None:
            return str(known)
        match index:
            case Index(name=name) if name in self._loop_names:
                return name
            case Binary("+", left, right):
                return f"{self._address(expressions, left)} + {self._address(expressions, right)}"
        return expressions.text(index, Level.UNIFORM).inside(12)

    def _read_element(self, expressions: Expressions, read: Read, index: str) -> Text:
        reads = expressions.reads
        level = expressions.level(read)
        if level == Level.LANE and reads.stages:
            staged = reads.stage_vector(expressions, read, self.size(expressions, read))
            return Text(f"scratch.{staged.member}[({index}) * COLUMNS + column]", level)
        base, lanes, stride = reads.vector_base(expressions, read, level)
        if lanes is None:
            return Text(f"({base})[({index}) * {stride}]", level)
        key = Read("vector offset", (read,), INT)
        known = expressions.declared_text(key, level)
        offsets = known or expressions.declare_text(key, lanes, "Longs")
        return Text(f"gather({base} + ({index}) * {stride}, {offsets.text})", level)

    def _loop_index(self, expressions: Expressions, level: Level) -> Index:
        self._loops += 1
        index = Index(f"d{self._loops}")
        self._loop_names.add(index.name)
        expressions.add_loop_index(index.name, level)
        return index

    @staticmethod
    def _name(expressions: Expressions, level: Level) -> str:
        return expressions.fresh_name(level)

    @staticmethod
    def _kind(level: Level) -> str:
        return "Floats" if level & Level.LANE else "float"

    @staticmethod
    def _splat(text: str, level: Level) -> str:
        return f"floats({text})" if level & Level.LANE else text


def _with_scalars(node: Unary | Binary | Select, operands: tuple[Expression, ...]) -> Expression:
    """The same operation on elements in place of vectors."""
    match node:
        case Unary(operator):
            return Unary(operator, operands[0], FLOAT)
        case Binary(operator):
            return Binary(operator, operands[0], operands[1], FLOAT)
    condition, then, otherwise = operands
    return Select(condition, then, otherwise, FLOAT)


def add(left: Expression, right: Expression) -> Expression:
    """`left + right`, without a zero."""
    if left == Literal(0):
        return right
    return Binary("+", left, right, INT)
