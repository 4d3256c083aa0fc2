"""Positions that wrap around, as cases.

For `0 <= x < n`, `(x + c) % n` is `x - s` or, before the seam `s = -c % n`, `x - s + n`. A mask
with such a remainder inside a division has no bounds, but each of its cases has. So that the solver
sees sums and quotients alone, choices are taken out of divisions and products too.
"""

from __future__ import annotations

from attndsl.expression import (
    INT,
    Binary,
    Expression,
    Index,
    Literal,
    Select,
    index_names,
    transform,
)
from attndsl.planner import algebra
from attndsl.planner.linear import Linear, expression_of, linear, product
from attndsl.planner.prove import Prover
from attndsl.planner.remainder import is_fixed_divisor
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import MOST_TERMS, TooManyTerms

_PAIR = frozenset("ij")


def without_wraps(mask: Expression, prover: Prover) -> Expression:
    """The mask with the same value for every pair at which the prover's facts hold.

    Raises `TooManyTerms` where it falls into too many cases.
    """
    cases = 0

    def rebuild(node: Expression) -> Expression:
        match node:
            case Binary(operator="//" | "%" | "*") if node.type == INT:
                return divided(node)
        return node

    def divided(node: Binary) -> Expression:
        nonlocal cases
        left, right = node.left, node.right
        if node.operator == "*" and not index_names(left) & _PAIR:
            left, right = right, left
        if isinstance(right, Literal) and node.operator == "*":
            return node  # `linear` sees to it
        if not index_names(left) & _PAIR or index_names(right) & _PAIR:
            return node
        form = linear(left)
        for atom, coefficient in form.terms.items():
            match atom:
                case Select(condition=condition, then=then, otherwise=otherwise):
                    cases += 1
                    if cases > MOST_TERMS:
                        raise TooManyTerms
                    rest = form.without(atom)
                    return Select(
                        condition,
                        divided(_with_left(node, rest.plus(linear(then), coefficient), right)),
                        divided(_with_left(node, rest.plus(linear(otherwise), coefficient), right)),
                        INT,
                    )
        if node.operator == "*":
            return expression_of(product(form, right))
        if node.operator == "%" and not isinstance(right, Literal):
            return _wrapped(form, right, prover) or node
        return node

    rebuilt = transform(mask, rebuild)
    return mask if rebuilt == mask else simplify(rebuilt)


def _with_left(node: Binary, left: Linear, right: Expression) -> Binary:
    return Binary(node.operator, expression_of(left), right, INT)


def _wrapped(form: Linear, modulus: Expression, prover: Prover) -> Expression | None:
    """`form % modulus` by cases, where the form is a position below the modulus, plus or minus what
    is the same for all pairs; else None."""
    varying = [atom for atom in form.terms if index_names(atom) & _PAIR]
    if not is_fixed_divisor(modulus, prover) or len(varying) != 1:
        return None
    (position,) = varying
    sign = form.terms[position]
    if not isinstance(position, Index) or abs(sign) != 1:
        return None
    if not (prover.proved(linear(position)) and prover.below(position, modulus)):
        return None
    shift = _reduced(form.without(position).times(-sign), modulus, prover)
    # x - s where the sign is +, s - x where it is -.
    apart = linear(position).minus(linear(shift)).times(sign)
    operator = ">=" if sign > 0 else "<="
    return algebra.select(
        algebra.compare(operator, position, shift),
        expression_of(apart),
        expression_of(apart.plus(linear(modulus))),
    )


def _reduced(shift: Linear, modulus: Expression, prover: Prover) -> Expression:
    """`shift % modulus`, without the division where the shift is short."""
    for candidate in (shift, shift.plus(linear(modulus))):
        written = expression_of(candidate)
        if prover.proved(candidate) and prover.below(written, modulus):
            return written
    return algebra.modulo(expression_of(shift), modulus)
