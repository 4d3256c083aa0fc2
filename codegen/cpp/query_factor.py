"""Factors of a matrix product that cost nothing: queries are multiplied by them once per tile.

`dot(q, k) * scale` becomes a product with scaled queries; and where the softmax's score is nothing
but that, log2(e) can join, and the exponential is a plain power of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attndsl.expression import (
    FLOAT,
    Binary,
    DotResult,
    Expression,
    Literal,
    children,
    index_names,
    transform,
)

_SAME_IN_A_TILE = frozenset("bhg") | {"residue"}


@dataclass(frozen=True)
class QueryFactors:
    """One factor for each product (None: 1), and the score without them.

    `is_product_alone`: a softmax of one product and nothing else.
    """

    factors: tuple[Expression | None, ...]
    score: Expression
    is_product_alone: bool


def fold_factors(score: Expression, dots: int, *, is_softmax: bool) -> QueryFactors:
    """Take out of the score the factors that every use of a product has and that a tile shares."""
    factors: list[Expression | None] = []
    for number in range(dots):
        factor: Expression | None = None
        while True:
            found = _common_factor(score, DotResult(number))
            if found is None:
                break
            score = _without(score, DotResult(number), found)
            factor = found if factor is None else Binary("*", factor, found, FLOAT)
        factors.append(factor)
    alone = is_softmax and score == DotResult(0)
    return QueryFactors(tuple(factors), score, alone)


def _common_factor(score: Expression, product: DotResult) -> Expression | None:
    found = set(_factors(score, product))
    if len(found) != 1:
        return None
    (factor,) = found
    return factor


def _factors(node: Expression, product: DotResult) -> Iterator[Expression | None]:
    """For every use of the product, what it is multiplied by there; None if by nothing usable."""
    if node == product:
        yield None
        return
    factor = factor_of(node, product)
    if factor is not None:
        yield factor
        return
    for child in children(node):
        yield from _factors(child, product)


def factor_of(node: Expression, product: DotResult) -> Expression | None:
    """What a product is multiplied by in this node, if a tile shares it."""
    match node:
        case Binary("*", left, right) if left == product and _is_shared(right):
            return right
        case Binary("*", left, right) if right == product and _is_shared(left):
            return left
        case Binary("/", left, right) if left == product and _is_shared(right):
            return Binary("/", Literal(1.0), right, FLOAT)
    return None


def _is_shared(factor: Expression) -> bool:
    return index_names(factor) <= _SAME_IN_A_TILE


def _without(score: Expression, product: DotResult, factor: Expression) -> Expression:
    return transform(score, lambda node: product if factor_of(node, product) == factor else node)
