"""A backward whose stages sum over one side alone computes what the one in a single stage does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from naive import CASES, Case
from test_gradients import QUICK

from attndsl import reference
from attndsl.planner.execute import call_of
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.pipeline import plan, plan_backward
from attndsl.planner.plan import PairSums


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow, id=case.name)
        for case in CASES
    ],
)
def test_gradients_are_the_same(case: Case) -> None:
    attention, call = case.load(), case.call(case.shapes[0])
    tensors = call.q, call.k, call.v, call.inputs
    options: dict[str, Any] = {
        "scale": call.scale,
        "offset": call.shape.offset,
        "axes": call.axes(attention.axes),
    }
    found = reference.run(attention, *tensors, **options)
    out_gradient = np.random.default_rng(1).normal(size=found.output.shape)
    results = {"out": found.output, "out.gradient": out_gradient}
    for result, array in (("log_sum_exp", found.log_sum_exp), ("weights.sum", found.divisor)):
        if array is not None:
            results[result] = array
    arguments = call_of(plan(attention), *tensors, **options)
    backward, by_side = plan_backward(attention), plan_backward(attention, by_side=True)
    for stage in by_side.stages:
        if isinstance(stage, PairSums):
            assert {one.side for one in stage.sums} <= {stage.tiles}
            assert not (stage.sums and stage.elements)
    wanted = execute_backward(backward, arguments, results, block_m=32, block_n=32)
    gradients = execute_backward(by_side, arguments, results, block_m=32, block_n=16)
    assert gradients.keys() == wanted.keys()
    for name, expected in wanted.items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-9, atol=1e-9, err_msg=name)
