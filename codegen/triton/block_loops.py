"""Loops over the key blocks that a block map names.

All FULL blocks are visited by one loop and all PARTIAL ones by another, whatever the number of
intervals: a third pipelined loop costs registers. Blocks of several intervals are counted through
and mapped back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from attndsl.codegen.program import Tile
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.sequences import SEQUENCE
from attndsl.codegen.triton.values import Binding, Value, call, infix
from attndsl.diagnostics import InternalError
from attndsl.expression import FALSE, TRUE, Expression, Index, Literal, Size, substitute
from attndsl.planner.block_map import BlockInterval, BlockMap, Kind, Ranges, Table
from attndsl.planner.simplify import simplify

KEY_BLOCK = Index("K")
TABLE_ROW = Index("table_row")

# Writes what is done with the block whose number has the given name.
Body = Callable[[Kind, str], None]


def for_tile(block_map: BlockMap, tile: Tile) -> BlockMap:
    """The map with the tile's sizes as numbers: division by a power of two is then a shift."""
    if not isinstance(block_map, Ranges):
        return block_map
    known: dict[Expression, Expression] = {
        Size("BLOCK_M"): Literal(tile.block_m),
        Size("BLOCK_N"): Literal(tile.block_n),
    }

    def plain(expression: Expression) -> Expression:
        return simplify(substitute(expression, known))

    return Ranges(
        tuple(
            dataclasses.replace(
                one, first=plain(one.first), last=plain(one.last), guard=plain(one.guard)
            )
            for one in block_map.intervals
        )
    )


