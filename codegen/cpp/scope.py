"""Where an expression's value lives: levels, and the declarations of one level.

A value is computed once per tile if it varies with the heads only, once per query if it varies with
the query (one lane each), once per key if it varies with the key (a scalar), and else per pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntFlag

from attndsl.expression import Expression


class Level(IntFlag):
    """What a value varies with inside a tile; a value with LANE in it is a vector."""

    UNIFORM = 0
    LANE = 1
    STEP = 2
    PAIR = 3


@dataclass
class Scope:
    """Declarations of one level, in order, and the name of each expression declared.

    `array`: a value is an array over the tile's columns (`row_1[column]`), declared ahead in
    `arrays`; the lines then stand inside a loop over `column`.
    """

    prefix: str
    array: bool = False
    lines: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    names: dict[Expression, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Text:
    """A C++ expression with its precedence (as the C++ grammar counts, high binds tight)."""

    text: str
    level: Level
    precedence: int = 100

    @property
    def is_vector(self) -> bool:
        return bool(self.level & Level.LANE)

    def inside(self, precedence: int) -> str:
        """The text, in parentheses where an operator of `precedence` binds tighter."""
        return self.text if self.precedence > precedence else f"({self.text})"
