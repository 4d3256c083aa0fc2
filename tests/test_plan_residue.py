"""Residue classes: found where positions must be congruent, and worth their visible pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl import reference
from attndsl.binding import bind
from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Literal
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.cost import cost
from attndsl.planner.execute import execute
from attndsl.planner.plan import Plan
from attndsl.planner.problems import LineProblem, problems
from attndsl.planner.residue import on_classes
from attndsl.printing import text


def planned(body: str) -> Plan:
    (attention,) = load_text(f"attention it {{\n{body}\n}}").attentions.values()
    return plan(bind(attention))


@pytest.mark.parametrize(
    ("mask", "modulus", "rest"),
    [
        ("(i - j) % 4 == 0", 4, "True"),
        ("0 == (j - i) % 4", 4, "True"),
        ("abs(i - j) % 6 == 0", 6, "True"),
        ("i % 5 == j % 5", 5, "True"),
        ("abs(i - j) <= 8 * 4 and (i - j) % 4 == 0", 4, "abs(i - j) <= 8"),
        ("causal and i - j < 30 and (i - j) % 8 == 0", 8, "j - i <= 0 and i - j < 4"),
        ("(i - j) % 4 == 0 and i // 8 == j // 8", 4, "i // 2 - j // 2 == 0"),
        ("(i - j) % 2 == 0 and (i - j) % 6 == 0", 6, "True"),
        ("i % 3 == j % 3 and j // 3 < cdiv(Lk - i % 3, 3) - 2", 3, "j - local.Lk < -2"),
    ],
)
def test_classes_are_found(mask: str, modulus: int, rest: str) -> None:
    stage = planned(f"mask = {mask}").attend
    assert stage.residue == Literal(modulus)
    assert text(stage.mask) == rest


@pytest.mark.parametrize(
    "body",
    [
        "mask = (i - j) % 4 == 1",
        "mask = (i + j) % 4 == 0",
        "mask = i % 4 == j % 8",
        "mask = (i - j) % 4 == 0 or i - j < 3",
        "input step: int[H]\nmask = (i - j) % max(step[h], 1) == 0",
        "input doc: int[B, Lk]\nmask = (i - j) % 4 == 0 and doc[b, i] == doc[b, j]",
        "axes y, x\nmask = (i - j) % 4 == 0 and i.y == j.y",
    ],
)
def test_other_masks_are_left_whole(body: str) -> None:
    assert planned(body).attend.residue is None


@given(
    rows=st.integers(0, 40),
    keys=st.integers(0, 40),
    offset=st.integers(-20, 20),
    m=st.integers(2, 9),
)
def test_problems_share_out_every_row_and_key(rows: int, keys: int, offset: int, m: int) -> None:
    stage = planned(f"mask = (i - j) % {m} == 0").attend
    seen_rows, seen_keys = [], []
    for problem in problems(stage, {"Lq": rows, "Lk": keys, "offset": offset}, 16):
        assert isinstance(problem, LineProblem)
        assert problem.residue is not None
        for local in range(problem.rows):
            row = problem.first_row + m * local
            assert row + offset == problem.residue + m * (local + problem.offset)
            seen_rows.append(row)
        seen_keys += [problem.first_key + m * local for local in range(problem.keys)]
    assert sorted(seen_rows) == list(range(rows))
    assert sorted(seen_keys) == list(range(keys))


MASKS = [
    "abs(i - j) <= 12 and (i - j) % 4 == 0",
    "causal and (i - j) % 7 == 0",
    "(i - j) % 3 == 0 and (j < 5 or i - j < 20) and causal",
    "(i - j) % 4 == 0 and i // 16 == j // 16",
    "neighborhood1d(i, j, Lk, 5, 4)",
]
SUBSTITUTED = [*MASKS, "(i + 2) % 8 < 5 and j // 4 < 3", "i // 3 == (j + i) % 5"]


@pytest.mark.parametrize("mask", MASKS)
@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 50),
    keys=st.integers(1, 50),
    offset=st.one_of(st.none(), st.integers(-9, 30)),
    tile=st.sampled_from([(16, 16), (8, 16), (16, 4)]),
)
def test_classes_compute_the_same(
    mask: str, rows: int, keys: int, offset: int | None, tile: tuple[int, int]
) -> None:
    (attention,) = load_text(
        "attention it {\ninput slope: float[H]\ninput bias: float[Lq]\n"
        f"score = dot(q, k) * scale - slope[h] * abs(i - j) + bias[row]\nmask = {mask}\n}}"
    ).attentions.values()
    attention = bind(attention)
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 2, length, 4)) for length in (rows, keys, keys))
    inputs = {"slope": random.normal(size=2), "bias": random.normal(size=rows)}
    made = plan(attention)
    assert made.attend.residue is not None
    wanted = reference.run(attention, q, k, v, inputs, offset=offset)
    found = execute(made, q, k, v, inputs, block_m=tile[0], block_n=tile[1], offset=offset)
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)


@given(
    i=st.integers(-40, 40),
    j=st.integers(0, 40),
    residue=st.integers(0, 3),
    mask=st.sampled_from(SUBSTITUTED),
)
def test_substitution_keeps_the_value(i: int, j: int, residue: int, mask: str) -> None:
    (attention,) = load_text(f"attention it {{\nmask = {mask}\n}}").attentions.values()
    local = on_classes(attention.mask, 4)

    def value(expression, **indices: int) -> bool:
        arrays = {name: np.array(index) for name, index in indices.items()}
        sizes = {"Lk": 170, "local.Lk": len(range(residue, 170, 4))}
        return bool(evaluate(expression, Environment(indices=arrays, sizes=sizes)))

    at = {"i": residue + 4 * i, "j": residue + 4 * j}
    assert value(local, i=i, j=j, residue=residue) == value(attention.mask, **at)


def test_a_dilated_window_costs_its_visible_pairs() -> None:
    sizes = {"Lq": 1 << 16}
    dilated = cost(planned("mask = abs(i - j) <= 64 * 64 and (i - j) % 64 == 0"), sizes)
    window = cost(planned("mask = abs(i - j) <= 64"), sizes)
    assert dilated.pairs <= 1.2 * window.pairs
