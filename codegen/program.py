"""What an emitter returns: readable source, and how to call what is in it.

The runtime binds arguments by walking `Entry.arguments`; nothing else about a kernel's signature is
known outside its emitter.
"""

from __future__ import annotations

from enum import Enum

from attndsl.expression import INT, Expression
from attndsl.planner.plan import Buffer
from attndsl.records import dataclass


class DType(Enum):
    """Element types of q, k, v and of the output. Accumulation is in float32."""

    FLOAT32 = "fp32"
    FLOAT16 = "fp16"
    BFLOAT16 = "bf16"


@dataclass(frozen=True)
class Specialization:
    """What one binary is compiled for: everything else is a run-time argument.

    `head_dim` is D, `value_dim` Dv. `log_sum_exp` says whether the row statistics are written, and
    `dropout` whether pairs are dropped, as the sizes `dropout.DROPOUT_SIZES` of a call say.
    `packed`: one launch is for sequences of different lengths (see `triton/sequences.py`).
    """

    dtype: DType
    head_dim: int
    value_dim: int
    log_sum_exp: bool = False
    dropout: bool = False
    packed: bool = False


@dataclass(frozen=True)
class Tile:
    """Tile and launch parameters; `warps` and `stages` mean nothing to the CPU."""

    block_m: int
    block_n: int
    warps: int = 4
    stages: int = 2


class ArgumentKind(Enum):
    TENSOR = "tensor"  # a pointer: q, k, v, out, log_sum_exp, an input, or a buffer
    STRIDE = "stride"  # int64, in elements: stride `axis` of tensor `name`
    SIZE = "size"  # int32: a run-time size (B, H, Hkv, Lq, Lk, offset, axis.y, …)
    SCALE = "scale"  # float32
    TABLE = "table"  # a pointer to int32: the field `name` of `BlockTable`, or sequences' bounds


@dataclass(frozen=True)
class Argument:
    """`name` is the spec's: `q`, `slope`, `Lk`; `identifier` what it is called in the source."""

    kind: ArgumentKind
    name: str
    identifier: str
    axis: int = 0
    dtype: str = ""  # of a TENSOR: "fp32", "bf16", "fp16", "int32", "bool" (one byte)


@dataclass(frozen=True)
class Entry:
    """One kernel of the program, for stage number `stage` of the plan.

    `grid` is over run-time sizes (GPU only); CPU entries loop over everything themselves.
    `over_pairs` says that it runs over tiles of the score matrix, so that the program's `tile` and
    its launch parameters are meant for it. A kernel with `turns`, over sizes too, is launched as
    often, one launch after the other, each with its number as the size `turn`.
    """

    stage: int
    function: str
    arguments: tuple[Argument, ...]
    grid: tuple[Expression, ...] = ()
    over_pairs: bool = True
    turns: Expression | None = None


@dataclass(frozen=True)
class Program:
    """One emitted source file. `buffers` are allocated by the caller, as `buffer_dtype` says."""

    target: str
    text: str
    entries: tuple[Entry, ...]
    buffers: tuple[Buffer, ...]
    specialization: Specialization
    tile: Tile

    def buffer_dtype(self, buffer: Buffer) -> str:
        """The element type in which kernels keep a buffer: vectors that only matrix products read
        may be as narrow as q, k and v."""
        for entry in self.entries:
            for argument in entry.arguments:
                if argument.kind is ArgumentKind.TENSOR and argument.name == buffer.name:
                    return argument.dtype
        return "int32" if buffer.element is INT else "fp32"
