"""Closed-form block maps: `Ranges` derived from an arithmetic mask.

A block is visible if it meets a term of the mask, and it is FULL if it meets no term of the mask's
negation and all its keys exist. Both questions are answered by hulls (`hull.py`), which are
intervals of key blocks; what remains is to write "visible and not FULL" and "FULL" as disjoint
intervals. The result is exact: it visits the blocks that brute force finds, with their kinds (of
queries that lie past the last key a block too many may be visited, as PARTIAL).

Masks that have no such form (they read a value per token, mix coordinates, or combine bounds that
no hull describes) get None and are served by a `Table`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from attndsl.expression import (
    FALSE,
    TRUE,
    Binary,
    Expression,
    Literal,
    Select,
    Size,
    substitute,
    transform,
)
from attndsl.planner import algebra
from attndsl.planner.block_map import BlockInterval, Kind, Ranges
from attndsl.planner.hull import (
    KEY_BLOCK,
    KEYS,
    QUERIES_WITHIN_KEYS,
    ZERO,
    Hull,
    hull,
    undominated,
)
from attndsl.planner.linear import Linear, expression_of, linear
from attndsl.planner.prove import BLOCK_N, Prover
from attndsl.planner.regime import Regime, regime
from attndsl.planner.remainder import remainder
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import Term, TooManyTerms, on_positions, terms
from attndsl.planner.stripes import Stripes
from attndsl.planner.wraps import without_wraps

BLOCKS = algebra.ceil_divide(KEYS, BLOCK_N)
"""The number of key blocks, the last of which may stick out over the last key."""

WHOLE_BLOCKS = algebra.floor_divide(KEYS, BLOCK_N)

SMALLEST_TILE = 16
"""The fewest keys in a tile of any kernel."""


def derive_ranges(
    mask: Expression, *, axes: tuple[str, ...] = (), stripes: Stripes | None = None
) -> Ranges | None:
    """The block map of an arithmetic mask over `i`, `j`, heads, sizes and inputs per head or batch.

    `mask` has its parameters bound. None where no exact closed form is found. With `stripes` the
    blocks are of the keys in them alone (see `Attend`).
    """
    positional = on_positions(simplify(mask), axes)
    if positional is None:
        return None
    assumed = regime(positional)
    prover = Prover(assumed.facts)
    try:
        found = _Derivation(prover, stripes).intervals(without_wraps(positional, prover))
    except TooManyTerms:
        return None
    if found is None:
        return None
    if stripes is None:
        return Ranges(_within(assumed, found, BLOCKS))
    blocks = substitute(BLOCKS, {KEYS: Size("local.Lk")})
    return Ranges(_within(assumed, renamed(Ranges(found), _OF_NUMBERS).intervals, blocks))


def renamed(ranges: Ranges, sizes: Mapping[str, str]) -> Ranges:
    """The same intervals with other names for sizes."""
    names: dict[Expression, Expression] = {Size(old): Size(new) for old, new in sizes.items()}
    return Ranges(
        tuple(
            dataclasses.replace(
                interval,
                first=substitute(interval.first, names),
                last=substitute(interval.last, names),
                guard=substitute(interval.guard, names),
            )
            for interval in ranges.intervals
        )
    )


def _within(
    assumed: Regime, found: tuple[BlockInterval, ...], blocks: Expression
) -> tuple[BlockInterval, ...]:
    """The intervals where what is assumed holds; elsewhere all of `blocks`, PARTIAL.

    That part joins the first PARTIAL interval, so that a kernel has no loop for it alone."""
    holds = assumed.condition
    if holds == TRUE:
        return found
    fails = algebra.opposite(holds)
    if not any(interval.kind is Kind.PARTIAL for interval in found):
        found = (BlockInterval(ZERO, ZERO, Kind.PARTIAL), *found)
    otherwise: Expression
    result: list[BlockInterval] = []
    joined = False
    for interval in found:
        guard, otherwise = interval.guard, ZERO
        if interval.kind is Kind.PARTIAL and not joined:
            joined, otherwise = True, blocks
            guard = TRUE if guard == TRUE else algebra.disjunction(fails, guard)
        result.append(
            BlockInterval(
                algebra.select(holds, assumed.guarded(interval.first), ZERO),
                algebra.select(holds, assumed.guarded(interval.last), otherwise),
                interval.kind,
                interval.step,
                assumed.guarded(guard),
            )
        )
    return tuple(result)


@dataclass(frozen=True)
class Span:
    """Key blocks `[first, last)`, of which those count for which `guard` holds."""

    first: Expression
    last: Expression
    guard: Expression = TRUE

    @property
    def contains(self) -> Expression:
        """Whether block `K` counts."""
        return algebra.conjunction(
            TRUE if self.first == ZERO else algebra.compare(">=", KEY_BLOCK, self.first),
            TRUE if self.last == BLOCKS else algebra.compare("<", KEY_BLOCK, self.last),
            self.guard,
        )


class _Derivation:
    """Intervals of blocks, from what can be proved of their ends.

    `prover` knows positions. With stripes the blocks are of numbers of keys, and so `Lk` is the
    number of these, beside `all.Lk`, the length.
    """

    def __init__(self, prover: Prover, stripes: Stripes | None) -> None:
        self._positions, self._stripes = prover, stripes
        within_keys = QUERIES_WITHIN_KEYS
        if stripes is not None:
            prover = Prover(tuple(map(_beside_numbers, prover.facts)))
            within_keys = _beside_numbers(within_keys)
        self._prover = prover
        self._loosely = prover.given(within_keys)

    def intervals(self, mask: Expression) -> tuple[BlockInterval, ...] | None:
        """The intervals of a mask over positions; None where it has no exact closed form."""
        visible = self._spans(mask, hidden=False)
        if visible is None:
            return None
        hidden = self._spans(simplify(algebra.opposite(mask)), hidden=True)
        if hidden is None:
            return None
        full = self._full(hidden)
        partial = self._partial(visible, full)
        return (*_intervals(partial, Kind.PARTIAL), *_intervals(full, Kind.FULL))

    def _is_empty(self, span: Span) -> bool:
        return span.guard == FALSE or self._prover.at_most(span.last, span.first)

    def _part(self, span: Span, first: Expression | None, last: Expression | None) -> Span:
        """The part of a span in `[first, last)`; None is no limit."""
        return Span(
            self._greatest(span.first, first) if first is not None else span.first,
            self._least(span.last, last) if last is not None else span.last,
            span.guard,
        )

    def _greatest(self, *operands: Expression) -> Expression:
        """The maximum, without operands that are proved to be no greater than another."""
        flat = algebra.flat_arguments("max", operands)
        return algebra.maximum(*undominated(flat, self._prover.at_most))

    def _least(self, *operands: Expression) -> Expression:
        flat = algebra.flat_arguments("min", operands)
        return algebra.minimum(
            *undominated(flat, lambda left, right: self._prover.at_most(right, left))
        )

    def _spans(self, mask: Expression, *, hidden: bool) -> list[Span] | None:
        """The key blocks that meet the mask, as spans that may overlap."""
        found = terms(mask, self._positions)
        if found is None:
            return None
        spans = []
        for term in found:
            columns = hull(term, self._positions, hidden=hidden)
            if columns is not None and self._stripes is not None:
                columns = self._numbers(term, columns, self._stripes, hidden=hidden)
            if columns is None:
                return None
            if columns.condition != FALSE and columns.guard != FALSE:
                spans.append(_blocks(columns))
        return spans

    def _numbers(self, term: Term, columns: Hull, stripes: Stripes, *, hidden: bool) -> Hull | None:
        """The numbers of the keys in stripes among a hull's columns. Every one of these columns
        counts, and numbers rise with positions, so that the numbers are a hull as the columns are.
        """
        rest = remainder(term.rest[0], self._positions) if term.rest else None
        if rest is not None and rest.variable != "i":
            return None

        def number(end: Expression) -> Expression:
            return end if end in (ZERO, KEYS) else substitute(stripes.below(end), _BESIDE_NUMBERS)

        # The number of all keys is the same bound, whichever end of the hull it is a part of.
        everything = substitute(stripes.keys, _BESIDE_NUMBERS)
        lower, upper = (
            simplify(substitute(number(end), {everything: KEYS}))
            for end in (columns.lower, columns.upper)
        )
        condition = substitute(columns.condition, _BESIDE_NUMBERS)
        # There may be columns and none of them in a stripe.
        is_tail = hidden and upper == KEYS
        if lower != ZERO and not is_tail and not self._prover.below(lower, upper):
            condition = algebra.conjunction(condition, algebra.compare("<", lower, upper))
        return Hull(lower, upper, condition)

    def _full(self, hidden: list[Span]) -> list[Span]:
        """The blocks that meet no span, in ascending order, within the blocks that exist wholly."""
        plain = [span for span in hidden if span.guard == TRUE]
        guarded = [span for span in hidden if span.guard != TRUE]
        left = [span.last for span in plain if span.first == ZERO]
        right = [span.first for span in plain if span.first != ZERO and span.last == BLOCKS]
        middle = [span for span in plain if span.first != ZERO and span.last != BLOCKS]
        if BLOCKS in left:
            return []
        start = self._greatest(ZERO, *left)
        end = self._least(WHOLE_BLOCKS, *right)
        pieces = [Span(start, end)]
        ordered = self._in_order(middle)
        if ordered is None:
            guarded = [*guarded, *middle]
        else:
            for span in ordered:
                piece = pieces.pop()
                before = self._part(piece, None, span.first)
                after = self._part(piece, self._greatest(span.first, span.last), None)
                pieces += [before, after]
        guard = algebra.conjunction(*(algebra.opposite(span.contains) for span in guarded))
        kept = []
        for piece in pieces:
            piece = Span(piece.first, self._greatest(piece.first, piece.last), guard)
            if not self._is_empty(piece) and not self._is_short(piece):
                kept.append(piece)
        return kept

    def _is_short(self, piece: Span) -> bool:
        """Whether it is empty for any tile of a real kernel, which has at least 16 keys: what is
        not FULL stays PARTIAL, so that a loop less costs nothing."""

        def shrink(node: Expression) -> Expression:
            match node:
                case Binary(operator="//", left=Literal(value=int(value)), right=right):
                    return ZERO if right == BLOCK_N and 0 <= value < SMALLEST_TILE else node
            return node

        first, last = (simplify(transform(end, shrink)) for end in (piece.first, piece.last))
        return self._prover.at_most(last, first)

    def _in_order(self, spans: list[Span]) -> list[Span] | None:
        """The spans by their first block, if that order is the same for every tile."""
        ordered: list[Span] = []
        for span in spans:
            place = 0
            while place < len(ordered) and self._prover.at_most(ordered[place].first, span.first):
                place += 1
            if any(not self._prover.at_most(span.first, later.first) for later in ordered[place:]):
                return None
            ordered.insert(place, span)
        return ordered

    def _merged(self, spans: list[Span]) -> list[Span] | None:
        """The union of spans without guards, disjoint and ascending; None if their order varies."""
        left = [span.last for span in spans if span.first == ZERO]
        right = [span.first for span in spans if span.first != ZERO and span.last == BLOCKS]
        middle = self._in_order([s for s in spans if s.first != ZERO and s.last != BLOCKS])
        if middle is None:
            return None
        for span in middle:
            # What reaches the last block is put behind the others, and so must start behind them.
            if any(not self._prover.at_most(span.first, _where_visible(start)) for start in right):
                return None
        merged: list[Span] = []
        if left:
            merged.append(Span(ZERO, self._greatest(*left)))
        for span in middle:
            if merged and self._prover.at_most(span.first, merged[-1].last):
                merged[-1] = Span(merged[-1].first, self._greatest(merged[-1].last, span.last))
                continue
            ends = [earlier.last for earlier in merged]
            merged.append(Span(self._greatest(span.first, *ends), span.last))
        if right:
            ends = [earlier.last for earlier in merged]
            merged.append(Span(self._greatest(self._least(*right), *ends), BLOCKS))
        return [span for span in merged if not self._is_empty(span)]

    def _partial(self, visible: list[Span], full: list[Span]) -> list[Span]:
        """What is visible and not FULL, as disjoint spans."""
        guarded = [span for span in visible if span.guard != TRUE]
        plain = [span for span in visible if span.guard == TRUE]
        merged = self._merged(plain)
        if merged is None:
            first = algebra.minimum(*(span.first for span in plain))
            last = algebra.maximum(*(span.last for span in plain))
            inside = algebra.disjunction(*(span.contains for span in plain))
            guarded.append(Span(first, last, inside))
            merged = []
        result: list[Span] = []
        alone = len(merged) == 1 and not guarded
        gap_start: Expression | None = None
        for piece in [*full, None]:
            gap_end = piece.first if piece is not None else None
            found = [self._cut(span, gap_start, gap_end, alone=alone) for span in merged]
            result += self._chained([span for span in found if not self._is_empty(span)])
            gap_start = piece.last if piece is not None else None
        for piece in full:
            if piece.guard != TRUE:
                seen = algebra.disjunction(*(span.contains for span in [*merged, *guarded]))
                guard = algebra.conjunction(algebra.opposite(piece.guard), seen)
                result.append(Span(piece.first, piece.last, guard))
        for span in self._beside(guarded, merged):
            apart = [
                algebra.opposite(Span(piece.first, piece.last).contains)
                for piece in full
                if not (
                    self._prover.at_most(span.last, piece.first)
                    or self._prover.at_most(piece.last, span.first)
                )
            ]
            result.append(Span(span.first, span.last, algebra.conjunction(span.guard, *apart)))
        return [span for span in result if not self._is_empty(span)]

    def _cut(
        self, span: Span, first: Expression | None, last: Expression | None, *, alone: bool
    ) -> Span:
        """The part of a visible span between two FULL pieces. Of one that is `alone`, so that no
        other can overlap it, ends that lie outside are dropped if queries lie within the keys."""
        cut = self._part(span, first, last)
        if not alone:
            return cut
        start, end = cut.first, cut.last
        if first is not None and self._loosely.at_most(span.first, first):
            start = first
        reached = algebra.maximum(start, span.last)
        if last is not None and self._loosely.at_most(last, reached):
            end = last
        return Span(start, end)

    def _chained(self, spans: list[Span]) -> list[Span]:
        """Ascending spans, where one that starts right behind its predecessor is joined to it."""
        result: list[Span] = []
        for span in spans:
            if result:
                before = result[-1]
                ends = algebra.flat_arguments("max", [before.last])
                starts = algebra.flat_arguments("max", [span.first])
                own = [start for start in starts if start not in ends]
                # Where it starts no later than its predecessor but for the blocks of that one, the
                # two are one interval, even if the predecessor is empty.
                if all(self._loosely.at_most(start, before.first) for start in own):
                    result[-1] = Span(before.first, self._greatest(before.last, span.last))
                    continue
            result.append(span)
        return result

    def _beside(self, guarded: list[Span], merged: list[Span]) -> list[Span]:
        """The guarded spans without the blocks of `merged` and of each other."""
        result: list[Span] = []
        for number, span in enumerate(guarded):
            others = [algebra.opposite(earlier.contains) for earlier in guarded[:number]]
            rest = Span(span.first, span.last, algebra.conjunction(span.guard, *others))
            if len(merged) == 1:
                result += [
                    self._part(rest, None, merged[0].first),
                    self._part(rest, merged[0].last, None),
                ]
                continue
            outside = [algebra.opposite(piece.contains) for piece in merged]
            result.append(Span(rest.first, rest.last, algebra.conjunction(rest.guard, *outside)))
        return [span for span in result if not self._is_empty(span)]


# While intervals over numbers of keys are derived, `Lk` is how many numbers there are.
_OF_NUMBERS = {"Lk": "local.Lk", "all.Lk": "Lk"}
_BESIDE_NUMBERS: dict[Expression, Expression] = {KEYS: Size("all.Lk")}


def _beside_numbers(fact: Linear) -> Linear:
    return linear(substitute(expression_of(fact), _BESIDE_NUMBERS))


def _blocks(columns: Hull) -> Span:
    first = ZERO if columns.lower == ZERO else algebra.floor_divide(columns.lower, BLOCK_N)
    last = BLOCKS if columns.upper == KEYS else algebra.ceil_divide(columns.upper, BLOCK_N)
    condition = columns.condition
    if condition != TRUE:
        # An interval at the right edge is emptied from its left end, others from their right end,
        # so that it still stands at its edge.
        if last == BLOCKS and first != ZERO:
            first = algebra.select(condition, first, BLOCKS)
        else:
            last = algebra.select(condition, last, ZERO)
    return Span(first, last, columns.guard)


def _where_visible(start: Expression) -> Expression:
    """The start of a span that reaches the last block, as far as it is not empty."""
    match start:
        case Select(then=then, otherwise=otherwise) if otherwise == BLOCKS:
            return then
    return start


def _intervals(spans: list[Span], kind: Kind) -> list[BlockInterval]:
    return [BlockInterval(span.first, span.last, kind, 1, simplify(span.guard)) for span in spans]
