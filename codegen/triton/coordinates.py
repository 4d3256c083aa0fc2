"""Coordinates of positions on a grid of tokens."""

from __future__ import annotations

import dataclasses

from attndsl.expression import INT, Binary, Coordinate, Expression, Index, Size, transform
from attndsl.planner.pairs import Pairs, map_pairs


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


def resolved(stage: Pairs, axes: tuple[str, ...]) -> Pairs:
    """The stage without coordinates."""

    def plain(expression: Expression) -> Expression:
        return without_coordinates(expression, axes)

    return dataclasses.replace(map_pairs(stage, plain), mask=plain(stage.mask))
