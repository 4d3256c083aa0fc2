"""C++ programs: built once for this machine, loaded, and launched on torch tensors.

Torch is imported before an object is loaded, so that both share one OpenMP runtime and its threads.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.program import ArgumentKind, Entry, Program
from attndsl.expression import OPERANDS
from attndsl.runtime.cache import default_cache, key_of
from attndsl.runtime.cpp_compiler import find_compiler, processor_features

SOURCE, OBJECT = "kernel.cpp", "kernel.so"
_PACKED = {
    ArgumentKind.TENSOR: "P",
    ArgumentKind.TABLE: "P",
    ArgumentKind.STRIDE: "q",
    ArgumentKind.SIZE: "i",
    ArgumentKind.SCALE: "f",
}


def build(program: Program) -> CompiledProgram:
    """The program, ready to launch; compiled now unless the cache holds it.

    Raises `AttnError` A090 where there is no compiler, A091 where it does not work.
    """
    return load(built_directory(program) / OBJECT, program)


def built_directory(program: Program) -> Path:
    """Where the cache has the program's source and shared object, built now if need be."""
    compiler = find_compiler()
    key = key_of(program.text, *compiler.flags, compiler.identity, processor_features())
    return default_cache().obtain("cpp", key, lambda path: build_into(program, path))


def build_into(program: Program, directory: Path) -> None:
    """Write source and shared object into a directory."""
    source = directory / SOURCE
    source.write_text(program.text, encoding="utf-8")
    find_compiler().compile(source, directory / OBJECT)


def load(path: Path, program: Program) -> CompiledProgram:
    """A program whose shared object has been built, for this kind of processor."""
    return CompiledProgram(program, ctypes.CDLL(str(path)))


class CompiledProgram:
    """A loaded program. Launching is safe from several threads at once."""

    def __init__(self, program: Program, library: ctypes.CDLL):
        self.program = program
        self._launches = [_Launch(entry, library) for entry in program.entries]
        self._by_stage = {
            entry.stage: launch
            for entry, launch in zip(program.entries, self._launches, strict=True)
        }

    @property
    def functions(self) -> tuple[Any, ...]:
        """The entries' functions, in their order; each takes the address of its arguments."""
        return tuple(launch.function for launch in self._launches)

    def prepare(self, device: torch.device) -> None:
        """A shared object is loaded whole, for the only device that it is for."""

    def launch(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Run the entries in order.

        `tensors` holds the operands, the inputs as kernels read them, the program's buffers, `out`
        and, where the program writes it, `log_sum_exp`; `table` the fields of the `BlockTable`.
        """
        with_threads = {**sizes, "threads": torch.get_num_threads()}
        for launch in self._launches:
            launch(tensors, with_threads, scale, table or {})

    def launch_stage(
        self,
        stage: int,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None = None,
    ) -> None:
        """As `launch`, for one stage of the plan."""
        with_threads = {**sizes, "threads": torch.get_num_threads()}
        self._by_stage[stage](tensors, with_threads, scale, table or {})


class _Launch:
    """Packs one entry's arguments as its C++ struct has them, and calls it."""

    def __init__(self, entry: Entry, library: ctypes.CDLL):
        self.function = getattr(library, entry.function)
        self.function.restype = None
        self.function.argtypes = [ctypes.c_char_p]
        self._pack = struct.Struct("@" + "".join(_PACKED[one.kind] for one in entry.arguments)).pack
        # Vectors are read element after element; whatever else has any stride.
        self._dense = [
            one.name
            for one in entry.arguments
            if one.kind == ArgumentKind.TENSOR and one.name in OPERANDS
        ]
        # Where what comes from where goes. This runs at every call: a tensor is asked for its
        # strides once.
        self._values: list[int | float] = [0] * len(entry.arguments)
        self._tensors: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        self._table: list[tuple[int, str]] = []
        self._sizes: list[tuple[int, str]] = []
        self._scales: list[int] = []
        for place, one in enumerate(entry.arguments):
            match one.kind:
                case ArgumentKind.TENSOR:
                    self._tensors.setdefault(one.name, ([], []))[0].append(place)
                case ArgumentKind.STRIDE:
                    self._tensors.setdefault(one.name, ([], []))[1].append((place, one.axis))
                case ArgumentKind.SIZE:
                    self._sizes.append((place, one.name))
                case ArgumentKind.SCALE:
                    self._scales.append(place)
                case ArgumentKind.TABLE:
                    self._table.append((place, one.name))

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor],
    ) -> None:
        for name in self._dense:
            tensor = tensors[name]
            if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
                tensors = {**tensors, name: tensor.contiguous()}
        values = self._values.copy()
        for name, (addresses, strides) in self._tensors.items():
            tensor = tensors[name]
            for place in addresses:
                values[place] = tensor.data_ptr()
            if strides:
                steps = tensor.stride()
                for place, axis in strides:
                    values[place] = steps[axis]
        for place, name in self._sizes:
            values[place] = sizes[name]
        for place, name in self._table:
            values[place] = table[name].data_ptr()
        for place in self._scales:
            values[place] = scale
        self.function(self._pack(*values))


__all__: Sequence[str] = ("CompiledProgram", "build", "build_into", "built_directory", "load")
