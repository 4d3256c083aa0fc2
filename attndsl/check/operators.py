"""The types of operators: typed operands in, a typed node out.

An int that meets a float becomes `float(…)`; a scalar that meets a vector broadcasts. A bool is
never a number by itself.
"""

from __future__ import annotations

from attndsl.check import sizes
from attndsl.check.scope import Environment
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Expression,
    Literal,
    Matrix,
    Scalar,
    Select,
    Type,
    Unary,
    Vector,
)
from attndsl.source import Span

COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})


def describe(type_: Type) -> str:
    """A type in words for a message: "a float", "a vector of size D"."""
    from attndsl.printing import text

    match type_:
        case Vector(size):
            return f"a vector of size {text(size)}"
        case Matrix(rows, columns):
            return f"a matrix of {text(rows)} by {text(columns)}"
        case Scalar.INT:
            return "an int"
    return f"a {type_}"


def to_float(value: Expression, environment: Environment, span: Span) -> Expression:
    """The value as a float, a vector or a matrix; an int is converted. A020 for a bool."""
    if value.type is INT:
        return Call("float", (value,), FLOAT, span=value.span)
    if value.type is BOOL:
        raise environment.fault(
            "A020",
            "a bool is not a number",
            value.span or span,
            label="this is a bool",
            help="write `int(…)` or `float(…)`, or `a if condition else b`",
        )
    return value


def negate(operand: Expression, environment: Environment, span: Span) -> Expression:
    if operand.type is BOOL:
        operand = to_float(operand, environment, span)
    match operand:
        case Literal(value=int() | float() as value):
            return Literal(-value, span=span)
    broadcast("-", [operand], environment, span)
    return Unary("-", operand, operand.type, span=span)


def invert(operand: Expression, environment: Environment, span: Span) -> Expression:
    return Unary("not", _condition(operand, "not", environment), BOOL, span=span)


def logical(
    operator: str, left: Expression, right: Expression, environment: Environment, span: Span
) -> Expression:
    left = _condition(left, operator, environment)
    right = _condition(right, operator, environment)
    return Binary(operator, left, right, BOOL, span=span)


def _condition(operand: Expression, operator: str, environment: Environment) -> Expression:
    if operand.type is not BOOL:
        assert operand.span is not None
        raise environment.fault(
            "A020",
            f"`{operator}` takes bools, not {describe(operand.type)}",
            operand.span,
            label=f"this is {describe(operand.type)}",
            help="compare it, as in `… != 0`" if isinstance(operand.type, Scalar) else None,
        )
    return operand


def compare(
    operator: str, left: Expression, right: Expression, environment: Environment, span: Span
) -> Expression:
    for side in (left, right):
        if not isinstance(side.type, Scalar):
            raise environment.fault(
                "A020",
                f"`{operator}` compares scalars, not {describe(side.type)}",
                side.span or span,
                help="compare an element, or a sum or norm of the vector",
            )
    if left.type is BOOL or right.type is BOOL:
        if left.type is not right.type or operator not in ("==", "!="):
            raise environment.fault(
                "A020",
                f"`{operator}` cannot compare {describe(left.type)} with {describe(right.type)}",
                span,
                help="use `and`, `or` and `not` on bools",
            )
        return Binary(operator, left, right, BOOL, span=span)
    if left.type is not right.type:
        left, right = to_float(left, environment, span), to_float(right, environment, span)
    return Binary(operator, left, right, BOOL, span=span)


def arithmetic(
    operator: str, left: Expression, right: Expression, environment: Environment, span: Span
) -> Expression:
    """`+ - * / // % **` on scalars, or element by element on vectors."""
    for side in (left, right):
        if side.type is BOOL:
            to_float(side, environment, span)  # raises: names the bool
    if left.type is INT and right.type is INT and operator != "/":
        if operator != "**":
            return Binary(operator, left, right, INT, span=span)
        if isinstance(right, Literal) and right.value >= 0:
            return Binary(operator, left, right, INT, span=span)
    left, right = to_float(left, environment, span), to_float(right, environment, span)
    result = broadcast(operator, [left, right], environment, span)
    return Binary(operator, left, right, result, span=span)


def broadcast(
    operator: str, operands: list[Expression], environment: Environment, span: Span
) -> Type:
    """The type of an elementwise operation over floats and vectors of one size."""
    result: Type = FLOAT
    for operand in operands:
        found = operand.type
        if isinstance(found, Scalar):
            continue
        if isinstance(found, Matrix) and not environment.context.matrices:
            raise environment.fault(
                "A020",
                f"`{operator}` does not take a matrix",
                operand.span or span,
                label=f"this is {describe(found)}",
                help="multiply it by a vector with `dot(matrix, vector)`",
            )
        if isinstance(result, Scalar):
            result = found
        elif not fits(result, found):
            raise environment.fault(
                "A025",
                f"`{operator}` takes vectors of one size",
                span,
                label=f"{describe(result)} and {describe(found)}",
            )
    return result


def fits(wanted: Type, found: Type) -> bool:
    """Whether two types can be the same; sizes that cannot be compared are taken to be equal."""
    match wanted, found:
        case Vector(a), Vector(b):
            return not sizes.differ(a, b)
        case Matrix(a, b), Matrix(c, d):
            return not sizes.differ(a, c) and not sizes.differ(b, d)
    return wanted is found


def select(
    condition: Expression,
    then: Expression,
    otherwise: Expression,
    environment: Environment,
    span: Span,
) -> Expression:
    """`then if condition else otherwise`: both sides get one type."""
    condition = _condition(condition, "if", environment)
    if then.type is not otherwise.type:
        if BOOL in (then.type, otherwise.type):
            raise environment.fault(
                "A020",
                f"one side is {describe(then.type)}, the other {describe(otherwise.type)}",
                span,
                help="give both sides the same type",
            )
        then = to_float(then, environment, span)
        otherwise = to_float(otherwise, environment, span)
    result = broadcast("if", [then, otherwise], environment, span)
    if isinstance(then.type, Scalar) and isinstance(otherwise.type, Scalar):
        result = then.type
    return Select(condition, then, otherwise, result, span=span)
