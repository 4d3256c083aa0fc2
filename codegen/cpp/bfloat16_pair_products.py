"""Products of a backward on bfloat16 operands as they are, as `bfloat16_products.py` has them.

Factors are applied to the scores. Values of pairs are rounded where they meet vectors, as PyTorch
rounds them; what is summed up by itself is not. Keys that sums of queries are made of are turned
once per call.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from attndsl.codegen.cpp.pair_products import Pairs
from attndsl.codegen.cpp.products import query, scores, write_guarded
from attndsl.codegen.cpp.reads import Array
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.program import DType, Tile
from attndsl.codegen.writer import Writer
from attndsl.expression import INT, OPERANDS, TRUE, Literal, Size
from attndsl.planner import algebra
from attndsl.planner.plan import Buffer, PairSum, Source

# Products are made of tiles 32 wide in every direction.
_WIDTH = 32


def has_bfloat16_form(pairs: Pairs, tile: Tile) -> bool:
    """Whether every product is one of the caller's bfloat16 vectors, in whole tiles of a line."""
    stage, sources = pairs.stage, pairs.frame.sources
    vectors = [source for dot in pairs.stored.dots for source in (dot.query, dot.key)]
    vectors += [*pairs.sources("query"), *pairs.sources("key")]
    return (
        sources.specialization.dtype == DType.BFLOAT16
        and stage.grid is None
        and stage.stripes is None
        and stage.residue is None
        and all(source.name in OPERANDS for source in vectors)
        and all(sources.size(source) % _WIDTH == 0 for source in vectors)
        and tile.block_m % _WIDTH == 0
        and tile.block_n % _WIDTH == 0
    )


