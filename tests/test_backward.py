"""Derived backwards, run block by block, against finite differences of independent forwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from naive import CASES, Call, Case, Shape
from test_gradients import QUICK

from attndsl import reference
from attndsl.expression import Read, walk
from attndsl.planner.execute import call_of
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.pipeline import plan, plan_backward

Array = np.ndarray[Any, Any]
STEP = 1e-6
SMALL = Shape(23, 23, width=8, value_width=8)
UNEVEN = Shape(19, 37, heads=4, key_heads=2, width=8, value_width=6)


def differentiable(call: Call) -> dict[str, Array]:
    """The tensors of floats of a call, by name."""
    operands = {"q": call.q, "k": call.k} | ({} if call.v is None else {"v": call.v})
    floats = {name: array for name, array in call.inputs.items() if array.dtype == np.float64}
    return {**operands, **floats}


def moved(call: Call, name: str, array: Array) -> Call:
    if name in ("q", "k", "v"):
        return dataclasses.replace(call, **{name: array})
    return dataclasses.replace(call, inputs={**call.inputs, name: array})


def check(case: Case, shape: Shape | None, blocks: tuple[int, int] = (16, 16)) -> None:
    attention = case.load()
    call = case.call(shape)
    axes = call.axes(attention.axes)
    forward = plan(attention)
    backward = plan_backward(attention)
    tensors = call.q, call.k, call.v, call.inputs
    options: dict[str, Any] = {"scale": call.scale, "offset": call.shape.offset, "axes": axes}
    out = case.naive(call)
    generator = np.random.default_rng(1)
    out_gradient = generator.normal(size=out.shape)
    results = {"out": out, "out.gradient": out_gradient}
    found_reference = reference.run(attention, *tensors, **options)
    for result, array in (
        ("log_sum_exp", found_reference.log_sum_exp),
        ("weights.sum", found_reference.divisor),
    ):
        if array is not None:
            results[result] = array
    gradients = execute_backward(
        backward,
        call_of(forward, *tensors, **options),
        results,
        block_m=blocks[0],
        block_n=blocks[1],
    )
    in_mask = {node.name for node in walk(attention.mask) if isinstance(node, Read)}
    for name, array in differentiable(call).items():
        if name in in_mask:  # what moves a mask has no derivative
            assert not np.any(gradients.get(name, 0.0))
            continue
        direction = generator.normal(size=array.shape)
        ahead, behind = (
            np.sum(case.naive(moved(call, name, array + step * direction)) * out_gradient)
            for step in (STEP, -STEP)
        )
        expected = (ahead - behind) / (2 * STEP)
        found = np.sum(gradients.get(name, np.zeros_like(array)) * direction)
        scale = max(1.0, np.abs(expected))
        assert abs(found - expected) < 1e-6 * scale, (name, found, expected)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow, id=case.name)
        for case in CASES
    ],
)
def test_gradients(case: Case) -> None:
    check(case, None)
