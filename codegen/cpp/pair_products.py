"""The matrix products of a backward's tile: how vectors are kept, what makes scores and sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from attndsl.codegen.cpp.products import LOG2_E, query, scores, write_guarded
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.cpp.stored_products import StoredProducts
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.writer import Writer
from attndsl.expression import TRUE, DotResult, Expression, Size, walk
from attndsl.planner.plan import Buffer, PairSum, PairSums, Source


@dataclass(frozen=True)
class Pairs:
    """What is summed up over pairs. `values` are numbered: number n is stored, 0 where pairs are
    hidden, in the scratch member `scores(n)`, which before took product n."""

    stage: PairSums
    stored: StoredProducts
    frame: TileFrame
    values: Mapping[Expression, int]

    @cached_property
    def dots(self) -> tuple[int, ...]:
        """The products that values are made of."""
        nodes = (node for value in self.stored.values.values() for node in walk(value))
        return tuple(sorted({node.number for node in nodes if isinstance(node, DotResult)}))

    def sources(self, side: str) -> dict[Source, list[int]]:
        """The vectors that sums of a side are made of, with the numbers of their values."""
        found: dict[Source, list[int]] = {}
        for one in self.stage.sums:
            for value, source in one.terms:
                if one.side == side and source is not None:
                    found.setdefault(source, []).append(self.values[value])
        return found

    def factor(self, dot: int) -> str:
        """What the queries of a product are multiplied by, as the forward has it."""
        factor = self.stored.factors[dot]
        parts = []
        if factor is not None:
            parts.append(self.frame.expressions.text(factor, Level.UNIFORM).inside(12))
        if self.stored.in_base_2 and dot == 0:
            parts.append(LOG2_E)
        return " * ".join(parts) or "1.0f"

    def key_target(self, one: PairSum) -> tuple[str, str]:
        """The sum of a block's first key, and the step from key to key."""
        sources = self.frame.sources
        head = "h" if one.buffer.dimensions[1] != Size("Hkv") else "g"
        token = None if sources.scattered_keys else sources.key_token
        place = sources.buffer(one.buffer.name, token, head)
        return f"({place.pointer})", f"{self.frame.step}{place.stride}"

    @cached_property
    def rows(self) -> dict[Source, str]:
        """Vectors of queries that sums of keys are made of: the scratch members that hold them."""
        return {one: f"rows_{number}" for number, one in enumerate(self.sources("key"))}

    def write_key_sum(self, w: Writer, values: str, source: Source, one: PairSum) -> None:
        """Add the values times the queries' vectors to the sums of the keys."""
        member, size = self.rows[source], self.frame.sources.size(source)
        arguments = f"<{size}>({values}, scratch.{member}, rows, keys, {self.key_rows(one)});"
        if self.stage.mask == TRUE:
            w.line(f"add_keys{arguments}")
            return
        guarded = f"add_keys_guarded{arguments}"
        write_guarded(w, f"{member}_finite", guarded, f"add_keys{arguments}", None)

    def key_rows(self, one: PairSum) -> str:
        """The sums of a block's keys."""
        pointer, stride = self.key_target(one)
        if self.frame.sources.scattered_keys:
            return f"GatheredKeyRows{{{pointer}, {stride}, scratch.keys.numbers}}"
        return f"KeyRows{{{pointer}, {stride}}}"


class PairProducts(Protocol):
    """`support` names the pieces in use; `buffers` are for the caller."""

    @property
    def support(self) -> set[str]: ...

    @property
    def buffers(self) -> tuple[Buffer, ...]: ...

    def spelled(self, dot: int) -> Text:
        """The value of a product for the pair at hand."""

    def write_members(self, w: Writer) -> None:
        """Members of the scratch block."""

    def write_queries(self, w: Writer) -> None:
        """Bring the tile's queries into their forms."""

    def write_dots(self, w: Writer) -> None:
        """Products of a block."""

    def write_values(self, w: Writer) -> None:
        """Bring a block's values into the form that sums are made of: floats no more."""

    def write_query_sum(self, w: Writer, value: int, source: Source, total: str) -> None:
        """Add the values times the keys' vectors to the scratch member `total`."""

    def write_key_sum(self, w: Writer, value: int, source: Source, one: PairSum) -> None:
        """Add the values times the queries' vectors to the sums of the keys."""

    def write_before_tiles(self, w: Writer) -> None:
        """Work ahead of all tiles."""

    def write_task(self, w: Writer) -> None:
        """At the start of each task."""


