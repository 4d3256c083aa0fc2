"""Reads of inputs and of scan buffers.

Indices are clamped into the dimension, unless they are known to lie in it: a pair that the mask
hides may point anywhere. What an index varies with decides where its part of the address is added:
scalars and rows before the loop, keys in it.
"""

from __future__ import annotations

from attndsl.codegen.triton.kernel import Array, Kernel
from attndsl.codegen.triton.sequences import of_all, start_of
from attndsl.codegen.triton.values import Binding, Value, infix
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    INT,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Read,
    Scalar,
    Size,
)

# An index and the dimension that it lies in by construction of the kernels.
_WITHIN = frozenset(
    {("b", "B"), ("h", "H"), ("g", "Hkv"), ("row", "Lq"), ("j", "Lk"), ("t", "length")}
)


def read(kernel: Kernel, node: Read) -> Value:
    """The element as a named value; a bool input is stored in bytes."""
    array = kernel.arrays[node.name]
    if not isinstance(node.type, Scalar) or len(node.indices) != len(array.dimensions):
        raise InternalError(f"`{node.name}` is read as a whole where one element is needed")
    pointer = address(kernel, array, node.indices)
    loaded = Value(f"tl.load({pointer.text})", pointer.axes)
    if array.element is BOOL:
        loaded = infix("!=", Binding.COMPARE, loaded, Value("0"))
    value = kernel.assign(f"{array.name}_value", loaded)
    kernel.define(node, value)
    return value


def address(kernel: Kernel, array: Array, indices: tuple[Expression, ...]) -> Value:
    """The pointer to an element, its indices clamped."""
    pointer = _pointer(kernel, array)
    reached = 0
    for depth, offset in _offsets(kernel, array, indices):
        if depth > reached and pointer.binding is not Binding.ATOM:
            with kernel.at_depth(reached):
                pointer = kernel.assign(f"{array.name}_pointer", pointer)
        reached = max(depth, reached)
        pointer = infix("+", Binding.SUM, pointer, offset)
    return pointer


def _pointer(kernel: Kernel, array: Array) -> Value:
    """The pointer to the array, or to what a sequence has in it."""
    pointer = Value(kernel.tensor(array.name, array.dtype))
    start = start_of(array) if kernel.specialization.packed else None
    if start is None:
        return pointer
    leaf = Index(f"sequence of {array.name}")
    with kernel.at_depth(0):
        if leaf not in kernel.scope.known:
            first, axis = start
            shift, stride = kernel.value(first), _stride(kernel, array, axis)
            if stride.text != "1":
                shift = infix("*", Binding.PRODUCT, shift, stride)
            moved = infix("+", Binding.SUM, pointer, shift)
            kernel.define(leaf, kernel.assign(f"{array.name}_here", moved))
        return kernel.scope.known[leaf]


def _offsets(
    kernel: Kernel, array: Array, indices: tuple[Expression, ...]
) -> list[tuple[int, Value]]:
    """What each index adds to the address and from which depth on, outermost first."""
    offsets = []
    for axis, index in enumerate(indices):
        inside = clamped(index, array.dimensions[axis])
        depth = kernel.depth_of(inside)
        value = kernel.value(inside)
        if value.text == "0":
            continue
        stride = _stride(kernel, array, axis)
        if stride.text != "1":
            value = infix("*", Binding.PRODUCT, value, stride)
        offsets.append((depth, value))
    return sorted(offsets, key=lambda pair: (pair[0], len(pair[1].axes)))


def clamped(index: Expression, dimension: Expression) -> Expression:
    """The index, within the dimension."""
    match index, dimension:
        case Index(name=name), Size(name=size) if (name, size) in _WITHIN:
            return index
        case Literal(value=int() as at), Literal(value=int() as count):
            return Literal(min(max(at, 0), max(count - 1, 0)))
    last = Binary("-", dimension, Literal(1), INT)
    if isinstance(dimension, Literal):
        last_value = Literal(max(int(dimension.value) - 1, 0))
        return Call("max", (Call("min", (index, last_value), INT), Literal(0)), INT)
    return Call("max", (Call("min", (index, last), INT), Literal(0)), INT)


def _stride(kernel: Kernel, array: Array, axis: int) -> Value:
    """The stride of an axis in elements, 64 bits; the last axis of every array is contiguous."""
    if axis == len(array.dimensions) - 1:
        return Value("1")
    if not array.is_buffer:
        return Value(kernel.stride(array.name, axis))
    leaf = Index(f"stride {axis} of {array.name}")
    with kernel.at_depth(0):
        if leaf not in kernel.scope.known:
            dimensions = array.dimensions[axis + 1 :]
            if kernel.specialization.packed:
                dimensions = tuple(map(of_all, dimensions))
            trailing = [kernel.value(size) for size in dimensions]
            stride = Value(f"tl.cast({trailing[0].text}, tl.int64)")
            for value in trailing[1:]:
                stride = infix("*", Binding.PRODUCT, stride, value)
            kernel.define(leaf, kernel.assign(f"{array.name}_stride_{axis}", stride))
        return kernel.scope.known[leaf]
