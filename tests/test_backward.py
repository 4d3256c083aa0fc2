"""Derived backwards, run block by block in float64, against PyTorch's autograd of independent
implementations and against finite differences of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from naive import CASES, Call, Case, Shape
from triton_calls import call_of_text

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


BALANCED = {
    "a_factor_of_scores": "score = dot(q, k) * exp(x[h])",
    "of_what_is_visible": "score = dot(q, k) * exp(x[h])\nmask = i - j > 5",
    "a_sink": "score = dot(q, k) * exp(x[h])\nnormalize = softmax(sink = sink[h])",
    "a_sink_with_a_value": """score = dot(q, k) * exp(x[h])
        normalize = softmax(sink = sink[h], value = vector[h])""",
    "a_bend": "score = 9 * tanh(dot(q, k) * x[h])",
    "a_factor_of_queries": "q = normalized(q) * exp(x[h])",
    "a_factor_of_both": "q = normalized(q) * exp(x[h])\nscore = dot(q, k) * exp(y[h])",
}


@pytest.mark.parametrize("with_log_sum_exp", [False, True])
@pytest.mark.parametrize("name", BALANCED)
def test_a_rounded_output_moves_no_sum_that_scores_multiply(
    name: str, with_log_sum_exp: bool
) -> None:
    """Of an output with a thousandth of noise, the gradients of inputs are as good as exact."""
    text = BALANCED[name]
    inputs = [one for one in ("x", "y") if f"{one}[" in text]
    sinks = {"sink": "[H]", "vector": "[H, Dv]"}
    shapes = dict.fromkeys(inputs, "[H]") | {one: sinks[one] for one in sinks if f"{one}[" in text}
    declared = "\n".join(f"input {one}: float{shape}" for one, shape in shapes.items())
    attention, call = call_of_text(
        f"attention a {{\n{declared}\n{text}\n}}",
        {"heads": 4, "key_heads": 2, "queries": 19, "keys": 23, "width": 16},
    )
    generator = np.random.default_rng(1)

    def refer(of: Call) -> reference.Result:
        return reference.run(attention, of.q, of.k, of.v, of.inputs)

    forward = refer(call)
    out_gradient = generator.normal(size=forward.output.shape)
    assert forward.log_sum_exp is not None
    seen = np.isfinite(forward.log_sum_exp)
    # Nothing that rows without a key are given may spoil the others.
    of_log_sum_exp = np.where(seen, generator.normal(size=seen.shape), np.nan)
    of_log_sum_exp = of_log_sum_exp if with_log_sum_exp else np.zeros(seen.shape)
    results = {
        "out": forward.output + 1e-3 * generator.normal(size=out_gradient.shape),
        "out.gradient": out_gradient,
        "log_sum_exp": forward.log_sum_exp,
        "log_sum_exp.gradient": of_log_sum_exp,
    }
    gradients = execute_backward(
        plan_backward(attention, log_sum_exp_gradient=with_log_sum_exp),
        call_of(plan(attention), call.q, call.k, call.v, call.inputs),
        results,
        block_m=16,
        block_n=16,
    )

    def moved(of: Call) -> float:
        found = refer(of)
        assert found.log_sum_exp is not None
        of_rows = found.log_sum_exp[seen] * of_log_sum_exp[seen]
        return float(np.sum(found.output * out_gradient) + np.sum(of_rows))

    for one in inputs:
        array = call.floats()[one]
        direction = generator.normal(size=array.shape)
        ahead, behind = (
            moved(call.replaced({one: array + step * direction})) for step in (STEP, -STEP)
        )
        slope, derived = (ahead - behind) / (2 * STEP), np.sum(gradients[one] * direction)
        assert abs(derived - slope) < 1e-6 * max(1.0, np.abs(slope)), (one, derived, slope)
