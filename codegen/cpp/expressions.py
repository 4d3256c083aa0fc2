"""Scalar expressions of the language as C++, each part computed where it varies least.

An `Expressions` belongs to one kernel. `text` gives C++ for a value at the place where it is used;
whatever varies with less is declared in the scope of its own level and referred to by name.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.constants import constant, is_non_negative
from attndsl.codegen.cpp.reads import Reads
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.vectors import Vectors
from attndsl.codegen.program import Specialization
from attndsl.diagnostics import InternalError, error
from attndsl.dropout import DROPOUT_SIZES
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    QUERY_OPERANDS,
    Binary,
    Call,
    Coordinate,
    DotResult,
    Element,
    Expression,
    Index,
    Kept,
    Literal,
    Operand,
    Read,
    Scalar,
    Scale,
    ScoreValue,
    Select,
    Size,
    Unary,
    children,
    walk,
)

SCALAR_TYPES = {BOOL: "bool", INT: "int32_t", FLOAT: "float"}
VECTOR_TYPES = {BOOL: "Ints", INT: "Ints", FLOAT: "Floats"}

_PRECEDENCE = {"*": 13, "/": 13, "//": 13, "%": 13, "+": 12, "-": 12}
_COMPARE = {"<": 9, "<=": 9, ">": 9, ">=": 9, "==": 8, "!=": 8}
_ATOM = 100
_UNARY = 14
_TERNARY = 2

# Functions that are spelled alike in the language and in the support pieces.
_FUNCTIONS = frozenset(
    {"exp", "exp2", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "softplus", "erf", "sin", "cos"}
    | {"floor", "sign"}
)


class Expressions:
    """`levels` says what each index varies with, `spelled` what it and other leaves are called.

    `scopes` has a scope for every level that can be hoisted to. `axes` are the spec's axes.
    """

    def __init__(
        self,
        arguments: Arguments,
        reads: Reads,
        specialization: Specialization,
        axes: tuple[str, ...],
        levels: Mapping[str, Level],
        spelled: Mapping[Expression, Text],
        scopes: dict[Level, Scope],
        vectors: Vectors,
    ):
        self.arguments = arguments
        self.reads = reads
        self.specialization = specialization
        self.scopes = scopes
        self.used_support: set[str] = set()
        self.used_indices: set[str] = set()
        self.vectors = vectors
        self._axes = axes
        self._levels = dict(levels)
        self._spelled = dict(spelled)
        self._uses: Counter[Expression] = Counter()
        self._level_memo: dict[Expression, Level] = {}
        self._fresh = 0

    def level(self, node: Expression) -> Level:
        """What the value varies with."""
        known = self._level_memo.get(node)
        if known is None:
            known = self._level(node)
            self._level_memo[node] = known
        return known

    def _level(self, node: Expression) -> Level:
        if node in self._spelled:
            return self._spelled[node].level
        match node:
            case Index(name=name):
                return self._levels[name]
            case Coordinate(position=position):
                return self._levels[position]
            case ScoreValue() | DotResult():
                return Level.PAIR
            case Operand(name=name):
                known = self.vectors.array_level(name)
                if known is not None:
                    return known
                return self._levels["i" if name in QUERY_OPERANDS else "j"]
        return reduce(Level.__or__, map(self.level, children(node)), Level.UNIFORM)

    def spell(self, node: Expression, text: Text) -> None:
        """Say what a leaf is called in this kernel."""
        self._spelled[node] = text

    def count(self, roots: Iterable[Expression]) -> None:
        """Note how often each part is used, so that what is used twice is computed once."""
        for root in roots:
            self._uses.update(walk(root))

    def text(self, node: Expression, at: Level = Level.PAIR) -> Text:
        """C++ for the value, for use at level `at`, which is the node's own or above it."""
        level = self.level(node)
        if node in self._spelled:
            return self._spelled[node]
        if isinstance(node, Literal | Size | Scale | Index):
            return self._leaf(node)
        known = self._declared(node, level)
        if known is not None:
            return known
        # A value used twice has a name; so has one that is needed more often than it changes.
        if level == at and self._uses[node] < 2:
            return self._node(node, level)
        return self.declare(node)

    def declare(self, node: Expression) -> Text:
        """The value under a name, declared in the scope of its level."""
        level = self.level(node)
        known = self._declared(node, level)
        if known is not None:
            return known
        value = self._node(node, level)
        assert isinstance(node.type, Scalar)
        kinds = VECTOR_TYPES if value.is_vector else SCALAR_TYPES
        return self.declare_text(node, value, kinds[node.type])

    def declare_text(self, node: Expression, value: Text, kind: str) -> Text:
        """`value`, of C++ type `kind`, under a name that stands for `node` from here on."""
        scope = self.scopes[value.level]
        name = f"{scope.prefix}_{len(scope.names) + 1}"
        scope.names[node] = name
        if scope.array:
            scope.arrays.append(f"{kind} {name}[COLUMNS];")
            scope.lines.append(f"{name}[column] = {value.text};")
        else:
            scope.lines.append(f"const {kind} {name} = {value.text};")
        return self._named(scope, name, value.level)

    def declared_text(self, node: Expression, level: Level) -> Text | None:
        """The name that stands for `node` at this level, if it has one."""
        return self._declared(node, level)

    def fresh_name(self, level: Level) -> str:
        """A name for a variable that a loop fills."""
        self._fresh += 1
        return f"{self.scopes[level].prefix}_sum_{self._fresh}"

    def add_loop_index(self, name: str, level: Level) -> None:
        """`name` counts the elements of a vector, inside the scope of `level`."""
        self._levels[name] = level
        spelled = f"ints({name})" if level & Level.LANE else name
        self._spelled[Index(name)] = Text(spelled, level)

    def _declared(self, node: Expression, level: Level) -> Text | None:
        scope = self.scopes.get(level)
        if scope is None or node not in scope.names:
            return None
        return self._named(scope, scope.names[node], level)

    @staticmethod
    def _named(scope: Scope, name: str, level: Level) -> Text:
        return Text(f"{name}[column]" if scope.array else name, level)

    def _leaf(self, node: Expression) -> Text:
        match node:
            case Literal(value=value):
                return Text(literal_text(value, node), Level.UNIFORM, _UNARY)
            case Size(name=name):
                if name in ("D", "Dv", "BLOCK_M", "BLOCK_N"):
                    return Text(name, Level.UNIFORM)
                return Text(self.arguments.size(name), Level.UNIFORM)
            case Scale():
                return Text(self.arguments.scale(), Level.UNIFORM)
            case Index(name=name):
                self.used_indices.add(name)
                level = self._levels[name]
                scope = self.scopes.get(level)
                in_array = level == Level.LANE and scope is not None and scope.array
                return Text(f"{name}[column]" if in_array else name, level)
        raise InternalError(f"{type(node).__name__} is not a leaf")

    def _node(self, node: Expression, level: Level) -> Text:
        match node:
            case Coordinate(position, axis):
                return self._node(self._coordinate(position, axis), level)
            case Read():
                return self.reads.scalar(self, node, level)
            case Kept(indices=indices):
                declare_dropout(self)
                *scalars, key = (self.text(index, level) for index in indices)
                listed = [*(one.text for one in scalars), as_vector(key, INT).text]
                return Text(f"dropout.kept({', '.join(listed)})", level)
            case Unary("-", operand):
                return Text(f"-{self.text(operand, level).inside(_UNARY)}", level, _UNARY)
            case Unary("not", operand):
                sign = "~" if level & Level.LANE else "!"
                return Text(f"{sign}{self.text(operand, level).inside(_UNARY)}", level, _UNARY)
            case Binary():
                return self._binary(node, level)
            case Select():
                return self._select(node, level)
            case Call():
                return self._call(node, level)
            case Element():
                leaf = self.vectors.leaf(self, node, level)
                if leaf is not None:
                    return leaf
                return self.vectors.element_of(self, node.vector, node.index, level)
        raise InternalError(f"the cpp target has no form for {type(node).__name__}")

    def _coordinate(self, position: str, axis: str) -> Expression:
        """Row-major: divided by the lengths of the faster axes, modulo its own."""
        number = self._axes.index(axis)
        value: Expression = Index(position)
        faster: list[Expression] = [Size(f"axis.{name}") for name in self._axes[number + 1 :]]
        if faster:
            stride = reduce(lambda x, y: Binary("*", x, y, INT), faster)
            value = Binary("//", value, stride, INT)
        if number > 0:
            value = Binary("%", value, Size(f"axis.{axis}"), INT)
        return value

    def _binary(self, node: Binary, level: Level) -> Text:
        left, right = self.text(node.left, level), self.text(node.right, level)
        vector = bool(level & Level.LANE)
        operator = node.operator
        if operator in ("and", "or"):
            if vector:
                sign, precedence = ("&", 7) if operator == "and" else ("|", 5)
                first, second = as_mask(left), as_mask(right)
            else:
                sign, precedence = ("&&", 4) if operator == "and" else ("||", 3)
                first, second = left, right
            return Text(
                f"{first.inside(_mixed(precedence))} {sign} {second.inside(_mixed(precedence))}",
                level,
                precedence,
            )
        if operator in _COMPARE:
            precedence = _COMPARE[operator]
            if vector and node.left.type == BOOL:
                left, right = as_mask(left), as_mask(right)
            return Text(
                f"{left.inside(precedence)} {operator} {right.inside(precedence)}",
                level,
                precedence,
            )
        if operator == "**":
            return self._power(node, left, right, level)
        if operator in ("//", "%"):
            return self._floor_division(node, left, right, level)
        precedence = _PRECEDENCE[operator]
        if operator == "/" and vector and not right.is_vector:
            return Text(f"{left.inside(12)} * (1.0f / {right.inside(13)})", level, precedence)
        return Text(
            f"{left.inside(precedence - 1)} {operator} {right.inside(precedence)}",
            level,
            precedence,
        )

    def _power(self, node: Binary, left: Text, right: Text, level: Level) -> Text:
        exponent = node.right.value if isinstance(node.right, Literal) else None
        if exponent is not None and exponent == int(exponent) and 1 <= exponent <= 4:
            leaf = isinstance(node.left, Literal | Size | Scale | Index)
            if leaf or node.left in self._spelled or left.level != level:
                name = left
            else:
                name = self.declare(node.left)
            return Text(" * ".join([name.inside(13)] * int(exponent)), level, 13)
        self.used_support.add("integers" if node.type == INT else "power")
        if level & Level.LANE:
            left, right = as_vector(left, node.type), as_vector(right, node.type)
        return Text(f"power({left.text}, {right.text})", level)

    def _floor_division(self, node: Binary, left: Text, right: Text, level: Level) -> Text:
        operator = node.operator
        if node.type != INT:
            self.used_support.add("floor_divide_floats")
            if level & Level.LANE:
                left, right = as_vector(left, node.type), as_vector(right, node.type)
            function = "floor_divide" if operator == "//" else "floor_modulo"
            return Text(f"{function}({left.text}, {right.text})", level)
        divisor = constant(node.right, self.specialization)
        positive = divisor is not None and 0 < divisor < 2**31
        exact = positive and is_non_negative(node.left)
        power_of_two = divisor is not None and divisor & (divisor - 1) == 0
        if exact and not (level & Level.LANE and power_of_two):
            sign = "/" if operator == "//" else "%"
            return Text(f"{left.inside(12)} {sign} {divisor}", level, 13)
        self.used_support.add("floor_divide")
        function = "floor_divide" if operator == "//" else "floor_modulo"
        if level & Level.LANE:
            if positive:
                return Text(f"{function}<{divisor}>({left.text})", level)
            left, right = as_vector(left, INT), as_vector(right, INT)
        return Text(f"{function}({left.text}, {right.text})", level)

    def _select(self, node: Select, level: Level) -> Text:
        condition = self.text(node.condition, level)
        then, otherwise = self.text(node.then, level), self.text(node.otherwise, level)
        if level & Level.LANE:
            convert = as_mask if node.type == BOOL else (lambda text: as_vector(text, node.type))
            then, otherwise = convert(then), convert(otherwise)
            if condition.is_vector:
                return Text(f"select({condition.text}, {then.text}, {otherwise.text})", level)
        chosen = f"{then.inside(_TERNARY)} : {otherwise.inside(_TERNARY)}"
        return Text(f"{condition.inside(_TERNARY)} ? {chosen}", level, _TERNARY)

    def _call(self, node: Call, level: Level) -> Text:
        vector = bool(level & Level.LANE)
        function = node.function
        if function in ("dot", "sum", "mean", "amax", "norm"):
            return self.vectors.reduction(self, node, level)
        if function in ("int", "float"):
            return self._conversion(node, level)
        parts = [self.text(argument, level) for argument in node.arguments]
        if vector:
            kind = node.arguments[0].type
            parts = [as_vector(part, kind) for part in parts]
        match function:
            case "abs":
                return Text(f"absolute({parts[0].text})", level)
            case "relu":
                zero = "floats(0.0f)" if vector else "0.0f"
                return Text(f"maximum({parts[0].text}, {zero})", level)
            case "min" | "max":
                spelled = "minimum" if function == "min" else "maximum"
                return reduce(lambda x, y: Text(f"{spelled}({x.text}, {y.text})", level), parts)
            case "log2":
                self.used_support.add("log")
                return Text(f"log({parts[0].text}) * 1.44269504f", level, 13)
        if function not in _FUNCTIONS:
            raise InternalError(f"the cpp target has no form for the function `{function}`")
        self.used_support.add(function)
        return Text(f"{function}({parts[0].text})", level)

    def _conversion(self, node: Call, level: Level) -> Text:
        (argument,) = node.arguments
        value = self.text(argument, level)
        vector = bool(level & Level.LANE)
        if argument.type == BOOL:
            if vector:
                value = Text(f"-{value.inside(_UNARY)}", level, _UNARY)
            else:
                value = Text(f"static_cast<int32_t>({value.text})", level)
        elif argument.type == FLOAT:
            return value
        return value if node.function == "int" else Text(f"to_float({value.text})", level)


