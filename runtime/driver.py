"""Binaries for GPUs, loaded and launched through the driver: no compiler, and no Triton.

A kernel takes its arguments in order and then two pointers to scratch memory, which Triton adds to
every kernel; a block has `warps` warps of threads.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.program import Argument, ArgumentKind, Program
from attndsl.diagnostics import error
from attndsl.runtime.manifest import Kernel
from attndsl.runtime.triton import Values, grid_of, writes_output

# Above this, a kernel must ask for its shared memory, in bytes.
_SHARED_WITHOUT_ASKING = 48 * 1024
_MAXIMUM_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

_PACKED = {
    ArgumentKind.TENSOR: "P",
    ArgumentKind.TABLE: "P",
    ArgumentKind.STRIDE: "q",
    ArgumentKind.SIZE: "i",
    ArgumentKind.SCALE: "f",
}


def load(program: Program, kernels: Sequence[Kernel], files: Mapping[str, bytes]) -> DriverProgram:
    """The program with its binaries; each is given to a device when it is first launched there."""
    found = {kernel.function: (kernel, files[kernel.file]) for kernel in kernels}
    return DriverProgram(program, found)


@dataclass(frozen=True)
class Api:
    """The few functions of a driver that launching takes; CUDA's and HIP's differ in names."""

    library: ctypes.CDLL
    prefix: str

    def load(self, image: bytes, symbol: str, dynamic_shared: int) -> ctypes.c_void_p:
        """The function `symbol` of a binary, on the current device."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("ModuleLoadData", ctypes.byref(module), image)
        self._call("ModuleGetFunction", ctypes.byref(function), module, symbol.encode())
        if self.prefix == "cu" and dynamic_shared > _SHARED_WITHOUT_ASKING:
            self._call("FuncSetAttribute", function, _MAXIMUM_DYNAMIC_SHARED, dynamic_shared)
        return function

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: tuple[int, int, int],
        threads: int,
        dynamic_shared: int,
        stream: int,
        arguments: Sequence[bytes],
    ) -> None:
        """Start a kernel; each argument is the bytes that it is in memory."""
        buffers = [ctypes.create_string_buffer(data, len(data)) for data in arguments]
        pointers = (ctypes.c_void_p * len(buffers))(*(map(ctypes.addressof, buffers)))
        name = "LaunchKernel" if self.prefix == "cu" else "ModuleLaunchKernel"
        sizes = (ctypes.c_uint(one) for one in (*grid, threads, 1, 1, dynamic_shared))
        self._call(name, function, *sizes, ctypes.c_void_p(stream), pointers, None)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, self.prefix + name)(*arguments)
        if status != 0:
            raise error(
                "A093",
                f"the GPU's driver refused `{self.prefix}{name}` with status {status}",
                help="see that the artifact was compiled for this GPU, and that its driver is "
                "as new as the compiler that made it",
            )


@lru_cache
def driver_api() -> Api:
    """The driver of this machine's GPUs. Raises `AttnError` A093 where it cannot be loaded."""
    names = ("libamdhip64.so", "hip") if torch.version.hip else ("libcuda.so.1", "cu")
    try:
        return Api(ctypes.CDLL(names[0]), names[1])
    except OSError as problem:
        raise error("A093", f"the GPU's driver cannot be loaded: {problem}") from None


class DriverProgram:
    """A program whose kernels are launched by the driver."""

    def __init__(self, program: Program, kernels: Mapping[str, tuple[Kernel, bytes]]):
        self.program = program
        self._kernels = kernels
        self._loaded: dict[tuple[int, str], ctypes.c_void_p] = {}

    def launch(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Run every kernel in order on the current stream; see `execution.Launcher`."""
        device = tensors["out"].device
        values = Values(tensors, sizes, scale, table)
        values.align(self.program)
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device).cuda_stream
            for entry in self.program.entries:
                grid = grid_of(entry, sizes)
                if 0 in grid:
                    continue
                kernel, image = self._kernels[entry.function]
                function = self._function(device, kernel, image)
                scratch = self._scratch(kernel, grid, device)
                threads = (kernel.warps or 1) * (kernel.warp_size or 1)
                for turn in values.turns(entry):
                    arguments = [pack(one, turn.of(one)) for one in entry.arguments]
                    arguments += [struct.pack("P", 0 if scratch is None else scratch.data_ptr())]
                    arguments += [struct.pack("P", 0)]
                    driver_api().launch(
                        function, grid, threads, kernel.dynamic_shared or 0, stream, arguments
                    )
            if writes_output(self.program):
                values.copy_back(tensors["out"])

    def prepare(self, device: torch.device) -> None:
        """Give a device every kernel now, and not when it is first launched there."""
        with torch.cuda.device(device):
            for kernel, image in self._kernels.values():
                self._function(device, kernel, image)

    def _function(self, device: torch.device, kernel: Kernel, image: bytes) -> ctypes.c_void_p:
        key = device.index or 0, kernel.function
        function = self._loaded.get(key)
        if function is None:
            symbol = kernel.symbol or kernel.function
            function = driver_api().load(image, symbol, kernel.dynamic_shared or 0)
            self._loaded[key] = function
        return function

    @staticmethod
    def _scratch(kernel: Kernel, grid: tuple[int, int, int], device: torch.device) -> Tensor | None:
        if not kernel.scratch:
            return None
        blocks = grid[0] * grid[1] * grid[2]
        return torch.empty(kernel.scratch * blocks, dtype=torch.uint8, device=device)


def pack(argument: Argument, value: Any) -> bytes:
    """An argument as the bytes that a kernel finds in its parameters."""
    number = value.data_ptr() if isinstance(value, Tensor) else value
    return struct.pack(_PACKED[argument.kind], number)
