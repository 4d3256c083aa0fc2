"""Kernels on packed sequences: one launch for all of them.

Such a kernel is that of a call on one sequence alone, with a batch of one: what would be arguments
of it, `Lq`, `Lk` and `offset`, it finds out by the number of its sequence. Its tiles are those of
the longest sequence; a program whose tile lies beyond its own ends at once.

As arguments `B`, `Lq` and `Lk` are the number of sequences and the lengths of the longest,
`packed.Lq` and `packed.Lk` how many tokens all have together; `offset` is every sequence's where
`packed.aligned` is 0. `query_bounds` and `key_bounds` are where each sequence begins, and where the
last ends. Where blocks are listed, `map_index[sequence * H + h]` is the line of the head's first
tile in the lists of all sequences.

Arrays of tokens hold those of one sequence after those of another, in a batch of one; other arrays
of a batch have a row for each sequence.
"""

from __future__ import annotations

from attndsl.codegen.triton.kernel import Array, Kernel
from attndsl.codegen.triton.values import Value
from attndsl.dropout import FIRST_BATCH
from attndsl.expression import Expression, Index, Size, substitute, walk

ALIGNED = "packed.aligned"  # 1: the last query of a sequence is at its last key
_SIDES = {"Lq": "query", "Lk": "key"}
SEQUENCE = Index("sequence")


def packed_size(length: str) -> str:
    """The size that says how many tokens all sequences have, as `length` does of one."""
    return f"packed.{length}"


def enter(kernel: Kernel, number: str) -> None:
    """The program is for sequence `number`: from here on, sizes are those of this sequence."""
    sequence = kernel.assign("sequence", Value(number)).text
    kernel.define(SEQUENCE, Value(sequence))
    kernel.define(Index("b"), Value("0"))
    kernel.define(Size("B"), Value("1"))
    kernel.line("# Its tokens lie among those of all, between its bounds.")
    for length, side in _SIDES.items():
        bounds = kernel.table(f"{side}_bounds")
        first = kernel.assign(f"first_{side}", Value(f"tl.load({bounds} + {sequence})")).text
        count = f"tl.load({bounds} + {sequence} + 1) - {first}"
        count = kernel.assign(length, Value(count)).text
        kernel.define(Size(length), Value(count))
        # Of a sequence without tokens none is used, but an array may end where it begins.
        start = f"tl.where({count} > 0, tl.cast({first}, tl.int64), 0)"
        kernel.define_lazily(_begin(length), f"{side}_begin", Value(start))
    given = kernel.argument_of_size("offset", "given_offset")
    aligned = kernel.argument_of_size(ALIGNED, "aligned")
    shift = f"{kernel.size('Lk')} - {kernel.size('Lq')}"
    offset = Value(f"tl.where({aligned} != 0, {shift}, {given})")
    kernel.define(Size("offset"), kernel.assign("offset", offset))
    if kernel.specialization.dropout:
        first = kernel.argument_of_size(FIRST_BATCH, "first_batch")
        kernel.define(Size(FIRST_BATCH), kernel.assign("batch", Value(f"{first} + {sequence}")))


def begin(kernel: Kernel, length: str) -> str:
    """Where the sequence's tokens begin among those of all: 64 bits."""
    return kernel.value(_begin(length)).text


def longest(kernel: Kernel, expression: Expression) -> Expression:
    """What a number of tokens is for the longest sequence, where there are many."""
    if not kernel.specialization.packed:
        return expression
    for name in _SIDES:
        if any(node == Size(name) for node in walk(expression)):
            size = Size(f"longest.{name}")
            kernel.define(size, Value(kernel.argument_of_size(name, f"longest_{name}")))
            expression = substitute(expression, {Size(name): size})
    return expression


def of_all(expression: Expression) -> Expression:
    """What a dimension of one sequence's tokens is in memory."""
    packed: dict[Expression, Expression] = {Size(name): Size(packed_size(name)) for name in _SIDES}
    return substitute(expression, packed)


def start_of(array: Array) -> tuple[Expression, int] | None:
    """The number of a sequence's first element along an axis, and which axis that is; None for
    what all sequences share."""
    for axis, size in enumerate(array.dimensions):
        if isinstance(size, Size) and size.name in _SIDES:
            return _begin(size.name), axis
    if array.dimensions and array.dimensions[0] == Size("B"):
        return SEQUENCE, 0
    return None


def _begin(length: str) -> Index:
    return Index(f"first of {length}")
