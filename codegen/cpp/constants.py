"""Sizes that a specialisation knows: the head dimensions are compiled in, lengths are not."""

from __future__ import annotations

from attndsl.codegen.program import Specialization
from attndsl.expression import (
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Select,
    Size,
    Unary,
)


def constant(expression: Expression, specialization: Specialization) -> int | None:
    """The integer that the expression is for these head dimensions; None if it varies."""
    match expression:
        case Literal(value=bool()):
            return None
        case Literal(value=int(value)):
            return value
        case Size("D"):
            return specialization.head_dim
        case Size("Dv"):
            return specialization.value_dim
        case Unary("-", operand):
            known = constant(operand, specialization)
            return None if known is None else -known
        case Binary(operator, left, right):
            first = constant(left, specialization)
            second = constant(right, specialization)
            return None if first is None or second is None else _binary(operator, first, second)
        case Call("min" | "max" as function, arguments):
            values = [constant(argument, specialization) for argument in arguments]
            known_values = [value for value in values if value is not None]
            if len(known_values) < len(values):
                return None
            return min(known_values) if function == "min" else max(known_values)
    return None


def _binary(operator: str, left: int, right: int) -> int | None:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//" if right != 0:
            return left // right
        case "%" if right != 0:
            return left % right
        case "**" if 0 <= right < 64:
            return int(left**right)
    return None


def is_non_negative(expression: Expression) -> bool:
    """Whether an integer is at least 0 for every index and size, as far as its form shows.

    Query positions may be negative (a negative offset), key positions are not.
    """
    match expression:
        case Literal(value=int(value)):
            return value >= 0
        case Index(name=name):
            return name in ("b", "h", "g", "j", "row", "residue", "t")
        case Coordinate(position=position):
            return position == "j"
        case Size(name=name):
            return name != "offset"
        case Binary("+" | "*" | "**", left, right):
            return is_non_negative(left) and is_non_negative(right)
        case Binary("//", left, right):
            return is_non_negative(left) and is_non_negative(right)
        case Binary("%", _, right):
            return is_non_negative(right)
        case Call("abs", _):
            return True
        case Call("max", arguments):
            return any(map(is_non_negative, arguments))
        case Call("min", arguments):
            return all(map(is_non_negative, arguments))
        case Call("int", _):
            return True
        case Select(_, then, otherwise):
            return is_non_negative(then) and is_non_negative(otherwise)
    return False
