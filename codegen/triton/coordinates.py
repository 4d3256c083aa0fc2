"""Coordinates of positions on a grid of tokens."""

from __future__ import annotations

import dataclasses

from attndsl.attention import Elementwise, Softmax
from attndsl.expression import INT, Binary, Coordinate, Expression, Index, Size, transform
from attndsl.planner.plan import Attend


def coordinate(position: Expression, axis: str, axes: tuple[str, ...]) -> Expression:
    """The coordinate along `axis` of a row-major position; the last of `axes` is fastest."""
    result = position
    for faster in axes[axes.index(axis) + 1 :]:
        # Division by one axis after the other, so that no product of sizes can overflow.
        result = Binary("//", result, Size(f"axis.{faster}"), INT)
    if axis != axes[0]:
        result = Binary("%", result, Size(f"axis.{axis}"), INT)
    return result


def without_coordinates(expression: Expression, axes: tuple[str, ...]) -> Expression:
    """The expression with `i.y` and its like spelled out as arithmetic on positions."""

    def replace(node: Expression) -> Expression:
        if isinstance(node, Coordinate):
            return coordinate(Index(node.position), node.axis, axes)
        return node

    return transform(expression, replace)


def resolved(stage: Attend, axes: tuple[str, ...]) -> Attend:
    """The stage without coordinates."""

    def plain(expression: Expression) -> Expression:
        return without_coordinates(expression, axes)

    normalizer = stage.normalizer
    match normalizer:
        case Softmax(sink, value):
            normalizer = Softmax(
                None if sink is None else plain(sink), None if value is None else plain(value)
            )
        case Elementwise(weight, divisor, epsilon):
            if divisor is not None and not isinstance(divisor, str):
                divisor = plain(divisor)
            normalizer = Elementwise(plain(weight), divisor, epsilon)
    return dataclasses.replace(
        stage, score=plain(stage.score), mask=plain(stage.mask), normalizer=normalizer
    )