class BlockLoops:
    """Writes loops over the blocks of a map, one for each kind, as often as they are asked for.
    `wanted` is what a block's number is called."""

    def __init__(self, kernel: Kernel, block_map: BlockMap, wanted: str = "key_block"):
        self.kernel = kernel
        self.wanted = wanted
        self.block_map = block_map
        if isinstance(block_map, Ranges):
            bounds = (bound for one in block_map.intervals for bound in (one.first, one.last))
            kernel.share(bounds)
        self._counted: dict[Kind, tuple[list[Value], list[Value]]] = {}
        self._listed: dict[Kind, tuple[str, str]] = {}

    def has(self, kind: Kind) -> bool:
        """Whether there can be a block of this kind."""
        match self.block_map:
            case Ranges():
                return bool(self._intervals(kind))
        return True

    def write(self, kind: Kind, body: Body, *, pipelined: bool = True) -> None:
        """A loop over the blocks of one kind, `body` inside."""
        match self.block_map:
            case Ranges():
                intervals = self._intervals(kind)
                if len(intervals) == 1:
                    self._write_interval(intervals[0], body, pipelined)
                elif intervals:
                    self._write_intervals(kind, intervals, body, pipelined)
            case Table():
                self._write_listed(kind, body, pipelined)
            case _:
                raise InternalError(f"no loop over {type(self.block_map).__name__}")

    def _intervals(self, kind: Kind) -> list[BlockInterval]:
        assert isinstance(self.block_map, Ranges)
        return [one for one in self.block_map.intervals if one.kind is kind and not _is_empty(one)]

    def _write_interval(self, interval: BlockInterval, body: Body, pipelined: bool) -> None:
        kernel = self.kernel
        kind = interval.kind.name.lower()
        first = kernel.named(interval.first, f"{kind}_first")
        last = kernel.named(interval.last, f"{kind}_last")
        bounds = f"{first.text}, {last.text}"
        if interval.step != 1:
            bounds += f", {interval.step}"
        with kernel.loop(self.wanted, over(bounds, pipelined)) as key_block:
            kernel.define(KEY_BLOCK, Value(key_block))
            if interval.guard == TRUE:
                body(interval.kind, key_block)
            else:
                with kernel.inside(f"if {kernel.value(interval.guard).text}:"):
                    body(interval.kind, key_block)

    def _write_intervals(
        self, kind: Kind, intervals: list[BlockInterval], body: Body, pipelined: bool
    ) -> None:
        """Blocks are counted through: `ends[n]` blocks lie in the first n + 1 intervals."""
        kernel = self.kernel
        if kind not in self._counted:
            self._counted[kind] = self._count(kind, intervals)
        firsts, ends = self._counted[kind]
        with kernel.loop("number", over(f"0, {ends[-1].text}", pipelined)) as number:
            block: Value | None = None
            guard: Value | None = None
            for place in reversed(range(len(intervals))):
                begin = ends[place - 1] if place else Value("0")
                candidate = _block_at(number, begin, firsts[place], intervals[place].step)
                inside = f"{number} < {ends[place].text}"
                block = (
                    candidate
                    if block is None
                    else Value(f"tl.where({inside}, {candidate.text}, {block.text})")
                )
            assert block is not None
            key_block = kernel.assign(self.wanted, block)
            kernel.define(KEY_BLOCK, key_block)
            if all(interval.guard == TRUE for interval in intervals):
                body(kind, key_block.text)
                return
            for place in reversed(range(len(intervals))):
                condition = kernel.value(intervals[place].guard)
                inside = f"{number} < {ends[place].text}"
                guard = (
                    condition
                    if guard is None
                    else Value(f"tl.where({inside}, {condition.text}, {guard.text})")
                )
            assert guard is not None
            with kernel.inside(f"if {guard.text}:"):
                body(kind, key_block.text)

    def _count(self, kind: Kind, intervals: list[BlockInterval]) -> tuple[list[Value], list[Value]]:
        """The first block of each interval, and how many lie in it and those before it."""
        kernel = self.kernel
        name = kind.name.lower()
        firsts, ends = [], []
        end = Value("0")
        for interval in intervals:
            first = kernel.named(interval.first, f"{name}_first")
            length = infix("-", Binding.SUM, kernel.value(interval.last), first)
            if interval.step != 1:
                length = call("tl.cdiv", length, Value(str(interval.step)))
            count = call("tl.maximum", length, Value("0"))
            end = count if end.text == "0" else infix("+", Binding.SUM, end, count)
            end = kernel.assign(f"{name}_end", end)
            firsts.append(first)
            ends.append(end)
        return firsts, ends

    def _write_listed(self, kind: Kind, body: Body, pipelined: bool) -> None:
        kernel = self.kernel
        name = kind.name.lower()
        if kind not in self._listed:
            entry = self._table_row()
            offsets = kernel.table(f"{name}_offsets")
            first = kernel.assign(f"{name}_first", Value(f"tl.load({offsets} + {entry})")).text
            last = kernel.assign(f"{name}_last", Value(f"tl.load({offsets} + {entry} + 1)")).text
            self._listed[kind] = first, last
        first, last = self._listed[kind]
        with kernel.loop("place", over(f"{first}, {last}", pipelined)) as place:
            listed = Value(f"tl.load({kernel.table(f'{name}_blocks')} + {place})")
            key_block = kernel.assign(self.wanted, listed)
            kernel.define(KEY_BLOCK, key_block)
            body(kind, key_block.text)

    def _table_row(self) -> str:
        """The line of the table that lists the blocks of this program's rows."""
        kernel = self.kernel
        with kernel.at_depth(0):
            if TABLE_ROW not in kernel.scope.known:
                packed = kernel.specialization.packed
                batch = SEQUENCE if packed else Index("b")
                number, head = (kernel.value(one).text for one in (batch, Index("h")))
                index = f"{kernel.table('map_index')} + {number} * {kernel.size('H')} + {head}"
                block = kernel.value(Index("Q")).text
                if packed:  # whose maps have numbers of lines of their own
                    number = f"tl.load({index}) + {block}"
                else:
                    blocks = kernel.value(Index("query_blocks")).text
                    number = f"tl.load({index}) * {blocks} + {block}"
                kernel.define(TABLE_ROW, kernel.assign("table_row", Value(number)))
            return kernel.scope.known[TABLE_ROW].text


def over(bounds: str, pipelined: bool) -> str:
    """The header of a loop; what loads ahead in it needs shared memory."""
    stages = "" if pipelined else ", num_stages=1"
    return f"for {{}} in tl.range({bounds}{stages}):"


def _is_empty(interval: BlockInterval) -> bool:
    match interval:
        case BlockInterval(first=Literal(value=first), last=Literal(value=last)):
            return last <= first
    return interval.guard == FALSE


def _block_at(number: str, begin: Value, first: Value, step: int) -> Value:
    """Block `number` where the interval's own first block has number `begin`."""
    ahead = number if begin.text == "0" else f"({number} - {begin.text})"
    if step != 1:
        ahead = f"{ahead} * {step}"
    return Value(f"{first.atom} + {ahead}", "", Binding.SUM)
