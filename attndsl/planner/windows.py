"""Windows: the keys along one axis that a tile of queries may see, and those that all of it sees.

For a mask over `i`, `j` and `Lk`, here the coordinates and the length of one axis. The hulls that
`Ranges` are made of (`hull.py`) are intervals of keys; where the visible ones are one interval and
the hidden ones leave one, these two are the window, exactly.
"""

from __future__ import annotations

from attndsl.expression import FALSE, TRUE, Expression, Size, walk
from attndsl.planner import algebra
from attndsl.planner.block_map import Window
from attndsl.planner.hull import KEYS, ZERO, Hull, hull
from attndsl.planner.prove import Prover
from attndsl.planner.regime import Regime, regime
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import TooManyTerms, on_positions, terms
from attndsl.planner.wraps import without_wraps


def derive_window(mask: Expression) -> Window | None:
    """The window of an arithmetic mask over `i`, `j`, heads, sizes and inputs per head or batch.

    None where no exact closed form is found, or it is more than one interval.
    """
    positional = on_positions(simplify(mask), ())
    if positional is None:
        return None
    assumed = regime(positional)
    prover = Prover(assumed.facts)
    try:
        positional = without_wraps(positional, prover)
    except TooManyTerms:
        return None
    visible = _hulls(positional, prover, hidden=False)
    hidden = _hulls(simplify(algebra.opposite(positional)), prover, hidden=True)
    if visible is None or hidden is None or not _touch(visible, prover):
        return None
    left = [one for one in hidden if one.lower == ZERO]
    right = [one for one in hidden if one.lower != ZERO]
    if any(one.upper != KEYS for one in right):
        return None
    if visible:
        first = algebra.maximum(ZERO, algebra.minimum(*(_where(v, v.lower, KEYS) for v in visible)))
        last = algebra.minimum(KEYS, algebra.maximum(*(_where(v, v.upper, ZERO) for v in visible)))
    else:
        first = last = ZERO
    window = Window(
        first,
        last,
        algebra.maximum(ZERO, *(_where(one, one.upper, ZERO) for one in left)),
        algebra.minimum(KEYS, *(_where(one, one.lower, KEYS) for one in right)),
    )
    bounds = (window.first, window.last, window.full_first, window.full_last)
    of_blocks = Size("BLOCK_N"), Size("BLOCK_M")
    if any(node in of_blocks for bound in bounds for node in walk(bound)):
        return None
    return _within(assumed, window)


def _within(assumed: Regime, window: Window) -> Window:
    """The window where what is assumed holds; elsewhere all keys, none of them known to be seen."""
    holds = assumed.condition
    if holds == TRUE:
        return window

    def where(bound: Expression, otherwise: Expression) -> Expression:
        return algebra.select(holds, assumed.guarded(bound), otherwise)

    return Window(
        where(window.first, ZERO),
        where(window.last, KEYS),
        where(window.full_first, ZERO),
        where(window.full_last, ZERO),
    )


def _hulls(mask: Expression, prover: Prover, *, hidden: bool) -> list[Hull] | None:
    """The keys that meet the mask, as plain intervals that may overlap; None if they are none."""
    found = terms(mask, prover)
    if found is None:
        return None
    hulls = []
    for term in found:
        if term.rest:  # a remainder leaves gaps
            return None
        columns = hull(term, prover, hidden=hidden)
        if columns is None:
            return None
        if columns.condition != FALSE:
            hulls.append(columns)
    return hulls


def _touch(hulls: list[Hull], prover: Prover) -> bool:
    """Whether any two of them overlap or meet, so that their union is one interval."""
    return all(
        _shares_an_end(one, other)
        or (_starts_within(one, other, prover) and _starts_within(other, one, prover))
        for place, one in enumerate(hulls)
        for other in hulls[:place]
    )


def _shares_an_end(one: Hull, other: Hull) -> bool:
    return one.lower == other.lower or one.upper == other.upper


def _starts_within(one: Hull, other: Hull, prover: Prover) -> bool:
    """Whether one begins at or before the other's end. An interval from the first key on, or up to
    the last one, fails to only where one of the two is empty, which is no gap."""
    return one.lower == ZERO or other.upper == KEYS or prover.at_most(one.lower, other.upper)


def _where(of: Hull, bound: Expression, otherwise: Expression) -> Expression:
    """The bound where the hull's condition holds; elsewhere one that bounds nothing."""
    return bound if of.condition == TRUE else algebra.select(of.condition, bound, otherwise)
