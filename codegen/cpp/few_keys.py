"""Where a block's keys lie for a few queries: one after another, or in stripes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.scope import Text
from attndsl.codegen.cpp.sources import Place
from attndsl.codegen.cpp.striped_places import StripedKeys
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression
from attndsl.planner.plan import Attend


class FewKeys(Protocol):
    """`length` names how many keys there are; `spelled` are the names that expressions have for
    it; `position` is the number of a lane's key, in a loop over `column`."""

    position: str
    support: set[str]

    @property
    def length(self) -> str: ...

    @property
    def spelled(self) -> Mapping[Expression, Text]: ...

    def write_members(self, w: Writer) -> None:
        """Members of the scratch block; after all blocks are written."""

    def write_length(self, w: Writer) -> None:
        """The variable `length`."""

    def write_block(self, w: Writer) -> None:
        """Find the keys of the block that starts at `first_key`."""

    def rows(self, w: Writer, place: Place, size: int, member: str) -> Place:
        """The vectors of the block's keys, row after row; in `member` if they are moved."""


@dataclass
class LineKeys:
    """All keys of the call; lanes past the last key repeat it."""

    length: str = "Lk"
    position: str = "first_key + minimum(lane_numbers() + column * LANES, ints(keys - 1))"
    support: set[str] = field(default_factory=set)

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        return {}

    def write_members(self, w: Writer) -> None:
        pass

    def write_length(self, w: Writer) -> None:
        pass

    def write_block(self, w: Writer) -> None:
        pass

    def rows(self, w: Writer, place: Place, size: int, member: str) -> Place:
        return place


@dataclass
class FewStripedKeys:
    """Keys in stripes, gathered as floats."""

    keys: StripedKeys
    position: str = (
        "gather(scratch.keys.numbers, "
        "longs(minimum(lane_numbers() + column * LANES, ints(keys - 1))))"
    )
    support: set[str] = field(default_factory=lambda: {"stripes", "gather", "convert"})
    _widths: dict[str, int] = field(default_factory=dict)

    @property
    def length(self) -> str:
        return self.keys.length

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        return self.keys.spelled

    def write_members(self, w: Writer) -> None:
        w.line(self.keys.member)
        for member, width in self._widths.items():
            w.line(f"alignas(64) float {member}[BLOCK_N * {width}];")

    def write_length(self, w: Writer) -> None:
        self.keys.write_length(w)

    def write_block(self, w: Writer) -> None:
        self.keys.write_block(w)

    def rows(self, w: Writer, place: Place, size: int, member: str) -> Place:
        self._widths[member] = max(self._widths.get(member, 0), size)
        w.line(
            f"gather_rows<{size}>({place.pointer}, {place.stride}, scratch.keys.numbers, keys, "
            f"scratch.{member});"
        )
        return Place(f"scratch.{member}", str(size), "float")


def few_keys_of(stage: Attend, arguments: Arguments) -> FewKeys:
    """The keys of a stage that is not over a grid."""
    if stage.stripes is None:
        return LineKeys()
    return FewStripedKeys(StripedKeys(stage.stripes, arguments))
