"""Which side of the score matrix an expression varies with, and the algebra that splits it by side.

A tile's matrix products want one factor per query and one per key. `terms` writes a vector that
mixes the two as a sum of products of one-sided vectors, where linearity allows it; what it cannot
split stays whole, and the plan evaluates it pair by pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

from attndsl.expression import (
    FLOAT,
    Binary,
    Call,
    Expression,
    Literal,
    Matrix,
    Operand,
    Slice,
    Unary,
    Vector,
    index_names,
    walk,
)
from attndsl.planner.floats import ZERO, filled

MAX_TERMS = 16


class Side(IntFlag):
    """What a value varies with, apart from batch and heads."""

    NEITHER = 0
    QUERY = 1
    KEY = 2
    BOTH = 3


def side_of(expression: Expression) -> Side:
    """The side that the value varies with."""
    names = index_names(expression)
    side = Side.NEITHER
    if names & {"i", "row"}:
        side |= Side.QUERY
    if "j" in names:
        side |= Side.KEY
    return side


def is_vector(expression: Expression) -> bool:
    return isinstance(expression.type, Vector)


def has_vectors(expression: Expression) -> bool:
    """Whether computing the value takes vector arithmetic."""
    return any(isinstance(node.type, (Vector, Matrix)) for node in walk(expression))


def is_plain(vector: Expression) -> bool:
    """Whether the vector lies in memory as it is: `q`, `k`, `v` or slices of them."""
    while isinstance(vector, Slice):
        vector = vector.vector
    return isinstance(vector, Operand)


def multiply(left: Expression, right: Expression) -> Expression:
    """`left * right`, a vector if either is; a factor of one disappears."""
    if left == Literal(1.0):
        return right
    if right == Literal(1.0):
        return left
    vector = next((side for side in (left, right) if is_vector(side)), None)
    return Binary("*", left, right, FLOAT if vector is None else vector.type)


def product(factors: Sequence[Expression]) -> Expression:
    """The product of factors; 1 of none."""
    result: Expression = Literal(1.0)
    for factor in factors:
        result = multiply(result, factor)
    return result


def add(left: Expression, right: Expression) -> Expression:
    """`left + right`, of floats or of vectors of one size."""
    return Binary("+", left, right, left.type)


def reciprocal(scalar: Expression) -> Expression:
    return Binary("/", Literal(1.0), scalar, FLOAT)


@dataclass(frozen=True)
class Term:
    """The product of scalar `coefficients` and, element by element, of vector `atoms`."""

    coefficients: tuple[Expression, ...]
    atoms: tuple[Expression, ...]

    def times(self, *coefficients: Expression) -> Term:
        return Term(self.coefficients + coefficients, self.atoms)

    @property
    def vector(self) -> Expression:
        return product((*self.coefficients, *self.atoms))

    @property
    def is_separate(self) -> bool:
        return all(side_of(atom) != Side.BOTH for atom in self.atoms)


def terms(vector: Expression) -> tuple[Term, ...]:
    """The vector as a sum of terms; a vector that varies with one side is a single atom."""
    whole = (Term((), (vector,)),)
    if side_of(vector) != Side.BOTH:
        return whole
    match vector:
        case Unary("-", operand):
            return tuple(term.times(Literal(-1.0)) for term in terms(operand))
        case Binary("+" | "-" as operator, left, right) if is_vector(left) and is_vector(right):
            second = terms(right)
            if operator == "-":
                second = tuple(term.times(Literal(-1.0)) for term in second)
            return terms(left) + second
        case Binary("*", left, right) if is_vector(left) and is_vector(right):
            pairs = [(one, two) for one in terms(left) for two in terms(right)]
            if len(pairs) > MAX_TERMS:
                return whole
            return tuple(
                Term(one.coefficients + two.coefficients, one.atoms + two.atoms)
                for one, two in pairs
            )
        case Binary("*", left, right):
            scalar, rest = (left, right) if is_vector(right) else (right, left)
            return tuple(term.times(scalar) for term in terms(rest))
        case Binary("/", left, right) if is_vector(left) and not is_vector(right):
            return tuple(term.times(reciprocal(right)) for term in terms(left))
        case Call("dot", (matrix, operand)) if side_of(matrix) == Side.NEITHER:
            return _mapped(matrix, terms(_spread(operand)), vector) or whole
    return whole


def _mapped(matrix: Expression, parts: tuple[Term, ...], whole: Expression) -> tuple[Term, ...]:
    """The matrix applied to each term; nothing where that would not split it by side."""
    mapped = []
    for part in parts:
        image = Call("dot", (matrix, product(part.atoms)), whole.type)
        if side_of(image) == Side.BOTH:
            return ()
        mapped.append(Term(part.coefficients, (image,)))
    return tuple(mapped)


def _spread(vector: Expression) -> Expression:
    """`concat(a, b)` as `concat(a, 0) + concat(0, b)`, so that a linear map takes each alone."""
    match vector:
        case Call("concat", parts) if all(is_vector(part) for part in parts):
            total: Expression | None = None
            for number in range(len(parts)):
                padded = tuple(
                    one if place == number else filled(ZERO, _type_of(one))
                    for place, one in enumerate(parts)
                )
                image = Call("concat", padded, vector.type)
                total = image if total is None else add(total, image)
            return vector if total is None else total
    return vector


def _type_of(vector: Expression) -> Vector:
    assert isinstance(vector.type, Vector)
    return vector.type


def scalar_factors(vector: Expression) -> tuple[tuple[Expression, ...], Expression]:
    """The scalars that multiply a vector as a whole, and the vector without them."""
    match vector:
        case Unary("-", operand):
            scalars, core = scalar_factors(operand)
            return (Literal(-1.0), *scalars), core
        case Binary("*", left, right) if is_vector(left) != is_vector(right):
            scalar, rest = (left, right) if is_vector(right) else (right, left)
            scalars, core = scalar_factors(rest)
            return (scalar, *scalars), core
        case Binary("/", left, right) if is_vector(left) and not is_vector(right):
            scalars, core = scalar_factors(left)
            return (reciprocal(right), *scalars), core
    return (), vector


def slice_of(vector: Expression, start: Expression, size: Expression) -> Expression:
    """`vector[start : start + size]`."""
    stop = Binary("+", start, size, start.type)
    return Slice(vector, start, stop, Vector(size))
