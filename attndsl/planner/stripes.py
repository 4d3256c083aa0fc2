"""Keys in stripes: of every `period` positions the same `width` of them, counted as if no others
were there.

A mask that lets through the last eight keys of every hundred, wherever the query is, touches nearly
every block of keys for eight pairs in a hundred. Among the keys of its stripes alone it is a dense
mask, with blocks that are FULL, and its cost is that of its visible pairs.
"""

from __future__ import annotations

from attndsl.expression import Call, Expression, Literal, Select, Size
from attndsl.planner import algebra
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
    def missing(self) -> int:
        """How many positions of the first stripe lie before key 0."""
        return max(0, -self.start)

    def position(self, number: Expression) -> Expression:
        """The key that has a number, 0 … , among those in the stripes."""
        width = Literal(self.width)
        along = algebra.add(number, Literal(self.missing))
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
            Literal(self.missing),
        )

    @property
    def keys(self) -> Expression:
        """How many keys of a call there are in the stripes, over `Size("Lk")`."""
        return self.below(Size("Lk"))
