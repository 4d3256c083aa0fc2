"""Which tile and which head a program has; and kernels that run several times, in turns.

Programs of one launch run side by side, so that no two may add to one number. Launches follow one
another: what a number gets from several programs is added in as many turns.
"""

from __future__ import annotations

from typing import Protocol

from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.sequences import enter
from attndsl.codegen.triton.values import Value
from attndsl.expression import Expression, Index, Literal, Size
from attndsl.planner import algebra
from attndsl.records import dataclass

TURN = "turn"  # the size that counts them


class Turns(Protocol):
    """How programs and turns go through tiles, heads and batches."""

    def split(self, kernel: Kernel, program: str, tiles: str) -> tuple[str, str]:
        """The number of the program's tile, and what is left of the program's number."""

    def define_head(self, kernel: Kernel, number: str) -> None:
        """`b`, `h` and `g`, from what is left."""

    def programs(self, tiles: Expression) -> Expression:
        """How many there are for each residue class, a turn."""

    def turns(self, tiles: Expression) -> Expression:
        """How many turns there are."""


@dataclass(frozen=True)
class AllAtOnce:
    """Every tile of every head, in one turn."""

    def split(self, kernel: Kernel, program: str, tiles: str) -> tuple[str, str]:
        return f"{program} % {tiles}", f"{program} // {tiles}"

    def define_head(self, kernel: Kernel, number: str) -> None:
        define_head(kernel, number)

    def programs(self, tiles: Expression) -> Expression:
        return _product(Size("B"), Size("H"), tiles)

    def turns(self, tiles: Expression) -> Expression:
        return Literal(1)


@dataclass(frozen=True)
class FewTiles(AllAtOnce):
    """`parts` tiles of every head a turn: as many programs, with memory of their own."""

    parts: int

    def split(self, kernel: Kernel, program: str, tiles: str) -> tuple[str, str]:
        part = f"{kernel.size(TURN)} * {self.parts} + {program} % {self.parts}"
        part = kernel.assign("tile_in_turn", Value(part)).text
        with kernel.inside(f"if {part} >= {tiles}:"):
            kernel.line("return")
        return part, f"{program} // {self.parts}"

    def programs(self, tiles: Expression) -> Expression:
        return _product(Size("B"), Size("H"), Literal(self.parts))

    def turns(self, tiles: Expression) -> Expression:
        return algebra.ceil_divide(tiles, Literal(self.parts))


@dataclass(frozen=True)
class OwnElements(AllAtOnce):
    """Every tile of those heads and batches that read elements of their own: `indexed` says which
    of `b`, `h` and `g` tell them apart. The others take turns."""

    indexed: frozenset[str]

    def define_head(self, kernel: Kernel, number: str) -> None:
        turn = kernel.size(TURN)
        batches = "b" in self.indexed
        if "h" in self.indexed:
            heads = kernel.size("H")
            self._define(kernel, f"{number} % {heads}", f"{number} // {heads}" if batches else turn)
            define_group(kernel)
        elif "g" in self.indexed:
            groups = kernel.size("Hkv")
            each = kernel.assign("heads_of_group", Value(f"{kernel.size('H')} // {groups}")).text
            g = kernel.assign("g", Value(f"{number} % {groups}"))
            kernel.define(Index("g"), g)
            head = f"{g.text} * {each} + {turn} % {each}"
            self._define(kernel, head, f"{number} // {groups}" if batches else f"{turn} // {each}")
        else:
            heads = kernel.size("H")
            self._define(kernel, f"{turn} % {heads}", number if batches else f"{turn} // {heads}")
            define_group(kernel)

    def _define(self, kernel: Kernel, head: str, batch: str) -> None:
        kernel.define(Index("h"), kernel.assign("h", Value(head)))
        kernel.define(Index("b"), kernel.assign("b", Value(batch)))

    def programs(self, tiles: Expression) -> Expression:
        batch = Size("B") if "b" in self.indexed else Literal(1)
        heads: Expression = Literal(1)
        if "h" in self.indexed:
            heads = Size("H")
        elif "g" in self.indexed:
            heads = Size("Hkv")
        return _product(batch, heads, tiles)

    def turns(self, tiles: Expression) -> Expression:
        batch = Literal(1) if "b" in self.indexed else Size("B")
        heads: Expression = Size("H")
        if "h" in self.indexed:
            heads = Literal(1)
        elif "g" in self.indexed:
            heads = algebra.floor_divide(Size("H"), Size("Hkv"))
        return _product(batch, heads)


def define_head(kernel: Kernel, number: str) -> None:
    """`b`, `h` and `g`, of which `number` is the first two, heads fastest."""
    heads = kernel.size("H")
    head = kernel.assign("h", Value(f"{number} % {heads}"))
    define_batch(kernel, f"{number} // {heads}")
    kernel.define(Index("h"), head)
    define_group(kernel)


def define_batch(kernel: Kernel, number: str) -> None:
    """`b`, or the sequence, of that number."""
    if kernel.specialization.packed:
        enter(kernel, number)
    else:
        kernel.define(Index("b"), kernel.assign("b", Value(number)))


def define_group(kernel: Kernel) -> None:
    """`g`, the key head of query head `h`."""
    heads, groups = kernel.size("H"), kernel.size("Hkv")
    kernel.define_lazily(Index("g"), "g", Value(f"h // ({heads} // {groups})"))


def _product(*factors: Expression) -> Expression:
    result: Expression = Literal(1)
    for factor in factors:
        result = algebra.multiply(result, factor)
    return result
