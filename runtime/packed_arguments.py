"""Sequences packed one after the other, as a call passes them: what belongs to which.

With `cu_seqlens`, `q` is `[T, H, D]`, and `k` and `v` are `[T, Hkv, D]`: the shape that flash-attn
and PyTorch take for variable lengths. Sequence s has the tokens `cu_seqlens[s]` to
`cu_seqlens[s + 1]`; keys may have bounds of their own, `cu_seqlens_k`. What else a spec reads is
packed as it is declared, without its batch: `[B, H, Lk]` comes as `[H, T]`, and so does the
log-sum-exp. An input with a batch and no length, `[B, H]`, has a row for each sequence; one with
neither is shared. Every sequence has its own positions, from 0, and its own `Lq` and `Lk`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attndsl.attention import Attention, InputDeclaration
from attndsl.diagnostics import error
from attndsl.evaluate import evaluate_size
from attndsl.expression import Expression, Size, walk
from attndsl.planner.plan import Buffer
from attndsl.printing import text
from attndsl.records import dataclass
from attndsl.runtime.arguments import Call, check_call
from attndsl.runtime.inputs import check_names, declared
from attndsl.runtime.options import Options

_BOUNDS = ("cu_seqlens", "cu_seqlens_k")
_LENGTHS = ("Lq", "Lk")


@dataclass(frozen=True)
class Place:
    """Where one sequence's part of an array is, in the array as kernels read it.

    With a `length`, `"Lq"` or `"Lk"`, it is a slice along `axis`, and the first axis is a batch of
    one; without one it is an element of axis 0.
    """

    length: str | None
    axis: int


@dataclass(frozen=True)
class Bounds:
    """Where sequences start and end, in tokens: one number more than there are sequences."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.queries) - 1

    def of(self, length: str) -> tuple[int, ...]:
        return self.queries if length == "Lq" else self.keys


@dataclass(frozen=True)
class PackedCall:
    """`whole` is the call on all tokens as if they were one sequence; `offset` is the caller's."""

    whole: Call
    bounds: Bounds
    offset: int | None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """How many queries and keys each sequence has."""
        queries, keys = pairwise(self.bounds.queries), pairwise(self.bounds.keys)
        return [(b - a, d - c) for (a, b), (c, d) in zip(queries, keys, strict=True)]

    @property
    def is_aligned(self) -> bool:
        """Whether a query's position is its row, in every sequence."""
        return self.offset is None and self.bounds.queries == self.bounds.keys

    def alone(self, number: int) -> Call:
        """The call on one sequence. What is dropped is what a batch of the sequences drops."""
        queries, keys = self.lengths_of(number)
        position = keys - queries if self.offset is None else self.offset
        sizes = {**self.whole.sizes, "Lq": queries, "Lk": keys, "offset": position}
        dropout = self.whole.dropout
        if dropout is not None:
            dropout = dataclasses.replace(dropout, first_batch=number)
        return dataclasses.replace(self.whole, sizes=sizes, conversions=(), dropout=dropout)

    def lengths_of(self, number: int) -> tuple[int, int]:
        queries, keys = (
            last - first
            for first, last in (
                one[number : number + 2] for one in (self.bounds.queries, self.bounds.keys)
            )
        )
        return queries, keys


def place_of(dimensions: Sequence[Expression]) -> Place | None:
    """Where a sequence's part of such an array is; None where all sequences share it.

    Raises `ValueError` for what cannot be packed.
    """
    names = [
        {node.name for node in walk(one) if isinstance(node, Size)} & {"B", *_LENGTHS}
        for one in dimensions
    ]
    if not any(names):
        return None
    if dimensions[0] != Size("B") or "B" in set().union(*names[1:]):
        raise ValueError("it has a length, and no batch to go with it")
    lengths = [axis for axis, found in enumerate(names) if axis and found]
    if not lengths:
        return Place(None, 0)
    length = dimensions[lengths[0]]
    if len(lengths) > 1 or not isinstance(length, Size):
        raise ValueError("its elements belong to pairs, or to groups of tokens")
    return Place(length.name, lengths[0])


