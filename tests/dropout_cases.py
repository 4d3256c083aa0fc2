"""Specs with dropout on every target: what one call drops, beside the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cpp_calls import attention_of

from attndsl import reference
from attndsl.attention import Attention
from attndsl.codegen.program import Specialization, Tile
from attndsl.dropout import Dropout
from attndsl.planner.execute import call_of, execute
from attndsl.planner.execute_sums import execute_backward
from attndsl.planner.pipeline import plan, plan_backward
from attndsl.runtime import tiled
from attndsl.runtime.arguments import Call as CheckedCall
from attndsl.runtime.arguments import check_call, converted
from attndsl.runtime.backward import Backward, TiledBackward, backward_for
from attndsl.runtime.compilation import compile_with_tile, plan_of
from attndsl.runtime.execution import CompiledExecution, block_tables
from attndsl.runtime.options import Options
from attndsl.runtime.targets import parse_target

Array = np.ndarray[Any, Any]

DROPOUT = Dropout(0.3, 0x0123456789ABCDEF)
SPECS = {
    "softmax": "mask = causal",
    "sink": (
        "input sink: float[H]\ninput held: float[H, Dv]\n"
        "mask = causal\nnormalize = softmax(sink = sink[h], value = held[h])"
    ),
    "sigmoid": "score = dot(q, k) * scale - 1.0\nmask = abs(i - j) <= 30\nnormalize = sigmoid",
    "sum": "score = dot(q, k) ** 2\nnormalize = sum",
    "classes": "mask = causal and (i - j) % 3 == 0",
    "grid": "axes y, x\nmask = neighborhood(5, 1)",
    "stripes": "mask = causal and (i // 16 == j // 16 or j % 16 == 15)",
    "documents": "input doc: int[B, Lk]\nmask = causal and doc[b, i] == doc[b, j]",
}
# With a divisor of the spec's own, whose gradient is made of the output with dropout.
DIVIDED = (
    "input by: float[H]\nmask = causal\nnormalize = weight(relu(score), divide = by[h] ** 2 + 1.0)"
)
GRID = (7, 11)
KEYS = 77


@dataclass(frozen=True)
class Case:
    """One call in float64: grouped heads, two batches, lengths that are no multiple of a tile."""

    attention: Attention
    q: Array
    k: Array
    v: Array
    inputs: Mapping[str, Array]
    offset: int | None = None

    @property
    def grid(self) -> tuple[int, ...] | None:
        return GRID if self.attention.axes else None

    @property
    def options(self) -> dict[str, Any]:
        names = self.attention.axes
        axes = dict(zip(names, GRID, strict=True)) if names else None
        return {"axes": axes, "offset": self.offset}

    def reference(self, dropout: Dropout | None = DROPOUT) -> reference.Result:
        tensors = self.q, self.k, self.v, self.inputs
        return reference.run(self.attention, *tensors, dropout=dropout, **self.options)

    def executed(self, dropout: Dropout = DROPOUT) -> reference.Result:
        made = plan(self.attention, dropout=True)
        tensors = self.q, self.k, self.v, self.inputs
        sizes = {"block_m": 16, "block_n": 32}
        return execute(made, *tensors, dropout=dropout, **sizes, **self.options)

    def tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        """The operands and the inputs, by name."""
        operands = {name: torch.from_numpy(getattr(self, name)).to(dtype) for name in "qkv"}
        return operands | {
            name: torch.from_numpy(one).to(torch.int32 if one.dtype == np.int64 else torch.float32)
            for name, one in self.inputs.items()
        }

    def checked(
        self, tensors: Mapping[str, torch.Tensor], dropout: Dropout = DROPOUT
    ) -> CheckedCall:
        operands = {name: tensors[name] for name in "qkv"}
        inputs = {name: tensors[name] for name in self.inputs}
        options = Options(offset=self.offset, grid=self.grid)
        call = check_call(self.attention, operands, inputs, options)
        return dataclasses.replace(call, dropout=dropout)

    def compiled(
        self, dropout: Dropout = DROPOUT, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """By a C++ kernel."""
        tensors = self.tensors(dtype)
        call = self.checked(tensors, dropout)
        target = parse_target("cpu")
        execution = compile_with_tile(self.attention, specialization(call), target, None)
        inputs = {name: tensors[name] for name in self.inputs}
        return execution.run(call, *(tensors[name] for name in "qkv"), inputs)[0]

    def tiled(self, dropout: Dropout = DROPOUT) -> torch.Tensor:
        """In torch, tile by tile."""
        tensors = self.tensors()
        call = self.checked(tensors, dropout)
        made = plan_of(self.attention, dropout=True)
        operands = {name: tensors[name] for name in "qkv"}
        inputs = converted({name: tensors[name] for name in self.inputs}, call)
        blocks = {"block_m": 16, "block_n": 32}
        return tiled.run(made, operands, inputs, call.sizes, call.scale, dropout=dropout, **blocks)[
            0
        ]

    def interpreted(self, dropout: Dropout = DROPOUT) -> torch.Tensor:
        """By a Triton kernel, in a process where Triton interprets."""
        from attndsl.codegen import triton
        from attndsl.runtime.triton import InterpretedProgram
        from attndsl.runtime.triton_source import load_module

        tensors = self.tensors()
        call = self.checked(tensors, dropout)
        made = plan_of(self.attention, dropout=True)
        program = triton.emit(made, specialization(call), Tile(32, 16, 4, 1))
        execution = CompiledExecution(
            made,
            program,
            InterpretedProgram(program, load_module(program)),
            block_tables(made.attend, program, self.attention.axes),
        )
        inputs = {name: tensors[name] for name in self.inputs}
        return execution.run(call, *(tensors[name] for name in "qkv"), inputs)[0]

    def exact_gradients(self, out_gradient: Array, dropout: Dropout = DROPOUT) -> dict[str, Array]:
        """By the executor of the backward's plan."""
        tensors = self.q, self.k, self.v, self.inputs
        made = plan(self.attention, dropout=True)
        call = call_of(made, *tensors, dropout=dropout, **self.options)
        results = self.results(out_gradient, dropout)
        backward = plan_backward(self.attention, dropout=True)
        return execute_backward(backward, call, results, block_m=16, block_n=32)

    def results(self, out_gradient: Array, dropout: Dropout) -> dict[str, Array]:
        found = self.reference(dropout)
        results = {"out": found.output, "out.gradient": out_gradient}
        for name, array in (("log_sum_exp", found.log_sum_exp), ("weights.sum", found.divisor)):
            if array is not None:
                results[name] = array
        return results

    def gradients(
        self, out_gradient: Array, target: str, dropout: Dropout = DROPOUT
    ) -> dict[str, torch.Tensor]:
        """By a C++ kernel (`"cpp"`), in torch (`"torch"`) or, where Triton interprets, by kernels
        of Triton (`"triton"`)."""
        tensors = self.tensors()
        call = self.checked(tensors, dropout)
        tensors |= converted({name: tensors[name] for name in self.inputs}, call)
        results = self.results(out_gradient, dropout)
        tensors |= {name: torch.from_numpy(one).float() for name, one in results.items()}
        wanted = ("q", "k", "v", *(n for n, one in self.inputs.items() if one.dtype == np.float64))
        return self._backward(call, wanted, target).run(call, tensors)

    def _backward(self, call: CheckedCall, wanted: tuple[str, ...], target: str) -> Backward:
        match target:
            case "cpp":
                return backward_for(
                    self.attention,
                    specialization(call),
                    parse_target("cpu"),
                    wanted,
                    log_sum_exp_gradient=False,
                )
            case "torch":
                return TiledBackward(plan_backward(self.attention, wanted, dropout=True))
        from attndsl.runtime import triton_backward

        by_side = plan_backward(self.attention, wanted, dropout=True, by_side=True)
        return triton_backward.build(by_side, specialization(call), "cuda:90", Tile(32, 16, 4, 1))


