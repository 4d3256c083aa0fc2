"""Where the tiles of a kernel lie: which rows a program has, and which keys a step of its loops.

`LinePlaces` takes blocks of consecutive positions, all of them or those of one residue class;
`GridPlaces` (`grid_places.py`) takes boxes of a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START
from attndsl.codegen.triton.block_loops import BlockLoops
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.sequences import longest
from attndsl.codegen.triton.tokens import Chunk
from attndsl.codegen.triton.turns import AllAtOnce, Turns
from attndsl.codegen.triton.values import Binding, Value
from attndsl.expression import Index, Size
from attndsl.planner.block_map import BlockMap, Kind

Block = tuple[str, ...]
"""What names a block of keys: its number, or its first coordinate along each axis."""

Body = Callable[[Kind, Block], None]


@dataclass(frozen=True)
class KeyTile:
    """The keys of one step. `start` names the first one's number, `lanes` the distances of all from
    it, `lane` the same where only keys that exist may be read; `exists` is the condition for lanes
    that are keys. `loaded` is what was read of the tile."""

    start: str
    lanes: str
    lane: str
    exists: str
    loaded: dict[tuple[str, Chunk], str] = field(default_factory=dict)


class Places(Protocol):
    """`query_start` names the first row of the program, `row_lane` the distances of all its rows.

    Rows are counted in steps of `step` from `first_row` on, keys from `first_key` on, which are
    empty where that is 0. Where tiles are of keys (`key_places.py`), the program's rows are keys,
    and a "key" tile is one of queries.
    """

    step: int
    first_row: str
    first_key: str
    query_start: str
    row_lane: str

    def write_program(self) -> None:
        """Which batch, head and rows this program has, and the positions of its rows."""

    def row_exists(self) -> str:
        """The condition for lanes that are rows; others repeat one that is."""

    def write_key_lanes(self) -> None:
        """What the tiles of all loops share."""

    def has(self, kind: Kind) -> bool:
        """Whether there can be a block of this kind."""

    def write_loop(self, kind: Kind, body: Body, *, pipelined: bool = True) -> None:
        """A loop over the blocks of one kind, `body` inside."""

    def begin_tile(self, kind: Kind, block: Block) -> KeyTile:
        """All keys of a block, and the values of their positions."""

    def few_keys(self, count: int) -> AbstractContextManager[Value]:
        """Inside, tiles have `count` keys: those that `begin_few` takes from a block. The value is
        the numbers 0 … count - 1."""

    def begin_few(self, block: Block, first: str) -> KeyTile:
        """Keys of a block from its key number `first` on."""

    def key_count(self, tile: KeyTile, first: str, count: int) -> str:
        """How many of the few keys have to be looked at."""

    def key_number(self, tile: KeyTile, first: str, key: str) -> str:
        """The number of one of the few keys, for its address."""


class LinePlaces:
    """Consecutive positions, or those that are congruent modulo `step`."""

    def __init__(self, kernel: Kernel, block_map: BlockMap, step: int, turns: Turns | None = None):
        self.kernel = kernel
        self.step = step
        self.turns = turns or AllAtOnce()
        self.first_row = self.first_key = ""
        self.loops = BlockLoops(kernel, block_map)

    def write_program(self) -> None:
        kernel = self.kernel
        length = kernel.value(longest(kernel, Size("Lq"))).text
        most = length if self.step == 1 else f"tl.cdiv({length}, {self.step})"
        blocks = kernel.assign("query_blocks", Value(f"tl.cdiv({most}, BLOCK_M)")).text
        program = kernel.assign("program", Value("tl.program_id(0)")).text
        tile, number = self.turns.split(kernel, program, blocks)
        kernel.line("# The last queries come first: under a causal mask they take longest.")
        block = kernel.assign("query_block", Value(f"{blocks} - 1 - {tile}")).text
        self._write_number(number)
        kernel.define(Index("Q"), Value(block))
        kernel.define(Index("query_blocks"), Value(blocks))
        self._write_rows(block)

    def _write_number(self, number: str) -> None:
        """The residue, the head and the batch of a program, of which `number` is what follows from
        its number without its tile's."""
        kernel = self.kernel
        if self.step != 1:
            number = kernel.assign("number", Value(number)).text
            residue = kernel.assign("residue", Value(f"{number} % {self.step}"))
            kernel.define(Index("residue"), residue)
            number = f"{number} // {self.step}"
        self.turns.define_head(kernel, number)

    def _write_lengths(self) -> tuple[str, str, str]:
        """How many rows and keys there are, in the class, and its offset."""
        kernel, step = self.kernel, self.step
        length, key_length, offset = (kernel.size(name) for name in ("Lq", "Lk", "offset"))
        if step != 1:
            kernel.helpers.add("floor_modulo")
            residue = kernel.value(Index("residue")).text
            kernel.line(f"# Positions of class r are r + {step} * i, and so are those of its keys.")
            first = f"floor_modulo({residue} - {offset}, {step})"
            self.first_row = kernel.assign("first_row", Value(first)).text
            self.first_key = residue
            length = self._class_length("row_count", length, self.first_row)
            key_length = self._class_length("key_count", key_length, residue)
            kernel.helpers.add("floor_divide")
            shifted = f"floor_divide({self.first_row} + {offset} - {residue}, {step})"
            offset = kernel.assign("class_offset", Value(shifted)).text
            kernel.define(Size("local.Lq"), Value(length))
            kernel.define(Size("local.Lk"), Value(key_length))
            kernel.define(Size("local.offset"), Value(offset))
        return length, key_length, offset

    def _write_rows(self, block: str) -> None:
        kernel, step = self.kernel, self.step
        length, self.key_length, offset = self._write_lengths()
        self.length = length
        start = kernel.assign("query_start", Value(f"{block} * BLOCK_M")).text
        if step != 1 or kernel.specialization.packed:
            with kernel.inside(f"if {start} >= {length}:"):
                kernel.line("return")
        kernel.line("# Lanes past the last query repeat it; they are not stored.")
        bounded = f"tl.minimum(tl.arange(0, BLOCK_M), {length} - 1 - {start})"
        lane = kernel.assign("row_lane", Value(bounded, "m")).text
        self.query_start, self.row_lane = start, lane
        positions = Value(f"{start} + {lane} + {offset}", "m", Binding.SUM)
        kernel.define_lazily(Index("row"), "row", Value(f"{start} + {lane}", "m", Binding.SUM))
        kernel.define_lazily(Index("i"), "i", positions)
        kernel.define_lazily(Index("i_first"), "i_first", Value(f"{start} + {offset}"))
        last = f"tl.minimum({start} + BLOCK_M, {length}) - 1 + {offset}"
        kernel.define_lazily(Index("i_last"), "i_last", Value(last))

    def _class_length(self, wanted: str, length: str, first: str) -> str:
        """How many of `length` tokens are congruent to `first`."""
        count = f"tl.maximum({length} - {first} + {self.step - 1}, 0) // {self.step}"
        return self.kernel.assign(wanted, Value(count)).text

    def row_exists(self) -> str:
        return f"tl.arange(0, BLOCK_M) < {self.length} - {self.query_start}"

    def write_key_lanes(self) -> None:
        self.kernel.first_key = KEY_START if self.step == 1 else None
        lanes = self.kernel.assign("key_lanes", Value("tl.arange(0, BLOCK_N)", "n"))
        self.kernel.define(KEY_LANE, lanes)

    def has(self, kind: Kind) -> bool:
        return self.loops.has(kind)

    def write_loop(self, kind: Kind, body: Body, *, pipelined: bool = True) -> None:
        self.loops.write(kind, lambda kind, number: body(kind, (number,)), pipelined=pipelined)

    def begin_tile(self, kind: Kind, block: Block) -> KeyTile:
        return self._begin(kind, f"{block[0]} * BLOCK_N")

    def _begin(self, kind: Kind, first: str) -> KeyTile:
        kernel = self.kernel
        start = kernel.assign("key_start", Value(first)).text
        kernel.define(KEY_START, Value(start))
        lane = lanes = kernel.value(KEY_LANE).text
        if kind is Kind.PARTIAL:
            bounded = f"tl.minimum({lanes}, {self.key_length} - 1 - {start})"
            lane = kernel.assign("key_lane", Value(bounded, "n")).text
        kernel.define_lazily(Index("j"), "j", Value(f"{start} + {lane}", "n", Binding.SUM))
        return KeyTile(start, lanes, lane, f"{lanes} < {self.key_length} - {start}")

    @contextmanager
    def few_keys(self, count: int) -> Iterator[Value]:
        kernel = self.kernel
        lanes = kernel.assign("few_lanes", Value(f"tl.arange(0, {count})", "n"))
        with kernel.other_lanes((KEY_LANE,), str(count)):
            kernel.define(KEY_LANE, lanes)
            yield lanes

    def begin_few(self, block: Block, first: str) -> KeyTile:
        return self._begin(Kind.PARTIAL, f"{block[0]} * BLOCK_N + {first}")

    def key_count(self, tile: KeyTile, first: str, count: int) -> str:
        return f"tl.minimum({count}, {self.key_length} - {tile.start})"

    def key_number(self, tile: KeyTile, first: str, key: str) -> str:
        return f"({tile.start} + {key})"
