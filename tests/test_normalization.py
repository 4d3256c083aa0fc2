"""Normalisers' states merge: in any order and grouping, and as one softmax over all keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attndsl.planner.normalization import SoftmaxState, SumState

ROWS, WIDTH = 3, 2

scores = st.floats(-50, 50, allow_nan=False)
tiles = st.integers(0, 5).flatmap(
    lambda keys: st.tuples(
        hnp.arrays(np.float64, (ROWS, keys), elements=scores),
        hnp.arrays(np.bool_, (ROWS, keys)),
        hnp.arrays(np.float64, (keys, WIDTH), elements=st.floats(-10, 10)),
    )
)
States = type[SoftmaxState] | type[SumState]


def absorbed(kind: States, tile: tuple[np.ndarray, ...]) -> SoftmaxState | SumState:
    return kind.start((ROWS,), WIDTH).absorb(*tile)


def assert_same(left: SoftmaxState | SumState, right: SoftmaxState | SumState) -> None:
    for name in vars(left):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [SoftmaxState, SumState])
@given(first=tiles, second=tiles, third=tiles)
def test_merge_is_associative_and_commutative(kind: States, first, second, third) -> None:
    a, b, c = (absorbed(kind, tile) for tile in (first, second, third))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(b), b.merge(a))


@pytest.mark.parametrize("kind", [SoftmaxState, SumState])
@given(tile=tiles)
def test_a_fresh_state_is_neutral(kind: States, tile) -> None:
    state = absorbed(kind, tile)
    assert_same(state.merge(kind.start((ROWS,), WIDTH)), state)


@given(first=tiles, second=tiles)
def test_two_tiles_are_one_softmax(first, second) -> None:
    score, visible, value = (
        np.concatenate(pair, axis=axis)
        for pair, axis in zip(zip(first, second, strict=True), (1, 1, 0), strict=True)
    )
    output, log_sum_exp = absorbed(SoftmaxState, first).absorb(*second).finish(None, None)
    weights = np.where(visible, np.exp(score), 0.0)
    total = weights.sum(axis=1)
    seen = total > 0
    np.testing.assert_allclose(
        output[seen], (weights @ value)[seen] / total[seen, None], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(log_sum_exp[seen], np.log(total[seen]), rtol=1e-9, atol=1e-9)
    assert np.all(output[~seen] == 0)
    assert np.all(np.isneginf(log_sum_exp[~seen]))


@given(tile=tiles, sink=st.floats(-20, 20), value=st.floats(-5, 5))
def test_a_sink_is_one_more_key(tile, sink: float, value: float) -> None:
    state = absorbed(SoftmaxState, tile)
    one = np.full((ROWS, 1), sink), np.ones((ROWS, 1), np.bool_), np.full((1, WIDTH), value)
    by_key = state.absorb(*one).finish(None, None)
    by_sink = state.finish(np.full(ROWS, sink), np.full((ROWS, WIDTH), value))
    np.testing.assert_allclose(by_sink[0], by_key[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_sink[1], by_key[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [SoftmaxState, SumState])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_hidden_never_leaks(kind: States, poison: float) -> None:
    visible = np.array([[True, False]] * ROWS)
    clean = absorbed(kind, (np.zeros((ROWS, 2)), visible, np.array([[1.0, 2.0], [0.0, 0.0]])))
    score, value = np.zeros((ROWS, 2)), np.array([[1.0, 2.0], [poison, poison]])
    score[:, 1] = poison
    assert_same(absorbed(kind, (score, visible, value)), clean)


def test_a_zero_divisor_gives_zero() -> None:
    state = absorbed(SumState, (np.ones((ROWS, 1)), np.ones((ROWS, 1), bool), np.ones((1, WIDTH))))
    assert isinstance(state, SumState)
    assert np.array_equal(state.finish(np.array([0.0, 1.0, 2.0]))[:, 0], [0.0, 1.0, 0.5])
