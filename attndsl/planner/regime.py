"""What a mask that divides by a size is solved under.

`x // m` and `x % m` are solved for a positive `m`. Where `m` is an expression, such as `Lk // 4`,
that no proof finds to be positive, it is assumed; and so is that queries lie within the keys, where
that makes `(i - shift) % Lk` a matter of two cases. A block map is exact where the assumptions
hold, and visits every block where they do not, which a kernel finds out for each tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attndsl.expression import (
    TRUE,
    Binary,
    Expression,
    Index,
    Literal,
    Size,
    index_names,
    transform,
    walk,
)
from attndsl.planner import algebra
from attndsl.planner.linear import Linear, linear
from attndsl.planner.prove import I_FIRST, I_LAST, Prover

_PAIR = frozenset("ij")
_ONE = Literal(1)


@dataclass(frozen=True)
class Regime:
    """`condition`, over heads, sizes and the tile's rows, and the sums that it, and the ranges of
    positions, keep from being negative; `divisors` are what it says is positive."""

    condition: Expression = TRUE
    facts: tuple[Linear, ...] = ()
    divisors: frozenset[Expression] = frozenset()

    def guarded(self, expression: Expression) -> Expression:
        """The expression without divisions by zero where the condition fails: there its value does
        not matter, but a compiler may conclude from a division that it never fails."""

        def rebuild(node: Expression) -> Expression:
            match node:
                case Binary(operator="//" | "%", left=left, right=right, type=kind) if (
                    right in self.divisors
                ):
                    return Binary(node.operator, left, algebra.maximum(right, _ONE), kind)
            return node

        return transform(expression, rebuild) if self.divisors else expression


def regime(mask: Expression) -> Regime:
    """What the divisions of a mask over `i` and `j` need."""
    divisions = list(_divisions_by_sizes(mask))
    if not divisions:
        return Regime()
    prover = Prover()
    conditions: list[Expression] = []
    facts = [*_within_keys(Index("j"))]
    distinct = dict.fromkeys(node.right for node in divisions)
    assumed = [divisor for divisor in distinct if not prover.positive(divisor)]
    for divisor in assumed:
        conditions.append(algebra.compare(">=", divisor, _ONE))
        facts.append(linear(divisor).shifted(-1))
    for node in divisions:
        shift = _shift(node)
        if shift and not prover.given(*facts).proved(linear(node.right).shifted(-shift - 1)):
            conditions.append(algebra.compare(">", node.right, Literal(shift)))
            facts.append(linear(node.right).shifted(-shift - 1))
    if any(_wraps_queries(node, prover) for node in divisions):
        conditions.append(algebra.compare(">=", I_FIRST, Literal(0)))
        conditions.append(algebra.compare("<", I_LAST, Size("Lk")))
        for row in (Index("i"), I_FIRST, I_LAST):
            facts += _within_keys(row)
    return Regime(algebra.conjunction(*conditions), tuple(facts), frozenset(assumed))


def _divisions_by_sizes(mask: Expression) -> Iterator[Binary]:
    for node in walk(mask):
        match node:
            case Binary(operator="//" | "%", left=left, right=right) if (
                index_names(left) & _PAIR
                and not index_names(right) & _PAIR
                and not isinstance(right, Literal)
            ):
                yield node


def _wraps_queries(node: Binary, prover: Prover) -> bool:
    """Whether it is `(i + c) % n` for an `n` that is no less than the number of keys."""
    varying = [atom for atom in linear(node.left).terms if index_names(atom) & _PAIR]
    return (
        node.operator == "%" and varying == [Index("i")] and prover.at_most(Size("Lk"), node.right)
    )


def _shift(node: Binary) -> int:
    """The distance by which `(x + c) % n` shifts, where that is a literal, else 0: a seam at `-c`
    or `n - c` is easier to write than one at `-c % n`."""
    form = linear(node.left)
    return abs(form.constant) if node.operator == "%" and len(form.terms) == 1 else 0


def _within_keys(position: Expression) -> tuple[Linear, Linear]:
    return linear(position), linear(Size("Lk")).minus(linear(position)).shifted(-1)
