"""Scores in a backward, bit for bit as the forward has them.

The forward multiplies its queries by what scales a product, and exponentiates that. If a backward
rounded scores another way, the weights of a row would no longer add up to 1: a small error for each
key, but the gradient of a temperature multiplies it by the scores' own size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attndsl.codegen.cpp.query_factor import QueryFactors, factor_of, fold_factors
from attndsl.expression import (
    FLOAT,
    Binary,
    Call,
    DotResult,
    Expression,
    Literal,
    children,
    with_children,
)
from attndsl.planner.plan import Dot, PairSums

LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453


@dataclass(frozen=True)
class StoredProducts:
    """The products that a kernel makes, and what it sums up, over these.

    `factors` are what the queries of each product are multiplied by; `in_base_2` says that those of
    the first also take log2(e).
    """

    dots: tuple[Dot, ...]
    factors: tuple[Expression | None, ...]
    in_base_2: bool
    values: dict[Expression, Expression]


def store_products(stage: PairSums, values: Iterable[Expression]) -> StoredProducts:
    """What the values become over products that are stored as the forward stores them."""
    values = list(values)
    if stage.score is None:
        plain = (None,) * len(stage.dots)
        return StoredProducts(stage.dots, plain, False, {one: one for one in values})
    folded = fold_factors(stage.score, len(stage.dots), is_softmax=True)
    rewriting = _Rewriting(stage, folded)
    rewritten = {one: rewriting.visit(one) for one in values}
    dots = [*stage.dots, *(stage.dots[number] for number in rewriting.plain)]
    factors = [*folded.factors, *(None for _ in rewriting.plain)]
    return StoredProducts(tuple(dots), tuple(factors), folded.is_product_alone, rewritten)


class _Rewriting:
    def __init__(self, stage: PairSums, folded: QueryFactors) -> None:
        self._stage, self._folded = stage, folded
        self._known: dict[Expression, Expression] = {}
        # Products that are needed without their factor as well, with the number of that one.
        self.plain: dict[int, int] = {}

    def visit(self, node: Expression) -> Expression:
        known = self._known.get(node)
        if known is None:
            known = self._known[node] = self._visit(node)
        return known

    def _visit(self, node: Expression) -> Expression:
        alone = self._folded.is_product_alone
        match node:
            case Call("exp", (Binary("-", score, shift),)) if alone and score == self._stage.score:
                by = Binary("*", shift, Literal(LOG2_E), FLOAT)
                return Call("exp2", (Binary("-", DotResult(0), by, FLOAT),), FLOAT)
            case DotResult(number) if self._is_scaled(number):
                return self._without_factor(number)
        for number, factor in enumerate(self._folded.factors):
            if factor is not None and _factor_in(node, DotResult(number)) == factor:
                stored: Expression = DotResult(number)
                if alone and number == 0:
                    stored = Binary("*", stored, Literal(LN_2), FLOAT)
                return stored
        if not children(node):
            return node
        return with_children(node, tuple(map(self.visit, children(node))))

    def _is_scaled(self, number: int) -> bool:
        has_factor = self._folded.factors[number] is not None
        return has_factor or (self._folded.is_product_alone and number == 0)

    def _without_factor(self, number: int) -> Expression:
        """The product itself, which is made beside the other one: a factor may be 0."""
        place = self.plain.setdefault(number, len(self._stage.dots) + len(self.plain))
        return DotResult(place)


def _factor_in(node: Expression, product: DotResult) -> Expression | None:
    """What the product is multiplied by in all, as `fold_factors` takes it out step by step."""
    match node:
        case Binary("*" | "/" as operator, left, right):
            for inner, alone in (
                (left, Binary(operator, product, right, FLOAT)),
                (right, Binary(operator, left, product, FLOAT)),
            ):
                factor = factor_of(alone, product)
                if factor is None:
                    continue
                if inner == product:
                    return factor
                before = _factor_in(inner, product)
                if before is not None:
                    return Binary("*", before, factor, FLOAT)
    return None