def place_of_buffer(buffer: Buffer) -> Place | None:
    """As `place_of`, where an array in blocks is anything but shared."""
    try:
        return place_of(buffer.dimensions)
    except ValueError:
        return Place(None, 0)


def check_packed(
    attention: Attention,
    operands: Mapping[str, Any],
    inputs: Mapping[str, Any],
    options: Options,
) -> tuple[Call, dict[str, Place | None]]:
    """The call on all tokens as if they were one sequence, and where parts of the inputs are.

    Raises `AttnError` A07x, and A088 for what cannot be packed. Values of `cu_seqlens` are not
    looked at, so that tensors may be fake.
    """
    check_names(attention, inputs)
    count = _check_bounds(options)
    if attention.axes:
        raise error(
            "A088",
            f"`{attention.name}` lays its tokens on axes, which packed sequences have not",
            attention.span,
            help="call it on tensors [B, H, Lq, D]",
        )
    for name in ("q", "k", "v"):
        one = operands[name]
        if isinstance(one, Tensor) and one.dim() != 3:
            raise error(
                "A073",
                f"with `cu_seqlens`, `{name}` is packed, [T, {'H' if name == 'q' else 'Hkv'}, D], "
                f"got {list(one.shape)}",
                help=f"one batch of it is `{name}[0].transpose(0, 1)`" if one.dim() == 4 else None,
            )
    places = {one.name: _input_place(attention, one) for one in attention.inputs}
    whole = {
        name: as_batch(inputs[name], place)
        if place is None or place.length is not None
        else _first_row(inputs[name])
        for name, place in places.items()
    }
    vectors = {name: _heads_first(one) for name, one in operands.items()}
    plain = options._replace(cu_seqlens=None, cu_seqlens_k=None)
    are_tensors = all(isinstance(operands[name], Tensor) for name in ("q", "k"))
    for one in attention.inputs if are_tensors else ():
        _check_shape(one, inputs[one.name], places[one.name], operands, count)
    call = dataclasses.replace(check_call(attention, vectors, whole, plain), packed=True)
    if options.cu_seqlens_k is None and call.sizes["Lq"] != call.sizes["Lk"]:
        raise error(
            "A073",
            f"`q` holds {call.sizes['Lq']} tokens and `k` {call.sizes['Lk']}, and `cu_seqlens` is "
            "for both",
            help="pass `cu_seqlens_k`, the bounds of the keys",
        )
    return call, places


def as_batch(value: Any, place: Place | None) -> Any:
    """What is packed, as kernels read it: a batch of one."""
    if place is None or place.length is None or not isinstance(value, Tensor):
        return value
    return value.unsqueeze(0)


def part(array: Any, place: Place | None, bounds: Bounds, number: int) -> Any:
    """One sequence's part of an array as kernels read it."""
    if place is None:
        return array
    if place.length is None:
        return array[number : number + 1]
    first, last = bounds.of(place.length)[number : number + 2]
    return array.narrow(place.axis, first, last - first)


def heads_first(tensor: Tensor) -> Tensor:
    """`[T, H, D]` as `[1, H, T, D]`."""
    return tensor.transpose(0, 1).unsqueeze(0)


def bounds_of(options: Options, query_tokens: int, key_tokens: int) -> Bounds:
    """The bounds' values. Raises `AttnError` A079 where they do not cut the tokens up.

    Tensors on a GPU are waited for, once.
    """
    first, second = options.cu_seqlens, options.cu_seqlens_k
    assert first is not None
    if second is None:
        queries = _checked("cu_seqlens", tuple(first.tolist()), "q", query_tokens)
        return Bounds(queries, queries)
    both = torch.stack([first.long(), second.to(first.device, torch.int64)]).tolist()
    queries, keys = map(tuple, both)
    return Bounds(
        _checked("cu_seqlens", queries, "q", query_tokens),
        _checked("cu_seqlens_k", keys, "k", key_tokens),
    )


