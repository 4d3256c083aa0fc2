"""What block lists are, whatever block map they are read off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from attndsl.evaluate import Array
from attndsl.planner.block_map import Kind
from attndsl.planner.problems import Box


@dataclass(frozen=True)
class Block:
    """A block of keys of a problem: those in `box` exist."""

    kind: Kind
    box: Box


class BlockLists(Protocol):
    """The key blocks of every tile of one problem."""

    def of(self, b: int, h: int, tile: int, only: Kind | None = None) -> tuple[Block, ...]:
        """The key blocks of one tile, ascending; those of one kind if `only` it is wanted.

        Raises `InternalError` for a block that does not exist or is listed twice.
        """
        ...

    def counts(self) -> Iterator[tuple[Kind, Array]]:
        """How many blocks of one kind each `[batch, head, tile]` has; kinds may repeat."""
        ...
