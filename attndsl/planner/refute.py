"""Cheap counterexamples: most inequalities that do not hold fail at one of a few tiles.

A proof search that is bound to fail is the expensive kind; this spares it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attndsl.expression import (
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Read,
    Select,
    Size,
    Unary,
)
from attndsl.planner.algebra import COMPARISONS, holds
from attndsl.planner.linear import Linear


def _tile(keys: int, first: int, last: int, block: int, row: int, other: int) -> dict[str, int]:
    return {
        "Lk": keys,
        "Lq": max(1, keys - first),
        "offset": first,
        "i_first": first,
        "i_last": last,
        "i": row,
        "BLOCK_M": block,
        "BLOCK_N": block,
        "H": 8,
        "Hkv": 4,
        "": other,  # whatever else the expression mentions
    }


# In the middle of long keys, before the first key, past the last one, at the ends.
_TILES = (
    _tile(1000, 500, 563, 64, 517, 3),
    _tile(10, -5, 3, 16, -2, 1),
    _tile(100, 200, 215, 16, 211, 40),
    _tile(1, 0, 0, 16, 0, 0),
    _tile(100003, 98304, 98431, 128, 98399, 512),
    _tile(5000, 0, 31, 32, 30, 0),
)


# Inputs and other indices may have any value, so that all of them may have the same.


class _Unknown(Exception):
    """A value that has no number here, such as a division by zero."""


def refuted(form: Linear, facts: Sequence[Linear]) -> bool:
    """Whether the sum is negative at some tile at which every fact holds."""
    for tile in _TILES:
        try:
            if _sum(form, tile) < 0 and all(_sum(fact, tile) >= 0 for fact in facts):
                return True
        except _Unknown:
            continue
    return False


def _sum(form: Linear, tile: Mapping[str, int]) -> int:
    return form.constant + sum(c * _value(atom, tile) for atom, c in form.terms.items())


def _value(node: Expression, tile: Mapping[str, int]) -> int:
    match node:
        case Literal(value=int(value)):
            return value
        case Index(name=name) | Size(name=name):
            return tile[name] if name in tile else tile[""]
        case Coordinate() | Read():
            return tile[""]
        case Unary(operator="-", operand=operand):
            return -_value(operand, tile)
        case Unary(operator="not", operand=operand):
            return not _value(operand, tile)
        case Binary(operator=operator, left=left, right=right):
            return _binary(operator, _value(left, tile), _value(right, tile))
        case Call(function="min" | "max" as function, arguments=arguments):
            values = [_value(argument, tile) for argument in arguments]
            return min(values) if function == "min" else max(values)
        case Call(function="abs", arguments=(operand,)):
            return abs(_value(operand, tile))
        case Select(condition=condition, then=then, otherwise=otherwise):
            return _value(then if _value(condition, tile) else otherwise, tile)
    raise _Unknown


def _binary(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//" | "%" if right:
            return left // right if operator == "//" else left % right
        case "and":
            return left and right
        case "or":
            return left or right
    if operator in COMPARISONS:
        return holds(operator, left - right)
    raise _Unknown
