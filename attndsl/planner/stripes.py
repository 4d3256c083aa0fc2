"""Keys in stripes: of every `period` positions the same `width` of them, counted as if no others
were there.

A mask that lets through the last eight keys of every hundred, wherever the query is, touches nearly
every block of keys for eight pairs in a hundred. Among the keys of its stripes alone it is a dense
mask, with blocks that are FULL, and its cost is that of its visible pairs.
"""

from __future__ import annotations

from dataclasses import replace

from attndsl.expression import (
    INT,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Select,
    Size,
    index_names,
)
from attndsl.planner import algebra
from attndsl.planner.linear import Linear, expression_of, linear
from attndsl.planner.prove import Prover
from attndsl.planner.remainder import Remainder, remainder
from attndsl.records import dataclass


@dataclass(frozen=True)
class Stripes:
    """The keys j with `(j - start) mod period < width`.

    `0 < width < period` and `-width < start <= period - width`; of a stripe that starts before key
    0, only what lies from there on exists.
    """

    period: int
    width: int
    start: int

    @property
    def _missing(self) -> int:
        """How many positions of the first stripe lie before key 0."""
        return max(0, -self.start)

    def position(self, number: Expression) -> Expression:
        """The key that has a number, 0 … , among those in the stripes."""
        width = Literal(self.width)
        along = algebra.add(number, Literal(self._missing))
        stripe = algebra.multiply(Literal(self.period), algebra.floor_divide(along, width))
        return algebra.add(stripe, algebra.modulo(along, width), Literal(self.start))

    def below(self, end: Expression) -> Expression:
        """How many keys before `end` there are in the stripes, if that is at least 0; it never
        falls as `end` rises, below 0 neither."""
        match end:
            case Call(function="min", arguments=arguments):
                return algebra.minimum(*map(self.below, arguments))
            case Call(function="max", arguments=arguments):
                return algebra.maximum(*map(self.below, arguments))
            case Select(condition=condition, then=then, otherwise=otherwise):
                return algebra.select(condition, self.below(then), self.below(otherwise))
        period, width = Literal(self.period), Literal(self.width)
        from_start = algebra.subtract(end, Literal(self.start))
        return algebra.subtract(
            algebra.add(
                algebra.multiply(width, algebra.floor_divide(from_start, period)),
                algebra.minimum(algebra.modulo(from_start, period), width),
            ),
            Literal(self._missing),
        )

    @property
    def keys(self) -> Expression:
        """How many keys of a call there are in the stripes, over `Size("Lk")`."""
        return self.below(Size("Lk"))


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
