"""Products on bfloat16 operands as they are, for processors that have a unit for them.

Queries cannot be scaled without rounding them again, so factors are applied to the scores. Values
are turned once per call, and keys that do not lie densely are packed, because rows a power of two
apart compete for the same lines of a cache. A processor without such a unit converts tiles to float
instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.products import (
    LOG2_E,
    Unit,
    query,
    reads_callers,
    scores,
    write_either,
    write_guarded,
)
from attndsl.codegen.cpp.query_factor import QueryFactors
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.cpp.sources import Place, Sources
from attndsl.codegen.program import DType, Tile
from attndsl.codegen.writer import Writer
from attndsl.expression import INT, TRUE, Binary, Expression, Literal, Scalar, Size
from attndsl.planner.plan import Attend, Buffer

# Products are made of tiles 32 wide in every direction.
_WIDTH = 32


def has_bfloat16_form(stage: Attend, sources: Sources, tile: Tile) -> bool:
    """Whether every product is one of the caller's bfloat16 vectors, in whole tiles."""
    vectors = [source for dot in stage.dots for source in (dot.query, dot.key)] + [stage.value]
    return (
        sources.specialization.dtype == DType.BFLOAT16
        and bool(stage.dots)
        and all(map(reads_callers, vectors))
        and all(sources.size(source) % _WIDTH == 0 for source in vectors)
        and tile.block_m % _WIDTH == 0
        and tile.block_n % _WIDTH == 0
    )


@dataclass(frozen=True)
class Values:
    """A block of values: where it lies row after row, where as [d][key], and whether all of it is
    finite."""

    pointer: str
    stride: str
    turned: str
    finite: str


@dataclass
class Bfloat16Products:
    """What products on bfloat16 operands have in common, wherever keys lie."""

    stage: Attend
    sources: Sources
    expressions: Expressions
    factors: QueryFactors

    @property
    def support(self) -> set[str]:
        return {"bfloat16_matrix", "bfloat16_dot", "bfloat16_converted"}

    @property
    def unit(self) -> Unit:
        return Unit("score_unit" if self.factors.is_product_alone else LOG2_E, rounds_weights=True)

    def spelled(self, dot: int) -> Text:
        cell = f"scratch.{scores(dot)}[key * COLUMNS + column]"
        factor = self.factors.factors[dot]
        if self.factors.is_product_alone or factor is None:
            return Text(cell, Level.PAIR)
        return Text(f"{cell} * {self._factor(factor)}", Level.PAIR, 13)

    def write_members(self, w: Writer) -> None:
        for dot, product in enumerate(self.stage.dots):
            w.line(f"QueryTile<{self.sources.size(product.query)}> {query(dot)};")

    def write_queries(self, w: Writer) -> None:
        negate = "false"
        if self.factors.is_product_alone:
            factor = self.factors.factors[0]
            text = LOG2_E if factor is None else f"{self._factor(factor)} * {LOG2_E}"
            w.comment(
                "Scores are multiplied on their way to the exponential, by a positive number:"
            )
            w.comment("a sign goes into the queries.")
            w.line(f"const float score_factor = {text};")
            w.line("const float score_unit = maximum(absolute(score_factor), 1e-30f);")
            negate = "score_factor < 0.0f"
        for dot, product in enumerate(self.stage.dots):
            place, size = self.sources.query(product.query), self.sources.size(product.query)
            rows = f"{place.pointer}, {place.stride}, {self.sources.rows}"
            w.line(f"load_queries<{size}>({rows}, {negate}, scratch.{query(dot)});")

    def write_task(self, w: Writer) -> None:
        w.line("const MatrixUnit unit;")

    def _write_sums(self, w: Writer, values: Values, factor: str) -> None:
        """Add a block's values."""
        size = self.sources.size(self.stage.value)
        operands = f"{values.pointer}, {values.stride}"
        turned = f"{operands}, {values.turned}"
        sums = f"scratch.scores, {factor}, rescaled, scratch.output"
        accumulate = f"accumulate_tile<{size}>({turned}, keys, {sums});"
        if self.stage.mask == TRUE:
            w.line(accumulate)
            return
        plain = f"keys, seen, scratch.scores, {factor}, scratch.output"
        write_guarded(
            w,
            values.finite,
            f"accumulate_guarded<{size}>({operands}, {plain});",
            accumulate,
            f"accumulate_seen<{size}>({turned}, seen, {sums});",
        )

    def _factor(self, factor: Expression) -> str:
        return self.expressions.text(factor, Level.UNIFORM).inside(13)


