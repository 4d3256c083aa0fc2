"""One call of the catalogue by a Triton kernel, interpreted or on a GPU, beside the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from naive import CASES, Call, Shape

from attndsl import reference
from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.codegen import triton as emitter
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.evaluate import evaluate_size
from attndsl.expression import Scalar
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.block_map import Table
from attndsl.planner.table import build_table
from attndsl.runtime.arguments import BUFFER_DTYPES
from attndsl.runtime.inputs import ELEMENT_DTYPES
from attndsl.runtime.targets import device_target
from attndsl.runtime.triton import GpuProgram, InterpretedProgram
from attndsl.runtime.triton_compile import choose
from attndsl.runtime.triton_source import load_module

TILE = Tile(32, 16, 4, 1)
# Unit roundoff, and how many roundings of the score and of the output a row may collect.
ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
ROUNDINGS = 16


@dataclass(frozen=True)
class Comparison:
    """The largest absolute errors against the reference, and the largest finite values in it."""

    output_error: float
    statistics_error: float
    largest: float
    largest_statistics: float

    def check(self, dtype: str) -> None:
        """The kernel's rounding errors stay within a few units of its element type.

        A score of 100 is rounded to 100 units, and its weight is off by that many; the statistics
        are as large as the scores are.
        """
        unit = ROUNDINGS * ROUNDOFF[dtype] * max(1.0, self.largest_statistics)
        assert self.statistics_error <= unit
        assert self.output_error <= unit * max(1.0, self.largest)


def compare(case_name: str, shape_number: int, dtype: str) -> Comparison:
    """Case `case_name` of the catalogue at its shape number `shape_number`, interpreted."""
    case = next(one for one in CASES if one.name == case_name)
    return run(case.load(), case.call(case.shapes[shape_number]), dtype)


@dataclass(frozen=True)
class Spoiled:
    """Elements of `q`, `k`, `v` or a float input, by a NumPy index, and what stands there."""

    name: str
    index: tuple[Any, ...]
    value: float


def compare_text(
    text: str, dtype: str, sizes: Mapping[str, Any], spoiled: Sequence[Spoiled] = ()
) -> Comparison:
    """The one attention of `text`, interpreted; see `call_of_text`."""
    return run(*call_of_text(text, sizes, spoiled), dtype)


def call_of_text(
    text: str, sizes: Mapping[str, Any], spoiled: Sequence[Spoiled] = ()
) -> tuple[Attention, Call]:
    """The one attention of `text`, and a call of it; `sizes` are those of `Shape`, and `scale`.

    Float inputs are normal, ints from -9 to 9, bools fair. An input `bad` is NaN and infinities.
    """
    (unbound,) = load_text(text).attentions.values()
    attention = bind(unbound)
    chosen = dict(sizes)
    scale = chosen.pop("scale", None)
    shape = Shape(**chosen)
    random = np.random.default_rng(0)
    known = {
        "B": shape.batch,
        "H": shape.heads,
        "Hkv": shape.key_heads,
        "Lq": shape.queries,
        "Lk": shape.keys,
        "D": shape.width,
        "Dv": shape.value_width,
    }
    inputs = {}
    for declared in attention.inputs:
        counts = [evaluate_size(size, known) for size in declared.dimensions]
        match declared.element:
            case Scalar.FLOAT:
                inputs[declared.name] = random.normal(size=counts)
            case Scalar.INT:
                inputs[declared.name] = random.integers(-9, 10, size=counts)
            case Scalar.BOOL:
                inputs[declared.name] = random.random(size=counts) < 0.5
        if declared.name == "bad":
            inputs["bad"] = random.choice([np.nan, np.inf, -np.inf], size=counts)
    keys = (shape.batch, shape.key_heads, shape.keys)
    call = Call(
        q=random.normal(size=(shape.batch, shape.heads, shape.queries, shape.width)),
        k=random.normal(size=(*keys, shape.width)),
        v=random.normal(size=(*keys, shape.value_width)),
        inputs=inputs,
        parameters={},
        scale=shape.width**-0.5 if scale is None else scale,
        shape=shape,
    )
    arrays = {"q": call.q, "k": call.k, "v": call.v, **inputs}
    for one in spoiled:
        arrays[one.name][one.index] = one.value
    return attention, call


def run(attention: Attention, call: Call, dtype: str, device: str = "cpu") -> Comparison:
    """The bound attention on the arguments of a catalogue call, kernel against reference.

    On a CPU Triton must interpret, and tiles are small so that short lengths have many.
    """
    torch_type = BUFFER_DTYPES[dtype]
    operands = {
        name: torch.from_numpy(array).to(device, torch_type)
        for name, array in (("q", call.q), ("k", call.k), ("v", call.v))
        if array is not None
    }
    axes = call.axes(attention.axes) or {}
    made = plan(attention)
    batch, heads, queries, width = call.q.shape
    key_heads, keys = call.k.shape[1:3]
    sizes = {"B": batch, "H": heads, "Hkv": key_heads, "Lq": queries, "Lk": keys, "D": width}
    sizes |= {f"axis.{name}": length for name, length in axes.items()}
    sizes["offset"] = call.offset
    sizes["Dv"] = call.shape.value_width if call.v is None else call.v.shape[-1]
    sizes["Dv"] = evaluate_size(made.attend.value.size, sizes)
    specialization = Specialization(DType(dtype), width, sizes["Dv"], True)
    launcher: InterpretedProgram | GpuProgram
    if device == "cpu":
        program = emitter.emit(made, specialization, TILE)
        launcher = InterpretedProgram(program, load_module(program))
    else:
        target = device_target(torch.device(device)).name
        program, binaries = choose(made, specialization, target)
        launcher = GpuProgram(program, binaries)
    tile = program.tile
    rounded = {}
    tensors: dict[str, Any] = dict(operands)
    for declared in attention.inputs:
        tensor = torch.from_numpy(np.asarray(call.inputs[declared.name]))
        tensors[declared.name] = tensor.to(device, ELEMENT_DTYPES[declared.element])
        rounded[declared.name] = tensors[declared.name].cpu().numpy()
    for buffer in program.buffers:
        shape = [evaluate_size(size, sizes) for size in buffer.dimensions]
        dtype_there = BUFFER_DTYPES[program.buffer_dtype(buffer)]
        tensors[buffer.name] = torch.full(shape, -77, dtype=dtype_there, device=device)
    rows = batch, heads, queries
    nan = float("nan")
    tensors["out"] = torch.full((*rows, sizes["Dv"]), nan, dtype=torch_type, device=device)
    tensors["log_sum_exp"] = torch.full(rows, nan, device=device)
    table = None
    block_map = made.attend.block_map
    if isinstance(block_map, Table):
        read = {name: rounded[name] for name in block_map.inputs}
        built = build_table(made.attend.mask, block_map, sizes, read, tile.block_m, tile.block_n)
        table = {
            name: torch.as_tensor(np.asarray(value), dtype=torch.int32, device=device)
            for name, value in vars(built).items()
            if not isinstance(value, int)
        }
    launcher.launch(tensors, sizes, call.scale, table)
    expected = reference.run(
        attention,
        *(operands[name].double().cpu().numpy() if name in operands else None for name in "qkv"),
        rounded,
        scale=call.scale,
        offset=call.shape.offset,
        axes=axes or None,
    )
    statistics_error = largest_statistics = 0.0
    if expected.log_sum_exp is not None:
        statistics = tensors["log_sum_exp"].double().cpu().numpy()
        statistics_error = _difference(statistics, expected.log_sum_exp)
        largest_statistics = _largest(expected.log_sum_exp)
    output = tensors["out"].double().cpu().numpy()
    return Comparison(
        _difference(output, expected.output),
        statistics_error,
        _largest(expected.output),
        largest_statistics,
    )


def _largest(array: Any) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _difference(actual: Any, expected: Any) -> float:
    """The largest absolute difference; where either is not finite, the other must be the same."""
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(actual - expected))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))
