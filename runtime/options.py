"""What a call chooses beside its tensors, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Options(NamedTuple):
    """The keywords of `Kernel.__call__` that are neither inputs nor parameters; see there."""

    scale: float | None = None
    offset: int | None = None
    grid: tuple[int, ...] | Mapping[str, int] | None = None
    return_lse: bool = False
    dropout: float | None = None
    seed: int | Tensor | None = None
    cu_seqlens: Tensor | None = None
    cu_seqlens_k: Tensor | None = None

    @property
    def is_packed(self) -> bool:
        """Whether the tensors hold sequences one after the other."""
        return self.cu_seqlens is not None or self.cu_seqlens_k is not None

    def key(self) -> tuple[Any, ...]:
        """Equal for options that mean the same for one sequence; a bool is no number, though Python
        has them equal.

        Of dropout, whether anything is dropped: the same kernel drops other pairs.

        Cannot be hashed where an option is of no type that a call takes.
        """
        grid: Any = self.grid
        if isinstance(grid, Mapping):
            grid = tuple(grid.items())
        elif isinstance(grid, list):
            grid = tuple(grid)
        scale, offset = self.scale, self.offset
        drops = isinstance(self.dropout, int | float) and self.dropout != 0
        return type(scale), scale, type(offset), offset, grid, self.return_lse, drops


DEFAULTS = Options()