@dataclass
class PackedProducts(Bfloat16Products):
    """`turned`, `finite` and `packed` are buffers: the values of each block as [d][key], whether
    all of them are finite, and for every product the keys of each block, row after row."""

    turned: str
    finite: str
    packed: tuple[str, ...]
    block_n: int

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        words = self.block_n // 2 * self.sources.size(self.stage.value)
        head = (Size("B"), Size("Hkv"))
        blocks = self._blocks
        return (
            Buffer(self.turned, Scalar.INT, (*head, blocks, Literal(words))),
            Buffer(self.finite, Scalar.INT, (*head, blocks)),
            *(
                Buffer(
                    name,
                    Scalar.INT,
                    (*head, blocks, Literal(self.block_n // 2 * self.sources.size(dot.key))),
                )
                for name, dot in zip(self.packed, self.stage.dots, strict=True)
            ),
        )

    @property
    def _blocks(self) -> Expression:
        """Blocks of keys in all residue classes."""
        modulus = self.sources.residue or 1
        blocks = _ceil_divide(_ceil_divide(Size("Lk"), modulus), self.block_n)
        return blocks if modulus == 1 else Binary("*", Literal(modulus), blocks, INT)

    def write_dots(self, w: Writer) -> None:
        value = self.sources.key(self.stage.value)
        w.line(f"const {value.element} *value = {value.pointer};")
        w.line(f"const int64_t block_number = {self._block_number('block')};")
        for dot, product in enumerate(self.stage.dots):
            place, size = self.sources.key(product.key), self.sources.size(product.key)
            packed = "packed" if dot == 0 else f"packed_{dot}"
            w.line(f"const bool {packed} = {_packs(place, size)};")
            keys = (
                f"{packed} ? {self._packed(dot, size, 'block_number')} : {place.pointer}, "
                f"{packed} ? {size} : {place.stride}, keys"
            )
            operands = f"scratch.{query(dot)}, scratch.{scores(dot)}"
            whole = f"dot_tile<{size}>({keys}, {operands});"
            seen = f"dot_seen<{size}>({keys}, seen, {operands});"
            write_either(w, whole, None if self.stage.mask == TRUE else seen)

    def write_accumulate(self, w: Writer, factor: str) -> None:
        value, size = self.sources.key(self.stage.value), self.sources.size(self.stage.value)
        turned = self.sources.arguments.tensor(self.turned, "int32", written=True)
        finite = self.sources.arguments.tensor(self.finite, "int32", written=True)
        values = f"{turned} + block_number * PAIRS * {size}"
        finite = f"{finite}[block_number]"
        self._write_sums(w, Values("value", value.stride, values, finite), factor)

    def write_before_tiles(self, w: Writer) -> None:
        """Turn every block of values, and pack the keys where that is worth it."""
        arguments, residue = self.sources.arguments, self.sources.residue
        size = self.sources.size(self.stage.value)
        turned = arguments.tensor(self.turned, "int32", written=True)
        finite = arguments.tensor(self.finite, "int32", written=True)
        w.line("const int32_t Hkv = arguments.Hkv, Lk = arguments.Lk;")
        classes = 1 if residue is None else residue
        w.line(f"const int64_t blocks = {self._blocks_in_class()};")
        w.line(
            f"const int64_t turns = static_cast<int64_t>(arguments.B) * Hkv * {classes} * blocks;"
        )
        w.line("const int turning = threads_for(turns * 256, arguments.threads);")
        w.line("#pragma omp parallel for schedule(static) num_threads(turning)")
        with w.block("for (int64_t turn = 0; turn < turns; ++turn) {", "}"):
            w.line("const int32_t first_key = static_cast<int32_t>(turn % blocks) * BLOCK_N;")
            length = "Lk"
            if residue is not None:
                w.line(f"const int32_t residue = static_cast<int32_t>(turn / blocks % {residue});")
                length = f"(Lk - residue + {residue - 1}) / {residue}"
            w.line(f"const int32_t g = static_cast<int32_t>(turn / blocks / {classes} % Hkv);")
            w.line(f"const int32_t b = static_cast<int32_t>(turn / blocks / {classes} / Hkv);")
            value = self.sources.key(self.stage.value)
            w.line(f"const int32_t keys = minimum(BLOCK_N, {length} - first_key);")
            w.line(f"const {value.element} *value = {value.pointer};")
            w.line(
                f"{finite}[turn] = turn_values<{size}>(value, {value.stride}, keys, "
                f"{turned} + turn * PAIRS * {size});"
            )
            for dot, product in enumerate(self.stage.dots):
                place, size = self.sources.key(product.key), self.sources.size(product.key)
                w.line(f"if ({_packs(place, size)})")
                with w.indented():
                    w.line(
                        f"pack_keys<{size}>({place.pointer}, {place.stride}, keys, "
                        f"{self._packed(dot, size, 'turn')});"
                    )

    def _packed(self, dot: int, size: int, number: str) -> str:
        buffer = self.sources.arguments.tensor(self.packed[dot], "int32", written=True)
        return f"reinterpret_cast<Bfloat16 *>({buffer}) + {number} * BLOCK_N * {size}"

    def _block_number(self, block: str) -> str:
        head = "static_cast<int64_t>(b) * Hkv + g"
        blocks = self._blocks_in_class()
        if self.sources.residue is None:
            return f"({head}) * ({blocks}) + {block}"
        return f"(({head}) * {self.sources.residue} + residue) * ({blocks}) + {block}"

    def _blocks_in_class(self) -> str:
        residue = self.sources.residue
        keys = "Lk" if residue is None else f"(Lk + {residue - 1}) / {residue}"
        return f"({keys} + BLOCK_N - 1) / BLOCK_N"


@dataclass
class GatheredProducts(Bfloat16Products):
    """Keys and values that lie anywhere are gathered and turned block by block."""

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return ()

    def write_members(self, w: Writer) -> None:
        super().write_members(w)
        size = self.sources.size(self.stage.value)
        widest = max([size, *(self.sources.size(dot.key) for dot in self.stage.dots)])
        w.line(f"alignas(64) Bfloat16 gathered[BLOCK_N * {widest}];")
        w.line(f"alignas(64) int32_t turned[PAIRS * {size}];")

    def write_dots(self, w: Writer) -> None:
        for dot, product in enumerate(self.stage.dots):
            place, size = self.sources.key(product.key), self.sources.size(product.key)
            self._write_gather(w, place, size)
            keys = f"scratch.gathered, {size}, keys"
            operands = f"scratch.{query(dot)}, scratch.{scores(dot)}"
            whole = f"dot_tile<{size}>({keys}, {operands});"
            seen = f"dot_seen<{size}>({keys}, seen, {operands});"
            write_either(w, whole, None if self.stage.mask == TRUE else seen)

    def write_accumulate(self, w: Writer, factor: str) -> None:
        value, size = self.sources.key(self.stage.value), self.sources.size(self.stage.value)
        self._write_gather(w, value, size)
        values = Values("scratch.gathered", str(size), "scratch.turned", "finite")
        w.line(
            "[[maybe_unused]] const bool finite = "
            f"turn_values<{size}>({values.pointer}, {size}, keys, {values.turned});"
        )
        self._write_sums(w, values, factor)

    def write_before_tiles(self, w: Writer) -> None:
        pass

    @staticmethod
    def _write_gather(w: Writer, place: Place, size: int) -> None:
        w.line(
            f"gather_rows<{size}>({place.pointer}, {place.stride}, scratch.keys.numbers, keys, "
            "scratch.gathered);"
        )


def _packs(place: Place, size: int) -> str:
    return f"PACKS_KEYS && {place.stride} != {size} && arguments.Lq > BLOCK_M"


def _ceil_divide(value: Expression, by: int) -> Expression:
    if by == 1:
        return value
    return Binary("//", Binary("+", value, Literal(by - 1), INT), Literal(by), INT)
