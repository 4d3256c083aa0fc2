"""Integer expressions as sums: `constant + Σ coefficient · atom`.

An atom is any integer expression that is no sum, difference or multiple: an index, a size, a read,
a floor division, a product of two unknowns. Sums keep the order in which their atoms first appear,
so that rebuilt expressions read as the user wrote them. Products of unknowns are not multiplied out
here; `product` does so, for a solver that divides by a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from attndsl.expression import INT, Binary, Expression, Literal, Unary


@dataclass(frozen=True)
class Linear:
    """`constant + Σ coefficient · atom`; no coefficient is zero and no atom appears twice."""

    terms: Mapping[Expression, int]
    constant: int = 0

    @property
    def is_constant(self) -> bool:
        return not self.terms

    @cached_property
    def key(self) -> tuple[frozenset[tuple[Expression, int]], int]:
        """What is equal for equal sums, whatever their order, to look them up by."""
        return frozenset(self.terms.items()), self.constant

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """`self + factor * other`."""
        if not other.terms:
            return Linear(self.terms, self.constant + factor * other.constant)
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            total = terms.get(atom, 0) + factor * coefficient
            if total:
                terms[atom] = total
            else:
                terms.pop(atom, None)
        return Linear(terms, self.constant + factor * other.constant)

    def minus(self, other: Linear) -> Linear:
        return self.plus(other, -1)

    def times(self, factor: int) -> Linear:
        if factor == 0:
            return Linear({})
        return Linear({a: c * factor for a, c in self.terms.items()}, self.constant * factor)

    def shifted(self, amount: int) -> Linear:
        return Linear(self.terms, self.constant + amount)

    def without(self, atom: Expression) -> Linear:
        return Linear({a: c for a, c in self.terms.items() if a != atom}, self.constant)


def linear(expression: Expression) -> Linear:
    """The sum that an integer expression is."""
    known: Linear | None = expression.__dict__.get("_linear")
    if known is None:
        known = expression.__dict__["_linear"] = _linear(expression)
    return known


def _linear(expression: Expression) -> Linear:
    match expression:
        case Literal(value=int(value)) if not isinstance(value, bool):
            return Linear({}, value)
        case Unary(operator="-", operand=operand):
            return linear(operand).times(-1)
        case Binary(operator="+", left=left, right=right):
            return linear(left).plus(linear(right))
        case Binary(operator="-", left=left, right=right):
            return linear(left).minus(linear(right))
        case Binary(operator="*", left=left, right=right):
            a, b = linear(left), linear(right)
            if a.is_constant:
                return b.times(a.constant)
            if b.is_constant:
                return a.times(b.constant)
    return Linear({expression: 1})


def product(form: Linear, factor: Expression) -> Linear:
    """`form * factor`, multiplied out: every atom of the sum times the factor as it stands."""
    scale = linear(factor)
    if scale.is_constant:
        return form.times(scale.constant)
    result = scale.times(form.constant)
    for atom, coefficient in form.terms.items():
        result = result.plus(Linear({Binary("*", atom, factor, INT): coefficient}))
    return result


def expression_of(form: Linear) -> Expression:
    """The sum as an expression: positive terms first, subtractions after, the constant last."""
    ordered = sorted(form.terms.items(), key=lambda item: item[1] < 0)
    result: Expression | None = None
    for atom, coefficient in ordered:
        magnitude = abs(coefficient)
        term = atom if magnitude == 1 else Binary("*", Literal(magnitude), atom, INT)
        if result is None:
            negative = coefficient < 0
            if negative and form.constant > 0:
                # 5 - x reads better than -x + 5.
                result = Binary("-", Literal(form.constant), term, INT)
                form = Linear(form.terms)
            else:
                result = Unary("-", term, INT) if negative else term
        else:
            result = Binary("+" if coefficient > 0 else "-", result, term, INT)
    if result is None:
        return Literal(form.constant)
    if form.constant:
        operator = "+" if form.constant > 0 else "-"
        result = Binary(operator, result, Literal(abs(form.constant)), INT)
    return result
