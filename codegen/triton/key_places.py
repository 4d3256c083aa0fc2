"""Tiles of keys that go through blocks of queries: what a tile's lanes `m` and a step's lanes `n`
are change places.
"""

from __future__ import annotations

from attndsl.codegen.program import Tile
from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START
from attndsl.codegen.triton.block_loops import BlockLoops
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.places import KeyTile, LinePlaces
from attndsl.codegen.triton.sequences import longest
from attndsl.codegen.triton.striped_places import are_far, position
from attndsl.codegen.triton.values import Binding, Value
from attndsl.expression import Index, Size
from attndsl.planner.block_map import BlockMap, Kind
from attndsl.planner.stripes import Stripes


class KeyPlaces(LinePlaces):
    """Consecutive keys, or those that are congruent modulo `step`."""

    def __init__(self, kernel: Kernel, block_map: BlockMap, step: int):
        super().__init__(kernel, block_map, step)
        self.loops = BlockLoops(kernel, block_map, "query_block")
        self.offset = ""

    def write_program(self) -> None:
        kernel = self.kernel
        blocks = kernel.assign("key_blocks", Value(f"tl.cdiv({self._most_keys()}, BLOCK_M)")).text
        program = kernel.assign("program", Value("tl.program_id(0)")).text
        block = kernel.assign("key_block", Value(f"{program} % {blocks}")).text
        self._write_number(f"{program} // {blocks}")
        kernel.define(Index("Q"), Value(block))
        kernel.define(Index("query_blocks"), Value(blocks))
        self.key_length, keys, self.offset = self._write_lengths()
        self._write_keys(block, keys)

    def _most_keys(self) -> str:
        """How many keys there are in the largest class."""
        length = self.kernel.value(longest(self.kernel, Size("Lk"))).text
        return length if self.step == 1 else f"tl.cdiv({length}, {self.step})"

    def _write_keys(self, block: str, keys: str) -> None:
        kernel = self.kernel
        self.length = keys
        start = kernel.assign("key_start", Value(f"{block} * BLOCK_M")).text
        if self.step != 1 or kernel.specialization.packed:
            with kernel.inside(f"if {start} >= {keys}:"):
                kernel.line("return")
        kernel.line("# Lanes past the last key repeat it; they are not stored.")
        bounded = f"tl.minimum(tl.arange(0, BLOCK_M), {keys} - 1 - {start})"
        lane = kernel.assign("key_lane", Value(bounded, "m")).text
        self.query_start, self.row_lane = start, lane
        kernel.first_key = Index("j_first") if self.step == 1 else None
        kernel.define_lazily(Index("j"), "j", Value(f"{start} + {lane}", "m", Binding.SUM))
        kernel.define(Index("j_first"), Value(start))
        last = f"tl.minimum({start} + BLOCK_M, {keys}) - 1"
        kernel.define_lazily(Index("j_last"), "j_last", Value(last))

    def write_key_lanes(self) -> None:
        lanes = self.kernel.assign("row_lanes", Value("tl.arange(0, BLOCK_N)", "n"))
        self.kernel.define(KEY_LANE, lanes)

    def _begin(self, kind: Kind, first: str) -> KeyTile:
        kernel = self.kernel
        start = kernel.assign("query_start", Value(first)).text
        kernel.define(KEY_START, Value(f"{start} + {self.offset}", "", Binding.SUM))
        lane = lanes = kernel.value(KEY_LANE).text
        if kind is Kind.PARTIAL:
            bounded = f"tl.minimum({lanes}, {self.key_length} - 1 - {start})"
            lane = kernel.assign("row_lane", Value(bounded, "n")).text
        row = f"{start} + {lane}"
        kernel.define_lazily(Index("row"), "row", Value(row, "n", Binding.SUM))
        position = Value(f"{row} + {self.offset}", "n", Binding.SUM)
        kernel.define_lazily(Index("i"), "i", position)
        return KeyTile(start, lanes, lane, f"{lanes} < {self.key_length} - {start}")


class StripedKeyPlaces(KeyPlaces):
    """Consecutive keys among those that lie in `stripes`."""

    def __init__(self, kernel: Kernel, block_map: BlockMap, stripes: Stripes, tile: Tile):
        super().__init__(kernel, block_map, 1)
        self.stripes = stripes
        self.block_m = tile.block_m

    def _most_keys(self) -> str:
        kernel = self.kernel
        kernel.line("# Keys are counted among those of the stripes.")
        count = kernel.named(longest(kernel, self.stripes.keys), "striped_keys")
        if not kernel.specialization.packed:
            kernel.define(Size("local.Lk"), count)
        return count.text

    def _write_keys(self, block: str, keys: str) -> None:
        kernel, stripes = self.kernel, self.stripes
        if kernel.specialization.packed:
            kernel.define(Size("local.Lk"), kernel.named(stripes.keys, "striped_keys"))
        self.length = kernel.value(Size("local.Lk")).text
        number = kernel.assign("number_start", Value(f"{block} * BLOCK_M")).text
        if kernel.specialization.packed:
            with kernel.inside(f"if {number} >= {self.length}:"):
                kernel.line("return")
        self._first_number = number
        start = kernel.assign("key_start", Value(position(stripes, number))).text
        kernel.line("# Lanes past the last key repeat it; they are not stored.")
        bounded = f"tl.minimum({number} + tl.arange(0, BLOCK_M), {self.length} - 1)"
        numbers = kernel.assign("key_number", Value(bounded, "m")).text
        j = kernel.assign("j", Value(position(stripes, numbers), "m"))
        kernel.define(Index("j"), j)
        lane = f"{j.text} - {start}"
        if are_far(stripes, self.block_m):
            lane = f"({lane}).to(tl.int64)"
        self.query_start = start
        self.row_lane = kernel.assign("key_lane", Value(lane, "m")).text
        kernel.define(Index("j_first"), Value(start))
        last = f"tl.minimum({number} + BLOCK_M, {self.length}) - 1"
        last = kernel.assign("last_number", Value(last)).text
        kernel.define_lazily(Index("j_last"), "j_last", Value(position(stripes, last)))

    def row_exists(self) -> str:
        return f"tl.arange(0, BLOCK_M) < {self.length} - {self._first_number}"
