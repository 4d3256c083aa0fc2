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

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attndsl.expression import FALSE, TRUE, Binary, Expression, Literal, transform
from attndsl.planner import algebra
from attndsl.planner.block_map import BlockInterval, Kind, Ranges
from attndsl.planner.hull import KEY_BLOCK, KEYS, ZERO, Hull, hull
from attndsl.planner.linear import linear
from attndsl.planner.prove import BLOCK_N, I_LAST, at_most
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import terms

BLOCKS = algebra.ceil_divide(KEYS, BLOCK_N)
"""The number of key blocks, the last of which may stick out over the last key."""

WHOLE_BLOCKS = algebra.floor_divide(KEYS, BLOCK_N)

SMALLEST_TILE = 16
"""The fewest keys in a tile of any kernel."""


def derive_ranges(mask: Expression, *, axes: tuple[str, ...] = ()) -> Ranges | None:
    """The block map of an arithmetic mask over `i`, `j`, heads, sizes and inputs per head or batch.

    `mask` has its parameters bound. None where no exact closed form is found.
    """
    mask = simplify(mask)
    visible = _spans(mask, axes, hidden=False)
    hidden = _spans(simplify(algebra.opposite(mask)), axes, hidden=True)
    if visible is None or hidden is None:
        return None
    full = _full(hidden)
    partial = _partial(visible, full)
    intervals = (*_intervals(partial, Kind.PARTIAL), *_intervals(full, Kind.FULL))
    return Ranges(intervals)


@dataclass(frozen=True)
class Span:
    """Key blocks `[first, last)`, of which those count for which `guard` holds."""

    first: Expression
    last: Expression
    guard: Expression = TRUE

    @property
    def is_empty(self) -> bool:
        return self.guard == FALSE or at_most(self.last, self.first)

    def within(self, first: Expression | None, last: Expression | None) -> Span:
        """The part of it in `[first, last)`; None is no limit."""
        return Span(
            _greatest(self.first, first) if first is not None else self.first,
            _least(self.last, last) if last is not None else self.last,
            self.guard,
        )

    @property
    def contains(self) -> Expression:
        """Whether block `K` counts."""
        return algebra.conjunction(
            TRUE if self.first == ZERO else algebra.compare(">=", KEY_BLOCK, self.first),
            TRUE if self.last == BLOCKS else algebra.compare("<", KEY_BLOCK, self.last),
            self.guard,
        )


def _greatest(*operands: Expression) -> Expression:
    """The maximum, without operands that are proved to be no greater than another."""
    flat = algebra.flat_arguments("max", operands)
    return algebra.maximum(*_undominated(flat, at_most))


def _least(*operands: Expression) -> Expression:
    flat = algebra.flat_arguments("min", operands)
    return algebra.minimum(*_undominated(flat, lambda left, right: at_most(right, left)))


def _undominated(
    operands: Iterable[Expression], dominated: Callable[[Expression, Expression], bool]
) -> list[Expression]:
    keep: list[Expression] = []
    for candidate in operands:
        if any(dominated(candidate, other) for other in keep):
            continue
        keep = [other for other in keep if not dominated(other, candidate)]
        keep.append(candidate)
    return keep


def _spans(mask: Expression, axes: tuple[str, ...], *, hidden: bool) -> list[Span] | None:
    """The key blocks that meet the mask, as spans that may overlap."""
    found = terms(mask, axes=axes)
    if found is None:
        return None
    spans = []
    for term in found:
        columns = hull(term, hidden=hidden)
        if columns is None:
            return None
        if columns.condition != FALSE and columns.guard != FALSE:
            spans.append(_blocks(columns))
    return spans


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


def _full(hidden: list[Span]) -> list[Span]:
    """The blocks that meet no span, in ascending order, within the blocks that exist wholly."""
    plain = [span for span in hidden if span.guard == TRUE]
    guarded = [span for span in hidden if span.guard != TRUE]
    left = [span.last for span in plain if span.first == ZERO]
    right = [span.first for span in plain if span.first != ZERO and span.last == BLOCKS]
    middle = [span for span in plain if span.first != ZERO and span.last != BLOCKS]
    if BLOCKS in left:
        return []
    start = _greatest(ZERO, *left)
    end = _least(WHOLE_BLOCKS, *right)
    pieces = [Span(start, end)]
    ordered = _in_order(middle)
    if ordered is None:
        guarded = [*guarded, *middle]
    else:
        for span in ordered:
            piece = pieces.pop()
            before = piece.within(None, span.first)
            after = piece.within(_greatest(span.first, span.last), None)
            pieces += [before, after]
    guard = algebra.conjunction(*(algebra.opposite(span.contains) for span in guarded))
    kept = []
    for piece in pieces:
        piece = Span(piece.first, _greatest(piece.first, piece.last), guard)
        if not piece.is_empty and not _is_short(piece):
            kept.append(piece)
    return kept


