"""Conditions on a remainder, decided exactly over a range of positions.

A dense value takes every integer between its ends when its variable does: `x`, `x + c`, `-x`,
`x // m`. Whether its remainder meets a condition somewhere in a range is then closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.expression import (
    Binary,
    Expression,
    Index,
    Literal,
    index_names,
    walk,
)
from attndsl.planner import algebra
from attndsl.planner.algebra import MIRRORED
from attndsl.planner.linear import Linear, expression_of, linear
from attndsl.planner.prove import Prover
from attndsl.planner.simplify import simplify

ONE = Literal(1)


@dataclass(frozen=True)
class Remainder:
    """`value % modulus operator target`: `value` is dense in `variable` (`i`, `j`, or `distance`
    for i - j), `operator` one of `== != <= >=`, `target` and the positive `modulus` free of
    positions. `steps` says whether the value changes at every step of the variable, as `x + c`
    does and `x // 2` does not."""

    variable: str
    value: Expression
    rising: bool
    steps: bool
    modulus: Expression
    operator: str
    target: Expression

    def _at(self, position: Expression) -> Expression:
        return simplify(self.value, {Index(self.variable): position})

    @property
    def misses_single_positions(self) -> bool:
        """Whether of two neighbouring positions one meets the condition, where `is_varied`."""
        return self.operator == "!=" and self.steps and self.modulus != ONE

    @property
    def is_varied(self) -> Expression:
        """False where the modulus is 1, all remainders are 0, and none meets a condition `!=`."""
        return algebra.disjunction(
            algebra.compare(">", self.modulus, ONE), algebra.compare("!=", self.target, Literal(0))
        )

    def exists(self, first: Expression, last: Expression) -> Expression:
        """Whether some position from `first` to `last` (`first <= last`) meets the condition."""
        low, high = self._at(first), self._at(last)
        if not self.rising:
            low, high = high, low
        modulus, target = self.modulus, self.target
        match self.operator:
            case "==":
                # The greatest number at most `high` with that remainder is at least `low`.
                from_high = algebra.floor_divide(algebra.subtract(high, target), modulus)
                before_low = algebra.floor_divide(
                    algebra.subtract(algebra.subtract(low, ONE), target), modulus
                )
                return algebra.conjunction(
                    algebra.compare(">", from_high, before_low),
                    algebra.compare(">=", target, Literal(0)),
                    algebra.compare("<", target, modulus),
                )
            case "!=":
                differs = algebra.compare("!=", algebra.modulo(low, modulus), target)
                several = algebra.conjunction(
                    algebra.compare(">", modulus, ONE), algebra.compare("<", low, high)
                )
                return algebra.disjunction(several, differs)
        residue = algebra.modulo(low, modulus)
        start = algebra.subtract(low, residue)
        if self.operator == "<=":
            # `low` itself, or the next multiple of the modulus, whose remainder is 0.
            return algebra.conjunction(
                algebra.disjunction(
                    algebra.compare("<=", residue, target),
                    algebra.compare("<=", algebra.add(start, modulus), high),
                ),
                algebra.compare(">=", target, Literal(0)),
            )
        reached = algebra.compare("<=", algebra.add(start, target), high)
        return algebra.conjunction(
            algebra.disjunction(algebra.compare(">=", residue, target), reached),
            algebra.compare("<", target, modulus),
        )

    def skip(self, position: Expression, *, forward: bool) -> Expression:
        """The position, or its neighbour where it misses the condition and neighbours do not."""
        residue = algebra.modulo(self._at(position), self.modulus)
        neighbour = algebra.add(position, Literal(1 if forward else -1))
        return algebra.select(algebra.compare("==", residue, self.target), neighbour, position)


def remainder(literal: Expression, prover: Prover) -> Remainder | None:
    """The condition on a remainder that a literal of a `Term` is, or None."""
    match literal:
        case Binary(operator=operator, left=left, right=right) if operator in ("==", "!=", "<="):
            form = linear(left).minus(linear(right))
        case _:
            return None
    varying = [atom for atom in form.terms if index_names(atom) & {"i", "j"}]
    if len(varying) != 1:
        return None
    atom = varying[0]
    coefficient = form.terms[atom]
    match atom:
        case Binary(operator="%", left=inner, right=modulus):
            if abs(coefficient) != 1 or not is_fixed_divisor(modulus, prover):
                return None
        case _:
            return None
    target = expression_of(form.without(atom).times(-coefficient))
    if coefficient < 0:
        operator = MIRRORED[operator]
    for value in (inner, _over_distance(inner)):
        names = index_names(value) & {"i", "j", "distance"}
        if len(names) != 1:
            continue
        name = next(iter(names))
        sign = _dense(linear(value), name, prover)
        if sign is not None:
            steps = not any(_is_quotient(node, name) for node in walk(value))
            return Remainder(name, value, sign > 0, steps, modulus, operator, target)
    return None


def is_fixed_divisor(expression: Expression, prover: Prover) -> bool:
    """Whether it is positive and the same for all pairs."""
    varies = index_names(expression) & {"i", "j", "distance"}
    return not varies and prover.positive(expression)


def _is_quotient(node: Expression, name: str) -> bool:
    return isinstance(node, Binary) and node.operator == "//" and name in index_names(node)


def _over_distance(value: Expression) -> Expression:
    """The value with `i` written as `j + distance`."""
    position = Binary("+", Index("j"), Index("distance"), Index("i").type)
    return simplify(value, {Index("i"): position})


def _dense(form: Linear, name: str, prover: Prover) -> int | None:
    """1 or -1 where the sum takes every integer as the variable rises by ones, else None."""
    varying = [(atom, c) for atom, c in form.terms.items() if name in index_names(atom)]
    if len(varying) != 1 or abs(varying[0][1]) != 1:
        return None
    atom, coefficient = varying[0]
    match atom:
        case Index():
            return coefficient
        case Binary(operator="//", left=left, right=divisor) if is_fixed_divisor(divisor, prover):
            inner = _dense(linear(left), name, prover)
            return None if inner is None else inner * coefficient
    return None
