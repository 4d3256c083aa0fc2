"""The abstract interpreter: what an expression can be worth over boxes of pairs.

A box is a range of queries by a range of keys; every operation works on arrays of many boxes. An
integer or float becomes the interval that encloses its values, a bool the pair "may hold" and
"must hold". The answers are sound: whatever a pair of the box gives lies in them. They are exact

- for sums over `i` and `j`: they are collected first, so that `i - j` is one value and not two;
- for a remainder compared with a number, over a range of dense values;
- for reads, whose least and greatest element over a range comes from `extrema`;

and `and`, `or` and `not` combine them without regard to correlations, which the caller resolves by
splitting boxes. Floats that may be NaN or unknown have NaN for bounds: no comparison with NaN
proves anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    INT,
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Read,
    Scale,
    Select,
    Size,
    Unary,
)
from attndsl.planner.algebra import COMPARISONS, MIRRORED
from attndsl.planner.extrema import LineExtrema, PlaneExtrema
from attndsl.planner.linear import Linear, linear

Array = NDArray[Any]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

# Integers beyond this are as good as infinite: no sum of a few of them overflows.
HUGE = 1 << 60
# Powers of ranges are bounded up to this exponent, which takes as many products.
_LARGEST_EXPONENT = 16


@dataclass(frozen=True)
class Interval:
    """Values from `low` to `high`, both included, elementwise; int64 or float64."""

    low: Array
    high: Array


@dataclass(frozen=True)
class Truth:
    """Whether a bool may be true somewhere in a box, and whether it must be everywhere."""

    may: Booleans
    must: Booleans

    def __invert__(self) -> Truth:
        return Truth(~self.must, ~self.may)

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.may & other.may, self.must & other.must)

    def __or__(self, other: Truth) -> Truth:
        return Truth(self.may | other.may, self.must | other.must)


@dataclass
class Boxes:
    """Many boxes, and what names stand for in them.

    `ranges` maps indices to inclusive ranges of int64 arrays that broadcast against each other.
    `reads` keeps the extrema of inputs between calls; one dictionary serves one set of inputs.
    """

    ranges: Mapping[str, tuple[Integers, Integers]]
    sizes: Mapping[str, int]
    axes: tuple[str, ...] = ()
    inputs: Mapping[str, Array] = field(default_factory=dict)
    reads: dict[tuple[object, ...], LineExtrema | PlaneExtrema] = field(default_factory=dict)
    scale: float = float("nan")


def truth(mask: Expression, boxes: Boxes) -> Truth:
    """Whether the mask may hold for some pair of each box, and whether it must for all."""
    with np.errstate(all="ignore"):
        return _Interpreter(boxes).truth(mask)


def interval(value: Expression, boxes: Boxes) -> Interval:
    """An interval that encloses the values of an int or float in each box."""
    with np.errstate(all="ignore"):
        return _Interpreter(boxes).number(value)


@dataclass
class _Interpreter:
    boxes: Boxes
    numbers: dict[int, Interval] = field(default_factory=dict)
    truths: dict[int, Truth] = field(default_factory=dict)

    def truth(self, node: Expression) -> Truth:
        known = self.truths.get(id(node))
        if known is None:
            known = self.truths[id(node)] = self._truth(node)
        return known

    def number(self, node: Expression) -> Interval:
        known = self.numbers.get(id(node))
        if known is None:
            known = self.numbers[id(node)] = self._number(node)
        return known

    def _truth(self, node: Expression) -> Truth:
        match node:
            case Literal(value=value):
                constant = np.asarray(bool(value))
                return Truth(constant, constant)
            case Read():
                elements = self._read(node)
                return Truth(elements.high.astype(bool), elements.low.astype(bool))
            case Unary(operator="not", operand=operand):
                return ~self.truth(operand)
            case Binary(operator="and", left=left, right=right):
                return self.truth(left) & self.truth(right)
            case Binary(operator="or", left=left, right=right):
                return self.truth(left) | self.truth(right)
            case Binary(operator=operator, left=left, right=right) if operator in COMPARISONS:
                if left.type == BOOL:
                    a, b = self.truth(left), self.truth(right)
                    same = (a & b) | (~a & ~b)
                    return same if operator == "==" else ~same
                if left.type == INT and right.type == INT:
                    return self._integer_comparison(operator, linear(left).minus(linear(right)))
                return _float_comparison(operator, self.number(left), self.number(right))
            case Select(condition=condition, then=then, otherwise=otherwise):
                chosen = self.truth(condition)
                return (chosen & self.truth(then)) | (~chosen & self.truth(otherwise))
        raise InternalError(f"no truth value for {type(node).__name__}")

    def _integer_comparison(self, operator: str, form: Linear) -> Truth:
        """`form operator 0`."""
        for atom, coefficient in form.terms.items():
            match atom:
                case Binary(operator="%", left=left, right=right) if abs(coefficient) == 1:
                    rest = self._sum(form.without(atom).times(-coefficient))
                    modulus = self.number(right)
                    if _is_point(rest) and _is_point(modulus) and np.all(modulus.low > 0):
                        mirrored = operator if coefficient > 0 else MIRRORED[operator]
                        value = self.number(left)
                        return _remainder_comparison(mirrored, value, modulus.low, rest.low)
        value = self._sum(form)
        return _comparison(operator, value, _point(np.zeros((), np.int64)))

    def _number(self, node: Expression) -> Interval:
        match node:
            case Literal(value=constant):
                return _point(np.asarray(constant, _dtype(node)))
            case Index(name=name):
                return Interval(*self.boxes.ranges[name])
            case Size(name=name):
                return _point(np.asarray(self.boxes.sizes[name], np.int64))
            case Scale():
                return _point(np.asarray(self.boxes.scale, np.float64))
            case Coordinate(position=position, axis=axis):
                return self._coordinate(Interval(*self.boxes.ranges[position]), axis)
            case Read():
                elements = self._read(node)
                kind = _dtype(node)
                return Interval(elements.low.astype(kind), elements.high.astype(kind))
            case Unary(operator="-", operand=operand):
                value = self.number(operand)
                return Interval(-value.high, -value.low)
            case Select(condition=condition, then=then, otherwise=otherwise):
                return self._select(self.truth(condition), then, otherwise)
            case Binary():
                return self._binary(node)
            case Call():
                return self._call(node)
        raise InternalError(f"no interval for {type(node).__name__}")

    def _sum(self, form: Linear) -> Interval:
        low: Array = np.asarray(form.constant, np.int64)
        high = low
        for atom, coefficient in form.terms.items():
            value = self.number(atom)
            match coefficient:
                case 1:
                    ends = [value.low, value.high]
                case -1:
                    ends = [-value.high, -value.low]
                case _:
                    ends = [_product(value.low, coefficient), _product(value.high, coefficient)]
                    if coefficient < 0:
                        ends.reverse()
            low, high = _bounded(low + ends[0]), _bounded(high + ends[1])
        return Interval(low, high)

    def _binary(self, node: Binary) -> Interval:
        if node.type == INT and node.operator in ("+", "-"):
            return self._sum(linear(node))
        left, right = self.number(node.left), self.number(node.right)
        if node.type == INT:
            match node.operator:
                case "*":
                    return _corners(_product, left, right)
                case "//":
                    return _quotient(left, right)
                case "%":
                    return _remainder(left, right)
            if _is_point(left) and _is_point(right):
                return _point(np.power(left.low, np.maximum(right.low, 0)))
            exponent = int(right.low.flat[0]) if right.low.size == 1 and _is_point(right) else 0
            if 0 < exponent <= _LARGEST_EXPONENT:
                return _power(left, exponent)
            return _unknown_integer(left, right)
        match node.operator:
            case "+":
                return Interval(left.low + right.low, left.high + right.high)
            case "-":
                return Interval(left.low - right.high, left.high - right.low)
            case "*":
                return _corners(np.multiply, left, right)
            case "/":
                spans_zero = (right.low <= 0) & (right.high >= 0)
                found = _corners(np.true_divide, left, right)
                return _where_known(~spans_zero, found)
        if _is_point(left) and _is_point(right):
            return _point(np.power(left.low, right.low))
        return _unknown_float(left, right)

    def _select(self, chosen: Truth, then: Expression, otherwise: Expression) -> Interval:
        first, second = self.number(then), self.number(otherwise)
        low = np.where(
            chosen.must,
            first.low,
            np.where(chosen.may, np.minimum(first.low, second.low), second.low),
        )
        high = np.where(
            chosen.must,
            first.high,
            np.where(chosen.may, np.maximum(first.high, second.high), second.high),
        )
        return Interval(low, high)

    def _call(self, node: Call) -> Interval:
        match node.function:
            case "int" | "float" if node.arguments[0].type == BOOL:
                holds = self.truth(node.arguments[0])
                kind = _dtype(node)
                return Interval(holds.must.astype(kind), holds.may.astype(kind))
        values = [self.number(argument) for argument in node.arguments]
        first = values[0]
        match node.function:
            case "min" | "max":
                pick = np.minimum if node.function == "min" else np.maximum
                low, high = first.low, first.high
                for value in values[1:]:
                    low, high = pick(low, value.low), pick(high, value.high)
                return Interval(low, high)
            case "abs":
                ends = np.abs(first.low), np.abs(first.high)
                crosses = (first.low <= 0) & (first.high >= 0)
                low = np.where(crosses, np.zeros_like(ends[0]), np.minimum(*ends))
                return Interval(low, np.maximum(*ends))
            case "int":
                return first
            case "float":
                return Interval(first.low.astype(np.float64), first.high.astype(np.float64))
            case "floor":
                return _floor(first)
            case function if function in _RISING:
                apply = _RISING[function]
                return Interval(apply(first.low), apply(first.high))
        if node.type == INT:
            return _unknown_integer(*values)
        return _unknown_float(*values)

    def _coordinate(self, position: Interval, axis: str) -> Interval:
        number = self.boxes.axes.index(axis)
        stride = 1
        for name in self.boxes.axes[number + 1 :]:
            stride *= self.boxes.sizes[f"axis.{name}"]
        if stride == 0:
            return _unknown_integer(position)
        steps = Interval(position.low // stride, position.high // stride)
        length = self.boxes.sizes[f"axis.{axis}"]
        return steps if number == 0 else _remainder(steps, _point(np.asarray(length, np.int64)))

    def _read(self, node: Read) -> Interval:
        array = self.boxes.inputs[node.name]
        if array.dtype == np.bool_:
            array = array.view(np.uint8)
        fixed: list[int | slice] = []
        varying: list[Interval] = []
        for dimension, index in enumerate(node.indices):
            where = self.number(index)
            # A range out of bounds is clamped, as kernels do.
            end = array.shape[dimension] - 1
            where = Interval(np.clip(where.low, 0, end), np.clip(where.high, 0, end))
            if where.low.size == 1 and _is_point(where):
                fixed.append(int(where.low.flat[0]))
            else:
                fixed.append(slice(None))
                varying.append(where)
        if 0 in array.shape:
            zero = np.zeros((), array.dtype)
            return Interval(zero, zero + array.dtype.type(1))
        elements = array[tuple(fixed)]
        if not varying:
            return _point(elements)
        key = (node.name, *(place if isinstance(place, int) else None for place in fixed))
        extrema = self.boxes.reads.get(key)
        if len(varying) == 1:
            if extrema is None:
                extrema = self.boxes.reads[key] = LineExtrema.of(elements)
            assert isinstance(extrema, LineExtrema)
            return Interval(*extrema.over(varying[0].low, varying[0].high))
        if len(varying) == 2:
            if extrema is None:
                extrema = self.boxes.reads[key] = PlaneExtrema(elements)
            assert isinstance(extrema, PlaneExtrema)
            rows, columns = varying
            return Interval(*extrema.over((rows.low, columns.low), (rows.high, columns.high)))
        return Interval(elements.min(), elements.max())


def _dtype(node: Expression) -> type[np.int64 | np.float64]:
    return np.int64 if node.type == INT else np.float64


def _point(value: Array) -> Interval:
    return Interval(value, value)


def _is_point(value: Interval) -> bool:
    return value.low is value.high or bool(np.all(value.low == value.high))


def _shape(*values: Interval) -> tuple[int, ...]:
    return np.broadcast_shapes(*(value.low.shape for value in values))


def _unknown_integer(*values: Interval) -> Interval:
    shape = _shape(*values)
    return Interval(np.full(shape, -HUGE, np.int64), np.full(shape, HUGE, np.int64))


def _unknown_float(*values: Interval) -> Interval:
    nothing = np.full(_shape(*values), np.nan)
    return Interval(nothing, nothing)


def _where_known(known: Booleans, value: Interval) -> Interval:
    return Interval(np.where(known, value.low, np.nan), np.where(known, value.high, np.nan))


def _bounded(value: Array) -> Array:
    return np.clip(value, -HUGE, HUGE)


def _product(left: Array, right: Array | int) -> Array:
    """The product, held within ±HUGE where it would overflow."""
    exact = np.multiply(left, right)
    rough = np.multiply(np.asarray(left, np.float64), right)
    return np.where(np.abs(rough) < HUGE, exact, np.sign(rough).astype(np.int64) * HUGE)


def _corners(
    operation: Callable[[Array, Array], Array], left: Interval, right: Interval
) -> Interval:
    ends = [operation(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    return Interval(np.minimum.reduce(ends), np.maximum.reduce(ends))


def _power(base: Interval, exponent: int) -> Interval:
    """A positive power: an odd one rises with the base, an even one with its distance from 0."""
    low, high = base.low, base.high
    for _ in range(exponent - 1):
        low, high = _product(low, base.low), _product(high, base.high)
    if exponent % 2:
        return Interval(low, high)
    crosses = (base.low <= 0) & (base.high >= 0)
    return Interval(np.where(crosses, 0, np.minimum(low, high)), np.maximum(low, high))


def _quotient(left: Interval, right: Interval) -> Interval:
    spans_zero = (right.low <= 0) & (right.high >= 0)
    divisors = Interval(np.where(spans_zero, 1, right.low), np.where(spans_zero, 1, right.high))
    found = _corners(np.floor_divide, left, divisors)
    return Interval(np.where(spans_zero, -HUGE, found.low), np.where(spans_zero, HUGE, found.high))


def _remainder(left: Interval, right: Interval) -> Interval:
    positive = right.low > 0
    modulus = np.where(positive, right.low, 1)
    same_turn = _is_point(right) and (left.low // modulus == left.high // modulus)
    low = np.where(same_turn, left.low % modulus, 0)
    high = np.where(same_turn, left.high % modulus, right.high - 1)
    inside = (left.low >= 0) & (left.high < right.low)  # then the remainder is the value itself
    low, high = np.where(inside, left.low, low), np.where(inside, left.high, high)
    return Interval(np.where(positive, low, -HUGE), np.where(positive, high, HUGE))


def _remainder_comparison(
    operator: str,
    value: Interval,
    modulus: Array,
    target: Array,
) -> Truth:
    """`value % modulus operator target`, exact where the value takes every integer in between."""
    low, high = value.low, value.high
    inside = (target >= 0) & (target < modulus)
    reaches = inside & ((high - target) // modulus > (low - 1 - target) // modulus)
    residue = low % modulus
    start = low - residue
    # The remainders of a range run up from the first, through 0 if it passes a multiple.
    least = np.where(start + modulus <= high, 0, residue)
    most = np.where(start + modulus - 1 <= high, modulus - 1, high % modulus)
    match operator:
        case "==":
            return Truth(reaches, (least == most) & (least == target))
        case "!=":
            return Truth((least != most) | (least != target), ~reaches)
        case "<":
            return Truth(least < target, most < target)
        case "<=":
            return Truth(least <= target, most <= target)
        case ">":
            return Truth(most > target, least > target)
    return Truth(most >= target, least >= target)


def _comparison(operator: str, left: Interval, right: Interval) -> Truth:
    match operator:
        case "<":
            return Truth(left.low < right.high, left.high < right.low)
        case "<=":
            return Truth(left.low <= right.high, left.high <= right.low)
        case ">":
            return Truth(left.high > right.low, left.low > right.high)
        case ">=":
            return Truth(left.high >= right.low, left.low >= right.high)
    meet = (left.low <= right.high) & (left.high >= right.low)
    equal = (left.low == right.high) & (left.high == right.low)
    return Truth(meet, equal) if operator == "==" else Truth(~equal, ~meet)


def _float_comparison(operator: str, left: Interval, right: Interval) -> Truth:
    """As `_comparison`, where a bound that is NaN leaves everything open."""
    found = _comparison(operator, left, right)
    bounds = (left.low, left.high, right.low, right.high)
    unknown = np.logical_or.reduce([np.isnan(bound) for bound in np.broadcast_arrays(*bounds)])
    return Truth(found.may | unknown, found.must & ~unknown)


def _floor(value: Interval) -> Interval:
    low = np.where(np.isnan(value.low), -HUGE, np.clip(np.floor(value.low), -HUGE, HUGE))
    high = np.where(np.isnan(value.high), HUGE, np.clip(np.floor(value.high), -HUGE, HUGE))
    return Interval(low.astype(np.int64), high.astype(np.int64))


_RISING: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "sign": np.sign,
    "relu": lambda x: np.maximum(x, 0.0),
}
