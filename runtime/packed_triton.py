"""Packed sequences on a GPU: one launch of each kernel for all of them.

Kernels find out themselves where a sequence's tokens are (`codegen/triton/sequences.py`), so that
arrays, buffers too, are as for one long sequence. What programs leave of the sums for the elements
of an input is as for a batch of the sequences, and added up as for one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attndsl.codegen.triton.sequences import ALIGNED, packed_size
from attndsl.evaluate import evaluate_size
from attndsl.planner.own_elements import own_axes
from attndsl.planner.plan import Buffer, ElementSum, Fold, Plan
from attndsl.records import dataclass
from attndsl.runtime.arguments import BUFFER_DTYPES
from attndsl.runtime.options import Options
from attndsl.runtime.packed_arguments import Bounds, PackedCall, Place, part, place_of_buffer
from attndsl.runtime.packed_folds import fold_sequences
from attndsl.runtime.packed_tables import packed_tables

if TYPE_CHECKING:
    from attndsl.runtime.block_tables import BlockTables
    from attndsl.runtime.execution import CompiledExecution
    from attndsl.runtime.triton_backward import BuiltStage, TritonBackward


# Bytes that programs may leave of the sums for the elements of an input.
MOST_PARTS = 256 * 2**20


class Sequences:
    """One call on packed sequences. `arrays` are what kernels read of it, a batch of one; `places`
    say where each sequence's part is; `bounds` are those of `bounds_on_device`."""

    def __init__(
        self,
        call: PackedCall,
        arrays: Mapping[str, Tensor],
        places: Mapping[str, Place | None],
        bounds: Mapping[str, Tensor],
    ) -> None:
        self._call, self._bounds = call, bounds
        self._arrays, self._places = arrays, dict(places)
        lengths = call.lengths
        whole = call.whole
        self.sizes: Mapping[str, int] = {
            **whole.launch_sizes,
            **{packed_size(length): whole.sizes[length] for length in ("Lq", "Lk")},
            "B": len(lengths),
            "Lq": max(queries for queries, _ in lengths),
            "Lk": max(keys for _, keys in lengths),
            "offset": call.offset or 0,
            ALIGNED: int(call.offset is None),
        }

    def forward(self, execution: CompiledExecution, out: Tensor, statistic: Tensor) -> None:
        """Writes `out`, `[1, H, T, Dv]`, and the rows' statistic where the program has one."""
        program, device = execution.program, self._call.whole.device
        tensors = {**self._arrays, "out": out}
        if statistic.numel():
            tensors["log_sum_exp"] = statistic
        for buffer in program.buffers:
            dtype = BUFFER_DTYPES[program.buffer_dtype(buffer)]
            tensors[buffer.name] = torch.empty(self.shape(buffer), dtype=dtype, device=device)
        tables = self._tables(execution.tables, tensors)
        execution.launcher.launch(tensors, self.sizes, self._call.whole.scale, tables)

    def backward(self, backward: TritonBackward) -> dict[str, Tensor]:
        """Float32 gradients by name, of the arrays as kernels read them."""
        return backward.run_on(self, self._arrays)

    # See `triton_backward.Launches`.

    def shape(self, buffer: Buffer) -> list[int]:
        place = self._places[buffer.name] = place_of_buffer(buffer)
        shape = [evaluate_size(size, self._call.whole.sizes) for size in buffer.dimensions]
        if place is not None and place.length is None:
            shape[0] = self.sizes["B"]
        return shape

    def launch(self, built: BuiltStage, arrays: Mapping[str, Tensor]) -> None:
        tables = self._tables(built.table, arrays)
        built.launcher.launch(arrays, self.sizes, self._call.whole.scale, tables)

    def _tables(
        self, lists: BlockTables | None, arrays: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if lists is None:
            return self._bounds
        return {**self._bounds, **packed_tables(lists, self._call, arrays, self._places)}

    def add_up(
        self, built: BuiltStage, one: ElementSum, parts: Buffer, arrays: Mapping[str, Tensor]
    ) -> Tensor:
        """Of so many sequences at a time as have room for their programs' parts."""
        from attndsl.runtime.triton_backward import add_up

        shape = [evaluate_size(size, self.sizes) for size in parts.dimensions]
        count = self.sizes["B"]
        each = max(1, 4 * math.prod(shape) // count)
        room = max(1, MOST_PARTS // each)
        if count <= room:
            return add_up(self, built, one, parts, arrays)
        found = []
        for first in range(0, count, room):
            some, theirs = self._some(first, min(first + room, count), arrays)
            found.append(add_up(some, built, one, parts, theirs))
        if "b" in own_axes(one).names:
            return torch.cat(found)
        return torch.stack(found).sum(0)

    def _some(
        self, first: int, last: int, arrays: Mapping[str, Tensor]
    ) -> tuple[Sequences, dict[str, Tensor]]:
        """The call on sequences `first` to `last` alone, and the arrays with their rows."""
        whole, bounds = self._call.whole, self._call.bounds
        if whole.dropout is not None:
            whole = replace(whole, dropout=replace(whole.dropout, first_batch=first))
        ends = slice(first, last + 1)
        call = PackedCall(whole, Bounds(bounds.queries[ends], bounds.keys[ends]), self._call.offset)
        of_some = {name: one[ends].clone() for name, one in self._bounds.items()}
        theirs = {
            name: one[first:last] if self._places.get(name) == Place(None, 0) else one
            for name, one in arrays.items()
        }
        return Sequences(call, theirs, self._places, of_some), theirs

    def fold(self, stage: Fold, plan: Plan, arrays: Mapping[str, Tensor]) -> Tensor:
        place = self._places[stage.buffer.name] = place_of_buffer(stage.buffer)
        places = {name: self._places[name] for name in arrays}
        return fold_sequences(
            stage, plan, self._call, place, _Arrays(arrays, places, self._call.bounds)
        )


@dataclass(frozen=True)
class _Arrays:
    """See `packed_folds.Arrays`: each is whole."""

    arrays: Mapping[str, Tensor]
    readable: Mapping[str, Place | None]
    bounds: Bounds

    @property
    def names(self) -> Set[str]:
        return self.arrays.keys()

    def whole(self, name: str) -> Tensor:
        return self.arrays[name]

    def part(self, name: str, number: int) -> Tensor:
        found: Tensor = part(self.arrays[name], self.readable[name], self.bounds, number)
        return found


def bounds_on_device(options: Options, device: torch.device) -> dict[str, Tensor]:
    """The bounds by the names that kernels have for them: copies, which nobody changes between
    forward and backward."""
    assert options.cu_seqlens is not None

    def copy(bounds: Tensor) -> Tensor:
        return bounds.contiguous().to(device, torch.int32, non_blocking=True, copy=True)

    queries = copy(options.cu_seqlens)
    keys = queries if options.cu_seqlens_k is None else copy(options.cu_seqlens_k)
    return {"query_bounds": queries, "key_bounds": keys}
