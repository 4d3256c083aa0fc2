"""Gradients of a call by Triton's kernels, interpreted, beside exact ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from naive import CASES, Call
from test_cpp_catalogue import tensor
from test_gradients import exact_gradients
from triton_calls import Spoiled, call_of_text

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
    """Of a case of the catalogue at its shape number `shape`; see `errors_of`."""
    case = next(case for case in CASES if case.name == name)
    return errors_of(case.load(), case.call(case.shapes[shape]), dtype)


def errors_of_text(text: str, dtype: str, sizes: Mapping[str, Any]) -> dict[str, float]:
    """Of the one attention of `text`; see `call_of_text` and `errors_of`."""
    return errors_of(*call_of_text(text, sizes), dtype)


def errors_of(attention: Attention, call: Call, dtype: str) -> dict[str, float]:
    """By tensor: the largest difference from the exact gradient, relative to its largest element
    where that is above 1."""
    call = rounded(call, DTYPES[dtype])
    found, out_gradient = gradients(attention, call, DTYPES[dtype])
    wanted = exact_gradients(attention, call, out_gradient.double().numpy())
    assert found.keys() == wanted.keys()
    result = {}
    for one, expected in wanted.items():
        scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
        difference = np.abs(found[one].double().numpy() - expected)
        result[one] = float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)) / scale
    return result


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
    attention: Attention, call: Call, dtype: torch.dtype
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
        scale=call.scale,
        offset=shape.offset,
        grid=shape.grid,
    )
    options: dict[str, Any] = {"scale": call.scale, "offset": shape.offset}
    found = reference.run(
        attention, call.q, call.k, call.v, call.inputs, axes=call.axes(attention.axes), **options
    )
    out = torch.from_numpy(found.output).to(dtype)
    out_gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
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
