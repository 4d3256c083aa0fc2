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
from attndsl.planner.backward import differentiate
from attndsl.planner.cost import cost
from attndsl.planner.execute import call_of, execute
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.lower import lower
from attndsl.planner.passes.split_strides import strided_part
from attndsl.planner.pipeline import plan_backward
from attndsl.planner.plan import PairSums, Plan
from attndsl.planner.visits import visits
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


def sums_of(made: Plan) -> list[PairSums]:
    return [stage for stage in made.stages if isinstance(stage, PairSums)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("rows", "keys"), [(33, 33), (20, 57)])
def test_sums_of_parts_add_up_to_the_gradients(mask: str, rows: int, keys: int) -> None:
    """Those of the plan that splits nothing."""
    (attention,) = load_text(
        "attention it {\ninput s: float[H]\ninput t: float[7]\n"
        "score = dot(q, k) * scale + t[min(abs(i - j), 6)] - s[h] * abs(i - j)\n"
        f"mask = {mask}\nnormalize = softmax(sink = s[h])\n}}"
    ).attentions.values()
    attention = bind(attention)
    whole, split = differentiate(lower(attention)), plan_backward(attention)
    assert (len(sums_of(whole)), len(sums_of(split))) == (1, 2)
    random = np.random.default_rng(0)
    q = random.normal(size=(1, 4, rows, 4))
    k, v = (random.normal(size=(1, 2, keys, 4)) for _ in range(2))
    inputs = {"s": random.normal(size=4), "t": random.normal(size=7)}
    forward = reference.run(attention, q, k, v, inputs)
    assert forward.log_sum_exp is not None
    results = {
        "out": forward.output,
        "log_sum_exp": forward.log_sum_exp,
        "out.gradient": random.normal(size=forward.output.shape),
    }
    call = call_of(plan(attention), q, k, v, inputs)
    wanted, found = (
        execute_backward(one, call, results, block_m=16, block_n=8) for one in (whole, split)
    )
    assert wanted.keys() == found.keys() == {"q", "k", "v", "s", "t"}
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "mask",
    [
        "causal and (i - j < 64 or (i - j) % 64 == 0)",
        "causal and (i // 64 == j // 64 or j % 64 >= 60)",
    ],
)
def test_sums_cost_their_visible_pairs(mask: str) -> None:
    (attention,) = load_text(f"attention it {{\nmask = {mask}\n}}").attentions.values()
    length = 2048
    sizes = {"B": 1, "H": 1, "Hkv": 1, "Lq": length, "Lk": length, "offset": 0}
    visited = sum(
        visit.queries.numbers.size * visit.problem.key_tokens(block.box).numbers.size
        for stage in sums_of(plan_backward(attention))
        for visit in visits(stage, Environment(sizes=sizes), 16, 16)
        for block in visit.blocks
    )
    place = np.arange(length)
    visible = evaluate(
        attention.mask, Environment(indices={"i": place[:, None], "j": place[None, :]})
    )
    assert visited <= 1.6 * visible.sum()
