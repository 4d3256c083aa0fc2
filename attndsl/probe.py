"""Values at single points, for analysis: plain Python, where what is not known stays unknown.

A point is one batch, head and pair of positions of a small imagined call, with values for the
parameters. Inputs, vectors and the scale are unknown (`None`), and so is whatever needs them; but
`False and unknown` is False. Division by zero and logarithms of nothing are reported to a listener
and are unknown then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attndsl.expression import (
    BOOL,
    INT,
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Parameter,
    Select,
    Size,
    Unary,
    children,
)
from attndsl.records import dataclass

Value = bool | int | float | None
Listener = Callable[[Expression, Expression, float], None]
"""Called with an operation, the operand that is out of its domain, and that operand's value."""


@dataclass(frozen=True)
class Point:
    """What names stand for. `sizes` holds `axis.NAME` for each of `axes`."""

    indices: Mapping[str, int]
    sizes: Mapping[str, int]
    parameters: Mapping[str, bool | int | float]
    axes: tuple[str, ...] = ()


def _ignore(operation: Expression, operand: Expression, value: float) -> None:
    pass


def value_at(node: Expression, point: Point, listener: Listener = _ignore) -> Value:
    """The value of an expression at a point, or None where it is not known.

    Only the branch of a conditional that is taken, and the sides of `and` and `or` that matter, are
    looked at.
    """

    known: dict[int, Value] = {}

    def value(node: Expression) -> Value:
        if not isinstance(node, Binary | Call | Select):
            return compute(node)
        if id(node) not in known:
            known[id(node)] = compute(node)  # definitions are inlined, so nodes are shared
        return known[id(node)]

    def compute(node: Expression) -> Value:
        match node:
            case Literal(value=constant):
                return constant
            case Index(name=name):
                return point.indices.get(name)
            case Size(name=name):
                return point.sizes.get(name)
            case Parameter(name=name):
                return point.parameters.get(name)
            case Coordinate(position=position, axis=axis):
                return _coordinate(point, position, axis)
            case Unary(operator=operator, operand=operand):
                inner = value(operand)
                if inner is None:
                    return None
                return not inner if operator == "not" else -inner
            case Binary(operator="and" | "or" as operator, left=left, right=right):
                first = value(left)
                decided = operator == "or"
                if first is decided:
                    return decided
                second = value(right)
                if second is decided:
                    return decided
                return None if first is None or second is None else not decided
            case Binary():
                return binary(node)
            case Select(condition=condition, then=then, otherwise=otherwise):
                chosen = value(condition)
                if chosen is None:
                    a, b = value(then), value(otherwise)
                    return a if a == b else None
                return value(then if chosen else otherwise)
            case Call():
                return call(node)
        for child in children(node):
            value(child)
        return None

    def binary(node: Binary) -> Value:
        left, right = value(node.left), value(node.right)
        if right is not None and right == 0 and node.operator in ("/", "//", "%"):
            listener(node, node.right, right)
            return None
        if left is None or right is None:
            return None
        try:
            return _BINARY[node.operator](left, right)
        except (OverflowError, ZeroDivisionError):
            return None

    def call(node: Call) -> Value:
        values = [value(argument) for argument in node.arguments]
        numbers = [one for one in values if one is not None]
        if len(numbers) < len(values):
            return None
        first = numbers[0]
        least = _DOMAINS.get(node.function)
        if least is not None and not least(first):
            listener(node, node.arguments[0], first)
            return None
        function = _FUNCTIONS.get(node.function)
        if function is None or (node.type not in (BOOL, INT) and not _is_number(node)):
            return None
        try:
            return function(*numbers)
        except (OverflowError, ValueError):
            return None

    return value(node)


def _is_number(node: Call) -> bool:
    return not any(hasattr(argument.type, "size") for argument in node.arguments)


def _coordinate(point: Point, position: str, axis: str) -> int | None:
    steps = point.indices.get(position)
    if steps is None:
        return None
    number = point.axes.index(axis)
    for name in point.axes[number + 1 :]:
        steps //= point.sizes[f"axis.{name}"]
    return steps if number == 0 else steps % point.sizes[f"axis.{axis}"]


def _power(left: float, right: float) -> Value:
    # An exponent that makes a number of millions of digits is left unknown.
    if abs(right) > 64 or (left == 0 and right < 0) or (left < 0 and right != int(right)):
        return None
    result: float = left**right
    return result


_BINARY: dict[str, Callable[[float, float], Value]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": _power,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}

_DOMAINS: dict[str, Callable[[float], bool]] = {
    "log": lambda x: x > 0,
    "log2": lambda x: x > 0,
    "rsqrt": lambda x: x > 0,
    "sqrt": lambda x: x >= 0,
}

_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": math.log,
    "log2": math.log2,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1.0 / math.sqrt(x),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "sign": lambda x: math.copysign(1.0, x) if x else 0.0,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "float": float,
    "int": int,
}
