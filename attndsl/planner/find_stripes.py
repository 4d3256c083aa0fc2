"""Stripes of keys in a mask: what its conjuncts about `j % m` alone say together."""

from __future__ import annotations

from dataclasses import replace

from attndsl.expression import INT, Binary, Expression, Index, Literal, index_names
from attndsl.planner import algebra
from attndsl.planner.linear import Linear, expression_of, linear
from attndsl.planner.prove import Prover
from attndsl.planner.remainder import Remainder, remainder
from attndsl.planner.stripes import Stripes
from attndsl.records import dataclass


def stripes_of(mask: Expression) -> tuple[Stripes, Expression] | None:
    """The stripes that conjuncts of the mask confine keys to, and what the mask says beside that;
    None where there are none."""
    arc: _Arc | None = None
    others = []
    for conjunct in algebra.flat_operands("and", mask):
        found = _arc_of(conjunct)
        both = found if arc is None or found is None else arc.within(found)
        if both is None:
            others.append(conjunct)
        else:
            arc = both
    if arc is None or not 0 < arc.width < arc.period:
        return None
    start = arc.start if arc.start + arc.width <= arc.period else arc.start - arc.period
    return Stripes(arc.period, arc.width, start), algebra.conjunction(*others)


@dataclass(frozen=True)
class _Arc:
    """Remainders `start … start + width - 1` modulo `period`, around its end; 0 <= start < period
    and 0 <= width <= period."""

    period: int
    start: int
    width: int

    def within(self, other: _Arc) -> _Arc | None:
        """What both hold, if that is one arc."""
        if other.period != self.period:
            return None
        apart = (other.start - self.start) % self.period
        ahead = min(self.width, apart + other.width) - apart
        around = min(self.width, apart + other.width - self.period)
        if ahead > 0 and around > 0:
            return None
        if around > 0:
            return replace(self, width=around)
        return replace(self, start=other.start, width=max(0, ahead))


def _arc_of(conjunct: Expression) -> _Arc | None:
    """The remainders of j that a conjunct about nothing else lets through."""
    rest = _remainder_of(conjunct)
    if rest is None or rest.variable != "j":
        return None
    target, modulus = algebra.integer_value(rest.target), algebra.integer_value(rest.modulus)
    if target is None or modulus is None or not 0 <= target < modulus:
        return None
    match rest.operator:
        case "==":
            return _arc_of_keys(linear(rest.value), modulus, target, 1)
        case "<=":
            return _arc_of_keys(linear(rest.value), modulus, 0, target + 1)
        case ">=":
            return _arc_of_keys(linear(rest.value), modulus, target, modulus - target)
    return None


def _remainder_of(conjunct: Expression) -> Remainder | None:
    """A comparison as a condition on a remainder."""
    match conjunct:
        case Binary(operator=operator, left=left, right=right) if (
            operator in algebra.COMPARISONS and left.type == INT and right.type == INT
        ):
            form = linear(left).minus(linear(right))
        case _:
            return None
    if operator in (">", ">="):
        form, operator = form.times(-1), algebra.MIRRORED[operator]
    if operator == "<":
        form, operator = form.shifted(1), "<="
    total = expression_of(Linear(form.terms))
    return remainder(Binary(operator, total, Literal(-form.constant), conjunct.type), Prover())


def _arc_of_keys(form: Linear, modulus: int, low: int, width: int) -> _Arc | None:
    """The j for which a dense sum has a remainder of `low … low + width - 1`."""
    varying = [atom for atom in form.terms if "j" in index_names(atom)]
    if len(varying) != 1 or len(form.terms) != 1:
        return None
    (atom,) = varying
    low -= form.constant
    if form.terms[atom] < 0:
        low = 1 - low - width
    match atom:
        case Index():
            return _Arc(modulus, low % modulus, width)
        case Binary(operator="//", left=left, right=Literal(value=int(divisor))):
            inner = linear(left)
            return _arc_of_keys(inner, modulus * divisor, low * divisor, width * divisor)
    return None
