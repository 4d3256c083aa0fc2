"""Gradients of one call of the catalogue by Triton's kernels, interpreted, beside exact ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from naive import CASES, Call, Case
from test_cpp_catalogue import tensor
from test_gradients import exact

from attndsl import reference
from attndsl.attention import Attention
from attndsl.codegen.program import Specialization, Tile
from attndsl.planner.pipeline import plan_backward
from attndsl.runtime.arguments import check_call, converted
from attndsl.runtime.triton_backward import build

Array = np.ndarray[Any, Any]
TILE = Tile(32, 16, 4, 1)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def errors(name: str, shape: int, dtype: str) -> dict[str, float]:
    """By tensor: the largest difference from the exact gradient, relative to its largest element
    where that is above 1."""
    case = next(case for case in CASES if case.name == name)
    call = rounded(case, case.call(case.shapes[shape]), DTYPES[dtype])
    generator = torch.Generator().manual_seed(3)
    found, out_gradient = gradients(case.load(), call, DTYPES[dtype], generator)
    wanted = exact(case, call, out_gradient.double().numpy())
    result = {}
    for one, expected in wanted.items():
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        difference = np.abs(found[one].double().numpy() - expected)
        result[one] = float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)) / scale
    return result


def rounded(case: Case, call: Call, dtype: torch.dtype) -> Call:
    """The call with operands that the element type has."""
    operands = {
        name: None if array is None else tensor(array, dtype).double().numpy()
        for name, array in (("q", call.q), ("k", call.k), ("v", call.v))
    }
    return dataclasses.replace(call, **operands)


def gradients(
    attention: Attention, call: Call, dtype: torch.dtype, generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients by name, and the gradient of the output, drawn at random."""
    axes = call.axes(attention.axes)
    operands = {
        name: tensor(array, dtype)
        for name, array in (("q", call.q), ("k", call.k), ("v", call.v))
        if array is not None
    }
    inputs = {name: tensor(value, torch.float32) for name, value in call.inputs.items()}
    checked = check_call(
        attention,
        {"v": None, **operands},
        inputs,
        scale=call.scale,
        offset=call.shape.offset,
        grid=call.shape.grid,
    )
    found = reference.run(
        attention,
        call.q,
        call.k,
        call.v,
        call.inputs,
        scale=call.scale,
        offset=call.shape.offset,
        axes=axes,
    )
    out = torch.from_numpy(found.output).to(dtype)
    out_gradient = torch.randn(out.shape, generator=generator).to(dtype)
    tensors = {
        **operands,
        **converted(inputs, checked),
        "out": out,
        "out.gradient": out_gradient,
    }
    for name, array in (("log_sum_exp", found.log_sum_exp), ("weights.sum", found.divisor)):
        if array is not None:
            tensors[name] = torch.from_numpy(np.array(array)).float()
    sizes = checked.sizes
    specialization = Specialization(checked.dtype, sizes["D"], sizes["Dv"])
    backward = build(plan_backward(attention, by_side=True), specialization, "cuda:90", TILE)
    return backward.run(checked, tensors), out_gradient
