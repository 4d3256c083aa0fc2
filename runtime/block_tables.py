"""Block lists for masks that read inputs: built once for a tensor's contents, never stale.

A list is good as long as the tensors that the mask reads hold the same numbers. On a CPU that is
checked by comparing them with a copy, which is cheap beside any attention and cannot be fooled. On
a GPU a comparison waits for the device, so the tensor's identity and torch's version counter stand
for its contents: every change made through torch is seen. (A kernel of one's own that writes
through a raw pointer is not; clone the tensor, or call `Kernel.forget_tables`.) Only a tensor that
is not the same is compared: waiting takes less than building lists again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields

import torch
from torch import Tensor

from attndsl.expression import Expression
from attndsl.planner.block_map import BlockTable, Table
from attndsl.planner.table import build_table
from attndsl.records import dataclass

_KEPT = 16  # layers of a model share a few masks; more than these are built again


@dataclass(frozen=True)
class _Contents:
    """What a tensor held, kept in a way that tells whether it still holds it."""

    tensor: weakref.ref[Tensor]
    version: int | None
    copy: Tensor

    @staticmethod
    def of(tensor: Tensor) -> _Contents:
        # A tensor made under inference mode has no version counter.
        by_version = tensor.device.type != "cpu" and not tensor.is_inference()
        return _Contents(
            weakref.ref(tensor),
            tensor._version if by_version else None,
            tensor.clone(),
        )

    def same_as(self, tensor: Tensor) -> bool:
        if self.version is not None and self.tensor() is tensor:
            return tensor._version == self.version
        return (
            tensor.dtype == self.copy.dtype
            and tensor.device == self.copy.device
            and torch.equal(tensor, self.copy)
        )


@dataclass(frozen=True)
class _Kept:
    relevant: Hashable
    contents: tuple[_Contents, ...]
    tensors: Mapping[str, Tensor]


class BlockTables:
    """The block lists of one program's mask, for the last few contents of its inputs."""

    def __init__(
        self,
        mask: Expression,
        table: Table,
        axes: tuple[str, ...],
        block_m: int,
        block_n: int,
        *,
        transposed: bool = False,
    ):
        self._mask = mask
        self._table = table
        self._axes = axes
        self._block = block_m, block_n
        self.transposed = transposed
        self._kept: list[_Kept] = []
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """How many tokens a tile has."""
        return self._block[0]

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs that the mask reads."""
        return self._table.inputs

    def get(
        self, inputs: Mapping[str, Tensor], sizes: Mapping[str, int], device: torch.device
    ) -> Mapping[str, Tensor]:
        """The fields of `BlockTable` as int32 tensors on `device`, by name.

        `inputs` are the caller's own tensors, so that their identity means something.
        """

        def build(arrays: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return on_device(self.build(arrays, sizes), device)

        return self.kept_or_built(inputs, tuple(sorted(sizes.items())), build)

    def build(self, arrays: Mapping[str, Tensor], sizes: Mapping[str, int]) -> BlockTable:
        """The lists, for tensors on a CPU."""
        return build_table(
            self._mask,
            self._table,
            sizes,
            {name: one.numpy() for name, one in arrays.items()},
            *self._block,
            axes=self._axes,
            transposed=self.transposed,
        )

    def kept_or_built(
        self,
        inputs: Mapping[str, Tensor],
        relevant: Hashable,
        build: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    ) -> Mapping[str, Tensor]:
        """What `build` makes of the inputs' contents, on a CPU; kept for these contents and what
        else is `relevant`."""
        read = [inputs[name] for name in self._table.inputs]
        with self._lock:
            for position, kept in enumerate(self._kept):
                if kept.relevant == relevant and all(
                    contents.same_as(tensor)
                    for contents, tensor in zip(kept.contents, read, strict=True)
                ):
                    # The most recently used stands first.
                    self._kept.insert(0, self._kept.pop(position))
                    return kept.tensors
        # What is built from is what is remembered, even if another thread writes meanwhile.
        contents = tuple(_Contents.of(tensor) for tensor in read)
        arrays = {
            name: seen.copy.cpu() for name, seen in zip(self._table.inputs, contents, strict=True)
        }
        tensors = build(arrays)
        with self._lock:
            self._kept.insert(0, _Kept(relevant, contents, tensors))
            del self._kept[_KEPT:]
        return tensors

    def clear(self) -> None:
        """Forget every list, for the caller who changed a tensor behind torch's back."""
        with self._lock:
            self._kept.clear()


def on_device(table: BlockTable, device: torch.device) -> dict[str, Tensor]:
    """Its arrays, by name."""
    arrays = {field.name: getattr(table, field.name) for field in fields(table)}
    return {
        name: torch.as_tensor(value, dtype=torch.int32, device=device)
        for name, value in arrays.items()
        if not isinstance(value, int)
    }
