"""Cases of the catalogue run under Triton's interpreter, in a process of their own.

Triton decides on import whether it interprets, and the tests of binaries need its compiler in the
same session. `Interpreter` is a worker process with `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

TIMEOUT = 300  # seconds a case may take on a busy machine
BLOCK_M, BLOCK_N = 32, 16


@dataclass(frozen=True)
class Comparison:
    """The largest absolute errors against the reference, and the largest finite values in it."""

    output_error: float
    statistics_error: float
    largest: float
    largest_statistics: float


class Interpreter:
    """Runs functions of this module in a process where Triton interprets."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(1, mp_context=context, initializer=_interpret)

    def compare(self, case: str, shape: int, dtype: str) -> Comparison:
        """Case `case` of the catalogue at its shape number `shape`."""
        return self._executor.submit(compare, case, shape, dtype).result(TIMEOUT)

    def call(self, function: Any, *arguments: Any) -> Any:
        return self._executor.submit(function, *arguments).result(TIMEOUT)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _interpret() -> None:
    os.environ["TRITON_INTERPRET"] = "1"


def compare(case_name: str, shape_number: int, dtype: str) -> Comparison:
    from naive import CASES

    case = next(one for one in CASES if one.name == case_name)
    call = case.call(case.shapes[shape_number])
    return run(case.load(), call, dtype)


def run(attention: Any, call: Any, dtype: str, tile: Any = None) -> Comparison:
    """The bound attention on the arguments of a catalogue call, kernel against reference."""
    import torch

    from attndsl import reference
    from attndsl.codegen import triton as emitter
    from attndsl.codegen.program import DType, Specialization, Tile
    from attndsl.evaluate import evaluate_size
    from attndsl.expression import Scalar
    from attndsl.planner import plan
    from attndsl.planner.block_map import Table
    from attndsl.planner.table import build_table
    from attndsl.runtime import triton as runtime
    from attndsl.runtime.arguments import BUFFER_DTYPES

    torch_type = {"fp32": torch.float32, "fp16": torch.float16}[dtype]
    operands = {
        name: torch.from_numpy(array).to(torch_type)
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
    tile = tile or Tile(BLOCK_M, BLOCK_N, 4, 1)
    specialization = Specialization(DType(dtype), width, sizes["Dv"], True)
    program = emitter.emit(made, specialization, tile)
    element = {Scalar.BOOL: torch.bool, Scalar.INT: torch.int32, Scalar.FLOAT: torch.float32}
    rounded = {}
    tensors: dict[str, Any] = dict(operands)
    for declared in attention.inputs:
        tensor = torch.from_numpy(np.asarray(call.inputs[declared.name]))
        tensors[declared.name] = tensor.to(element[declared.element])
        rounded[declared.name] = tensors[declared.name].numpy()
    for buffer in program.buffers:
        shape = [evaluate_size(size, sizes) for size in buffer.dimensions]
        dtype_there = BUFFER_DTYPES[program.buffer_dtype(buffer)]
        tensors[buffer.name] = torch.full(shape, -77, dtype=dtype_there)
    tensors["out"] = torch.full(
        (batch, heads, queries, sizes["Dv"]), float("nan"), dtype=torch_type
    )
    tensors["log_sum_exp"] = torch.full((batch, heads, queries), float("nan"))
    table = None
    block_map = made.attend.block_map
    if isinstance(block_map, Table):
        read = {name: rounded[name] for name in block_map.inputs}
        built = build_table(made.attend.mask, block_map, sizes, read, tile.block_m, tile.block_n)
        table = {
            name: torch.as_tensor(np.asarray(value), dtype=torch.int32)
            for name, value in vars(built).items()
            if not isinstance(value, int)
        }
    runtime.build(program).launch(tensors, sizes, call.scale, table)
    expected = reference.run(
        attention,
        *(operands[name].double().numpy() if name in operands else None for name in "qkv"),
        rounded,
        scale=call.scale,
        offset=call.shape.offset,
        axes=axes or None,
    )
    statistics_error = largest_statistics = 0.0
    if expected.log_sum_exp is not None:
        statistics = tensors["log_sum_exp"].double().numpy()
        statistics_error = _difference(statistics, expected.log_sum_exp)
        finite = expected.log_sum_exp[np.isfinite(expected.log_sum_exp)]
        largest_statistics = float(np.abs(finite).max(initial=0.0))
    output = tensors["out"].double().numpy()
    return Comparison(
        _difference(output, expected.output),
        statistics_error,
        float(np.abs(expected.output).max(initial=0.0)),
        largest_statistics,
    )


def _difference(actual: Any, expected: Any) -> float:
    """The largest absolute difference; equal infinities differ by 0, a NaN by infinity."""
    same = actual == expected
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(actual - expected))
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))