@dataclass
class FloatPairProducts:
    """Products in float: factors are folded into the queries, other types converted per tile."""

    pairs: Pairs
    support: set[str] = field(default_factory=lambda: {"tile", "transpose", "guard", "key_sums"})
    _places: dict[Source, tuple[str, str]] = field(default_factory=dict)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return ()

    def spelled(self, dot: int) -> Text:
        return Text(f"scratch.{scores(dot)}[key * COLUMNS + column]", Level.PAIR)

    def write_members(self, w: Writer) -> None:
        sources = self.pairs.frame.sources
        for dot in self.pairs.dots:
            product = self.pairs.stored.dots[dot]
            w.line(f"Floats {query(dot)}[{sources.size(product.query)} * COLUMNS];")
        for source, member in self.pairs.rows.items():
            w.line(f"alignas(64) float {member}[BLOCK_M * padded({sources.size(source)})];")
        for source, member in self._keys().items():
            if self._is_copied(source):
                w.line(f"alignas(64) float {member}[BLOCK_N * {sources.size(source)}];")

    def write_queries(self, w: Writer) -> None:
        sources = self.pairs.frame.sources
        # Rows first: they are read in the order of memory, and stay in a cache for the columns.
        for source, member in self.pairs.rows.items():
            place, size = sources.query(source), sources.size(source)
            w.line(
                f"load_rows<{size}>({place.pointer}, {place.stride}, {sources.rows}, exists, "
                f"scratch.{member});"
            )
            if self.pairs.stage.mask != TRUE:
                w.line(
                    f"const bool {member}_finite = "
                    f"all_finite<{size}>(scratch.{member}, padded({size}), rows);"
                )
        for dot in self.pairs.dots:
            product = self.pairs.stored.dots[dot]
            place, size = sources.query(product.query), sources.size(product.query)
            w.line(
                f"load_columns<{size}>({place.pointer}, {place.stride}, {sources.rows}, "
                f"{self.pairs.factor(dot)}, scratch.{query(dot)}, COLUMNS);"
            )

    def write_dots(self, w: Writer) -> None:
        self._places = {
            source: self._write_keys(w, source, member) for source, member in self._keys().items()
        }
        for dot in self.pairs.dots:
            product = self.pairs.stored.dots[dot]
            pointer, stride = self._places[product.key]
            size = self.pairs.frame.sources.size(product.key)
            w.line(
                f"dot_apart<{size}>({pointer}, {stride}, keys, scratch.{query(dot)}, "
                f"scratch.{scores(dot)});"
            )

    def write_values(self, w: Writer) -> None:
        pass

    def write_query_sum(self, w: Writer, value: int, source: Source, total: str) -> None:
        pointer, stride = self._places[source]
        rows = f"<{self.pairs.frame.sources.size(source)}>({pointer}, {stride}, keys"
        sums = f"scratch.{scores(value)}, ones, scratch.{total}"
        whole = f"accumulate_apart{rows}, {sums});"
        if self.pairs.stage.mask == TRUE:
            w.line(whole)
            return
        finite = f"all_finite{rows})"
        write_guarded(w, finite, f"accumulate_guarded{rows}, seen, {sums});", whole, None)

    def write_key_sum(self, w: Writer, value: int, source: Source, one: PairSum) -> None:
        self.pairs.write_key_sum(w, f"scratch.{scores(value)}", source, one)

    def write_before_tiles(self, w: Writer) -> None:
        pass

    def write_task(self, w: Writer) -> None:
        pass

    def _keys(self) -> dict[Source, str]:
        """Vectors of keys, for scores and for sums of queries."""
        sources = [self.pairs.stored.dots[dot].key for dot in self.pairs.dots]
        sources += self.pairs.sources("query")
        return {one: f"keys_{number}" for number, one in enumerate(dict.fromkeys(sources))}

    def _write_keys(self, w: Writer, source: Source, member: str) -> tuple[str, str]:
        """Where a block's vectors lie as floats, row after row, and their stride."""
        sources = self.pairs.frame.sources
        place, size = sources.key(source), sources.size(source)
        w.line(f"const {place.element} *{member} = {place.pointer};")
        if sources.scattered_keys:
            self.support.add("gather_rows")
            numbers = "scratch.keys.numbers, keys"
            w.line(f"gather_rows<{size}>({member}, {place.stride}, {numbers}, scratch.{member});")
            return f"scratch.{member}", str(size)
        if not self._is_copied(source):
            return member, place.stride
        self.support.add("convert")
        w.line(f"convert_tile<{size}>({member}, {place.stride}, keys, scratch.{member});")
        return f"scratch.{member}", str(size)

    def _is_copied(self, source: Source) -> bool:
        """Whether a block's vectors have to be brought together, or converted."""
        sources = self.pairs.frame.sources
        return sources.scattered_keys or sources.key(source).element != "float"
