"""Vectors per token: where they lie, and loading a tile of them.

Addresses are computed anew for every tile, as a 64-bit scalar (batch, head, first token) plus
32-bit offsets inside the tile: carrying pointer tensors through a loop costs registers, and
64-bit offsets cost instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attndsl.codegen.program import DType
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.sequences import begin, of_all
from attndsl.codegen.triton.values import Binding, Value
from attndsl.expression import Expression, Index, Size
from attndsl.planner.plan import Source

CALLER = ("q", "k", "v", "out", "out.gradient")
_SMALLEST_CHUNK = 16  # a matrix product on tensor cores needs at least 16 along each side


@dataclass(frozen=True)
class Chunk:
    """`width` lanes, a power of two, of which the first `used` are elements of the vector."""

    start: int
    width: int
    used: int


def chunks(start: int, size: int) -> tuple[Chunk, ...]:
    """A vector's elements as few chunks of power-of-two width; only the last has idle lanes."""
    remaining = -(-size // _SMALLEST_CHUNK) * _SMALLEST_CHUNK
    parts = []
    end = start + size
    while remaining:
        width = 1 << (remaining.bit_length() - 1)
        parts.append(Chunk(start, width, min(width, end - start)))
        start += width
        remaining -= width
    return tuple(parts)


def chunks_of(source: Source, kernel: Kernel) -> tuple[Chunk, ...]:
    specialization = kernel.specialization
    return chunks(integer(source.start, specialization), integer(source.size, specialization))


@dataclass(frozen=True)
class Tokens:
    """The tokens of one (batch, head) of `q`, `k`, `v` or a prepared buffer.

    `base` names the pointer to the first token, `stride` is the distance of tokens in elements
    (64 bits, or a literal for a buffer), `local_stride` the same in 32 bits, `dtype` their type.
    """

    base: str
    stride: str
    local_stride: str
    dtype: str
    is_buffer: bool

    def tile_pointer(self, first: str) -> str:
        """The pointer to token `first`, a scalar."""
        if self.is_buffer:
            return f"{self.base} + tl.cast({first}, tl.int64) * {self.stride}"
        return f"{self.base} + {first} * {self.stride}"


def tokens(
    kernel: Kernel, name: str, head: str, first: str = "", step: int = 1, *, in_tiles: bool = True
) -> Tokens:
    """Addresses of every `step`-th token of a source, from `first` on; written where asked for.

    Without `in_tiles` there is no 32-bit stride, for kernels that take tokens one by one.
    """
    dtype = kernel.specialization.dtype.value
    if name in CALLER:
        pointer = kernel.tensor(name, dtype)
        if kernel.specialization.packed:
            per_head, stride = kernel.stride(name, 1), kernel.stride(name, 2)
            start = f"{pointer} + {head} * {per_head} + {_begin(kernel, name)} * {stride}"
        else:
            batch, per_head = kernel.stride(name, 0), kernel.stride(name, 1)
            start = f"{pointer} + b * {batch} + {head} * {per_head}"
            stride = kernel.stride(name, 2)
        if first:
            start += f" + {first} * {stride}"
        if step != 1:
            stride = kernel.assign(f"{name}_step", Value(f"{stride} * {step}")).text
        local = stride
        if in_tiles:
            local = kernel.assign(f"{name}_row", Value(f"{stride}.to(tl.int32)")).text
    else:
        array = kernel.arrays[name]
        dtype = array.dtype
        pointer = kernel.tensor(name, array.dtype)
        first_of = first_of_head(kernel, array.dimensions, head)
        width = 1
        if len(array.dimensions) > 3:
            width = integer(array.dimensions[3], kernel.specialization)
        start = f"{pointer} + {first_of.at_least(Binding.PRODUCT)} * {width}"
        if first:
            start += f" + {first} * {width}"
        stride = local = str(width * step)
    base = kernel.assign(f"{name}_head", Value(start)).text
    return Tokens(base, stride, local, dtype, name not in CALLER)


def first_of_head(kernel: Kernel, dimensions: Sequence[Expression], head: str) -> Value:
    """The number of the first token of a head, in a buffer of these dimensions: 64 bits."""
    if kernel.specialization.packed:
        length = dimensions[2]
        assert isinstance(length, Size)
        row = f"tl.cast({head}, tl.int64) * {kernel.value(of_all(length)).atom}"
        return Value(f"{row} + {begin(kernel, length.name)}", "", Binding.SUM)
    heads, tokens_of_head = (kernel.value(size).atom for size in dimensions[1:3])
    row = f"tl.cast(b * {heads} + {head}, tl.int64)"
    return Value(f"{row} * {tokens_of_head}", "", Binding.PRODUCT)


def _begin(kernel: Kernel, name: str) -> str:
    return begin(kernel, "Lk" if name in ("k", "v") else "Lq")


def head_of(kernel: Kernel, name: str, key_side: bool) -> str:
    """The head index of a source: `g` for keys and values, unless a buffer has query heads."""
    if not key_side:
        return "h"
    if name not in CALLER and kernel.arrays[name].dimensions[1] == Size("H"):
        return "h"
    return kernel.value(Index("g")).text


def load(
    kernel: Kernel,
    source: Tokens,
    pointer: str,
    lanes: str,
    chunk: Chunk,
    wanted: str,
    present: str = "",
) -> Value:
    """A tile `[tokens, chunk.width]` in the kernel's element type.

    Idle lanes are zero, and so are tokens for which the condition `present` does not hold.
    """
    element = elements(kernel, chunk)
    address = f"{pointer} + ({lanes}[:, None] * {source.local_stride} + {element}[None, :])"
    conditions = []
    if present:
        conditions.append(f"({present})[:, None]")
    if chunk.used != chunk.width:
        conditions.append(f"(tl.arange(0, {chunk.width}) < {chunk.used})[None, :]")
    mask = f", mask={' & '.join(conditions)}, other=0.0" if conditions else ""
    text = f"tl.load({address}{mask})"
    dtype = kernel.specialization.dtype
    if source.dtype != dtype.value:
        text += f".to({TRITON_TYPES[dtype]})"
    return kernel.assign(wanted, Value(text))


def elements(kernel: Kernel, chunk: Chunk) -> str:
    """The lanes of a chunk, by name."""
    leaf = Index(f"elements {chunk.start} {chunk.width}")
    with kernel.at_depth(0):
        if leaf not in kernel.scope.known:
            lanes = f"tl.arange(0, {chunk.width})"
            text = f"{chunk.start} + {lanes}" if chunk.start else lanes
            kernel.define(leaf, kernel.assign("element", Value(text, "d")))
        return kernel.scope.known[leaf].text


TRITON_TYPES: dict[DType, str] = {
    DType.FLOAT32: "tl.float32",
    DType.FLOAT16: "tl.float16",
    DType.BFLOAT16: "tl.bfloat16",
}
