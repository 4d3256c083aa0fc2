"""Arithmetic on floats, vectors and matrices that folds zeros and ones, for derived expressions.

A float that meets a vector or a matrix counts for each of its elements.
"""

from __future__ import annotations

from attndsl.expression import (
    FLOAT,
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

ZERO, ONE = Literal(0.0), Literal(1.0)


def plus(left: Expression, right: Expression, type: Type = FLOAT) -> Expression:
    """`left + right` for a node of the given type: either may be a float for all its elements."""
    if left == ZERO:
        return right
    if right == ZERO:
        return left
    return Binary("+", left, right, _wider(left, right))


def times(left: Expression, right: Expression) -> Expression:
    """`left * right`, a float and a vector or two of one type.

    A factor stays within the branch that a condition selects, so that the other branch is 0 even
    where the factor is not finite.
    """
    for one, other in ((left, right), (right, left)):
        match one:
            case Literal(value=0.0):
                return ZERO
            case Literal(value=1.0):
                return other
            case Literal(value=-1.0):
                return negative(other)
            case Select(condition, then, otherwise) if ZERO in (then, otherwise):
                return select(condition, times(then, other), times(otherwise, other))
            case Unary("-", operand):
                return negative(times(operand, other))
    if isinstance(left, Literal) and isinstance(right, Literal):
        return Literal(float(left.value * right.value))
    return Binary("*", left, right, _wider(left, right))


def negative(operand: Expression) -> Expression:
    match operand:
        case Literal(value=float(value)):
            return Literal(-value)
        case Unary("-", inner):
            return inner
        case Select(condition, then, otherwise) if ZERO in (then, otherwise):
            return select(condition, negative(then), negative(otherwise))
    return Unary("-", operand, operand.type)


def minus(left: Expression, right: Expression) -> Expression:
    if right == ZERO:
        return left
    if left == ZERO:
        return negative(right)
    return Binary("-", left, right, _wider(left, right))


def over(left: Expression, right: Expression) -> Expression:
    """`left / right`; like a product it stays within a condition's branch."""
    match left:
        case Literal(value=0.0):
            return ZERO
        case Select(condition, then, otherwise) if ZERO in (then, otherwise):
            return select(condition, over(then, right), over(otherwise, right))
        case Unary("-", operand):
            return negative(over(operand, right))
    if right == ONE:
        return left
    return Binary("/", left, right, _wider(left, right))


def select(condition: Expression, then: Expression, otherwise: Expression) -> Expression:
    """`then if condition else otherwise`."""
    if then == otherwise:
        return then
    return Select(condition, then, otherwise, _wider(then, otherwise))


def _wider(left: Expression, right: Expression) -> Type:
    """The type of an elementwise operation: a float broadcasts."""
    return right.type if isinstance(left.type, Scalar) else left.type


# Sums over elements ---------------------------------------------------------------------------


def dot(left: Expression, right: Expression, type: Type) -> Expression:
    """The sum over all elements of a node of the given type of `left * right`; either may be a
    float for all of them."""
    if isinstance(type, Scalar):
        return times(left, right)
    if ZERO in (left, right):
        return ZERO
    match left, right:
        case (Select(condition, then, otherwise), other) | (
            other,
            Select(condition, then, otherwise),
        ) if isinstance(condition.type, Scalar) and ZERO in (then, otherwise):
            return select(condition, dot(then, other, type), dot(otherwise, other, type))
    match isinstance(left.type, Scalar), isinstance(right.type, Scalar):
        case True, True:
            return times(times(left, right), count(type))
        case True, False:
            return times(left, total(right))
        case False, True:
            return times(right, total(left))
    if isinstance(type, Matrix):
        return total(times(left, right))
    return Call("dot", (left, right), FLOAT)


def total(value: Expression) -> Expression:
    """The sum of all elements of a vector or a matrix."""
    if isinstance(value.type, Matrix):
        return Call("sum", (_times_ones(value, value.type),), FLOAT)
    return Call("sum", (value,), FLOAT)


def _times_ones(matrix: Expression, type: Matrix) -> Expression:
    """The sums of a matrix's rows."""
    return Call("dot", (matrix, filled(ONE, Vector(type.columns))), Vector(type.rows))


def count(type: Type) -> Expression:
    """How many elements there are, as a float."""
    match type:
        case Vector(size):
            return _float(size)
        case Matrix(rows, columns):
            return times(_float(rows), _float(columns))
    return ONE


def _float(size: Expression) -> Expression:
    if isinstance(size, Literal):
        return Literal(float(size.value))
    return Call("float", (size,), FLOAT)


def filled(value: Expression, type: Vector) -> Expression:
    """A vector with the same float in every element; a vector stays as it is."""
    if isinstance(value.type, Vector):
        return value
    zeros = Binary("*", ZERO, Call("arange", (type.size,), type), type)
    return zeros if value == ZERO else Binary("+", value, zeros, type)