def specialization(call: CheckedCall) -> Specialization:
    return Specialization(call.dtype, call.sizes["D"], call.sizes["Dv"], dropout=True)


def case_of(name: str, queries: int = 37, *, one_hot: bool = False) -> Case:
    """With `one_hot`, value j has a 1 in its element j and a sink's value is 0, so that the output
    is the weight of every pair."""
    random = np.random.default_rng(0)
    body = DIVIDED if name == "divided" else SPECS[name]
    attention = attention_of(f"attention it {{\n{body}\n}}")
    inputs: dict[str, Array] = {}
    for declared in attention.inputs:
        match declared.name:
            case "doc":
                inputs["doc"] = np.sort(random.integers(0, 4, (2, KEYS)))
            case "held":
                inputs["held"] = random.normal(size=(4, KEYS)) * (not one_hot)
            case "sink" | "by" as called:
                inputs[called] = random.normal(size=4)
    q = random.normal(size=(2, 4, queries, 16))
    k = random.normal(size=(2, 2, KEYS, 16))
    v = random.normal(size=(2, 2, KEYS, KEYS))
    if one_hot:
        v = np.broadcast_to(np.eye(KEYS), v.shape).copy()

    def rounded(array: Array) -> Array:
        return array.astype(np.float32).astype(array.dtype)

    q, k, v = map(rounded, (q, k, v))
    return Case(attention, q, k, v, {name: rounded(one) for name, one in inputs.items()})


def kept_pairs(case: Case, dropout: Dropout = DROPOUT) -> Array:
    """Which pairs have a weight, `[B, H, Lq, Lk]`, of a case with values of one 1 each."""
    visible = case.reference(None).output != 0
    batches, heads, rows, keys = visible.shape
    offset = keys - rows if case.offset is None else case.offset
    places = np.ix_(range(batches), range(heads), np.arange(rows) + offset, range(keys))
    return visible & (dropout.kept(*places) != 0)
