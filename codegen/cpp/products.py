"""The matrix products of a tile: how queries are kept, and what makes scores and sums of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.query_factor import QueryFactors
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.cpp.sources import Place, Sources
from attndsl.codegen.writer import Writer
from attndsl.expression import TRUE, Expression
from attndsl.planner.plan import Attend, Buffer, Source

LOG2_E = "1.44269504f"


@dataclass(frozen=True)
class Unit:
    """How stored scores become powers of two: multiplied by `factor` (None: they are already).

    `rounds_weights`: weights are rounded and paired by `make_pairs` of the products' own support
    piece; what exponentials refer to follows the maximum only when it has to.
    """

    factor: str | None
    rounds_weights: bool = False

    @property
    def is_natural(self) -> bool:
        """Stored scores are the spec's own, so that a sink can be compared with them."""
        return self.factor == LOG2_E


class Products(Protocol):
    """`unit` is for a softmax; `support` names the pieces in use; `buffers` are for the caller."""

    @property
    def support(self) -> set[str]: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def buffers(self) -> tuple[Buffer, ...]: ...

    def spelled(self, dot: int) -> Text:
        """The value of a product for the pair at hand."""

    def write_members(self, w: Writer) -> None:
        """Members of the scratch block."""

    def write_queries(self, w: Writer) -> None:
        """Bring the tile's queries into their form."""

    def write_dots(self, w: Writer) -> None:
        """Scores of a block, and the pointers that it starts from."""

    def write_accumulate(self, w: Writer, factor: str) -> None:
        """Add a block's values, by the weights in `scratch.scores`."""

    def write_before_tiles(self, w: Writer) -> None:
        """Work ahead of all tiles."""

    def write_task(self, w: Writer) -> None:
        """At the start of each tile's task."""


def scores(dot: int) -> str:
    """The scratch member that a product is written to; the first also takes the weights."""
    return "scores" if dot == 0 else f"scores_{dot}"


def query(dot: int) -> str:
    return "query" if dot == 0 else f"query_{dot}"


@dataclass
class FloatProducts:
    """Products in float: factors are folded into the queries, other types converted per tile."""

    stage: Attend
    sources: Sources
    expressions: Expressions
    factors: QueryFactors
    support: set[str] = field(default_factory=lambda: {"tile", "weights", "transpose", "guard"})

    @property
    def unit(self) -> Unit:
        return Unit(None if self.factors.is_product_alone else LOG2_E)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return ()

    def spelled(self, dot: int) -> Text:
        return Text(f"scratch.{scores(dot)}[key * COLUMNS + column]", Level.PAIR)

    def write_members(self, w: Writer) -> None:
        for dot, product in enumerate(self.stage.dots):
            w.line(f"Floats {query(dot)}[{self.sources.size(product.query)} * COLUMNS];")
        width = self.sources.converted_width
        if width:
            w.line(f"alignas(64) float converted[BLOCK_N * {width}];")

    def write_queries(self, w: Writer) -> None:
        for dot, product in enumerate(self.stage.dots):
            place, size = self.sources.query(product.query), self.sources.size(product.query)
            w.line(
                f"load_columns<{size}>({place.pointer}, {place.stride}, {self.sources.rows}, "
                f"{self._factor(self.factors.factors[dot])}, scratch.{query(dot)}, COLUMNS);"
            )

    def write_dots(self, w: Writer) -> None:
        value = self.sources.key(self.stage.value)
        w.line(f"const {value.element} *value = {value.pointer};")
        for dot, product in enumerate(self.stage.dots):
            size = self.sources.size(product.key)
            place = self.sources.key(product.key)
            name = _key_rows(dot)
            w.line(f"const {place.element} *{name} = {place.pointer};")
            pointer, stride = self._converted(w, name, place, size)
            ahead = f"{pointer}, {stride}, 0"
            if dot == 0 and pointer == name and value.element == "float":
                ahead = f"value, {value.stride}, {self.sources.size(self.stage.value)}"
            operands = f"scratch.{query(dot)}, scratch.{scores(dot)}"
            whole = f"dot_tile<{size}>({pointer}, {stride}, keys, {operands}, {ahead});"
            seen = f"dot_seen<{size}>({pointer}, {stride}, keys, seen, {operands});"
            write_either(w, whole, None if self.stage.mask == TRUE else seen)

    def write_accumulate(self, w: Writer, factor: str) -> None:
        value, size = self.sources.key(self.stage.value), self.sources.size(self.stage.value)
        pointer, stride = self._converted(w, "value", value, size)
        ahead = f"{pointer}, {stride}, 0"
        if self.stage.dots:
            key = self.sources.key(self.stage.dots[0].key)
            if key.element == "float" and not self.sources.scattered_keys:
                width = self.sources.size(self.stage.dots[0].key)
                ahead = f"{_key_rows(0)} + BLOCK_N * {key.stride}, {key.stride}, {width}"
        sums = f"scratch.scores, {factor}, scratch.output"
        accumulate = f"accumulate_tile<{size}>({pointer}, {stride}, keys, {sums}, {ahead});"
        if self.stage.mask == TRUE:
            w.line(accumulate)
            return
        write_guarded(
            w,
            f"all_finite<{size}>({pointer}, {stride}, keys)",
            f"accumulate_guarded<{size}>({pointer}, {stride}, keys, seen, {sums});",
            accumulate,
            f"accumulate_seen<{size}>({pointer}, {stride}, seen, {sums});",
        )

    def write_before_tiles(self, w: Writer) -> None:
        pass

    def write_task(self, w: Writer) -> None:
        pass

    def _factor(self, factor: Expression | None) -> str:
        parts = []
        if factor is not None:
            parts.append(self.expressions.text(factor, Level.UNIFORM).inside(12))
        if self.factors.is_product_alone:
            parts.append(LOG2_E)
        return " * ".join(parts) or "1.0f"

    def _converted(self, w: Writer, pointer: str, place: Place, size: int) -> tuple[str, str]:
        """Where the tile lies as floats, row after row, and its stride."""
        if self.sources.scattered_keys:
            self.sources.converted(size)
            w.line(
                f"gather_rows<{size}>({pointer}, {place.stride}, scratch.keys.numbers, keys, "
                "scratch.converted);"
            )
            return "scratch.converted", str(size)
        if place.element == "float":
            return pointer, place.stride
        self.sources.converted(size)
        w.line(f"convert_tile<{size}>({pointer}, {place.stride}, keys, scratch.converted);")
        return "scratch.converted", str(size)


def write_guarded(w: Writer, finite: str, guarded: str, whole: str, seen: str | None) -> None:
    """A sum that a mask hides parts of; `guarded` where what is summed up is not all finite."""
    w.comment("A hidden value that is not finite must not reach the sum.")
    w.line(f"if (partial && !{finite})")
    with w.indented():
        w.line(guarded)
    with w.block("else {", "}"):
        write_either(w, whole, seen)


def write_either(w: Writer, whole: str, seen: str | None) -> None:
    """A product of the whole block, or, where little of a partial one is visible, of that."""
    if seen is None:
        w.line(whole)
        return
    w.line("if (partial && seen.few)")
    with w.indented():
        w.line(seen)
    w.line("else")
    with w.indented():
        w.line(whole)


def _key_rows(dot: int) -> str:
    return "key_rows" if dot == 0 else f"key_rows_{dot}"


def reads_callers(source: Source) -> bool:
    """Whether the vectors are the caller's own, in the call's dtype."""
    return source.name in ("q", "k", "v")
