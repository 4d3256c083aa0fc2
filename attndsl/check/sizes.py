"""Arithmetic on sizes of vectors, as polynomials with integer coefficients.

Sizes are compared by what can be proved: `D // 2 + D // 2` is one term twice, whatever `D` is.
"""

from __future__ import annotations

from collections import Counter

from attndsl.expression import INT, Binary, Expression, Literal, Size, Unary

# A monomial is its factors, sorted by how they print, so that `D * 2` and `2 * D` are one.
Monomial = tuple[Expression, ...]


def polynomial(size: Expression) -> dict[Monomial, int]:
    """The size as a sum of products; whatever is not `+`, `-` or `*` is one factor."""
    match size:
        case Literal(value=int(value)):
            return {(): value} if value else {}
        case Unary(operator="-", operand=operand):
            return _scaled(polynomial(operand), -1)
        case Binary(operator="+", left=left, right=right):
            return _added(polynomial(left), polynomial(right))
        case Binary(operator="-", left=left, right=right):
            return _added(polynomial(left), _scaled(polynomial(right), -1))
        case Binary(operator="*", left=left, right=right):
            return _multiplied(polynomial(left), polynomial(right))
        case Binary(operator="//", left=Literal(value=int(a)), right=Literal(value=int(b))) if b:
            return {(): a // b} if a // b else {}
    return {(size,): 1}


def difference(left: Expression, right: Expression) -> int | None:
    """`left - right` where that is the same number for all sizes, else None."""
    terms = _added(polynomial(left), _scaled(polynomial(right), -1))
    if not terms:
        return 0
    return terms[()] if set(terms) == {()} else None


def differ(left: Expression, right: Expression) -> bool:
    """Whether two sizes cannot be meant to be equal: numbers that differ, or `D` and `Dv`."""
    by = difference(left, right)
    if by is not None:
        return by != 0
    return isinstance(left, Size) and isinstance(right, Size)


def add(left: Expression, right: Expression) -> Expression:
    """`left + right`, as one number or one term where it is one: `4 + (D - 4)` is `D`."""
    short = _one_term(_added(polynomial(left), polynomial(right)))
    return Binary("+", left, right, INT) if short is None else short


def subtract(left: Expression, right: Expression) -> Expression:
    """`left - right`, as one number or one term where it is one."""
    short = _one_term(_added(polynomial(left), _scaled(polynomial(right), -1)))
    return Binary("-", left, right, INT) if short is None else short


def _one_term(terms: dict[Monomial, int]) -> Expression | None:
    match list(terms.items()):
        case []:
            return Literal(0)
        case [((), constant)]:
            return Literal(constant)
        case [((factor,), 1)]:
            return factor
    return None


def _added(left: dict[Monomial, int], right: dict[Monomial, int]) -> dict[Monomial, int]:
    total = Counter(left)
    for monomial, coefficient in right.items():
        total[monomial] += coefficient
    return {monomial: c for monomial, c in total.items() if c}


def _scaled(terms: dict[Monomial, int], factor: int) -> dict[Monomial, int]:
    return {monomial: c * factor for monomial, c in terms.items()}


def _multiplied(left: dict[Monomial, int], right: dict[Monomial, int]) -> dict[Monomial, int]:
    total: Counter[Monomial] = Counter()
    for a, c in left.items():
        for b, d in right.items():
            total[tuple(sorted((*a, *b), key=repr))] += c * d
    return {monomial: c for monomial, c in total.items() if c}
