"""The plan executor agrees with the reference on the whole catalogue, at several tiles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from naive import CASES, Case, Shape

from attndsl import reference
from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.diagnostics import InternalError
from attndsl.expression import Literal
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.block_map import BlockInterval, Kind, Ranges
from attndsl.planner.execute import execute

CALLS = [pytest.param(case, shape, id=f"{case}-{shape}") for case in CASES for shape in case.shapes]
TILES = [(16, 16), (32, 64), (64, 16)]


@pytest.mark.parametrize(("case", "shape"), CALLS)
def test_executor_agrees_with_reference(case: Case, shape: Shape) -> None:
    attention = case.load()
    call = case.call(shape)
    options = {
        "scale": call.scale,
        "offset": call.shape.offset,
        "axes": call.axes(attention.axes),
    }
    wanted = reference.run(attention, call.q, call.k, call.v, call.inputs, **options)
    made = plan(attention)
    for block_m, block_n in TILES:
        found = execute(
            made, call.q, call.k, call.v, call.inputs, block_m=block_m, block_n=block_n, **options
        )
        np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
        if wanted.log_sum_exp is None:
            assert found.log_sum_exp is None
        else:
            np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9, atol=1e-9)


def bound(body: str) -> Attention:
    (attention,) = load_text(f"attention it {{\n{body}\n}}").attentions.values()
    return bind(attention)


def operands(rows: int, keys: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    return tuple(random.normal(size=(1, 2, length, 4)) for length in (rows, keys, keys))


NORMALIZERS = ["softmax", "sigmoid", "relu(divide = sum)"]


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_hidden_never_leaks(normalize: str, poison: float) -> None:
    attention = bound(f"mask = causal and j != 5\nnormalize = {normalize}")
    q, k, v = operands(20, 20)
    clean = execute(plan(attention), q, k, v, {}, block_m=8, block_n=8)
    k[:, :, 5], v[:, :, 5] = poison, poison
    found = execute(plan(attention), q, k, v, {}, block_m=8, block_n=8)
    np.testing.assert_allclose(found.output, clean.output, rtol=1e-12)


@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_rows_that_see_nothing_give_zero(normalize: str) -> None:
    attention = bound(f"mask = j < i - 3\nnormalize = {normalize}")
    q, k, v = operands(20, 20)
    found = execute(plan(attention), q, k, v, {}, block_m=8, block_n=8)
    assert np.all(found.output[:, :, :4] == 0)
    assert np.any(found.output[:, :, 4:] != 0)
    if found.log_sum_exp is not None:
        assert np.all(np.isneginf(found.log_sum_exp[:, :, :4]))


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (5, 0), (1, 1)])
@pytest.mark.parametrize("mask", ["causal", "True", "(i - j) % 4 == 0", "causal and i - j < 2"])
def test_lengths_may_be_nothing(rows: int, keys: int, mask: str) -> None:
    attention = bound(f"mask = {mask}")
    q, k, v = operands(rows, keys)
    wanted = reference.run(attention, q, k, v, {})
    found = execute(plan(attention), q, k, v, {}, block_m=16, block_n=16)
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9)
    np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9)


def test_a_block_map_that_visits_twice_is_our_bug() -> None:
    made = plan(bound("mask = causal"))
    twice = Ranges((*made.attend.block_map.intervals, *made.attend.block_map.intervals))
    stage = dataclasses.replace(made.attend, block_map=twice)
    made = dataclasses.replace(made, stages=(*made.stages[:-1], stage))
    with pytest.raises(InternalError, match="visited twice"):
        execute(made, *operands(20, 20), {}, block_m=8, block_n=8)


def test_a_full_block_of_missing_keys_is_our_bug() -> None:
    made = plan(bound("mask = causal"))
    everything = BlockInterval(Literal(0), Literal(3), Kind.FULL)
    stage = dataclasses.replace(made.attend, block_map=Ranges((everything,)))
    made = dataclasses.replace(made, stages=(*made.stages[:-1], stage))
    with pytest.raises(InternalError, match="keys that do not exist"):
        execute(made, *operands(20, 20), {}, block_m=8, block_n=8)
