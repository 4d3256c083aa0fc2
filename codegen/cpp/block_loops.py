"""Loops over the key blocks that a tile of queries visits."""

from __future__ import annotations

from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.scope import Level
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import TRUE
from attndsl.planner.block_map import BlockInterval, BlockMap, Kind, Ranges, Table

_TAGS = {Kind.PARTIAL: "Partial{}", Kind.FULL: "Full{}"}


def write_block_loops(w: Writer, block_map: BlockMap, expressions: Expressions) -> None:
    """Call `absorb` for every block: bounds computed here, or lists built before the call."""
    match block_map:
        case Ranges(intervals):
            for interval in intervals:
                _write_interval(w, interval, expressions)
        case Table():
            _write_lists(w, expressions)
        case _:
            raise InternalError("the cpp target has no rule for this block map")


def _write_interval(w: Writer, interval: BlockInterval, expressions: Expressions) -> None:
    first = expressions.text(interval.first, Level.UNIFORM).text
    last = expressions.text(interval.last, Level.UNIFORM).inside(9)
    step = "++block" if interval.step == 1 else f"block += {interval.step}"
    w.line(f"for (int32_t block = {first}, last = {last}; block < last; {step})")
    with w.indented():
        if interval.guard != TRUE:
            w.line(f"if ({expressions.text(interval.guard, Level.STEP).text})")
            with w.indented():
                w.line(f"absorb(block, {_TAGS[interval.kind]});")
        else:
            w.line(f"absorb(block, {_TAGS[interval.kind]});")


def _write_lists(w: Writer, expressions: Expressions) -> None:
    arguments = expressions.arguments
    w.line("const int64_t query_blocks = (static_cast<int64_t>(Lq) + BLOCK_M - 1) / BLOCK_M;")
    heads = f"{arguments.table('map_index')}[static_cast<int64_t>(b) * H + h]"
    w.line(f"const int64_t list = {heads} * query_blocks + start / BLOCK_M;")
    for kind, tag in (("partial", "Partial{}"), ("full", "Full{}")):
        offsets = arguments.table(f"{kind}_offsets")
        blocks = arguments.table(f"{kind}_blocks")
        w.line(f"for (int32_t entry = {offsets}[list]; entry < {offsets}[list + 1]; ++entry)")
        with w.indented():
            w.line(f"absorb({blocks}[entry], {tag});")
