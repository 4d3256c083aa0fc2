"""Spelled values: the text of an expression in a kernel, its axes, and how tightly it binds.

A value is a scalar (`axes == ""`) or a tensor over some of the axes of a tile: `m` (queries, or the
tokens of a preparation), `n` (keys), `d` (elements of a vector). Axes always stand in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

AXES = "mnd"


class Binding(IntEnum):
    """Python's precedence, loosest first."""

    COMPARE = 1
    OR = 2
    AND = 3
    SHIFT = 4
    SUM = 5
    PRODUCT = 6
    UNARY = 7
    ATOM = 8


@dataclass(frozen=True)
class Value:
    """`text` is a Python expression that binds as `binding` says."""

    text: str
    axes: str = ""
    binding: Binding = Binding.ATOM

    def at_least(self, binding: Binding) -> str:
        """The text, in parentheses unless it binds at least as tightly as `binding`."""
        return self.text if self.binding >= binding else f"({self.text})"

    @property
    def atom(self) -> str:
        return self.at_least(Binding.ATOM)


def atom(text: str) -> str:
    """The text of a scalar as a factor: in parentheses, unless it is a name or a number."""
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def union(*axes: str) -> str:
    """The axes of a result that broadcasts over all of these."""
    present = set().union(*axes)
    return "".join(axis for axis in AXES if axis in present)


def spread(value: Value, axes: str) -> Value:
    """The value, indexed so that it broadcasts against a tensor with `axes` (at most two)."""
    if value.axes in ("", axes):
        return value
    subscript = "[:, None]" if axes.startswith(value.axes) else "[None, :]"
    return Value(value.atom + subscript, value.axes)


def infix(operator: str, binding: Binding, left: Value, right: Value) -> Value:
    """`left operator right`, broadcast over the axes of both. Left-associative."""
    axes = union(left.axes, right.axes)
    left_text = spread(left, axes).at_least(binding)
    # Comparisons do not chain here, and subtraction and division do not associate; `&` and `|` do.
    tighter = binding if operator in ("&", "|") else Binding(binding + 1)
    right_text = spread(right, axes).at_least(tighter)
    if binding is Binding.COMPARE:
        left_text = spread(left, axes).at_least(Binding.OR)
    if binding is Binding.SHIFT:
        # Few readers know that sums bind tighter than shifts.
        left_text, right_text = (spread(one, axes).at_least(Binding.UNARY) for one in (left, right))
    return Value(f"{left_text} {operator} {right_text}", axes, binding)


def call(function: str, *arguments: Value) -> Value:
    """`function(arguments…)`, broadcast over the axes of all of them."""
    axes = union(*(argument.axes for argument in arguments))
    inside = ", ".join(spread(argument, axes).text for argument in arguments)
    return Value(f"{function}({inside})", axes)
