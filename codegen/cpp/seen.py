"""Which keys each column of queries may see, so that blocks on the edge are not worked on in full.

The bounds of the block map hold for any tile: for the queries of one column, and for steps of as
few keys as products are made of, they say what of a block the column can do without.
"""

from __future__ import annotations

from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.scope import Level, Scope
from attndsl.codegen.writer import Writer
from attndsl.expression import TRUE, Expression, Index, Literal, Size, transform
from attndsl.planner.block_map import Product, Ranges
from attndsl.planner.plan import Attend
from attndsl.planner.simplify import simplify

# `SEEN_STEP` in support/seen.h.
_STEP = 4

INDICES = ("column_first", "column_last")
"""The positions of the first and the last query of a column."""

_REPLACED: dict[Expression, Expression] = {
    Index("i_first"): Index("column_first"),
    Index("i_last"): Index("column_last"),
    Size("BLOCK_N"): Literal(_STEP),
}


def sees_columns(stage: Attend) -> bool:
    """Whether the mask bounds what a column sees, by expressions and not by lists."""
    return isinstance(stage.block_map, Ranges | Product) and stage.mask != TRUE and bool(stage.dots)


def write_seen(w: Writer, block_map: Ranges, expressions: Expressions) -> None:
    """`seen_first` and `seen_last` of every column: keys before and from which on it sees none."""
    own = Scope("column")
    kept, expressions.scopes[Level.STEP] = expressions.scopes[Level.STEP], own
    spans = [
        (_of_column(one.first, expressions), _of_column(one.last, expressions))
        for one in block_map.intervals
    ]
    expressions.scopes[Level.STEP] = kept
    w.comment("The keys that each column of queries may see.")
    w.line("int32_t seen_first[COLUMNS], seen_last[COLUMNS];")
    with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
        w.line(
            "[[maybe_unused]] const int32_t column_first = "
            "minimum(i_first + column * LANES, i_last);"
        )
        w.line(
            "[[maybe_unused]] const int32_t column_last = "
            "minimum(column_first + LANES - 1, i_last);"
        )
        w.lines(*own.lines)
        w.line("int32_t first = INT32_MAX, last = 0;")
        for start, end in spans:
            with w.block("{", "}"):
                w.line(f"const int32_t from = {start}, to = {end};")
                w.line("if (from < to) first = minimum(first, from), last = maximum(last, to);")
        w.line(f"seen_first[column] = first < last ? {_STEP} * first : 0;")
        w.line(f"seen_last[column] = {_STEP} * last;")


def _of_column(bound: Expression, expressions: Expressions) -> str:
    found = simplify(transform(bound, lambda node: _REPLACED.get(node, node)))
    return expressions.text(found, Level.STEP).text
