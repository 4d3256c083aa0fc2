"""Sums and other reductions over the elements of a vector.

Where the vector varies with one side of a tile, the elements become the tile's second axis. Where
it varies with both, or already stands in a vector, a loop over the elements is written.
"""

from __future__ import annotations

from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.scalarize import element, size_of
from attndsl.codegen.triton.values import Binding, Value, infix
from attndsl.diagnostics import InternalError
from attndsl.expression import FLOAT, Binary, Call, Expression, Index


def reduce(kernel: Kernel, name: str, arguments: tuple[Expression, ...]) -> Value:
    """`dot(x, y)`, `sum(x)`, `mean(x)`, `amax(x)` or `norm(x)` as a named value."""
    size = integer(size_of(arguments[0]), kernel.specialization)
    axes, _ = kernel.facts(Call(name, arguments, FLOAT))
    if len(axes) < 2 and "d" not in axes:
        lane = lane_index(kernel, size)
        value = _of_lanes(kernel, name, _summand(name, arguments, lane), size)
    else:
        value = _of_loop(kernel, name, arguments, size, axes)
    match name:
        case "mean":
            return infix("*", Binding.PRODUCT, value, Value(repr(1.0 / size)))
        case "norm":
            return Value(f"tl.sqrt({value.text})", value.axes)
    return value


def _summand(name: str, arguments: tuple[Expression, ...], index: Expression) -> Expression:
    parts = tuple(element(argument, index) for argument in arguments)
    match name:
        case "dot":
            return Binary("*", parts[0], parts[1], FLOAT)
        case "norm":
            return Binary("*", parts[0], parts[0], FLOAT)
        case "sum" | "mean" | "amax":
            return parts[0]
    raise InternalError(f"`{name}` is not a reduction")


def padded(size: int) -> int:
    """The number of lanes for a vector: a power of two."""
    return 1 << max(0, (size - 1).bit_length())


def lane_index(kernel: Kernel, size: int, *, start: int = 0, width: int | None = None) -> Index:
    """Elements `[start, start + size)` of a vector as an axis of `width` lanes, by default the next
    power of two; lanes past the end repeat the last element."""
    width = padded(size) if width is None else width
    leaf = Index(f"lane {start} {size} {width}")
    with kernel.at_depth(0):
        if leaf not in kernel.scope.known and leaf not in kernel.scope.lazy:
            lanes = f"tl.arange(0, {width})"
            if width != size:
                lanes = f"tl.minimum({lanes}, {size - 1})"
            if start:
                lanes = f"{start} + {lanes}"
            kernel.define_lazily(leaf, "element", Value(lanes, "d"))
    return leaf


def _of_lanes(kernel: Kernel, name: str, summand: Expression, size: int) -> Value:
    value = kernel.value(summand)
    neutral = 'float("-inf")' if name == "amax" else "0.0"
    if "d" not in value.axes:
        lanes = f"tl.zeros([{padded(size)}], tl.float32)"
        value = infix("+", Binding.SUM, value, Value(lanes, "d"))
    if padded(size) != size:
        exists = Value(f"tl.arange(0, {padded(size)}) < {size}", "d", Binding.COMPARE)
        condition = exists.text if value.axes == "d" else f"({exists.text})[None, :]"
        value = Value(f"tl.where({condition}, {value.text}, {neutral})", value.axes)
    function = "tl.max" if name == "amax" else "tl.sum"
    axis = value.axes.index("d")
    return Value(f"{function}({value.text}, {axis})", value.axes.replace("d", ""))


def _of_loop(
    kernel: Kernel, name: str, arguments: tuple[Expression, ...], size: int, axes: str
) -> Value:
    if size == 0:
        return Value('float("-inf")' if name == "amax" else "0.0")
    initial = 'float("-inf")' if name == "amax" else "0.0"
    shape = ", ".join(kernel.extents[axis] for axis in axes)
    total = kernel.assign(name, Value(f"tl.full([{shape}], {initial}, tl.float32)", axes))
    with kernel.loop("index", f"for {{}} in range({size}):") as number:
        index = Index(f"element {number}")
        kernel.define(index, Value(number))
        value = kernel.arranged(_summand(name, arguments, index))
        if name == "amax":
            kernel.line(f"{total.text} = tl.maximum({total.text}, {value.text})")
        else:
            kernel.line(f"{total.text} += {value.text}")
    return total