def declare_dropout(expressions: Expressions) -> None:
    """The variable `dropout`, ahead of the tile."""
    expressions.used_support.add("dropout")
    sizes = ", ".join(map(expressions.arguments.size, DROPOUT_SIZES))
    declaration = f"const Dropout dropout({sizes});"
    lines = expressions.scopes[Level.UNIFORM].lines
    if declaration not in lines:
        lines.append(declaration)


def _mixed(precedence: int) -> int:
    # `a & b | c` reads badly: whatever is neither an atom nor a comparison gets parentheses.
    return max(precedence, 7)


def as_vector(value: Text, kind: object) -> Text:
    """The value in every lane, if it is a scalar."""
    if value.is_vector:
        return value
    function = {FLOAT: "floats", INT: "ints", BOOL: "mask"}[kind]  # type: ignore[index]
    return Text(f"{function}({value.text})", value.level | Level.LANE)


def as_mask(value: Text) -> Text:
    return as_vector(value, BOOL)


def literal_text(value: bool | int | float, node: Expression) -> str:
    """A literal of C++; a float is rounded to the nearest 32-bit one."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            if not -(2**31) <= value < 2**31:
                raise error(
                    "A084",
                    f"the integer {value} does not fit into 32 bits",
                    node.span,
                    help="positions and integers are 32-bit in kernels; use a float",
                )
            return "INT32_MIN" if value == -(2**31) else str(value)
    if math.isnan(value):
        return '__builtin_nanf("")'
    try:
        value = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        value = math.copysign(math.inf, value)
    if math.isinf(value):
        return "INFINITE" if value > 0 else "-INFINITE"
    digits = f"{value:.9g}"
    return f"{digits if any(c in digits for c in '.e') else digits + '.0'}f"
