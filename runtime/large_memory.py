"""Memory of large results, used again once nobody holds the results.

The gradient of a bias for every pair is as large as all the scores. Memory of that size goes back
to the operating system as soon as it is free, and what comes from there costs a fault for every
page: on some machines as much time as half of a backward. Less than that the C library keeps.
"""

from __future__ import annotations

import mmap
import sys
from math import prod

import torch
from torch import Tensor

from attndsl.runtime.execution import BufferShape, allocate

# Bytes: what the C library never keeps, and what is too much to hold on to.
SMALLEST, LARGEST = 32 * 2**20, 2**30
# References to memory that nobody has but who asks: the variable's and the question's own.
_UNUSED = 2


class LargeMemory:
    """Of one kernel's buffers on a CPU: at most one block for each name waits for the next call."""

    def __init__(self) -> None:
        self._kept: dict[str, mmap.mmap] = {}

    def allocate(self, shapes: tuple[BufferShape, ...]) -> dict[str, Tensor]:
        """As `execution.allocate`. Safe from several threads at once."""
        if sys.platform != "linux":
            return allocate(shapes, torch.device("cpu"))
        found = {}
        for name, shape, dtype in shapes:
            size = prod(shape) * dtype.itemsize
            if not SMALLEST < size <= LARGEST:
                found[name] = torch.empty(shape, dtype=dtype)
                continue
            memory = self._kept.pop(name, None)
            # A tensor made of a block holds a reference to it for as long as its storage lives.
            if memory is None or len(memory) != size or sys.getrefcount(memory) > _UNUSED:
                memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            found[name] = torch.frombuffer(memory, dtype=dtype).view(shape)
            self._kept[name] = memory
        return found
