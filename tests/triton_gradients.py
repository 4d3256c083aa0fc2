"""Gradients of a call by Triton's kernels, interpreted, beside exact ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from naive import CASES, Call
from test_cpp_catalogue import tensor
from triton_calls import Spoiled, call_of_text

from attndsl import reference
from attndsl.attention import Attention
from attndsl.codegen.program import Specialization, Tile
from attndsl.planner.execute import call_of
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.pipeline import plan as plan_forward
from attndsl.planner.pipeline import plan_backward
from attndsl.runtime.arguments import check_call, converted
from attndsl.runtime.options import Options
from attndsl.runtime.triton_backward import build

Array = np.ndarray[Any, Any]
TILE = Tile(32, 16, 4, 1)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def errors(name: str, shape: int, dtype: str) -> dict[str, tuple[float, float]]:
    """Of a case of the catalogue at its shape number `shape`, compared with PyTorch's autograd of
    the formula in float64: by tensor, the largest difference relative to the largest element where
    that is above 1. The second number is that of PyTorch's autograd in `dtype`."""
    case = next(case for case in CASES if case.name == name)
    call = case.call(case.shapes[shape])
    given = call.floats().items()
    call = call.replaced(
        {one: torch.from_numpy(array).to(DTYPES[dtype]).double().numpy() for one, array in given}
    )
    found, out_gradient = gradients(case.load(), call, DTYPES[dtype])
    of_out = out_gradient.double().numpy()
    wanted = case.gradients(call, of_out)
    theirs = case.gradients(call, of_out, DTYPES[dtype])
    mine = _differences(found, wanted)
    others = _differences({one: torch.from_numpy(array) for one, array in theirs.items()}, wanted)
    return {one: (error, others[one]) for one, error in mine.items()}


def errors_of_text(
    text: str, dtype: str, sizes: Mapping[str, Any], with_log_sum_exp: bool = False
) -> dict[str, float]:
    """Of the one attention of `text`, compared with the plan in float64; see `call_of_text`. The
    log-sum-exp may have a gradient too: one for each row."""
    attention, call = call_of_text(text, sizes)
    call = rounded(call, DTYPES[dtype])
    found, out_gradient = gradients(attention, call, DTYPES[dtype], with_log_sum_exp)
    wanted = _exact(attention, call, out_gradient.double().numpy(), with_log_sum_exp)
    return _differences(found, wanted)


def _differences(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, Array]
) -> dict[str, float]:
    assert found.keys() <= wanted.keys()
    result = {}
    for one, expected in wanted.items():
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        mine = found[one].double().numpy() if one in found else 0.0
        difference = np.nan_to_num(np.abs(mine - expected), nan=np.inf)
        result[one] = float(difference.max(initial=0.0)) / scale
    return result


def _exact(
    attention: Attention, call: Call, out_gradient: Array, with_log_sum_exp: bool
) -> dict[str, Array]:
    options: dict[str, Any] = {"scale": call.scale, "offset": call.shape.offset}
    tensors = call.q, call.k, call.v, call.inputs
    results = _results(reference.run(attention, *tensors, **options))
    arguments = call_of(plan_forward(attention), *tensors, **options)
    if with_log_sum_exp:
        results["log_sum_exp.gradient"] = np.ones(out_gradient.shape[:3])
    return execute_backward(
        plan_backward(attention, log_sum_exp_gradient=with_log_sum_exp),
        arguments,
        {**results, "out.gradient": out_gradient},
        block_m=64,
        block_n=64,
    )


def _results(found: reference.Result) -> dict[str, Array]:
    """What a backward reads of the forward's results."""
    named = {"log_sum_exp": found.log_sum_exp, "weights.sum": found.divisor}
    rows = {name: np.array(array) for name, array in named.items() if array is not None}
    return {"out": found.output, **rows}


def gradients_of_text(
    text: str, sizes: Mapping[str, Any], spoiled: Sequence[Spoiled] = ()
) -> dict[str, Array]:
    """Gradients in single precision, by name."""
    found, _ = gradients(*call_of_text(text, sizes, spoiled), torch.float32)
    return {name: one.numpy() for name, one in found.items()}


def rounded(call: Call, dtype: torch.dtype) -> Call:
    """The call with operands that the element type has."""
    operands: dict[str, Any] = {
        name: None if array is None else tensor(array, dtype).double().numpy()
        for name, array in (("q", call.q), ("k", call.k), ("v", call.v))
    }
    return dataclasses.replace(call, **operands)


def gradients(
    attention: Attention, call: Call, dtype: torch.dtype, with_log_sum_exp: bool = False
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients by name, and the gradient of the output, drawn at random."""
    operands = {
        name: tensor(array, dtype)
        for name, array in (("q", call.q), ("k", call.k), ("v", call.v))
        if array is not None
    }
    inputs = {name: tensor(value, torch.float32) for name, value in call.inputs.items()}
    shape = call.shape
    checked = check_call(
        attention,
        {"v": None, **operands},
        inputs,
        Options(call.scale, shape.offset, shape.grid),
    )
    tensors = {
        name: torch.from_numpy(array).to(dtype if name == "out" else torch.float32)
        for name, array in _results(
            reference.run(
                attention,
                call.q,
                call.k,
                call.v,
                call.inputs,
                scale=call.scale,
                offset=shape.offset,
                axes=call.axes(attention.axes),
            )
        ).items()
    }
    out_gradient = torch.randn(tensors["out"].shape, generator=torch.Generator().manual_seed(3)).to(
        dtype
    )
    tensors |= {**operands, **converted(inputs, checked), "out.gradient": out_gradient}
    if with_log_sum_exp:
        tensors["log_sum_exp.gradient"] = torch.ones(out_gradient.shape[:3])
    sizes = checked.sizes
    specialization = Specialization(checked.dtype, sizes["D"], sizes["Dv"])
    plan = plan_backward(attention, by_side=True, log_sum_exp_gradient=with_log_sum_exp)
    backward = build(plan, specialization, "cuda:90", TILE)
    return backward.run(checked, tensors), out_gradient
