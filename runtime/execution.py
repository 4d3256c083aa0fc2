"""How a checked call runs: a compiled program, or the tiled path where there is no compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from attndsl.codegen.program import Program
from attndsl.evaluate import evaluate_size
from attndsl.planner.block_map import Table
from attndsl.planner.plan import PairStage, Plan
from attndsl.records import dataclass
from attndsl.runtime.arguments import BUFFER_DTYPES, Call, converted

if TYPE_CHECKING:
    from attndsl.runtime.block_tables import BlockTables

# The output, and the log-sum-exp where the program writes it.
Output = tuple[Tensor, Tensor | None]


# A buffer's name, shape and element type.
BufferShape = tuple[str, tuple[int, ...], torch.dtype]
_SHAPES_KEPT = 512
# Bytes of buffers that wait for the next call.
_SPARE_BYTES = 64 * 2**20


class Launcher(Protocol):
    """A built program. `launch` runs its entries in order, binding their arguments by name.

    `tensors` holds the operands, the inputs as kernels read them, the program's buffers, `out` and,
    where the program writes it, `log_sum_exp`; `table` the fields of the `BlockTable`.
    """

    @property
    def program(self) -> Program: ...

    def launch(
        self,
        tensors: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
        table: Mapping[str, Tensor] | None = None,
    ) -> None: ...


class Execution(Protocol):
    """One attention on one target, for one dtype and head dimension, at any length."""

    @property
    def is_packed(self) -> bool:
        """Whether its kernels are for packed sequences, all in one launch."""

    def run(
        self, call: Call, q: Tensor, k: Tensor, v: Tensor | None, inputs: Mapping[str, Any]
    ) -> Output: ...

    def forget_tables(self) -> None: ...


class BufferShapes:
    """The shapes of a program's buffers, kept by the call's sizes: working them out costs more than
    a short kernel."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[tuple[int, ...], tuple[BufferShape, ...]] = {}

    def of(self, sizes: Mapping[str, int]) -> tuple[BufferShape, ...]:
        """Name, shape and element type of each buffer; the same object for the same sizes."""
        key = tuple(sizes.values())
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _SHAPES_KEPT:
                self._known.clear()
            known = tuple(
                (
                    buffer.name,
                    tuple(evaluate_size(size, sizes) for size in buffer.dimensions),
                    BUFFER_DTYPES[self._program.buffer_dtype(buffer)],
                )
                for buffer in self._program.buffers
            )
            self._known[key] = known
        return known


def allocate(shapes: tuple[BufferShape, ...], device: torch.device) -> dict[str, Tensor]:
    """Buffers of these shapes, by name."""
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, shape, dtype in shapes}


@dataclass(frozen=True)
class CompiledExecution:
    """Runs a compiled program; allocates the output and the buffers between stages."""

    plan: Plan
    program: Program
    launcher: Launcher
    tables: BlockTables | None
    # At most one set of buffers, of the last call on a CPU. Memory fresh from the operating system
    # costs a fault for every page, together a third of a short kernel's time.
    _spare: list[tuple[tuple[BufferShape, ...], Mapping[str, Tensor]]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def _take_buffers(
        self, shapes: tuple[BufferShape, ...], device: torch.device
    ) -> Mapping[str, Tensor]:
        """The buffers of the last call, if these are their shapes and no other thread has them."""
        try:
            kept, buffers = self._spare.pop()
        except IndexError:
            kept, buffers = (), {}
        if kept is shapes:
            return buffers
        return allocate(shapes, device)

    def _keep_buffers(self, shapes: tuple[BufferShape, ...], buffers: Mapping[str, Tensor]) -> None:
        if sum(buffer.nbytes for buffer in buffers.values()) <= _SPARE_BYTES:
            self._spare[:] = [(shapes, buffers)]

    @property
    def is_packed(self) -> bool:
        return self.program.specialization.packed

    @cached_property
    def _shapes(self) -> BufferShapes:
        return BufferShapes(self.program)

    def run(
        self, call: Call, q: Tensor, k: Tensor, v: Tensor | None, inputs: Mapping[str, Any]
    ) -> Output:
        sizes = call.sizes
        tensors = {"q": q, "k": k}
        if v is not None:
            tensors["v"] = v
        tensors |= converted(inputs, call) if call.conversions else inputs
        rows = sizes["B"], sizes["H"], sizes["Lq"]
        out = torch.empty((*rows, sizes["Dv"]), dtype=q.dtype, device=q.device)
        tensors["out"] = out
        shapes = self._shapes.of(sizes)
        buffers = self._take_buffers(shapes, q.device)
        tensors |= buffers
        statistics = None
        if self.program.specialization.log_sum_exp:
            statistics = torch.empty(rows, dtype=torch.float32, device=q.device)
            tensors["log_sum_exp"] = statistics
        if out.numel():
            table = None
            if self.tables is not None:
                originals = {name: inputs[name] for name in self.tables.reads}
                table = self.tables.get(originals, sizes, q.device)
            self.launcher.launch(tensors, call.launch_sizes, call.scale, table)
        if buffers and q.device.type == "cpu":
            self._keep_buffers(shapes, buffers)
        return out, statistics

    def forget_tables(self) -> None:
        if self.tables is not None:
            self.tables.clear()


@dataclass(frozen=True)
class TiledExecution:
    """Runs the plan in torch."""

    plan: Plan
    log_sum_exp: bool
    is_packed: ClassVar[bool] = False

    def run(
        self, call: Call, q: Tensor, k: Tensor, v: Tensor | None, inputs: Mapping[str, Any]
    ) -> Output:
        # Kernels in closed form, the common ones, do without what the planner enumerates with.
        from attndsl.runtime import tiled

        operands = {"q": q, "k": k} | ({} if v is None else {"v": v})
        with torch.no_grad():
            out, statistics = tiled.run(
                self.plan,
                operands,
                converted(inputs, call),
                call.sizes,
                call.scale,
                dropout=call.dropout,
            )
        return out, statistics if self.log_sum_exp else None

    def forget_tables(self) -> None:
        pass


def block_tables(stage: PairStage, program: Program, axes: tuple[str, ...]) -> BlockTables | None:
    """The block lists that the stage's kernel reads, if its map is not in closed form."""
    if not isinstance(stage.block_map, Table):
        return None
    from attndsl.runtime.block_tables import BlockTables

    tile = program.tile
    return BlockTables(stage.mask, stage.block_map, axes, tile.block_m, tile.block_n)
