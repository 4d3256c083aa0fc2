"""Tiles of pairs, as the kernels of both directions go through them: what is loaded of either side,
its matrix products, and which pairs count.
"""

from __future__ import annotations

from collections.abc import Iterator

from attndsl.codegen.program import DType, Tile
from attndsl.codegen.triton.kernel import Kernel, pointer_to
from attndsl.codegen.triton.normalizers import spread_to_tile
from attndsl.codegen.triton.places import KeyTile
from attndsl.codegen.triton.stage_places import places_of
from attndsl.codegen.triton.tokens import Chunk, Tokens, chunks_of, head_of, load, tokens
from attndsl.codegen.triton.turns import Turns
from attndsl.codegen.triton.values import Binding, Value, infix, spread
from attndsl.expression import QUERY_OPERANDS, TRUE, DotResult, Expression
from attndsl.planner.block_map import Kind
from attndsl.planner.plan import Attend, PairStage, Source, is_transposed


class PairTiles:
    """Tiles of pairs in a kernel: the vectors of both sides, their products, and which pairs count.

    `comments` are the spec's own words. `own` holds the names of the tile's own vectors, which
    stay loaded.
    """

    def __init__(
        self,
        kernel: Kernel,
        stage: PairStage,
        *,
        tile: Tile,
        comments: dict[str, str],
        turns: Turns | None = None,
    ):
        self.kernel, self.stage = kernel, stage
        self.places = places_of(kernel, stage, tile, turns)
        self.of_keys = is_transposed(stage)
        self.comments = comments
        self.own: dict[tuple[str, Chunk], str] = {}
        self._sources: dict[tuple[str, bool], Tokens] = {}

    def source(self, name: str, *, own: bool) -> Tokens:
        """Where the vectors of the tile's own tokens, or of the other side's, lie."""
        key_side = own == self.of_keys
        if (name, key_side) not in self._sources:
            head = head_of(self.kernel, name, key_side)
            first = self.places.first_key if key_side else self.places.first_row
            self._sources[name, key_side] = tokens(self.kernel, name, head, first, self.places.step)
        return self._sources[name, key_side]

    def load_own(self) -> None:
        """The tile's own vectors that matrix products take, before any loop."""
        kernel, places = self.kernel, self.places
        for dot in self.stage.dots:
            vector = dot.key if self.of_keys else dot.query
            wanted = self._called(vector, own=True)
            source = self.source(vector.name, own=True)
            for chunk in chunks_of(vector, kernel):
                if (vector.name, chunk) not in self.own:
                    pointer = source.tile_pointer(places.query_start)
                    loaded = load(kernel, source, pointer, places.row_lane, chunk, wanted)
                    self.own[vector.name, chunk] = loaded.text

    def find_own(self) -> None:
        """Addresses of the tile's own vectors that pair-wise arithmetic reads."""
        places = self.places
        for name, vector in self.stage.vectors:
            if self._is_own(name):
                self._define_rows(name, vector, places.query_start, places.row_lane, "m")

    def find_other(self) -> None:
        """Addresses of the other side's vectors, before any loop."""
        for dot in self.stage.dots:
            self.source((dot.query if self.of_keys else dot.key).name, own=False)
        for name, vector in self.stage.vectors:
            if not self._is_own(name):
                self.source(vector.name, own=False)
        for name in self._weighted():
            self.source(name, own=False)
        self.places.write_key_lanes()

    def _weighted(self) -> Iterator[str]:
        """The vectors of the other side that are added up."""
        if isinstance(self.stage, Attend):
            yield self.stage.value.name
            return
        for one in self.stage.sums:
            yield from (source.name for _, source in one.terms if source is not None)

    def _called(self, vector: Source, *, own: bool) -> str:
        """What a tile of these vectors is called."""
        match vector.name:
            case "out.gradient":
                return "out_gradients"
            case "v":
                return "values"
        return "keys" if own == self.of_keys else "queries"

    def _is_own(self, operand: str) -> bool:
        return (operand in QUERY_OPERANDS) != self.of_keys

    def _define_rows(self, operand: str, vector: Source, first: str, lanes: str, axis: str) -> None:
        """Pointers to the tokens of an operand that pair-wise arithmetic reads."""
        source = self.source(vector.name, own=axis == "m")
        start = self.kernel.value(vector.start).text
        shift = f" + {start}" if start != "0" else ""
        text = f"{source.tile_pointer(first)} + {lanes} * {source.local_stride}{shift}"
        self.kernel.define_lazily(
            pointer_to(operand), f"{operand}_rows", Value(text, axis, Binding.SUM)
        )

    def load_other(
        self, source: Source, chunk: Chunk, tile: KeyTile, present: str, called: str = ""
    ) -> str:
        """The name of a chunk of the other side's vectors; zero where `present` does not hold."""
        key = source.name, chunk
        if key not in tile.loaded:
            where = self.source(source.name, own=False)
            pointer = where.tile_pointer(tile.start)
            wanted = called or self._called(source, own=False)
            tile.loaded[key] = load(
                self.kernel, where, pointer, tile.lane, chunk, wanted, present
            ).text
        return tile.loaded[key]

    def write_products(self, tile: KeyTile, present: str) -> None:
        """The matrix products that the values of pairs are made of."""
        kernel = self.kernel
        for name, vector in self.stage.vectors:
            if not self._is_own(name):
                self._define_rows(name, vector, tile.start, tile.lane, "n")
        precision = precision_of(kernel)
        for number, dot in enumerate(self.stage.dots):
            mine, others = (dot.key, dot.query) if self.of_keys else (dot.query, dot.key)
            name = ""
            pairs = zip(chunks_of(mine, kernel), chunks_of(others, kernel), strict=True)
            for own_chunk, other_chunk in pairs:
                own = self.own[mine.name, own_chunk]
                other = self.load_other(others, other_chunk, tile, present)
                if not name:
                    product = f"tl.dot({own}, {other}.T{precision})"
                    name = kernel.assign("dots", Value(product, "mn")).text
                else:
                    kernel.line(f"{name} = tl.dot({own}, {other}.T, {name}{precision})")
            kernel.define(DotResult(number), Value(name, "mn"))

    def comment(self, what: str) -> None:
        """The spec's own words, where there are some."""
        if what in self.comments:
            self.kernel.line(f"# {self.comments[what]}")

    def visible(self, tile: KeyTile) -> Value:
        """Which pairs of the tile count: the mask, and that the token exists."""
        kernel = self.kernel
        exists = Value(tile.exists, "n", Binding.COMPARE)
        if self.stage.mask == TRUE:
            return kernel.assign("visible", exists)
        self.comment("mask")
        mask = kernel.arranged(self.stage.mask)
        return kernel.assign("visible", infix("&", Binding.AND, exists, mask))

    def present(self, kind: Kind, tile: KeyTile) -> str:
        """Where nothing but tokens past the end is hidden, zeros have nothing to leak."""
        return tile.exists if kind is Kind.PARTIAL and self.stage.mask == TRUE else ""

    def masked(self, expression: Expression, visible: Value | None) -> str:
        """A float of every pair, 0 where it is hidden."""
        value = spread_to_tile(self.kernel, self.kernel.value(expression))
        if visible is None:
            return value.text
        return f"tl.where({spread(visible, 'mn').text}, {value.text}, 0.0)"


def precision_of(kernel: Kernel) -> str:
    """Single precision stays single precision: no rounding to tf32 behind the user's back."""
    is_single = kernel.specialization.dtype is DType.FLOAT32
    return ', input_precision="ieee"' if is_single else ""
