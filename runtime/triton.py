"""Launching emitted Triton kernels: on a GPU, or under Triton's interpreter on CPU tensors.

With `TRITON_INTERPRET=1` in the environment before Triton is imported, the same source runs in
NumPy, which is how it is tested without a GPU. (The interpreter multiplies bfloat16 matrices
wrongly.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndsl.codegen.program import Argument, ArgumentKind, Entry, Program
from attndsl.evaluate import evaluate_size
from attndsl.runtime.triton_compile import (
    ALIGNMENT,
    Binaries,
    compile_ahead,
    promises,
)
from attndsl.runtime.triton_source import load_module

if TYPE_CHECKING:
    from types import ModuleType


def build(program: Program) -> GpuProgram | InterpretedProgram:
    """The program, ready to launch: compiled for its target, or interpreted.

    Raises `AttnError` as `compile_ahead` does.
    """
    import triton

    if triton.knobs.runtime.interpret:
        return InterpretedProgram(program, load_module(program))
    return GpuProgram(program, compile_ahead(program))


@dataclass(frozen=True)
class InterpretedProgram:
    """Runs kernels in NumPy; slow, for tests."""

    program: Program
    module: ModuleType

    def launch(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Runs every kernel in order; see `GpuProgram.launch`."""
        values = Values(tensors, sizes, scale, table)
        for entry in self.program.entries:
            function = getattr(self.module, entry.function)
            grid = grid_of(entry, sizes)
            for turn in values.turns(entry):
                if 0 not in grid:
                    function[grid](*(turn.of(argument) for argument in entry.arguments))


@dataclass(frozen=True)
class GpuProgram:
    """Launches compiled kernels on the device of the tensors."""

    program: Program
    binaries: Binaries

    def launch(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Runs every kernel in order, on the current stream.

        `tensors` holds q, k, v, `out`, the inputs, the program's buffers and, where it is written,
        `log_sum_exp`; `sizes` every size by name, `table` the fields of a `BlockTable`. A tensor
        that is not aligned, or whose last axis is not contiguous, is copied first, which costs one
        pass over it; `out` is then written to a copy and copied back.
        """
        values = Values(tensors, sizes, scale, table)
        values.align(self.program)
        with torch.cuda.device(tensors["out"].device):
            for binary in self.binaries.kernels:
                grid = grid_of(binary.entry, sizes)
                for turn in values.turns(binary.entry):
                    if 0 not in grid:
                        arguments = (turn.of(argument) for argument in binary.entry.arguments)
                        binary.kernel[grid](*arguments)
            if writes_output(self.program):
                values.copy_back(tensors["out"])


def writes_output(program: Program) -> bool:
    """Whether it is a forward's: a backward's kernels over pairs have no use for `out`."""
    over_pairs = (entry for entry in program.entries if entry.over_pairs)
    return any(argument.name == "out" for entry in over_pairs for argument in entry.arguments)


def grid_of(entry: Entry, sizes: Mapping[str, int]) -> tuple[int, int, int]:
    """How many programs the kernel has along each dimension of the grid."""
    counts = [evaluate_size(size, sizes) for size in entry.grid]
    x, y, z = [*counts, 1, 1][:3]
    return x, y, z


class Values:
    """The arguments of one call, by their declarations."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None,
    ):
        self._tensors = {name: _prepared(tensor) for name, tensor in tensors.items()}
        self._sizes = sizes
        self._scale = scale
        self._table = table or {}

    def turns(self, entry: Entry) -> Iterator[Values]:
        """The arguments of each turn of a kernel."""
        if entry.turns is None:
            yield self
            return
        for number in range(evaluate_size(entry.turns, self._sizes)):
            turn = copy(self)
            turn._sizes = {**self._sizes, "turn": number}
            yield turn

    def of(self, argument: Argument) -> Any:
        match argument.kind:
            case ArgumentKind.TENSOR:
                return self._tensors[argument.name]
            case ArgumentKind.TABLE:
                return _prepared(self._table[argument.name])
            case ArgumentKind.STRIDE:
                return self._stride(argument)
            case ArgumentKind.SIZE:
                return self._sizes[argument.name]
            case ArgumentKind.SCALE:
                return self._scale

    def _stride(self, argument: Argument) -> int:
        tensor = self._tensors[argument.name]
        # An axis of one element may have any stride; 0 keeps the promise of alignment.
        if argument.axis >= tensor.dim() or tensor.shape[argument.axis] <= 1:
            return 0
        return tensor.stride(argument.axis)

    def align(self, program: Program) -> None:
        """Copies what breaks the promise of alignment that the program's binaries were given."""
        for name, multiple in promises(program).items():
            if not is_aligned(self._tensors[name], multiple):
                self._tensors[name] = aligned_copy(self._tensors[name], multiple)

    def copy_back(self, out: Tensor) -> None:
        """Brings `out` up to date where the kernel wrote to a copy of it."""
        if self._tensors["out"].data_ptr() != out.data_ptr():
            out.copy_(self._tensors["out"])


def is_aligned(tensor: Tensor, multiple: int) -> bool:
    """Whether the pointer is aligned and `multiple` divides every stride but the last."""
    strides = (
        stride
        for stride, size in zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True)
        if size > 1
    )
    return tensor.data_ptr() % ALIGNMENT == 0 and all(stride % multiple == 0 for stride in strides)


def aligned_copy(tensor: Tensor, multiple: int) -> Tensor:
    """The same elements, rows padded so that `multiple` divides every stride but the last."""
    if tensor.dim() == 0:
        return tensor.clone()
    *leading, width = tensor.shape
    padded = -(-width // multiple) * multiple
    copy = tensor.new_empty([*leading, padded])[..., :width]
    return copy.copy_(tensor)


def _prepared(tensor: Tensor) -> Tensor:
    """The tensor as kernels read it: last axis contiguous, bools as bytes, never empty."""
    if tensor.numel() == 0:
        tensor = tensor.new_zeros([1] * max(1, tensor.dim()))
    if tensor.dim() and tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        tensor = tensor.contiguous()
    return tensor.view(torch.uint8) if tensor.dtype is torch.bool else tensor