def _is_short(piece: Span) -> bool:
    """Whether it is empty for any tile of a real kernel, which has at least 16 keys: what is not
    FULL stays PARTIAL, so that a loop less costs nothing."""

    def shrink(node: Expression) -> Expression:
        match node:
            case Binary(operator="//", left=Literal(value=int(value)), right=right):
                return ZERO if right == BLOCK_N and 0 <= value < SMALLEST_TILE else node
        return node

    first, last = (simplify(transform(end, shrink)) for end in (piece.first, piece.last))
    return at_most(last, first)


def _in_order(spans: list[Span]) -> list[Span] | None:
    """The spans by their first block, if that order is the same for every tile."""
    ordered: list[Span] = []
    for span in spans:
        place = 0
        while place < len(ordered) and at_most(ordered[place].first, span.first):
            place += 1
        if any(not at_most(span.first, later.first) for later in ordered[place:]):
            return None
        ordered.insert(place, span)
    return ordered


def _merged(spans: list[Span]) -> list[Span] | None:
    """The union of spans without guards, disjoint and ascending; None if their order varies."""
    left = [span.last for span in spans if span.first == ZERO]
    right = [span.first for span in spans if span.first != ZERO and span.last == BLOCKS]
    middle = _in_order([s for s in spans if s.first != ZERO and s.last != BLOCKS])
    if middle is None:
        return None
    merged: list[Span] = []
    if left:
        merged.append(Span(ZERO, _greatest(*left)))
    for span in middle:
        if merged and at_most(span.first, merged[-1].last):
            merged[-1] = Span(merged[-1].first, _greatest(merged[-1].last, span.last))
            continue
        ends = [earlier.last for earlier in merged]
        merged.append(Span(_greatest(span.first, *ends), span.last))
    if right:
        ends = [earlier.last for earlier in merged]
        merged.append(Span(_greatest(_least(*right), *ends), BLOCKS))
    return [span for span in merged if not span.is_empty]


# Holds unless queries lie past the last key. Used only where its failure adds PARTIAL blocks.
_QUERIES_WITHIN_KEYS = (linear(KEYS).minus(linear(I_LAST)).shifted(-1),)


def _partial(visible: list[Span], full: list[Span]) -> list[Span]:
    """What is visible and not FULL, as disjoint spans."""
    guarded = [span for span in visible if span.guard != TRUE]
    plain = [span for span in visible if span.guard == TRUE]
    merged = _merged(plain)
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
        found = [_cut(span, gap_start, gap_end, alone=alone) for span in merged]
        result += _chained([span for span in found if not span.is_empty])
        gap_start = piece.last if piece is not None else None
    for piece in full:
        if piece.guard != TRUE:
            seen = algebra.disjunction(*(span.contains for span in [*merged, *guarded]))
            guard = algebra.conjunction(algebra.opposite(piece.guard), seen)
            result.append(Span(piece.first, piece.last, guard))
    for span in _beside(guarded, merged):
        apart = [
            algebra.opposite(Span(piece.first, piece.last).contains)
            for piece in full
            if not (at_most(span.last, piece.first) or at_most(piece.last, span.first))
        ]
        result.append(Span(span.first, span.last, algebra.conjunction(span.guard, *apart)))
    return [span for span in result if not span.is_empty]


def _cut(span: Span, first: Expression | None, last: Expression | None, *, alone: bool) -> Span:
    """The part of a visible span between two FULL pieces. Of one that is `alone`, so that no other
    can overlap it, ends that lie outside are dropped if queries lie within the keys."""
    cut = span.within(first, last)
    if not alone:
        return cut
    start, end = cut.first, cut.last
    if first is not None and at_most(span.first, first, _QUERIES_WITHIN_KEYS):
        start = first
    reached = algebra.maximum(start, span.last)
    if last is not None and at_most(last, reached, _QUERIES_WITHIN_KEYS):
        end = last
    return Span(start, end)


def _chained(spans: list[Span]) -> list[Span]:
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
            if all(at_most(start, before.first, _QUERIES_WITHIN_KEYS) for start in own):
                result[-1] = Span(before.first, _greatest(before.last, span.last))
                continue
        result.append(span)
    return result


def _beside(guarded: list[Span], merged: list[Span]) -> list[Span]:
    """The guarded spans without the blocks of `merged` and of each other."""
    result: list[Span] = []
    for number, span in enumerate(guarded):
        others = [algebra.opposite(earlier.contains) for earlier in guarded[:number]]
        rest = Span(span.first, span.last, algebra.conjunction(span.guard, *others))
        if len(merged) == 1:
            result += [rest.within(None, merged[0].first), rest.within(merged[0].last, None)]
            continue
        outside = [algebra.opposite(piece.contains) for piece in merged]
        result.append(Span(rest.first, rest.last, algebra.conjunction(rest.guard, *outside)))
    return [span for span in result if not span.is_empty]


def _intervals(spans: list[Span], kind: Kind) -> list[BlockInterval]:
    return [BlockInterval(span.first, span.last, kind, 1, simplify(span.guard)) for span in spans]
