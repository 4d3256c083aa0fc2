"""Cheap counterexamples: most inequalities that do not hold fail at one of a few tiles.

A proof search that is bound to fail is the expensive kind; this spares it.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    _tile(37, 32, 36, 16, 35, 2),
)


# Inputs and other indices may have any value, so that all of them may have the same.

# The value at each tile; None where there is none, such as of a division by zero.
Values = tuple[int | None, ...]
_NOWHERE: Values = (None,) * len(_TILES)


class Counterexamples:
    """Looks for a tile at which a sum is negative, and remembers what expressions are worth."""

    def __init__(self) -> None:
        self._values: dict[Expression, Values] = {}

    def among(self, facts: Sequence[Linear]) -> tuple[int, ...]:
        """The numbers of the tiles at which every fact holds."""
        sums = [self._sum(fact) for fact in facts]
        return tuple(
            number
            for number in range(len(_TILES))
            if all(values[number] is not None and values[number] >= 0 for values in sums)  # type: ignore[operator]
        )

    def refute(self, form: Linear, tiles: Sequence[int]) -> bool:
        """Whether the sum is negative at one of the tiles."""
        atoms = [(self._value(atom), coefficient) for atom, coefficient in form.terms.items()]
        for tile in tiles:
            total = form.constant
            for values, coefficient in atoms:
                value = values[tile]
                if value is None:
                    break
                total += coefficient * value
            else:
                if total < 0:
                    return True
        return False

    def _sum(self, form: Linear) -> Values:
        total: Values = (form.constant,) * len(_TILES)
        for atom, coefficient in form.terms.items():
            total = tuple(
                None if one is None or value is None else one + coefficient * value
                for one, value in zip(total, self._value(atom), strict=True)
            )
        return total

    def _value(self, node: Expression) -> Values:
        known = self._values.get(node)
        if known is None:
            known = self._values[node] = self._evaluated(node)
        return known

    def _evaluated(self, node: Expression) -> Values:
        match node:
            case Literal(value=int(value)):
                return (value,) * len(_TILES)
            case Index(name=name) | Size(name=name):
                return tuple(tile[name] if name in tile else tile[""] for tile in _TILES)
            case Coordinate() | Read():
                return tuple(tile[""] for tile in _TILES)
            case Unary(operator="-", operand=operand):
                return tuple(None if x is None else -x for x in self._value(operand))
            case Unary(operator="not", operand=operand):
                return tuple(None if x is None else not x for x in self._value(operand))
            case Binary(operator=operator, left=left, right=right):
                pairs = zip(self._value(left), self._value(right), strict=True)
                return tuple(_binary(operator, a, b) for a, b in pairs)
            case Call(function="min" | "max" as function, arguments=arguments):
                pick = min if function == "min" else max
                values = zip(*map(self._value, arguments), strict=True)
                return tuple(
                    None if None in several else pick(x for x in several if x is not None)
                    for several in values
                )
            case Call(function="abs", arguments=(operand,)):
                return tuple(None if x is None else abs(x) for x in self._value(operand))
            case Select(condition=condition, then=then, otherwise=otherwise):
                choices = (condition, then, otherwise)
                return tuple(
                    None if chosen is None else (yes if chosen else no)
                    for chosen, yes, no in zip(*map(self._value, choices), strict=True)
                )
        return _NOWHERE


def _binary(operator: str, left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return None
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//" | "%":
            if right == 0:
                return None
            return left // right if operator == "//" else left % right
        case "and":
            return left and right
        case "or":
            return left or right
    return holds(operator, left - right) if operator in COMPARISONS else None
