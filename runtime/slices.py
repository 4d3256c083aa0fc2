"""Sizes of vectors, checked once they are known, lest a kernel read past the end of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attndsl.attention import Attention, Elementwise, GroupedSoftmax, Softmax
from attndsl.diagnostics import error
from attndsl.evaluate import evaluate_size
from attndsl.expression import (
    Binary,
    Call,
    Element,
    Expression,
    Matrix,
    Select,
    Size,
    Slice,
    Vector,
    walk,
)
from attndsl.printing import text

_OF_HALVES = ("rotate_half", "rotate_pairs")
_OF_ONE_SIZE = ("dot", "min", "max")


def check_slices(attention: Attention, sizes: Mapping[str, int]) -> None:
    """Raises `AttnError` A073 for a slice or an element that its vector does not have, and for
    vectors of different sizes that go element by element.

    What depends on sizes that are not given is left to a later check.
    """
    for expression in _expressions(attention):
        for node in walk(expression):
            match node:
                case Slice(vector=vector, start=start, stop=stop):
                    _check(node, vector, start, stop, sizes)
                case Element(vector=vector, index=index):
                    _check(node, vector, index, None, sizes)
                case Call(function=function) if function in _OF_HALVES:
                    _check_even(node, sizes)
                case Binary(left=left, right=right):
                    _check_equal(node, node.operator, (left, right), sizes)
                case Select(then=then, otherwise=otherwise):
                    _check_equal(node, "if", (then, otherwise), sizes)
                case Call(function=function, arguments=arguments) if function in _OF_ONE_SIZE:
                    _check_equal(node, function, arguments, sizes)


def _check_equal(
    node: Expression, operation: str, operands: tuple[Expression, ...], sizes: Mapping[str, int]
) -> None:
    """Vectors that go element by element, or a matrix's rows that are multiplied by a vector."""
    lengths = []
    for operand in operands:
        match operand.type:
            case Vector(size=size) | Matrix(columns=size):
                length = _value(size, sizes)
                if length is None:
                    return
                lengths.append(length)
    if any(length != lengths[0] for length in lengths):
        listed = " and ".join(map(str, lengths))
        raise error(
            "A073",
            f"`{operation}` takes vectors of one size, and these have {listed} elements",
            node.span,
            label="with the head dimensions of this call",
            help="pass tensors with other head dimensions, or bind other parameters",
        )


def _check(
    node: Slice | Element,
    vector: Expression,
    start: Expression,
    stop: Expression | None,
    sizes: Mapping[str, int],
) -> None:
    length = _value(_size(vector), sizes)
    first = _value(start, sizes)
    last = first if stop is None else _value(stop, sizes)
    if length is None or first is None or last is None:
        return
    end = length - 1 if stop is None else length
    if not 0 <= first <= last <= end:
        reach = f"[{first}]" if stop is None else f"[{first}:{last}]"
        raise error(
            "A073",
            f"`{text(node)}` is {reach} of a vector of {length} elements",
            node.span,
            label="not in the vector",
            help="pass tensors with a larger head dimension, or bind other parameters",
        )


def _check_even(node: Call, sizes: Mapping[str, int]) -> None:
    length = _value(_size(node.arguments[0]), sizes)
    if length is not None and length % 2:
        raise error(
            "A073",
            f"`{node.function}` takes vectors of even size, and this one has {length} elements",
            node.span,
            label="an odd number of elements",
        )


def _size(vector: Expression) -> Expression | None:
    return vector.type.size if isinstance(vector.type, Vector) else None


def _value(expression: Expression | None, sizes: Mapping[str, int]) -> int | None:
    """The number, or None where it depends on what is not known."""
    if expression is None:
        return None
    if any(isinstance(node, Size) and node.name not in sizes for node in walk(expression)):
        return None
    return evaluate_size(expression, sizes)


def _expressions(attention: Attention) -> Iterator[Expression]:
    yield attention.score
    yield attention.mask
    yield from (expression for _, expression in attention.prepared)
    yield from (scan.element for scan in attention.scans)
    match attention.normalizer:
        case Softmax(sink, value):
            yield from (one for one in (sink, value) if one is not None)
        case Elementwise(weight, divisor, _):
            yield weight
            if divisor is not None and not isinstance(divisor, str):
                yield divisor
        case GroupedSoftmax(group, own, gate):
            yield from (group, own, gate)
