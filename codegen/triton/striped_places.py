"""Keys in stripes, counted among these alone: how far a block's keys are from its first one.

Where blocks hold whole stripes, these distances are the same for all of them and computed once.
Otherwise they follow from the number of a block's first key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from attndsl.codegen.program import Tile
from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.places import Block, KeyTile, LinePlaces
from attndsl.codegen.triton.turns import Turns
from attndsl.codegen.triton.values import Binding, Value
from attndsl.expression import Index, Size
from attndsl.planner.block_map import BlockMap, Kind
from attndsl.planner.stripes import Stripes

# Of tokens so far apart, the distance in elements may need more than 32 bits.
_FAR = 1 << 15


@dataclass(frozen=True)
class _Lanes:
    """`numbers` names 0 … of a block's keys. `are_even`: blocks hold whole stripes. `are_far`: keys
    may lie so far apart that their distance takes 64 bits."""

    numbers: str
    are_even: bool
    are_far: bool


def spread(stripes: Stripes, along: str) -> str:
    """How far a key is from the first stripe's start, if `along` keys lie between them."""
    period, width = stripes.period, stripes.width
    if width == 1:
        return f"{along} * {period}"
    return f"{along} // {width} * {period} + {along} % {width}"


def position(stripes: Stripes, number: str) -> str:
    """The position of a key, by its number."""
    missing, start = stripes.missing, stripes.start
    along = f"({number} + {missing})" if missing else number
    if not start:
        return spread(stripes, along)
    return f"{spread(stripes, along)} {'-' if start < 0 else '+'} {abs(start)}"


def are_far(stripes: Stripes, count: int) -> bool:
    """Whether so many keys may lie so far apart that their distance takes 64 bits."""
    return (count // stripes.width + 2) * stripes.period > _FAR


class StripedPlaces(LinePlaces):
    """Consecutive queries, and blocks of the keys that lie in `stripes`."""

    def __init__(
        self,
        kernel: Kernel,
        block_map: BlockMap,
        stripes: Stripes,
        tile: Tile,
        turns: Turns | None = None,
    ):
        super().__init__(kernel, block_map, 1, turns)
        self.stripes = stripes
        self.block_n = tile.block_n
        self._few_number = ""
        self._lanes = _Lanes("", False, False)

    def write_program(self) -> None:
        super().write_program()
        self.kernel.line("# Keys are counted among those of the stripes.")
        count = self.kernel.named(self.stripes.keys, "striped_keys")
        self.kernel.define(Size("local.Lk"), count)
        self.key_length = count.text

    def write_key_lanes(self) -> None:
        self._write_lanes("key_numbers", "tl.arange(0, BLOCK_N)", self.block_n)

    def _write_lanes(self, wanted: str, lanes: str, count: int) -> Value:
        """The numbers 0 … count - 1, and how far keys are apart if that is the same for any."""
        numbers = self.kernel.assign(wanted, Value(lanes, "n"))
        is_far = are_far(self.stripes, count)
        self._lanes = _Lanes(numbers.text, count % self.stripes.width == 0, is_far)
        if self._lanes.are_even:
            self._write_distances(str(self.stripes.missing or ""))
        return numbers

    def _write_distances(self, within: str) -> str:
        """How far the keys are from the first one, which is number `within` of its stripe."""
        numbers = self._lanes.numbers
        along = f"({numbers} + {within})" if within else numbers
        text = spread(self.stripes, along) + (f" - {within}" if within else "")
        distances = self.kernel.assign("key_lanes", Value(text, "n"))
        self.kernel.define(KEY_LANE, distances)
        return distances.text

    def begin_tile(self, kind: Kind, block: Block) -> KeyTile:
        number = f"{block[0]} * BLOCK_N"
        if self._lanes.are_even:
            step = self.block_n // self.stripes.width * self.stripes.period
            first = max(0, self.stripes.start)
            start = f"{block[0]} * {step}" + (f" + {first}" if first else "")
            return self._tile(kind, start, number)
        number = self.kernel.assign("key_number", Value(number)).text
        return self._tile(kind, position(self.stripes, number), number)

    def _tile(self, kind: Kind, first: str, number: str) -> KeyTile:
        kernel, stripes = self.kernel, self.stripes
        start = kernel.assign("key_start", Value(first)).text
        kernel.define(KEY_START, Value(start))
        if self._lanes.are_even:
            lane = distances = kernel.value(KEY_LANE).text
        else:
            within = f"({number} + {stripes.missing})" if stripes.missing else number
            within = kernel.assign("in_stripe", Value(f"{within} % {stripes.width}")).text
            lane = distances = self._write_distances(within)
        if kind is Kind.PARTIAL:
            bounded = f"tl.minimum({distances}, {kernel.size('Lk')} - 1 - {start})"
            lane = kernel.assign("key_lane", Value(bounded, "n")).text
        kernel.define_lazily(Index("j"), "j", Value(f"{start} + {lane}", "n", Binding.SUM))
        offsets = f"{lane}.to(tl.int64)" if self._lanes.are_far else lane
        exists = f"{self._lanes.numbers} < {self.key_length} - {number}"
        return KeyTile(start, distances, offsets, exists)

    @contextmanager
    def few_keys(self, count: int) -> Iterator[Value]:
        before = self._lanes
        with self.kernel.other_lanes((KEY_LANE,), str(count)):
            yield self._write_lanes("few_numbers", f"tl.arange(0, {count})", count)
        self._lanes = before

    def begin_few(self, block: Block, first: str) -> KeyTile:
        number = f"{block[0]} * BLOCK_N + {first}"
        self._few_number = self.kernel.assign("key_number", Value(number)).text
        return self._tile(Kind.PARTIAL, position(self.stripes, self._few_number), self._few_number)

    def key_count(self, tile: KeyTile, first: str, count: int) -> str:
        return f"tl.minimum({count}, {self.key_length} - {self._few_number})"

    def key_number(self, tile: KeyTile, first: str, key: str) -> str:
        return f"({position(self.stripes, f'({self._few_number} + {key})')})"
