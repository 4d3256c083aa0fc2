"""The columns of a tile that a term touches, in closed form.

A tile is the rows `i_first … i_last`. Over them a `Term` covers the columns `[lower, upper)`, and a
block of keys meets the term exactly where it meets that hull, if

- every bound rises with `i` (or every one falls), so that the ends of the tile have the ends of
  the hull;
- the rows for which the term's interval is not empty follow one another, and
- neighbouring intervals touch, so that the hull has no gap.

`hull` proves these and returns None where it cannot: it never guesses. A remainder of `j`, of
`i - j` or of `i` in the term becomes a `guard`, a test of one block, exact too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product as pairs

from attndsl.expression import (
    FALSE,
    INT,
    TRUE,
    Binary,
    Expression,
    Index,
    Literal,
    Size,
    index_names,
    transform,
)
from attndsl.planner import algebra
from attndsl.planner.linear import Linear, expression_of, linear, product
from attndsl.planner.prove import BLOCK_N, I_FIRST, I_LAST, Direction, Prover
from attndsl.planner.remainder import Remainder, is_fixed_divisor, remainder
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import Term, solve_rows

I = Index("i")  # noqa: E741
KEY_BLOCK = Index("K")
KEYS = Size("Lk")
ZERO, ONE = Literal(0), Literal(1)
_NEXT_ROW = algebra.add(I, ONE)

# Holds unless queries lie past the last key. Used only where its failure adds PARTIAL blocks.
QUERIES_WITHIN_KEYS = linear(KEYS).minus(linear(I_LAST)).shifted(-1)


@dataclass(frozen=True)
class Hull:
    """Columns `[lower, upper)` where `condition` holds, none elsewhere; a key block `K` that meets
    them meets the term where `guard` holds."""

    lower: Expression
    upper: Expression
    condition: Expression = TRUE
    guard: Expression = TRUE


def hull(term: Term, prover: Prover, *, hidden: bool) -> Hull | None:
    """The exact hull of a term, or None where none is proved. Of a `hidden` term it may cover more
    in the block that sticks out over the last key, which is PARTIAL in any case."""
    if len(term.rest) > 1:
        return None
    rest = remainder(term.rest[0], prover) if term.rest else None
    if term.rest and rest is None:
        return None
    if rest is not None and rest.variable == "distance":
        return _diagonal_hull(term, rest, prover, hidden=hidden)
    return _Deriver.of(term, prover, hidden).hull(rest)


@dataclass
class _Deriver:
    lower: list[Expression]
    upper: list[Expression]
    row_lower: tuple[Expression, ...]
    row_upper: tuple[Expression, ...]
    conditions: list[Expression]
    always: Prover
    prover: Prover  # knows the conditions too
    hidden: bool

    @staticmethod
    def of(term: Term, prover: Prover, hidden: bool) -> _Deriver:
        conditions = list(term.conditions)
        return _Deriver(
            [ZERO, *(_monotone(bound, prover) for bound in term.lower if bound != ZERO)],
            [KEYS, *(_monotone(bound, prover) for bound in term.upper if bound != KEYS)],
            term.row_lower,
            term.row_upper,
            conditions,
            prover,
            prover.given(*facts_of(algebra.conjunction(*conditions))),
            hidden,
        )

    def hull(self, rest: Remainder | None) -> Hull | None:
        rising = self._rising()
        if rising is None or not self._touching(rising):
            return None
        starts = list(self.row_lower)
        ends = list(self.row_upper)
        rows = self._rows_that_are_not_empty(rising)
        if rows is None:
            return None
        for low, high in pairs([I_FIRST, *self.row_lower], self.row_upper):
            self._require("<", low, high)
        for low in self.row_lower:
            self._require("<=", low, I_LAST)
        starts += rows[0]
        ends += rows[1]
        last_rows = [algebra.subtract(end, ONE) for end in ends]
        if rest is not None and rest.variable == "i":
            if any("i" in index_names(bound) for bound in (*self.lower, *self.upper)):
                return None
            self.conditions.append(
                rest.exists(
                    algebra.maximum(I_FIRST, *self.row_lower),
                    algebra.minimum(I_LAST, *(algebra.subtract(e, ONE) for e in self.row_upper)),
                )
            )
        if rising:
            lower = self._ends(self.lower, I_FIRST, starts, greatest=True)
            upper = self._ends(self.upper, I_LAST, last_rows, greatest=False)
        else:
            lower = self._ends(self.lower, I_LAST, last_rows, greatest=True)
            upper = self._ends(self.upper, I_FIRST, starts, greatest=False)
        # By what always holds: where a condition fails, a bound still says where blocks are. And
        # without keys there is no block, which no proof takes into account: `Lk` stays.
        lower = undominated(lower, self.always.at_most)
        upper = undominated(
            upper, lambda left, right: left != KEYS and self.always.at_most(right, left)
        )
        self._require_columns(lower, upper)
        found = Hull(
            simplify(algebra.maximum(*lower)),
            simplify(algebra.minimum(*upper)),
            simplify(algebra.conjunction(*self.conditions)),
        )
        if rest is not None and rest.variable == "j":
            return _with_columns(found, rest, hidden=self.hidden)
        return found

    def _rising(self) -> bool | None:
        """True where every bound rises with i, False where every one falls, else None."""
        found = {self.prover.direction(bound) for bound in (*self.lower, *self.upper)} - {
            Direction.CONSTANT
        }
        if not found or found == {Direction.RISING}:
            return True
        return False if found == {Direction.FALLING} else None

    def _touching(self, rising: bool) -> bool:
        """Whether the intervals of neighbouring rows that are not empty overlap or touch: of every
        pair of bounds one moves by at most one column a row, or they are seen to overlap."""
        here, there = (I, _NEXT_ROW) if rising else (_NEXT_ROW, I)

        def step(bound: Expression) -> int | None:
            return self.prover.steepest(bound if rising else algebra.negate(bound))

        def slow(bound: Expression) -> bool:
            moved = step(bound)
            return moved is not None and moved <= 1

        return all(
            slow(low) or slow(high) or self.prover.at_most(_at(low, there), _at(high, here))
            for low, high in pairs(self.lower, self.upper)
        )

    def _rows_that_are_not_empty(
        self, rising: bool
    ) -> tuple[list[Expression], list[Expression]] | None:
        """First rows and ends of the rows for which `lower < upper`, as far as a bound of the
        columns depends on them; None where such rows need not follow one another, or are not
        found. Differences that do not depend on the row become conditions."""
        starts_matter = any("i" in index_names(b) for b in (self.lower if rising else self.upper))
        ends_matter = any("i" in index_names(b) for b in (self.upper if rising else self.lower))
        starts: list[Expression] = []
        ends: list[Expression] = []
        for low, high in pairs(self.lower, self.upper):
            width = linear(high).minus(linear(low)).shifted(-1)
            if (low, high) == (ZERO, KEYS) or self.prover.proved(width):
                continue
            moving = self.prover.direction(expression_of(width))
            if moving is Direction.CONSTANT:
                # A hidden term that starts past the last key shows in the key tail alone.
                if not (self.hidden and high == KEYS):
                    self.conditions.append(algebra.compare(">=", expression_of(width), ZERO))
                    self.prover = self.prover.given(width)
                continue
            if moving is Direction.UNKNOWN:
                if not self.prover.proved(width.times(-1).shifted(-1)):
                    return None
                self.conditions.append(FALSE)  # no row has any
                continue
            matters = starts_matter if moving is Direction.RISING else ends_matter
            if not matters:
                continue
            solved = solve_rows(width.times(-1), self.prover)
            if solved is None:
                return None
            is_upper, bound = solved
            (ends if is_upper else starts).append(bound)
        return starts, ends

    def _ends(
        self,
        bounds: Iterable[Expression],
        row: Expression,
        limits: Sequence[Expression],
        *,
        greatest: bool,
    ) -> list[Expression]:
        """The bounds at a row of the tile, and at the rows that the term is limited to."""
        constant = [bound for bound in bounds if "i" not in index_names(bound)]
        varying = [bound for bound in bounds if "i" in index_names(bound)]
        result = [*constant, *(_at(bound, row) for bound in varying)]
        for bound, limit in pairs(varying, limits):
            value = _at(bound, limit)
            weaker = (
                self.prover.at_most(value, other) if greatest else self.prover.at_most(other, value)
                for other in constant
            )
            if not any(weaker):
                result.append(value)
        return result

    def _require(self, operator: str, left: Expression, right: Expression) -> None:
        proved = self.prover.at_most if operator == "<=" else self.prover.below
        if not proved(left, right):
            self.conditions.append(algebra.compare(operator, left, right))

    def _require_columns(self, lower: Sequence[Expression], upper: Sequence[Expression]) -> None:
        """An empty hull must not look like a block: `5 // 16 < ceil(5 / 16)`.

        Column 0 starts a block, so that an end at or before it leaves none. A tile whose queries
        all lie past the last key may keep one PARTIAL block.
        """
        prover = self.prover.given(QUERIES_WITHIN_KEYS)
        for low, high in pairs(lower, upper):
            if low == ZERO or (self.hidden and high == KEYS):
                continue
            if not prover.below(low, high):
                self.conditions.append(algebra.compare("<", low, high))


def undominated(
    operands: Iterable[Expression], dominated: Callable[[Expression, Expression], bool]
) -> list[Expression]:
    """The operands of a `max` or `min` without those that another is seen to dominate."""
    keep: list[Expression] = []
    for candidate in operands:
        if any(dominated(candidate, other) for other in keep):
            continue
        keep = [other for other in keep if not dominated(other, candidate)]
        keep.append(candidate)
    return keep


def facts_of(condition: Expression) -> tuple[Linear, ...]:
    """The sums that a conjunction of comparisons says are at least 0."""
    facts = []
    for operand in algebra.flat_operands("and", condition):
        match operand:
            case Binary(left=left) if left.type != INT:
                continue
            case Binary(operator="<=" | "<" as operator, left=left, right=right):
                slack = 0 if operator == "<=" else -1
                facts.append(linear(right).minus(linear(left)).shifted(slack))
            case Binary(operator=">=" | ">" as operator, left=left, right=right):
                slack = 0 if operator == ">=" else -1
                facts.append(linear(left).minus(linear(right)).shifted(slack))
    return tuple(facts)


def _at(bound: Expression, row: Expression) -> Expression:
    return simplify(bound, {I: row})


def _monotone(bound: Expression, prover: Prover) -> Expression:
    """The bound with remainders written as `x - m * (x // m)`, where that makes it monotone."""
    if prover.direction(bound) is not Direction.UNKNOWN:
        return bound

    def expand(node: Expression) -> Expression:
        match node:
            case Binary(operator="%", left=left, right=modulus) if is_fixed_divisor(
                modulus, prover
            ):
                floored = linear(algebra.floor_divide(left, modulus))
                return expression_of(linear(left).minus(product(floored, modulus)))
        return node

    expanded = simplify(transform(bound, expand))
    return bound if prover.direction(expanded) is Direction.UNKNOWN else expanded


def _with_columns(found: Hull, rest: Remainder, *, hidden: bool) -> Hull:
    """A hull in which only the columns count for which a remainder of j holds."""
    if hidden and rest.misses_single_positions:
        # Of two neighbouring columns one counts: only the outermost can be missing. A FULL block
        # has two columns at least, and those that have one matter only there.
        lower = rest.skip(found.lower, forward=True)
        upper = algebra.add(rest.skip(algebra.subtract(found.upper, ONE), forward=False), ONE)
        return Hull(
            lower,
            upper,
            algebra.conjunction(
                found.condition, rest.is_varied, algebra.compare("<", lower, upper)
            ),
        )
    first_column = algebra.multiply(KEY_BLOCK, BLOCK_N)
    first = algebra.maximum(first_column, found.lower)
    last = algebra.subtract(algebra.minimum(algebra.add(first_column, BLOCK_N), found.upper), ONE)
    return Hull(found.lower, found.upper, found.condition, simplify(rest.exists(first, last)))


def _diagonal_hull(term: Term, rest: Remainder, prover: Prover, *, hidden: bool) -> Hull | None:
    """The hull of a term over `i - j` alone: bounds on the distance and a remainder of it."""
    if term.row_lower or term.row_upper:
        return None
    least: list[Expression] = []
    most: list[Expression] = []
    for bound in term.lower:
        distance = _distance(bound)
        if distance is None and bound != ZERO:
            return None
        if distance is not None:
            most.append(distance)
    for bound in term.upper:
        distance = _distance(bound)
        if distance is None and bound != KEYS:
            return None
        if distance is not None:
            least.append(algebra.add(distance, ONE))
    conditions = term.conditions
    if hidden and rest.misses_single_positions:
        conditions = (*conditions, rest.is_varied)
        least = [rest.skip(algebra.maximum(*least), forward=True)] if least else []
        most = [rest.skip(algebra.minimum(*most), forward=False)] if most else []
    bounds = Term(
        lower=tuple(algebra.subtract(I, distance) for distance in most),
        upper=tuple(algebra.add(algebra.subtract(I, distance), ONE) for distance in least),
        conditions=conditions,
    )
    found = _Deriver.of(bounds, prover, hidden).hull(None)
    if found is None or (hidden and rest.misses_single_positions):
        return found
    first_column = algebra.multiply(KEY_BLOCK, BLOCK_N)
    last_column = algebra.subtract(algebra.minimum(algebra.add(first_column, BLOCK_N), KEYS), ONE)
    nearest = algebra.maximum(algebra.subtract(I_FIRST, last_column), *least)
    farthest = algebra.minimum(algebra.subtract(I_LAST, first_column), *most)
    return Hull(found.lower, found.upper, found.condition, simplify(rest.exists(nearest, farthest)))


def _distance(bound: Expression) -> Expression | None:
    """`i - bound`, where that does not depend on i."""
    distance = algebra.subtract(I, bound)
    return None if "i" in index_names(distance) else distance
