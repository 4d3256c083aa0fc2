"""What emitting one stage gives."""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.codegen.program import Entry
from attndsl.planner.plan import Buffer


@dataclass(frozen=True)
class Kernel:
    """C++ text of one stage, the support pieces that it needs, and how it is called."""

    text: str
    entry: Entry
    support: frozenset[str]
    buffers: tuple[Buffer, ...] = ()
