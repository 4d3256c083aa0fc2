"""C++ programs over many sequences with one call.

A kernel reads one struct of addresses, strides and sizes. Here the structs of all sequences are
made at once, as columns of an array, and a loop in C++ hands them to the kernel: short sequences in
parallel, on one thread each, and those that are most of the work one after the other, on all
threads. So 256 sequences of 64 tokens cost one launch, and none waits for another.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attndsl.codegen.program import ArgumentKind, Entry
from attndsl.diagnostics import InternalError
from attndsl.records import dataclass
from attndsl.runtime.cache import default_cache, key_of
from attndsl.runtime.cpp_compiler import find_compiler, processor_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SOURCE = """\
#include <cstring>

// Calls a kernel once for every sequence; `arguments` has their structs one behind the other.
extern "C" void run_sequences(
    void (*kernel)(const void *), const char *arguments, long size, long count, int threads
) {
    #pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long number = 0; number < count; ++number) {
        kernel(arguments + number * size);
    }
}

// Arrays [heads, tokens, width] of sequences become one, [tokens, heads, width]; widths and starts
// are in bytes.
extern "C" void gather_tokens(
    const char *from, const long *starts, const long *tokens, long count, long heads, long width,
    char *to, int threads
) {
    #pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (long number = 0; number < count; ++number) {
        const long first = tokens[number], length = tokens[number + 1] - first;
        for (long head = 0; head < heads; ++head) {
            const char *source = from + starts[number] + head * length * width;
            char *target = to + (first * heads + head) * width;
            for (long token = 0; token < length; ++token) {
                std::memcpy(target + token * heads * width, source + token * width, width);
            }
        }
    }
}
"""
_FORMATS = {
    ArgumentKind.TENSOR: np.uint64,
    ArgumentKind.TABLE: np.uint64,
    ArgumentKind.STRIDE: np.int64,
    ArgumentKind.SIZE: np.int32,
    ArgumentKind.SCALE: np.float32,
}


@dataclass(frozen=True)
class Parts:
    """An array, and where in it each sequence's part begins, in elements; `starts` is None where
    they share it. A part has the array's strides, unless it has its own, `[sequences, axes]`."""

    tensor: Tensor
    starts: NDArray[np.int64] | None = None
    strides: NDArray[np.int64] | None = None

    @property
    def addresses(self) -> NDArray[np.uint64] | int:
        if self.starts is None:
            return self.tensor.data_ptr()
        offsets = self.starts * self.tensor.element_size() + self.tensor.data_ptr()
        return offsets.astype(np.uint64)

    def stride(self, axis: int) -> NDArray[np.int64] | int:
        return self.tensor.stride(axis) if self.strides is None else self.strides[:, axis]


@dataclass(frozen=True)
class Schedule:
    """In which order sequences run, the most expensive first, and how many of them have all threads
    to themselves."""

    order: NDArray[np.int64]
    alone: int
    threads: int

    @staticmethod
    def of(costs: NDArray[np.int64]) -> Schedule:
        """`costs` are relative; a sequence without any does not run."""
        threads = torch.get_num_threads()
        order = np.argsort(-costs, kind="stable")
        order = order[: np.count_nonzero(costs)]
        # What is less than that leaves no thread idle for long, if the longest begin.
        large = costs[order] * 2 * threads > costs.sum()
        return Schedule(order, int(np.count_nonzero(large)) if threads > 1 else 0, threads)


def run(
    entry: Entry,
    function: Any,
    schedule: Schedule,
    parts: Mapping[str, Parts],
    sizes: Mapping[str, NDArray[np.int64] | int],
    scale: float,
    tables: Sequence[Mapping[str, Tensor]] | None,
) -> None:
    """Run one kernel of a program on every sequence.

    `sizes` are those of all sequences or one for each; `tables` each one's block lists.
    """
    order, alone = schedule.order, schedule.alone
    fields = [(f"field{n}", _FORMATS[one.kind]) for n, one in enumerate(entry.arguments)]
    structs = np.empty(len(order), np.dtype(fields, align=True))
    for (field, _), one in zip(fields, entry.arguments, strict=True):
        column: Any
        match one.kind:
            case ArgumentKind.TENSOR:
                column = parts[one.name].addresses
            case ArgumentKind.STRIDE:
                column = parts[one.name].stride(one.axis)
            case ArgumentKind.SIZE if one.name == "threads":
                column = 1
            case ArgumentKind.SIZE:
                column = sizes[one.name]
            case ArgumentKind.SCALE:
                column = scale
            case ArgumentKind.TABLE if tables is not None:
                column = np.array([table[one.name].data_ptr() for table in tables], np.uint64)
            case _:
                raise InternalError(f"`{one.name}` is of no kind that a sequence has")
        structs[field] = column[order] if isinstance(column, np.ndarray) else column
        if one.name == "threads":
            structs[field][:alone] = schedule.threads
    loop, kernel = _library().run_sequences, ctypes.cast(function, ctypes.c_void_p)
    size, start = structs.itemsize, structs.ctypes.data
    if alone:
        loop(kernel, start, size, alone, 1)
    if len(order) > alone:
        loop(kernel, start + alone * size, size, len(order) - alone, schedule.threads)


def gather(
    flat: Tensor,
    starts: NDArray[np.int64],
    bounds: tuple[int, ...],
    shape: Sequence[int],
    axis: int,
) -> Tensor:
    """Arrays of sequences, one behind the other in `flat`, as one of that shape, whose tokens on
    `axis` are those of all. As packed tensors do, it has its tokens outermost in memory."""
    tokens = np.array(bounds, np.int64)
    heads, after = shape[:axis], shape[axis + 1 :]
    whole = torch.empty((shape[axis], *heads, *after), dtype=flat.dtype)
    size = flat.element_size()
    places = starts * size
    _library().gather_tokens(
        *(flat.data_ptr(), places.ctypes.data, tokens.ctypes.data, len(starts)),
        *(math.prod(heads), math.prod(after) * size, whole.data_ptr(), torch.get_num_threads()),
    )
    return whole.movedim(0, axis)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    compiler = find_compiler()
    key = key_of(_SOURCE, *compiler.flags, compiler.identity, processor_features())
    directory = default_cache().obtain("cpp", key, _build)
    library = ctypes.CDLL(str(directory / "sequences.so"))
    address, long, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.run_sequences.restype = library.gather_tokens.restype = None
    library.run_sequences.argtypes = [address, address, long, long, integer]
    library.gather_tokens.argtypes = [*[address] * 3, *[long] * 3, address, integer]
    return library


def _build(directory: Path) -> None:
    source = directory / "sequences.cpp"
    source.write_text(_SOURCE, encoding="utf-8")
    find_compiler().compile(source, directory / "sequences.so")
