"""What follows from how far apart two tokens are."""

from __future__ import annotations

import numpy as np
import pytest
from unjudged import unjudged

from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Expression, Read, walk
from attndsl.planner.distance import DISTANCE, by_distance, tells_distances_apart


def index_of(text: str) -> Expression:
    spec = unjudged(f"attention a {{ input x: float[99]\nscore = x[{text}] }}")
    (read,) = (node for node in walk(spec.score) if isinstance(node, Read))
    return read.indices[0]


ALONE = {
    "i - j": True,
    "j - i + 40": True,
    "abs(i - j)": False,
    "min(max(i - j, 0), 7)": False,
    "2 * (i - j)": True,
    "16 if j > i else abs(i - j) // 2": False,
    "(i - j) % 8": False,
    "h + i - j": True,
}


@pytest.mark.parametrize("text", ALONE)
def test_values_are_the_same(text: str) -> None:
    index = index_of(text)
    moved = by_distance(index)
    assert moved is not None
    assert tells_distances_apart(moved) is ALONE[text]
    i, j = np.indices((30, 40))
    h = np.asarray(3)
    expected = evaluate(index, Environment(indices={"i": i, "j": j, "h": h}))
    distances = {DISTANCE.name: i - j, "h": h}
    np.testing.assert_array_equal(evaluate(moved, Environment(indices=distances)), expected)


@pytest.mark.parametrize("text", ["i", "i + j", "i // 2 - j // 2", "row - j", "i % 4"])
def test_positions_matter(text: str) -> None:
    assert by_distance(index_of(text)) is None