@dataclass
class Bfloat16PairProducts:
    """`arrays` is told of the buffers of stage `stage`: the keys of each block as [d][key], and
    whether all of them are finite."""

    stage: int
    pairs: Pairs
    arrays: dict[str, Array]
    tile: Tile

    def __post_init__(self) -> None:
        for one in self.buffers:
            self.arrays[one.name] = Array(one.name, one.element, one.dimensions)

    @property
    def support(self) -> set[str]:
        return {"bfloat16_sums"}

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        blocks = algebra.ceil_divide(Size("Lk"), Literal(self.tile.block_n))
        head = (Size("B"), Size("Hkv"), blocks)
        found: list[Buffer] = []
        for number, source in enumerate(self.pairs.sources("query")):
            words = self.tile.block_n // 2 * self.pairs.frame.sources.size(source)
            # Names with a dot in them are nobody else's.
            found.append(Buffer(f"turned_{self.stage}.keys_{number}", INT, (*head, Literal(words))))
            found.append(Buffer(f"finite_{self.stage}.keys_{number}", INT, head))
        return tuple(found)

    def _turned(self, source: Source) -> list[str]:
        """Where the turned keys lie, and where whether they are finite."""
        number = list(self.pairs.sources("query")).index(source)
        buffers = self.buffers[2 * number : 2 * number + 2]
        arguments = self.pairs.frame.arguments
        return [arguments.tensor(one.name, "int32", written=True) for one in buffers]

    def spelled(self, dot: int) -> Text:
        cell = f"scratch.{scores(self._first(dot))}[key * COLUMNS + column]"
        if self.pairs.factor(dot) == "1.0f":
            return Text(cell, Level.PAIR)
        return Text(f"{cell} * factor_{dot}", Level.PAIR, 13)

    def _first(self, dot: int) -> int:
        """The first product of the same vectors: without factors they are all one."""
        return self.pairs.stored.dots.index(self.pairs.stored.dots[dot])

    @property
    def _own(self) -> list[int]:
        return list(dict.fromkeys(map(self._first, self.pairs.dots)))

    def write_members(self, w: Writer) -> None:
        sources = self.pairs.frame.sources
        for dot in self._own:
            size = sources.size(self.pairs.stored.dots[dot].query)
            w.line(f"QueryTile<{size}> {query(dot)};")
        for source, member in self.pairs.rows.items():
            w.line(f"RowPairs<{sources.size(source)}> {member};")
        for value in self._values_of("key"):
            w.line(f"RoundedValues rounded_{value};")

    def write_queries(self, w: Writer) -> None:
        sources = self.pairs.frame.sources
        for dot in self.pairs.dots:
            factor = self.pairs.factor(dot)
            if factor != "1.0f":
                w.line(f"const float factor_{dot} = {factor};")
        for dot in self._own:
            source = self.pairs.stored.dots[dot].query
            place, size = sources.query(source), sources.size(source)
            w.line(
                f"load_queries<{size}>({place.pointer}, {place.stride}, {sources.rows}, false, "
                f"scratch.{query(dot)});"
            )
        for source, member in self.pairs.rows.items():
            place, size = sources.query(source), sources.size(source)
            w.line(
                f"[[maybe_unused]] const bool {member}_finite = load_row_pairs<{size}>"
                f"({place.pointer}, {place.stride}, rows, scratch.{member});"
            )

    def write_dots(self, w: Writer) -> None:
        sources = self.pairs.frame.sources
        for dot in self._own:
            source = self.pairs.stored.dots[dot].key
            place, size = sources.key(source), sources.size(source)
            w.line(
                f"dot_tile<{size}>({place.pointer}, {place.stride}, keys, scratch.{query(dot)}, "
                f"scratch.{scores(dot)});"
            )
        if self.pairs.sources("query"):
            w.line("const int64_t head = static_cast<int64_t>(b) * Hkv + g;")
            w.line("const int64_t number = head * ((Lk + BLOCK_N - 1) / BLOCK_N) + block;")

    def write_values(self, w: Writer) -> None:
        for value in self._values_of("key"):
            w.line(f"round_values(scratch.{scores(value)}, keys, scratch.rounded_{value});")
        for value in self._values_of("query"):
            cells = f"scratch.{scores(value)}"
            with w.block(f"make_pairs({cells}, keys, seen, [&](int key, int column) {{", "});"):
                w.line(f"return {cells}[key * COLUMNS + column];")

    def write_query_sum(self, w: Writer, value: int, source: Source, total: str) -> None:
        sources = self.pairs.frame.sources
        place, size = sources.key(source), sources.size(source)
        turned, finite = self._turned(source)
        rows = f"<{size}>({place.pointer}, {place.stride}"
        cells = f"scratch.{scores(value)}"
        whole = (
            f"accumulate_tile{rows}, {turned} + number * PAIRS * {size}, keys, {cells}, ones, "
            f"false, scratch.{total});"
        )
        if self.pairs.stage.mask == TRUE:
            w.line(whole)
            return
        guarded = f"accumulate_guarded{rows}, keys, seen, {cells}, ones, scratch.{total});"
        write_guarded(w, f"{finite}[number]", guarded, whole, None)

    def write_key_sum(self, w: Writer, value: int, source: Source, one: PairSum) -> None:
        self.pairs.write_key_sum(w, f"scratch.rounded_{value}", source, one)

    def write_before_tiles(self, w: Writer) -> None:
        """Turn every block of keys."""
        sources = self.pairs.frame.sources
        if not self.pairs.sources("query"):
            return
        w.line("const int64_t turns = static_cast<int64_t>(B) * Hkv * blocks;")
        w.line("#pragma omp parallel for schedule(static) num_threads(threads)")
        with w.block("for (int64_t turn = 0; turn < turns; ++turn) {", "}"):
            w.line("const int32_t first_key = static_cast<int32_t>(turn % blocks) * BLOCK_N;")
            w.line("const int32_t g = static_cast<int32_t>(turn / blocks % Hkv);")
            w.line("const int32_t b = static_cast<int32_t>(turn / blocks / Hkv);")
            w.line("const int32_t keys = minimum(BLOCK_N, Lk - first_key);")
            for source in self.pairs.sources("query"):
                place, size = sources.key(source), sources.size(source)
                turned, finite = self._turned(source)
                w.line(
                    f"{finite}[turn] = turn_values<{size}>({place.pointer}, {place.stride}, keys, "
                    f"{turned} + turn * PAIRS * {size});"
                )

    def write_task(self, w: Writer) -> None:
        w.line("const MatrixUnit unit;")

    def _values_of(self, side: str) -> list[int]:
        """The values that sums of a side are made of."""
        found = self.pairs.sources(side).values()
        return list(dict.fromkeys(chain.from_iterable(found)))
