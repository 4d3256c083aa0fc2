"""A strided alternative of a mask runs apart from the rest, and both cost their visible pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl import reference
from attndsl.attention import Softmax
from attndsl.binding import bind
from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Literal
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.cost import cost
from attndsl.planner.execute import execute
from attndsl.planner.passes.split_strides import strided_part
from attndsl.planner.plan import Plan
from attndsl.printing import text

NEAR_OR_STRIDED = "causal and (i - j < 9 or (i - j) % 8 == 0)"
MASKS = [
    NEAR_OR_STRIDED,
    "abs(i - j) < 5 or i % 7 == j % 7",
    "causal and (j < 3 or (i - j) % 5 == 0 or i - j < 6)",
    "causal and ((i - j) % 6 == 0 and i - j < 60 or i - j < 4)",
]


def planned(body: str) -> Plan:
    (attention,) = load_text(f"attention it {{\n{body}\n}}").attentions.values()
    return plan(bind(attention))


def test_parts_merge_as_sink_and_its_value() -> None:
    made = planned(f"mask = {NEAR_OR_STRIDED}")
    first, last = made.attends
    assert first.residue == Literal(8)
    assert first.partial is not None
    assert first.normalizer == Softmax()
    assert last.partial is None
    assert text(last.mask) == "j <= i and i - j < 9"
    assert isinstance(last.normalizer, Softmax)
    assert last.normalizer.sink is not None
    assert text(last.normalizer.sink) == f"{first.partial.log_sum_exp.name}[b, h, row]"


def test_a_sink_of_the_user_joins_the_first_part() -> None:
    made = planned(f"input s: float[H]\nmask = {NEAR_OR_STRIDED}\nnormalize = softmax(sink = s[h])")
    first, _ = made.attends
    assert isinstance(first.normalizer, Softmax)
    assert first.normalizer.sink is not None
    assert text(first.normalizer.sink) == "s[h]"


@pytest.mark.parametrize(
    "body",
    [
        "mask = causal and (i - j < 9 or (i - j) % 2 == 0)",
        f"mask = {NEAR_OR_STRIDED}\nnormalize = sigmoid",
        "input doc: int[B, Lk]\nmask = (i - j) % 8 == 0 or doc[b, i] == doc[b, j]",
        "mask = causal and (i - j) % 8 == 0",
    ],
)
def test_other_plans_have_one_stage_over_pairs(body: str) -> None:
    assert len(planned(body).attends) == 1


@pytest.mark.parametrize("mask", MASKS)
def test_parts_are_disjoint_and_cover_the_mask(mask: str) -> None:
    (attention,) = load_text(f"attention it {{\nmask = {mask}\n}}").attentions.values()
    parts = strided_part(attention.mask)
    assert parts is not None
    environment = Environment(
        indices={"i": np.arange(-10, 70)[:, None], "j": np.arange(70)[None, :]}
    )
    whole, strided, rest = (evaluate(one, environment) for one in (attention.mask, *parts))
    assert not np.any(strided & rest)
    assert np.array_equal(strided | rest, whole)


@pytest.mark.parametrize("mask", MASKS)
@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 60),
    keys=st.integers(1, 60),
    offset=st.one_of(st.none(), st.integers(-9, 30)),
    tile=st.sampled_from([(16, 16), (8, 16), (16, 4)]),
)
def test_parts_compute_the_whole(
    mask: str, rows: int, keys: int, offset: int | None, tile: tuple[int, int]
) -> None:
    (attention,) = load_text(
        "attention it {\ninput s: float[H]\ninput w: float[H, D]\n"
        "score = dot(q, k) * scale + dot(w[h], k) - s[h] * abs(i - j)\n"
        f"mask = {mask}\nnormalize = softmax(sink = s[h])\n}}"
    ).attentions.values()
    attention = bind(attention)
    made = plan(attention)
    assert len(made.attends) == 2
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 2, length, 4)) for length in (rows, keys, keys))
    inputs = {"s": random.normal(size=2), "w": random.normal(size=(2, 4))}
    wanted = reference.run(attention, q, k, v, inputs, offset=offset)
    found = execute(made, q, k, v, inputs, block_m=tile[0], block_n=tile[1], offset=offset)
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9, atol=1e-9)


def test_cost_is_that_of_visible_pairs() -> None:
    made = planned("mask = causal and (i - j < 128 or (i - j) % 128 == 0)")
    found = cost(made, {"Lq": 1 << 17})
    assert found.visible_pairs is not None
    assert found.pairs <= 1.25 * found.visible_pairs
