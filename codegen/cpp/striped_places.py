"""Tiles of consecutive queries whose keys lie in stripes, and are counted among these alone.

A block's keys are gathered, row after row: for 64 queries that is little beside the products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.places import LinePlaces
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression, Size
from attndsl.planner.stripes import Stripes


@dataclass
class StripedPlaces(LinePlaces):
    """Places of a stage over the keys of `stripes`; `first_key` and `block` count these."""

    stripes: Stripes = field(kw_only=True)
    support: set[str] = field(default_factory=lambda: {"stripes"})

    @property
    def _type(self) -> str:
        one = self.stripes
        return f"Stripes<{one.period}, {one.width}, {one.start}>"

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        return {Size("local.Lk"): Text("striped_keys", Level.UNIFORM)}

    @property
    def members(self) -> tuple[str, ...]:
        return (f"{self._type}::Keys keys;",)

    def write_extent(self, w: Writer, body: str) -> None:
        super().write_extent(w, body)
        if uses(body, "striped_keys"):
            w.comment("How many keys there are, in the stripes alone.")
            w.line(
                f"const int32_t striped_keys = {self._type}::before({self.arguments.size('Lk')});"
            )

    def write_block_start(self, w: Writer) -> None:
        w.line("const int32_t first_key = block * BLOCK_N;")
        w.line(
            "const int32_t keys = partial ? minimum(BLOCK_N, striped_keys - first_key) : BLOCK_N;"
        )
        w.line("scratch.keys.place(first_key, keys);")

    def write_key(self, w: Writer, used: set[str], body: str) -> None:
        if "j" in used:
            w.line("[[maybe_unused]] const int32_t j = scratch.keys.numbers[key];")
