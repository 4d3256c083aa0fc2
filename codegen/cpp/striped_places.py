"""Tiles of consecutive queries whose keys lie in stripes, and are counted among these alone.

A block's keys are gathered, row after row: for 64 queries that is little beside the products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.places import LinePlaces
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression, Size
from attndsl.planner.stripes import Stripes


@dataclass(frozen=True)
class StripedKeys:
    """The keys of stripes in C++: `member` belongs to a scratch block, and holds the positions of a
    block's keys; `length` names how many keys there are."""

    stripes: Stripes
    arguments: Arguments
    length: str = "striped_keys"

    @property
    def _type(self) -> str:
        one = self.stripes
        return f"Stripes<{one.period}, {one.width}, {one.start}>"

    @property
    def member(self) -> str:
        return f"{self._type}::Keys keys;"

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        return {Size("local.Lk"): Text(self.length, Level.UNIFORM)}

    def write_length(self, w: Writer) -> None:
        w.comment("How many keys there are, in the stripes alone.")
        keys = self.arguments.size("Lk")
        w.line(f"const int32_t {self.length} = {self._type}::before({keys});")

    def write_block(self, w: Writer) -> None:
        w.line("scratch.keys.place(first_key, keys);")


@dataclass
class StripedPlaces(LinePlaces):
    """Places of a stage over the keys of `stripes`; `first_key` and `block` count these."""

    stripes: Stripes = field(kw_only=True)
    support: set[str] = field(default_factory=lambda: {"stripes"})

    @property
    def _keys(self) -> StripedKeys:
        return StripedKeys(self.stripes, self.arguments)

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        return self._keys.spelled

    @property
    def members(self) -> tuple[str, ...]:
        return (self._keys.member,)

    def write_extent(self, w: Writer, body: str) -> None:
        super().write_extent(w, body)
        if uses(body, self._keys.length):
            self._keys.write_length(w)

    def write_block_start(self, w: Writer) -> None:
        length = self._keys.length
        w.line("const int32_t first_key = block * BLOCK_N;")
        w.line(f"const int32_t keys = partial ? minimum(BLOCK_N, {length} - first_key) : BLOCK_N;")
        self._keys.write_block(w)

    def write_key_blocks(self, w: Writer) -> None:
        self._keys.write_length(w)
        w.line(f"const int64_t blocks = ({self._keys.length} + BLOCK_N - 1) / BLOCK_N;")

    def write_key(self, w: Writer, used: set[str], body: str) -> None:
        if "j" in used:
            w.line("[[maybe_unused]] const int32_t j = scratch.keys.numbers[key];")
