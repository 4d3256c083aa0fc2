"""Windows of keys along an axis are what brute force finds, for random masks and all tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicates import dense, predicates

from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Expression
from attndsl.module import load_text
from attndsl.planner.block_map import Window
from attndsl.planner.windows import derive_window

Interval = tuple[int, int]


def found(window: Window, first: int, last: int, keys: int, head: int) -> tuple[Interval, Interval]:
    """What some and what all of the queries `first … last` see; (0, 0) is nothing."""
    environment = Environment(
        indices={
            "i_first": np.array(first),
            "i_last": np.array(last),
            "h": np.array(head),
        },
        sizes={"Lk": keys},
    )

    def interval(start: Expression, stop: Expression) -> Interval:
        ends = int(evaluate(start, environment)), int(evaluate(stop, environment))
        return ends if ends[0] < ends[1] else (0, 0)

    return interval(window.first, window.last), interval(window.full_first, window.full_last)


def expected(visible: np.ndarray) -> tuple[Interval, Interval]:
    some, every = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.all(axis=0))
    for seen in (some, every):
        assert seen.size == 0 or seen.size == seen[-1] - seen[0] + 1, "more than one interval"
    return tuple((int(s[0]), int(s[-1]) + 1) if s.size else (0, 0) for s in (some, every))


def check(window: Window, mask: Expression, keys: int, head: int, tiles: list[int]) -> None:
    visible = dense(mask, queries=keys, keys=keys, offset=0, values={"Lk": keys, "h": head})
    for size in tiles:
        for first in range(keys):
            last = min(first + size, keys) - 1
            wanted = expected(visible[first : last + 1])
            assert found(window, first, last, keys, head) == wanted, (first, last)


@settings(max_examples=400, deadline=None)
@given(mask=predicates(), keys=st.integers(1, 19), head=st.integers(0, 2), data=st.data())
def test_random_masks(mask: Expression, keys: int, head: int, data: st.DataObject) -> None:
    window = derive_window(mask)
    if window is not None:
        check(window, mask, keys, head, [data.draw(st.integers(1, 9))])


MASKS = [
    "True",
    "j <= i",
    "j < i - 2",
    "abs(i - j) <= 3",
    "i - j < 5 and j <= i",
    "j < 4",
    "j <= i or j < 4",
    "i // 7 == j // 7",
    "(i + 5) // 8 == (j + 5) // 8",
    "j // 4 <= i // 4",
    "h == 1 or abs(i - j) <= 2",
    "h < 2 and j <= i",
    "neighborhood1d(i, j, Lk, 7)",
    "neighborhood1d(i, j, Lk, 6, 1, 4)",
    "neighborhood1d(i, j, Lk, 5, causal = True)",
    "neighborhood1d(i, j, Lk, 5, 1, 3, True)",
    "0 <= j - (i - 3) // 8 * 8 < 14",
]


@pytest.mark.parametrize("text", MASKS)
def test_masks_of_the_catalogue(text: str) -> None:
    (attention,) = load_text(f"attention it {{\nmask = {text}\n}}").attentions.values()
    window = derive_window(attention.mask)
    assert window is not None
    for keys in (1, 2, 6, 7, 8, 15, 23):
        for head in (0, 1, 2):
            check(window, attention.mask, keys, head, [1, 4, 7, 8])


@pytest.mark.parametrize(
    "text", ["j < 2 or abs(i - j) < 2", "(i - j) % 3 == 0", "j != 4", "j % 4 < 2", "abs(i - j) > 2"]
)
def test_more_than_one_interval_is_no_window(text: str) -> None:
    (attention,) = load_text(f"attention it {{\nmask = {text}\n}}").attentions.values()
    assert derive_window(attention.mask) is None
