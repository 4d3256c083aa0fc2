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
from attndsl.codegen.triton.values import Binding, Value, call, infix
from attndsl.diagnostics import InternalError
from attndsl.expression import FALSE, TRUE, Expression, Index, Literal, Size, substitute
from attndsl.planner.block_map import BlockInterval, BlockMap, Kind, Ranges, Table
from attndsl.planner.simplify import simplify

KEY_BLOCK = Index("K")

_COMMENTS = {
    Kind.FULL: "# Blocks in which every pair is visible.",
    Kind.PARTIAL: "# Blocks in which the mask decides pair by pair.",
}

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


def write_block_loops(kernel: Kernel, block_map: BlockMap, body: Body) -> None:
    """One loop for each kind of block that the map has, `body` inside."""
    match block_map:
        case Ranges(intervals=intervals):
            kernel.share(bound for one in intervals for bound in (one.first, one.last))
            for kind in (Kind.FULL, Kind.PARTIAL):
                chosen = [one for one in intervals if one.kind is kind and not _is_empty(one)]
                if chosen:
                    kernel.line(_COMMENTS[kind])
                if len(chosen) == 1:
                    _write_interval(kernel, chosen[0], body)
                elif chosen:
                    _write_intervals(kernel, kind, chosen, body)
        case Table():
            _write_table(kernel, body)
        case _:
            raise InternalError(f"no loop over {type(block_map).__name__}")


def _is_empty(interval: BlockInterval) -> bool:
    match interval:
        case BlockInterval(first=Literal(value=first), last=Literal(value=last)):
            return last <= first
    return interval.guard == FALSE


def _write_interval(kernel: Kernel, interval: BlockInterval, body: Body) -> None:
    kind = interval.kind.name.lower()
    first = kernel.named(interval.first, f"{kind}_first")
    last = kernel.named(interval.last, f"{kind}_last")
    step = f", {interval.step}" if interval.step != 1 else ""
    header = f"for {{}} in tl.range({first.text}, {last.text}{step}):"
    with kernel.loop("key_block", header) as key_block:
        kernel.define(KEY_BLOCK, Value(key_block))
        if interval.guard == TRUE:
            body(interval.kind, key_block)
        else:
            with kernel.inside(f"if {kernel.value(interval.guard).text}:"):
                body(interval.kind, key_block)


def _write_intervals(
    kernel: Kernel, kind: Kind, intervals: list[BlockInterval], body: Body
) -> None:
    """Blocks are counted through: `ends[n]` blocks lie in the first n + 1 intervals."""
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
    with kernel.loop("number", f"for {{}} in tl.range(0, {ends[-1].text}):") as number:
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
        key_block = kernel.assign("key_block", block)
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


def _block_at(number: str, begin: Value, first: Value, step: int) -> Value:
    """Block `number` where the interval's own first block has number `begin`."""
    ahead = number if begin.text == "0" else f"({number} - {begin.text})"
    if step != 1:
        ahead = f"{ahead} * {step}"
    return Value(f"{first.atom} + {ahead}", "", Binding.SUM)


def _write_table(kernel: Kernel, body: Body) -> None:
    heads = kernel.value(Index("b")).text, kernel.size("H"), kernel.value(Index("h")).text
    map_number = f"tl.load({kernel.table('map_index')} + {heads[0]} * {heads[1]} + {heads[2]})"
    blocks = kernel.value(Index("query_blocks")).text
    number = f"{map_number} * {blocks} + {kernel.value(Index('Q')).text}"
    entry = kernel.assign("table_row", Value(number)).text
    for kind in (Kind.FULL, Kind.PARTIAL):
        name = kind.name.lower()
        kernel.line(_COMMENTS[kind])
        offsets = kernel.table(f"{name}_offsets")
        first = kernel.assign(f"{name}_first", Value(f"tl.load({offsets} + {entry})")).text
        last = kernel.assign(f"{name}_last", Value(f"tl.load({offsets} + {entry} + 1)")).text
        with kernel.loop("place", f"for {{}} in tl.range({first}, {last}):") as place:
            listed = Value(f"tl.load({kernel.table(f'{name}_blocks')} + {place})")
            key_block = kernel.assign("key_block", listed)
            kernel.define(KEY_BLOCK, key_block)
            body(kind, key_block.text)
