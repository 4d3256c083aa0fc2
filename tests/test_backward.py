"""Derived backwards, run block by block in float64, against PyTorch's autograd of independent
implementations and against finite differences of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from naive import CASES, Call, Case, Shape

from attndsl import reference
from attndsl.expression import Read, walk
from attndsl.planner.execute import call_of
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.pipeline import plan, plan_backward

STEP = 1e-6


def check(case: Case, shape: Shape) -> None:
    attention = case.load()
    call = case.call(shape)
    options: dict[str, Any] = {
        "scale": call.scale,
        "offset": call.shape.offset,
        "axes": call.axes(attention.axes),
    }

    def refer(of: Call) -> reference.Result:
        return reference.run(attention, of.q, of.k, of.v, of.inputs, **options)

    forward = refer(call)
    generator = np.random.default_rng(1)
    out_gradient = generator.normal(size=forward.output.shape)
    results = {"out": forward.output, "out.gradient": out_gradient}
    for result, array in (("log_sum_exp", forward.log_sum_exp), ("weights.sum", forward.divisor)):
        if array is not None:
            results[result] = array
    gradients = execute_backward(
        plan_backward(attention),
        call_of(plan(attention), call.q, call.k, call.v, call.inputs, **options),
        results,
        block_m=16,
        block_n=16,
    )
    in_mask = {node.name for node in walk(attention.mask) if isinstance(node, Read)}
    for name, expected in case.gradients(call, out_gradient).items():
        found = gradients.get(name, np.zeros_like(expected))
        scale = max(1.0, np.abs(expected).max(initial=0.0))
        assert np.abs(found - expected).max(initial=0.0) < 1e-10 * scale, name
        if name in in_mask:  # what moves a mask has no derivative
            assert not np.any(found)
            continue
        array = call.floats()[name]
        direction = generator.normal(size=array.shape)
        ahead, behind = (
            np.sum(refer(call.replaced({name: array + step * direction})).output * out_gradient)
            for step in (STEP, -STEP)
        )
        slope, derived = (ahead - behind) / (2 * STEP), np.sum(found * direction)
        assert abs(derived - slope) < 1e-6 * max(1.0, np.abs(slope)), (name, derived, slope)


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        pytest.param(
            case,
            shape,
            marks=() if shape is case.shapes[0] else pytest.mark.slow,
            id=f"{case}-{shape}",
        )
        for case in CASES
        for shape in case.shapes
    ],
)
def test_gradients(case: Case, shape: Shape) -> None:
    check(case, shape)
