"""Calls on packed sequences, forward and backward; see `packed_arguments`.

Nothing is padded and nothing is copied: kernels read every sequence in place, by strides. All
sequences run at once on a CPU (`packed_cpp.py`), and on a GPU (`packed_triton.py`) where the plan
lets them (`codegen/triton/packable.py`); elsewhere they run one after the other. What sequences
share has the sum of their gradients, added up in their order, so that two runs agree bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.attention import Attention
from attndsl.runtime.arguments import Call, converted
from attndsl.runtime.backward import Backward, Backwards, CompiledBackward
from attndsl.runtime.cpp import CompiledProgram
from attndsl.runtime.execution import CompiledExecution, Execution
from attndsl.runtime.gradients import (
    Differentiable,
    Once,
    as_arguments,
    has_log_sum_exp,
)
from attndsl.runtime.options import Options
from attndsl.runtime.packed_arguments import (
    PackedCall,
    Place,
    as_batch,
    bounds_of,
    heads_first,
    part,
)

_QUERIES, _KEYS = Place("Lq", 2), Place("Lk", 2)
_OPERANDS = {"q": _QUERIES, "k": _KEYS, "v": _KEYS}
_RESULTS = dict.fromkeys(
    ("out", "out.gradient", "log_sum_exp", "log_sum_exp.gradient", "weights.sum"), _QUERIES
)


class Packed(Once):
    """One call on packed sequences. `call` is that on all tokens as one sequence, `places` say
    where a sequence's part of each input is, and `execution` writes the rows' statistics, if there
    are `statistics` to write."""

    def __init__(
        self,
        attention: Attention,
        call: Call,
        places: Mapping[str, Place | None],
        options: Options,
        execution: Execution,
        backwards: Backwards,
        *,
        statistics: bool,
    ) -> None:
        self._attention, self._execution = attention, execution
        self._statistics = statistics
        # Gradients are of one launch too where the output is.
        self._given = call
        self._call = dataclasses.replace(call, conversions=(), packed=execution.is_packed)
        self._places = {**places, **_OPERANDS, **_RESULTS}
        self._bounds = bounds_of(options, call.sizes["Lq"], call.sizes["Lk"])
        self._packed = PackedCall(self._call, self._bounds, options.offset)
        self._on_device: Mapping[str, Tensor] = {}
        if execution.is_packed:
            from attndsl.runtime.packed_triton import bounds_on_device

            self._on_device = bounds_on_device(options, call.device)
        self._backwards = backwards

    @property
    def has_log_sum_exp(self) -> bool:
        return has_log_sum_exp(self._attention)

    def forward(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """`[T, H, Dv]`, and `[H, T]` where rows have a statistic."""
        sizes = self._call.sizes
        heads, rows = sizes["H"], sizes["Lq"]
        q = arguments["q"]
        out = q.new_empty((rows, heads, sizes["Dv"]))
        statistic = q.new_empty((heads, rows) if self._statistics else 0, dtype=torch.float32)
        if out.numel():
            self._write(self._arrays(arguments), heads_first(out), statistic[None])
        return out, statistic

    def gradients(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> list[Tensor]:
        """See `Once`."""
        (out, statistic), (of_out, of_statistic) = results, gradients
        found: Mapping[str, Tensor] = {}
        if out.numel():
            whole = Differentiable(self._attention, self._call, self._execution, self._backwards)
            tensors = whole.backward_arguments(
                self._arrays(arguments),
                (heads_first(out), statistic[None]),
                (
                    None if of_out is None else heads_first(of_out),
                    None if of_statistic is None else of_statistic[None],
                ),
            )
            found = self._differentiate(
                whole.backward_of(wanted, of_statistic is not None), tensors
            )
        tensors = {name: arguments[name] for name in wanted}
        as_packed = {
            name: (one[0].transpose(0, 1) if name in _OPERANDS else one).reshape(
                tensors[name].shape
            )
            for name, one in found.items()
            if name in tensors
        }
        return as_arguments(tensors, as_packed)

    def _write(self, arrays: Mapping[str, Any], out: Tensor, statistic: Tensor) -> None:
        execution = self._execution
        if self._runs_at_once(execution):
            self._sequences(execution, arrays).forward(execution, out, statistic)
            return
        inputs = [one.name for one in self._attention.inputs]
        for number, call in self._calls():
            given = self._parts(arrays, number)
            found, statistics = execution.run(
                *(call, given["q"], given["k"], given.get("v")),
                {name: given[name] for name in inputs},
            )
            part(out, _QUERIES, self._bounds, number).copy_(found)
            if statistics is not None:
                part(statistic, _QUERIES, self._bounds, number).copy_(statistics)

    def _differentiate(
        self, backward: Backward, tensors: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Float32 gradients by name, of the arrays as kernels read them."""
        if self._runs_at_once(backward):
            found: Mapping[str, Tensor] = self._sequences(backward, tensors).backward(backward)
            return found
        totals: dict[str, Tensor] = {}
        for number, call in self._calls():
            for name, gradient in backward.run(call, self._parts(tensors, number)).items():
                if name not in totals:
                    like = tensors[name]
                    totals[name] = torch.zeros(like.shape, device=like.device)
                if self._places[name] is None:
                    totals[name] += gradient
                else:
                    part(totals[name], self._places[name], self._bounds, number).copy_(gradient)
        return totals

    def _runs_at_once(self, compiled: Execution | Backward) -> bool:
        if not isinstance(compiled, CompiledExecution | CompiledBackward):
            return compiled.is_packed
        if not isinstance(compiled.launcher, CompiledProgram):
            return compiled.is_packed
        from attndsl.runtime.packed_cpp import runs_at_once

        return runs_at_once(compiled.program, self._call, self._bounds)

    def _sequences(self, compiled: Execution | Backward, arrays: Mapping[str, Any]) -> Any:
        if compiled.is_packed:
            from attndsl.runtime.packed_triton import Sequences as Launched

            return Launched(self._packed, arrays, self._places, self._on_device)
        from attndsl.runtime.packed_cpp import Sequences

        return Sequences(self._packed, arrays, self._places)

    def _arrays(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What kernels read: a batch of one, in their dtypes."""
        inputs = {
            one.name: as_batch(arguments[one.name], self._places[one.name])
            for one in self._attention.inputs
        }
        operands = {
            name: heads_first(arguments[name])
            for name in _OPERANDS
            if arguments.get(name) is not None
        }
        return {**operands, **converted(inputs, self._given)}

    def _calls(self) -> Iterator[tuple[int, Call]]:
        """Each sequence that has queries, and the call on it alone."""
        for number in range(self._bounds.count):
            call = self._packed.alone(number)
            if call.sizes["Lq"]:
                yield number, call

    def _parts(self, arrays: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {
            name: part(one, self._places[name], self._bounds, number)
            for name, one in arrays.items()
        }
