"""Integers that are known when a kernel is emitted: sizes of vectors, starts of slices."""

from __future__ import annotations

from attndsl.codegen.program import Specialization
from attndsl.diagnostics import InternalError
from attndsl.expression import Binary, Call, Expression, Literal, Size, Unary, substitute


def integer(expression: Expression, specialization: Specialization) -> int:
    """The value of an integer expression over literals, `D` and `Dv`."""

    def value(node: Expression) -> int:
        match node:
            case Literal(value=int() as number):
                return int(number)
            case Size(name="D"):
                return specialization.head_dim
            case Size(name="Dv"):
                return specialization.value_dim
            case Unary(operator="-", operand=operand):
                return -value(operand)
            case Binary(operator=operator, left=left, right=right):
                return _combine(operator, value(left), value(right))
            case Call(function="min", arguments=arguments):
                return min(map(value, arguments))
            case Call(function="max", arguments=arguments):
                return max(map(value, arguments))
        raise InternalError(f"not known when the kernel is emitted: {node}")

    return value(expression)


def with_known_sizes(expression: Expression, specialization: Specialization) -> Expression:
    """The expression with `D` and `Dv` as numbers."""
    known: dict[Expression, Expression] = {
        Size("D"): Literal(specialization.head_dim),
        Size("Dv"): Literal(specialization.value_dim),
    }
    return substitute(expression, known)


def _combine(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return left // right
        case "%":
            return left % right
        case "**" if right >= 0:
            return int(left**right)
    raise InternalError(f"`{operator}` in a size")
