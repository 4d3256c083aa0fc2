"""What rounding leaves in a row of a softmax's backward, and how sums over the row lose it.

The adjoints `ds = w * (dO·v - delta)` of a row's scores sum to what is known: a number added to all
scores of a row moves nothing but its log-sum-exp. Delta is made of the forward's output, though,
which has been rounded, and of scores that another kernel has summed up in another order. What it
is off by lies on the row's keys as their weights `w` do, and the sum of all `ds` tells how much it
is: the surplus. So

    sum of ds * slope  =  computed sum of ds * slope  -  surplus * sum of w * slope.

It matters where a slope is as large as a score and much the same for all keys that weigh anything:
a factor that scores are multiplied by has the score as its slope, and the surplus times a score of
100 can be more than all else of its gradient. The other slopes are of the sizes of inputs and
positions, and sums of `ds` times vectors would take as many matrix products again; those stay.

What a slope has in all pairs of a row is left out of both sums, and multiplies what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attndsl.expression import (
    FLOAT,
    Binary,
    DotResult,
    Expression,
    Operand,
    Read,
    Select,
    Unary,
    index_names,
    walk,
)
from attndsl.planner.floats import ZERO, negative, times


@dataclass(frozen=True)
class Balance:
    """Of a pair, its weight, the adjoint `ds` of its score and the slopes of the score by its
    leaves; of a row, what its `ds` sum to where nothing is rounded."""

    weight: Expression
    of_score: Expression
    slopes: Mapping[Expression, Expression]
    of_row: Expression

    def slope(self, leaf: Read) -> Slope | None:
        """None where it is not of scores."""
        slope = self.slopes.get(leaf, ZERO)
        if not any(isinstance(node, DotResult) for node in walk(slope)):
            return None
        return _split(slope)


@dataclass(frozen=True)
class Slope:
    """A slope is `whole(part)`, and `whole` is linear and the same for all pairs of a row."""

    part: Expression
    whole: Callable[[Expression], Expression]


def _split(slope: Expression) -> Slope:
    match slope:
        case Unary("-", operand):
            inner = _split(operand)
            return Slope(inner.part, lambda part: negative(inner.whole(part)))
        case Binary("*", left, right) if _is_of_row(left) or _is_of_row(right):
            factor, operand = (left, right) if _is_of_row(left) else (right, left)
            inner = _split(operand)
            return Slope(inner.part, lambda part: times(inner.whole(part), factor))
        case Select(condition, then, otherwise) if _is_of_row(condition):
            if otherwise == ZERO or then == ZERO:
                inner = _split(then if otherwise == ZERO else otherwise)
                first, second = (
                    (inner.whole, _nothing) if otherwise == ZERO else (_nothing, inner.whole)
                )
                return Slope(inner.part, _selected(condition, first, second))
            one, other = _split(then), _split(otherwise)
            if one.part == other.part:
                return Slope(one.part, _selected(condition, one.whole, other.whole))
    return Slope(slope, lambda part: part)


def _selected(
    condition: Expression,
    then: Callable[[Expression], Expression],
    otherwise: Callable[[Expression], Expression],
) -> Callable[[Expression], Expression]:
    return lambda part: Select(condition, then(part), otherwise(part), FLOAT)


def _nothing(part: Expression) -> Expression:
    return ZERO


def _is_of_row(expression: Expression) -> bool:
    """Whether it is the same for all pairs of a row."""
    pairs = any(isinstance(node, (DotResult, Operand)) for node in walk(expression))
    return not pairs and index_names(expression).isdisjoint({"j", "g", "n"})
