"""The abstract interpreter encloses the truth, and is exact where it says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicates import evaluate_scalar, integers, predicates
from unjudged import unjudged

from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Read,
)
from attndsl.planner.extrema import LineExtrema, PlaneExtrema
from attndsl.planner.intervals import Boxes, interval, truth

KEYS = 40
INPUTS = {
    "doc": np.random.default_rng(1).integers(-5, 5, KEYS),
    "flag": np.random.default_rng(2).random(KEYS) < 0.5,
    "limit": np.array([3, 17, 0, 40]),
    "head_flag": np.array([True, False, True, False]),
}


def boxes_of(i: tuple[int, int], j: tuple[int, int], head: int = 0) -> Boxes:
    def ends(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([first]), np.array([last])

    ranges = {"i": ends(*i), "j": ends(*j), "h": (np.asarray(head), np.asarray(head))}
    return Boxes(ranges, {"Lk": KEYS, "offset": 0}, inputs=INPUTS)


RANGE_I = st.tuples(st.integers(-30, 40), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1]))
RANGE_J = st.tuples(st.integers(0, 27), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1]))


def points(i: tuple[int, int], j: tuple[int, int], head: int) -> list[dict[str, object]]:
    return [
        {**INPUTS, "i": a, "j": b, "h": head, "Lk": KEYS}
        for a in range(i[0], i[1] + 1)
        for b in range(j[0], j[1] + 1)
    ]


@settings(max_examples=400, deadline=None)
@given(predicates(reads=True), RANGE_I, RANGE_J, st.integers(0, 3))
def test_truth_is_sound(
    mask: Expression, i: tuple[int, int], j: tuple[int, int], head: int
) -> None:
    found = truth(mask, boxes_of(i, j, head))
    seen = [bool(evaluate_scalar(mask, point)) for point in points(i, j, head)]
    assert bool(np.all(found.may)) or not any(seen)
    assert not bool(np.all(found.must)) or all(seen)


@settings(max_examples=400, deadline=None)
@given(integers(reads=True), RANGE_I, RANGE_J, st.integers(0, 3))
def test_intervals_enclose(
    value: Expression, i: tuple[int, int], j: tuple[int, int], head: int
) -> None:
    found = interval(value, boxes_of(i, j, head))
    seen = [evaluate_scalar(value, point) for point in points(i, j, head)]
    assert np.all(found.low <= min(seen))
    assert np.all(found.high >= max(seen))


@settings(max_examples=300, deadline=None)
@given(
    RANGE_I,
    RANGE_J,
    st.integers(1, 30),
    st.integers(-3, 31),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    st.sampled_from(["i - j", "j", "i // 3", "7 - i"]),
)
def test_remainders_are_exact(
    i: tuple[int, int], j: tuple[int, int], modulus: int, target: int, operator: str, value: str
) -> None:
    mask = unjudged(f"attention spec {{ mask = ({value}) % {modulus} {operator} {target} }}").mask
    found = truth(mask, boxes_of(i, j))
    seen = [bool(evaluate_scalar(mask, point)) for point in points(i, j, 0)]
    assert (bool(np.all(found.may)), bool(np.all(found.must))) == (any(seen), all(seen))


@pytest.mark.parametrize(
    "text",
    ["i - j < 9", "j <= i", "2 * i - 3 * j >= 4", "i // 5 == j // 5", "abs(i - j) <= 6"],
)
@settings(max_examples=60, deadline=None)
@given(RANGE_I, RANGE_J)
def test_single_comparisons_are_exact(text: str, i: tuple[int, int], j: tuple[int, int]) -> None:
    mask = unjudged(f"attention spec {{ mask = {text} }}").mask
    found = truth(mask, boxes_of(i, j))
    seen = [bool(evaluate_scalar(mask, point)) for point in points(i, j, 0)]
    assert (bool(np.all(found.may)), bool(np.all(found.must))) == (any(seen), all(seen))


def test_unknown_floats_prove_nothing() -> None:
    score = Read("score", (Index("j"),), FLOAT)
    inputs = {"score": np.array([0.5, np.nan, -1.0])}
    ranges = {"j": (np.array([0, 1, 2]), np.array([0, 1, 2]))}
    boxes = Boxes(ranges, {}, inputs=inputs)
    above = truth(Binary(">", score, Literal(0.0), BOOL), boxes)
    assert above.may.tolist() == [True, True, False]
    assert above.must.tolist() == [True, False, False]
    sine = Binary("<", Call("sin", (score,), FLOAT), Literal(2.0), BOOL)
    assert truth(sine, boxes).may.all()
    assert not truth(sine, boxes).must.any()


@settings(max_examples=100, deadline=None)
@given(RANGE_I, RANGE_J, st.integers(1, 5))
def test_powers_of_a_difference_are_exact(
    i: tuple[int, int], j: tuple[int, int], exponent: int
) -> None:
    difference = Binary("-", Index("i"), Index("j"), INT)
    found = interval(Binary("**", difference, Literal(exponent), INT), boxes_of(i, j))
    values = [(a - b) ** exponent for a in range(i[0], i[1] + 1) for b in range(j[0], j[1] + 1)]
    assert (int(np.min(found.low)), int(np.max(found.high))) == (min(values), max(values))


def test_huge_powers_do_not_overflow() -> None:
    wide = Boxes({"i": (np.array([-(10**6)]), np.array([10**6]))}, {})
    found = interval(Binary("**", Index("i"), Literal(15), INT), wide)
    assert found.low[0] <= -(10**18)
    assert found.high[0] >= 10**18


def test_huge_products_do_not_overflow() -> None:
    i = Index("i")
    product = Binary("*", Binary("*", i, i, INT), Binary("*", i, i, INT), INT)
    wide = Boxes({"i": (np.array([0]), np.array([10**6]))}, {})
    found = interval(Binary("*", product, product, INT), wide)
    assert found.low[0] == 0
    assert found.high[0] >= 10**18


def test_division_by_an_interval_around_zero_is_open() -> None:
    i, j = Index("i"), Index("j")
    boxes = Boxes({"i": (np.array([5]), np.array([9])), "j": (np.array([-1]), np.array([1]))}, {})
    for operator in ("//", "%"):
        found = truth(Binary(">", Binary(operator, i, j, INT), Literal(100), BOOL), boxes)
        assert found.may.all()
        assert not found.must.any()


@pytest.mark.parametrize("length", [1, 7, 100, 70_001])
def test_extrema_of_a_line(length: int) -> None:
    random = np.random.default_rng(length)
    values = random.integers(-1000, 1000, length)
    first = random.integers(0, length, 200)
    last = np.minimum(first + random.integers(0, length, 200), length - 1)
    extrema = LineExtrema.of(values)
    low, high = extrema.over(first, last)
    for number, (a, b) in enumerate(zip(first, last, strict=True)):
        around = slice(a // extrema.granule * extrema.granule, b + extrema.granule)
        assert values[around].min() <= low[number] <= values[a : b + 1].min()
        assert values[around].max() >= high[number] >= values[a : b + 1].max()
        if extrema.granule == 1:
            assert (low[number], high[number]) == (values[a : b + 1].min(), values[a : b + 1].max())


def test_extrema_of_a_plane() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 1000, (37, 90))
    first = random.integers(0, 37, 300), random.integers(0, 90, 300)
    last = (
        np.minimum(first[0] + random.integers(0, 20, 300), 36),
        np.minimum(first[1] + random.integers(0, 60, 300), 89),
    )
    low, high = PlaneExtrema(values).over(first, last)
    for number in range(300):
        part = values[
            first[0][number] : last[0][number] + 1, first[1][number] : last[1][number] + 1
        ]
        assert low[number] <= part.min()
        assert high[number] >= part.max()
    single = PlaneExtrema(values).over(first, first)
    np.testing.assert_array_equal(single[0], values[first])
    np.testing.assert_array_equal(single[1], values[first])