def _checked(name: str, values: tuple[int, ...], operand: str, tokens: int) -> tuple[int, ...]:
    if values[0] != 0 or values[-1] != tokens:
        raise error(
            "A079",
            f"`{name}` goes from {values[0]} to {values[-1]}, `{operand}` holds {tokens} tokens",
            help="it starts at 0 and ends at T, where packed tensors are [T, H, D]",
        )
    for place, (first, last) in enumerate(pairwise(values)):
        if last < first:
            raise error(
                "A079",
                f"`{name}` falls from {first} to {last} at sequence {place}",
                help="a sequence ends where the next one starts: `lengths.cumsum(0)` after a 0",
            )
    return values


def _check_bounds(options: Options) -> int:
    """How many sequences there are."""
    given = {name: getattr(options, name) for name in _BOUNDS}
    if given["cu_seqlens"] is None:
        raise error("A079", "`cu_seqlens_k` comes without `cu_seqlens`", help="pass both")
    for name, one in given.items():
        if one is None:
            continue
        if not isinstance(one, Tensor):
            raise error(
                "A070",
                f"`{name}` must be a torch tensor, int32 [sequences + 1], got "
                f"`{type(one).__qualname__}`",
                help=f"`torch.tensor({name}, dtype=torch.int32)`",
            )
        if one.dtype not in (torch.int32, torch.int64):
            raise error(
                "A074",
                f"`{name}` must be int32 or int64, got {str(one.dtype).removeprefix('torch.')}",
                help=f"cast it: `{name}.int()`",
            )
        if one.dim() != 1 or one.shape[0] < 2:
            raise error(
                "A073",
                f"`{name}` has the first token of every sequence and the end of the last, "
                f"[sequences + 1], got {list(one.shape)}",
            )
    first, second = given.values()
    if second is not None and second.shape[0] != first.shape[0]:
        raise error(
            "A073",
            f"`cu_seqlens` is of {first.shape[0] - 1} sequences, `cu_seqlens_k` of "
            f"{second.shape[0] - 1}",
        )
    count: int = first.shape[0] - 1
    return count


def _input_place(attention: Attention, one: InputDeclaration) -> Place | None:
    try:
        return place_of(one.dimensions)
    except ValueError as problem:
        raise error(
            "A088",
            f"`{one.name}` cannot be packed: {problem}",
            one.span,
            label="declared here",
            help="packed are [B, …, Lk, …] and [B, …, Lq, …]; shared is what has no length",
        ) from None


def _check_shape(
    one: InputDeclaration,
    value: Any,
    place: Place | None,
    operands: Mapping[str, Any],
    count: int,
) -> None:
    """The shapes of what is packed; those of what is shared are as ever."""
    if place is None or not isinstance(value, Tensor):
        return
    q, k, v = (operands[name] for name in ("q", "k", "v"))
    sizes = {"Lq": q.shape[0], "H": q.shape[1], "D": q.shape[2], "Lk": k.shape[0]}
    sizes |= {"Hkv": k.shape[1], "B": count}
    if v is not None:
        sizes["Dv"] = v.shape[2]
    dimensions = one.dimensions if place.length is None else one.dimensions[1:]
    shape = [evaluate_size(dimension, sizes) for dimension in dimensions]
    if list(value.shape) != shape:
        names = {"Lq": "T", "Lk": "T", "B": "sequences"}
        packed = ", ".join(
            names.get(dimension.name, dimension.name)
            if isinstance(dimension, Size)
            else text(dimension)
            for dimension in dimensions
        )
        raise error(
            "A073",
            f"`{one.name}` is {declared(one)}, packed as [{packed}] = {shape}, "
            f"got {list(value.shape)}",
            one.span,
            label="declared here",
        )


def _heads_first(value: Any) -> Any:
    return heads_first(value) if isinstance(value, Tensor) else value


def _first_row(value: Any) -> Any:
    """What stands for every sequence's row, to be checked."""
    return value[:1] if isinstance(value, Tensor) and value.dim() else value
