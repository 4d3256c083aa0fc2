"""The kernel of a `PairSums` stage: one program a (batch, head, tile of tokens of one side).

Lanes `m` are the tile's tokens, queries or keys, and lanes `n` those of the other side, block by
block: so the values of pairs lie as their products with the other side's vectors need them, and
the sums of a token stay in registers until they are stored. No two programs write to one place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attndsl.codegen.program import DType, Tile
from attndsl.codegen.triton.arrange import arrange
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.pair_tiles import PairTiles, precision_of
from attndsl.codegen.triton.places import Block, KeyTile
from attndsl.codegen.triton.repair import (
    WeightedTile,
    write_product_of_visible,
    write_test,
)
from attndsl.codegen.triton.scalarize import add, element
from attndsl.codegen.triton.tokens import (
    TRITON_TYPES,
    Chunk,
    chunks,
    chunks_of,
    elements,
    tokens,
)
from attndsl.codegen.triton.values import Value
from attndsl.expression import (
    TRUE,
    Expression,
    Index,
    Literal,
    Scalar,
)
from attndsl.planner.block_map import Kind
from attndsl.planner.plan import PairSum, PairSums, Source
from attndsl.planner.simplify import simplify

# The fewest that matrix products take: several sums wait in registers beside what is repaired.
_REPAIRED_TOKENS = 16


@dataclass(frozen=True)
class Accumulator:
    """Some of the elements of one sum. A sum of floats has one, without a chunk."""

    name: str
    chunk: Chunk | None


class PairSumsWriter:
    """Writes a stage that sums up for the tokens of its tiles."""

    def __init__(self, kernel: Kernel, stage: PairSums, *, tile: Tile, comments: dict[str, str]):
        self.kernel, self.stage = kernel, stage
        self.tiles = PairTiles(kernel, stage, tile=tile, comments=comments)
        self.places = self.tiles.places
        self.few_tokens = min(_REPAIRED_TOKENS, tile.block_n)
        self.sums: list[tuple[PairSum, tuple[Accumulator, ...]]] = []

    def write(self) -> None:
        """The whole body of the kernel."""
        self.places.write_program()
        self.tiles.load_own()
        self.tiles.find_own()
        self.tiles.find_other()
        self._begin()
        self._write_loops()
        self._write_results()

    def _begin(self) -> None:
        """Sums of nothing."""
        for one in self.stage.sums:
            self.kernel.tensor(one.buffer.name, "fp32")  # which has the first claim to its name
            stem = f"{one.buffer.name.removesuffix('_by_head')}_here"
            found = []
            for chunk in self._chunks(one):
                name = self.kernel.assign(stem, Value(_zeros(chunk))).text
                found.append(Accumulator(name, chunk))
            self.sums.append((one, tuple(found)))

    def _chunks(self, one: PairSum) -> tuple[Chunk | None, ...]:
        if len(one.buffer.dimensions) == 3:
            return (None,)
        return chunks(0, integer(one.buffer.dimensions[3], self.kernel.specialization))

    def _write_loops(self) -> None:
        """PARTIAL blocks first: what leaks from hidden vectors is then repaired among few."""
        places = self.places

        def absorb(kind: Kind, block: Block) -> None:
            tile = places.begin_tile(kind, block)
            present = self.tiles.present(kind, tile)
            self.tiles.write_products(tile, present)
            visible = self.tiles.visible(tile) if kind is Kind.PARTIAL else None
            self._add_tile(tile, visible, present)

        if places.has(Kind.PARTIAL):
            self.kernel.line("# Blocks in which the mask decides pair by pair.")
            places.write_loop(Kind.PARTIAL, absorb)
            if self.stage.mask != TRUE:
                self._write_repair()
        if places.has(Kind.FULL):
            self.kernel.line("# Blocks in which every pair is visible.")
            places.write_loop(Kind.FULL, absorb)

    def _add_tile(self, tile: KeyTile, visible: Value | None, present: str) -> None:
        values = self._name_values(self.stage.sums, visible)
        for one, accumulators in self.sums:
            for value, source in one.terms:
                if source is None:
                    self._add_values(value, values.get(value, ""), accumulators, visible)
                else:
                    self._add_product(values[value], source, accumulators, tile, present)

    def _name_values(self, sums: Iterable[PairSum], visible: Value | None) -> dict[Expression, str]:
        """The values in sums that are floats, each computed once, 0 where pairs are hidden."""
        kernel = self.kernel
        values: dict[Expression, str] = {}
        wanted: dict[Expression, str] = {}
        for one in sums:
            for value, source in one.terms:
                if isinstance(value.type, Scalar):
                    wanted.setdefault(value, _called(source))
        arranged = {value: arrange(value, kernel.axes_of) for value in wanted}
        kernel.share(arranged.values())
        for value, name in wanted.items():
            text = self.tiles.masked(arranged[value], visible)
            if not text.isidentifier():
                text = kernel.assign(name, Value(text, "mn")).text
            values[value] = text
        return values

    def _add_values(
        self,
        value: Expression,
        name: str,
        accumulators: tuple[Accumulator, ...],
        visible: Value | None,
    ) -> None:
        """What pairs add by themselves: a float, or a vector element by element."""
        kernel = self.kernel
        if name:
            (accumulator,) = accumulators
            kernel.line(f"{accumulator.name} += tl.sum({name}, 1)")
            return
        for accumulator in accumulators:
            chunk = accumulator.chunk
            assert chunk is not None
            with kernel.loop("number", f"for {{}} in range({chunk.used}):") as number:
                index = Index(f"element {number}")
                kernel.define(index, Value(number))
                one = simplify(element(value, add(index, Literal(chunk.start))))
                one = arrange(one, kernel.axes_of)
                kernel.share([one])
                part = f"tl.sum({self.tiles.masked(one, visible)}, 1)"
                part = kernel.assign("part", Value(part)).text
                chosen = f"(tl.arange(0, {chunk.width}) == {number})[None, :]"
                kernel.line(f"{accumulator.name} += tl.where({chosen}, {part}[:, None], 0.0)")

    def _add_product(
        self,
        values: str,
        source: Source,
        accumulators: tuple[Accumulator, ...],
        tile: KeyTile,
        present: str,
    ) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        precision = precision_of(kernel)
        in_float32 = dtype is DType.FLOAT16 and source.name != "out.gradient"
        if in_float32:
            # Gradients of scores have no bounds that half precision keeps; its digits suffice.
            precision = ', input_precision="tf32"'
        elif dtype is not DType.FLOAT32:
            values = f"{values}.to({TRITON_TYPES[dtype]})"
        for accumulator, chunk in zip(accumulators, chunks_of(source, kernel), strict=True):
            vectors = self.tiles.load_other(source, chunk, tile, present)
            if in_float32:
                vectors = f"{vectors}.to(tl.float32)"
            name = accumulator.name
            kernel.line(f"{name} = tl.dot({values}, {vectors}, {name}{precision})")

    # Vectors that are not finite -------------------------------------------------------------

    def _write_repair(self) -> None:
        """One sum after another, so that no more than the others' accumulators wait meanwhile."""
        for one, accumulators in self.sums:
            if any(source is not None for _, source in one.terms):
                self._repair(one, accumulators)

    def _repair(self, one: PairSum, accumulators: tuple[Accumulator, ...]) -> None:
        kernel, places, few = self.kernel, self.places, self.few_tokens
        kernel.line("# A hidden vector that is not finite has spoiled a sum: 0 · NaN is NaN.")
        condition = write_test(kernel, [accumulator.name for accumulator in accumulators])

        def add_visible(kind: Kind, block: Block) -> None:
            header = f"for {{}} in tl.range(0, BLOCK_N, {few}, num_stages=1):"
            with kernel.loop("first", header) as first:
                tile = places.begin_few(block, first)
                self._add_visible(one, accumulators, tile, first, lanes.text)

        with kernel.inside(f"if {condition}:"), places.few_keys(few) as lanes:
            for accumulator in accumulators:
                kernel.line(f"{accumulator.name} = {_zeros(accumulator.chunk)}")
            places.write_loop(Kind.PARTIAL, add_visible, pipelined=False)

    def _add_visible(
        self,
        one: PairSum,
        accumulators: tuple[Accumulator, ...],
        tile: KeyTile,
        first: str,
        lanes: str,
    ) -> None:
        """What the visible pairs of few tokens, from a block's token number `first` on, add to a
        sum; `lanes` counts these tokens."""
        kernel, places = self.kernel, self.places
        self.tiles.write_products(tile, "")
        visible = self.tiles.visible(tile)
        values = self._name_values((one,), visible)
        for value, source in one.terms:
            if source is None:
                self._add_values(value, values.get(value, ""), accumulators, visible)
                continue
            weighted = WeightedTile(
                values[value],
                visible,
                lanes,
                places.key_count(tile, first, self.few_tokens),
                lambda token: places.key_number(tile, first, token),
            )
            parts = [
                (accumulator.name, chunk, elements(kernel, chunk))
                for accumulator, chunk in zip(accumulators, chunks_of(source, kernel), strict=True)
            ]
            where = self.tiles.source(source.name, own=False)
            write_product_of_visible(kernel, weighted, where, parts)

    # The end ---------------------------------------------------------------------------------

    def _write_results(self) -> None:
        kernel, places = self.kernel, self.places
        kernel.line("")
        exists = kernel.assign("token_exists", Value(places.row_exists())).text
        first = places.first_key if self.tiles.of_keys else places.first_row
        for one, accumulators in self.sums:
            out = tokens(kernel, one.buffer.name, "h", first, places.step)
            start = kernel.assign("sums", Value(out.tile_pointer(places.query_start))).text
            for accumulator in accumulators:
                chunk = accumulator.chunk
                if chunk is None:
                    address = f"{start} + {places.row_lane} * {out.local_stride}"
                    kernel.line(f"tl.store({address}, {accumulator.name}, mask={exists})")
                    continue
                lanes = f"tl.arange(0, {chunk.width})"
                element_of = f"{chunk.start} + {lanes}" if chunk.start else lanes
                there = f"{places.row_lane}[:, None] * {out.local_stride}"
                mask = f"{exists}[:, None]"
                if chunk.used != chunk.width:
                    mask = f"{mask} & ({lanes} < {chunk.used})[None, :]"
                address = f"{start} + ({there} + ({element_of})[None, :])"
                kernel.line(f"tl.store({address}, {accumulator.name}, mask={mask})")


def _zeros(chunk: Chunk | None) -> str:
    width = "" if chunk is None else f", {chunk.width}"
    return f"tl.zeros([BLOCK_M{width}], tl.float32)"


def _called(source: Source | None) -> str:
    """What the values are called that are multiplied by a vector."""
    if source is None:
        return "summands"
    return "weights" if source.name == "out.gradient" else "score_gradients"
