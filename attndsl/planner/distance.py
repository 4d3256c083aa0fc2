"""Expressions over pairs that follow from how far apart their tokens are, and from nothing else."""

from __future__ import annotations

from attndsl.expression import (
    INT,
    Binary,
    Expression,
    Index,
    Literal,
    Operand,
    index_names,
    substitute,
    transform,
    walk,
)
from attndsl.planner.algebra import COMPARISONS
from attndsl.planner.linear import expression_of, linear
from attndsl.planner.simplify import simplify

# As of a query's position, nothing is known of its sign.
DISTANCE = Index("i.distance")
"""`i - j`."""


def by_distance(expression: Expression) -> Expression | None:
    """The expression over `DISTANCE` in place of `i` and `j`; None where these matter otherwise."""

    def one_sided(node: Expression) -> Expression:
        match node:
            case Binary(operator=operator, left=left, right=right) if (
                operator in COMPARISONS and left.type == right.type == INT
            ):
                difference = expression_of(linear(left).minus(linear(right)))
                return Binary(operator, difference, Literal(0), node.type)
        return node

    moved = substitute(expression, {Index("i"): Binary("+", Index("j"), DISTANCE, INT)})
    moved = simplify(transform(moved, one_sided))
    if index_names(moved) & {"i", "j", "row"}:
        return None
    return None if any(isinstance(node, Operand) for node in walk(moved)) else moved


def tells_distances_apart(expression: Expression) -> bool:
    """Whether no two distances have the same value of an integer over `DISTANCE`."""
    form = linear(expression)
    return DISTANCE in form.terms and not any(
        DISTANCE.name in index_names(atom) for atom in form.terms if atom != DISTANCE
    )
