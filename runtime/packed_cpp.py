"""Packed sequences on a CPU: every stage of a C++ program runs on all of them at once.

Buffers are contiguous, as kernels expect them: each sequence has its own, one behind the other.
Gradients of tokens are put together from them, and those of what sequences share are added up, in
their order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attndsl.dropout import FIRST_BATCH
from attndsl.evaluate import evaluate_size
from attndsl.expression import OPERANDS
from attndsl.planner.plan import Buffer, Fold, Plan
from attndsl.runtime.arguments import BUFFER_DTYPES, Call
from attndsl.runtime.backward import CompiledBackward
from attndsl.runtime.cpp import CompiledProgram
from attndsl.runtime.execution import CompiledExecution
from attndsl.runtime.packed_arguments import Bounds, PackedCall, Place, part, place_of_buffer
from attndsl.runtime.packed_folds import fold_sequences
from attndsl.runtime.sequences import Parts, Schedule, gather, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attndsl.codegen.program import Program
    from attndsl.runtime.block_tables import BlockTables

# Bytes of the copies that sequences may write of what they share.
_MOST_COPIED = 64 * 2**20


def runs_at_once(program: Program, call: Call, bounds: Bounds) -> bool:
    """Whether all sequences fit into memory at once."""
    shared = [one.dimensions for one in program.buffers if place_of_buffer(one) is None]
    elements = sum(
        math.prod(evaluate_size(size, call.sizes) for size in dimensions) for dimensions in shared
    )
    return 4 * elements * bounds.count <= _MOST_COPIED


class Sequences:
    """One call on packed sequences. `arrays` are what kernels read of it, a batch of one; `places`
    say where each sequence's part is."""

    def __init__(
        self,
        packed: PackedCall,
        arrays: Mapping[str, Tensor],
        places: Mapping[str, Place | None],
    ) -> None:
        call, bounds, offset = packed.whole, packed.bounds, packed.offset
        self._packed, self._call, self._bounds = packed, call, bounds
        # Of every array, what kernels take; and what torch does, of those that are whole, and of
        # those that every sequence has for itself.
        self._parts: dict[str, Parts] = {}
        self._arrays: dict[str, Tensor] = {}
        self._own: dict[str, list[Tensor]] = {}
        self._places: dict[str, Place | None] = {}
        for name, array in arrays.items():
            self._add(name, array, places[name])
        lengths = np.array(packed.lengths, np.int64)
        queries, keys = lengths[:, 0], lengths[:, 1]
        self._sizes: dict[str, NDArray[np.int64] | int] = {
            **call.launch_sizes,
            "Lq": queries,
            "Lk": keys,
        }
        if call.dropout is not None:
            # As a batch of the sequences does.
            self._sizes[FIRST_BATCH] = np.arange(bounds.count)
        self._sizes["offset"] = keys - queries if offset is None else offset
        self._schedule = Schedule.of(queries * (keys + 1))

    def forward(self, execution: CompiledExecution, out: Tensor, statistic: Tensor) -> None:
        """Writes `out`, `[1, H, T, Dv]`, and the rows' statistic where the program has one."""
        rows = Place("Lq", 2)
        self._add("out", out, rows)
        if statistic.numel():
            self._add("log_sum_exp", statistic, rows)
        program = execution.program
        self._allocate(program)
        lists = execution.tables
        for entry, function in zip(program.entries, _functions(execution.launcher), strict=True):
            self._run(entry, function, lists)

    def backward(self, backward: CompiledBackward) -> dict[str, Tensor]:
        """Float32 gradients by name, of the arrays as kernels read them."""
        program, plan = backward.program, backward.plan
        self._allocate(program)
        functions = _functions(backward.launcher)
        by_stage = {
            entry.stage: (entry, function)
            for entry, function in zip(program.entries, functions, strict=True)
        }
        for number, stage in enumerate(plan.stages):
            if isinstance(stage, Fold):
                self._fold(stage, plan)
            else:
                self._run(*by_stage[number], backward.tables.get(number))
        return {name: self.whole(buffer) for name, buffer in plan.gradients}

    def _run(self, entry: Any, function: Any, lists: BlockTables | None) -> None:
        tables = None
        if lists is not None:
            tables = [self._table(lists, number) for number in range(self._bounds.count)]
        parts, sizes, scale = self._parts, self._sizes, self._call.scale
        run(entry, function, self._schedule, parts, sizes, scale, tables)

    def _table(self, lists: BlockTables, number: int) -> Mapping[str, Tensor]:
        parts = {name: self.part(name, number) for name in lists.reads}
        return lists.get(parts, self._packed.alone(number).sizes, self._call.device)

    def _add(self, name: str, array: Tensor, place: Place | None) -> None:
        if name in OPERANDS and array.shape[-1] > 1 and array.stride(-1) != 1:
            array = array.contiguous()  # kernels read a vector element after element
        self._arrays[name], self._places[name] = array, place
        self._own.pop(name, None)
        starts = None
        if place is not None:
            first = (
                range(self._bounds.count)
                if place.length is None
                else self._bounds.of(place.length)[:-1]
            )
            starts = np.array(first, np.int64) * array.stride(place.axis)
        self._parts[name] = Parts(array, starts)

    def _allocate(self, program: Program) -> None:
        for buffer in program.buffers:
            shapes = self._shapes(buffer)
            strides = np.ones_like(shapes)
            strides[:, :-1] = np.cumprod(shapes[:, :0:-1], axis=1)[:, ::-1]
            elements = shapes.prod(axis=1)
            # Every array starts at a line of the cache.
            rooms = (elements + 15) // 16 * 16
            starts = np.cumsum(rooms) - rooms
            flat = torch.empty(int(rooms.sum()), dtype=BUFFER_DTYPES[program.buffer_dtype(buffer)])
            self._parts[buffer.name] = Parts(flat, starts, strides)
            self._places[buffer.name] = place_of_buffer(buffer)
            self._own[buffer.name] = [
                room[:count].view(shape)
                for room, count, shape in zip(
                    torch.split(flat, rooms.tolist()),
                    *(elements.tolist(), shapes.tolist()),
                    strict=True,
                )
            ]

    def _shapes(self, buffer: Buffer) -> NDArray[np.int64]:
        """A row for every sequence."""
        known: dict[tuple[int, int], list[int]] = {}
        for number, lengths in enumerate(self._packed.lengths):
            if lengths not in known:
                sizes = self._packed.alone(number).sizes
                known[lengths] = [evaluate_size(size, sizes) for size in buffer.dimensions]
        return np.array([known[lengths] for lengths in self._packed.lengths], np.int64)

    def _fold(self, stage: Fold, plan: Plan) -> None:
        place = place_of_buffer(stage.buffer)
        folded = fold_sequences(stage, plan, self._packed, place, self)
        self._add(stage.buffer.name, folded, place)

    # See `packed_folds.Arrays`.

    @property
    def names(self) -> Set[str]:
        return self._arrays.keys() | self._own.keys()

    @property
    def readable(self) -> Mapping[str, Place | None]:
        return {
            name: one
            for name, one in self._places.items()
            if one is not None or name not in self._own
        }

    def part(self, name: str, number: int) -> Tensor:
        if name in self._own:
            return self._own[name][number]
        found: Tensor = part(self._arrays[name], self._places[name], self._bounds, number)
        return found

    def whole(self, name: str) -> Tensor:
        """What sequences have each for itself, put together, or added up if it has no tokens."""
        if name not in self._own:
            return self._arrays[name]
        own, place = self._own[name], self._places[name]
        if place is None:
            total = torch.zeros_like(own[0])
            for number, (queries, _) in enumerate(self._packed.lengths):
                if queries:
                    total += own[number]
            return total
        for one, (queries, _) in zip(own, self._packed.lengths, strict=True):
            if not queries:
                one.zero_()  # nothing was written
        if place.length is None:
            return torch.cat(own)
        parts = self._parts[name]
        assert parts.starts is not None
        bounds = self._bounds.of(place.length)
        shape = list(own[0].shape)
        shape[place.axis] = bounds[-1]
        return gather(parts.tensor, parts.starts, bounds, shape, place.axis)


def _functions(launcher: object) -> tuple[Any, ...]:
    assert isinstance(launcher, CompiledProgram)
    return launcher.functions
