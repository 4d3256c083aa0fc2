"""The kernel over tiles of the score matrix: 64 queries side by side in vector lanes, 64 keys deep.

Scores are kept transposed, `[key][query]`, so that maximum, sum and rescaling are elementwise over
lanes and neither keys nor values need packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.cpp.bfloat16_products import (
    GatheredProducts,
    PackedProducts,
    has_bfloat16_form,
)
from attndsl.codegen.cpp.dropout import kept_tile
from attndsl.codegen.cpp.entry import write_entry
from attndsl.codegen.cpp.few import FewQueries, has_few_form
from attndsl.codegen.cpp.kernel import Kernel
from attndsl.codegen.cpp.normalizers import ElementwiseRows, Rows, SoftmaxRows
from attndsl.codegen.cpp.pairs import Pairs
from attndsl.codegen.cpp.products import FloatProducts, Products, scores
from attndsl.codegen.cpp.query_factor import fold_factors
from attndsl.codegen.cpp.reads import Array
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.program import Entry, Specialization, Tile
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import DotResult, ScoreValue
from attndsl.planner.plan import Attend, Plan


class AttendKernel:
    """Emits one `Attend` stage. `number` is the stage's place in the plan."""

    def __init__(
        self,
        plan: Plan,
        stage: Attend,
        number: int,
        specialization: Specialization,
        arrays: dict[str, Array],
        tile: Tile,
    ):
        self._stage, self._number = stage, number
        self._specialization = specialization
        self._alone = len(plan.attends) == 1
        frame = self._frame = TileFrame(plan, stage, specialization, arrays, tile)
        self._arguments, self._sources = frame.arguments, frame.sources
        self._expressions = frame.expressions
        self._expressions.spell(ScoreValue(), Text("score", Level.PAIR))
        is_softmax = isinstance(stage.normalizer, Softmax)
        self._factors = fold_factors(stage.score, len(stage.dots), is_softmax=is_softmax)
        self._products = self._products_of(arrays, tile)
        for dot in range(len(stage.dots)):
            self._expressions.spell(DotResult(dot), self._products.spelled(dot))
        kept = kept_tile(frame)
        self._rows = self._normalizer_rows("" if kept is None else f" * {kept.factor}")
        self._pairs = Pairs(stage, frame, self._factors, self._rows, kept)
        self._few: FewQueries | None = None
        if has_few_form(stage):
            partials = self._own_buffer("few_partials", arrays)
            self._few = FewQueries(
                plan, stage, specialization, arrays, self._arguments, self._factors, partials
            )

    def emit(self) -> Kernel:
        """The scratch block, the tile function and the entry point."""
        function = f"attend_{self._number}"
        tile, few, entry_point = (Writer(comment="//") for _ in range(3))
        self._write_tile(tile)
        if self._few is not None:
            self._few.write(few)
        write_entry(
            entry_point, function, self._frame.places, self._products, has_few=self._few is not None
        )
        w = Writer(comment="//")
        # Each of several kernels has a block of arguments and a tile function of its own.
        with nullcontext() if self._alone else w.block(f"namespace part_{self._number} {{", "}"):
            self._arguments.write_struct(w)
            w.blank()
            self._write_scratch(w)
            for part in (tile, few, entry_point):
                if not part.text().strip():
                    continue
                w.blank()
                w.line(part.text().rstrip())
        support = self._frame.support | self._products.support | self._rows.support
        buffers = self._products.buffers
        if self._few is not None:
            support |= self._few.support
            buffers = (*buffers, self._few.buffer)
        entry = Entry(self._number, function, self._arguments.collected)
        return Kernel(w.text(), entry, frozenset(support), buffers)

    def _products_of(self, arrays: dict[str, Array], tile: Tile) -> Products:
        shared = self._stage, self._sources, self._expressions, self._factors
        if has_bfloat16_form(self._stage, self._sources, tile):
            if self._sources.scattered_keys:
                return GatheredProducts(*shared)
            turned, finite = (
                self._own_buffer(stem, arrays) for stem in ("turned_values", "finite_values")
            )
            packed = tuple(
                self._own_buffer(f"packed_keys_{dot}", arrays)
                for dot in range(len(self._stage.dots))
            )
            return PackedProducts(*shared, turned, finite, packed, tile.block_n)
        return FloatProducts(*shared)

    def _own_buffer(self, stem: str, arrays: dict[str, Array]) -> str:
        """A name that no input, no buffer and no other kernel of the plan has."""
        part = "" if self._alone else f"part_{self._number}_"
        return next(name for name in _numbered(part + stem) if name not in arrays)

    def _normalizer_rows(self, kept: str) -> Rows:
        match self._stage.normalizer:
            case Softmax() as softmax:
                return SoftmaxRows(softmax, self._expressions, self._products.unit, kept)
            case Elementwise() as elementwise:
                return ElementwiseRows(elementwise, self._expressions, self._products.unit, kept)
        raise InternalError("the cpp target has no rule for this normaliser")

    # The scratch block -----------------------------------------------------------------------

    def _write_scratch(self, w: Writer) -> None:
        w.comment(
            "What one thread works on; rows of COLUMNS vectors hold one number for each query."
        )
        with w.block("struct alignas(64) AttendScratch {", "};"):
            for member in self._frame.places.members:
                w.line(member)
            self._products.write_members(w)
            for dot in range(max(1, len(self._stage.dots))):
                w.line(f"Floats {scores(dot)}[BLOCK_N * COLUMNS];")
            w.line("Floats output[Dv * COLUMNS];")
            for name in self._rows.members:
                w.line(f"Floats {name}[COLUMNS];")
            self._frame.write_vector_members(w)
            for member in self._pairs.members:
                w.line(member)

    # The tile --------------------------------------------------------------------------------

    def _write_tile(self, w: Writer) -> None:
        self._frame.write_tile(
            w,
            "attend_tile(const AttendArguments &arguments, AttendScratch &scratch",
            self._write_absorb,
            self._write_finish,
            self._write_rows,
        )

    def _write_rows(self, w: Writer, after: str) -> None:
        """What is computed once per tile: lane values, the query's elements, an empty state."""
        self._frame.write_lanes(w, after)
        self._products.write_queries(w)
        self._frame.write_vectors(w)
        w.line("for (Floats &element : scratch.output) element = Floats{};")
        self._rows.write_start(w)

    # One block of keys -----------------------------------------------------------------------

    def _write_absorb(self, w: Writer) -> None:
        w.comment("One block of keys. In a partial one the mask says which pairs count.")
        with w.block(f"const auto absorb = [&]({self._frame.places.absorb}) {{", "};"):
            w.line("[[maybe_unused]] constexpr bool partial = decltype(kind)::partial;")
            self._frame.places.write_block_start(w)
            before, after = Writer(comment="//"), Writer(comment="//")
            self._pairs.write(before, after)
            w.lines(*before.text().splitlines())
            self._products.write_dots(w)
            w.line(after.text().rstrip())
            self._products.write_accumulate(w, self._rows.factor)

    # The end of a tile -----------------------------------------------------------------------

    def _write_finish(self, w: Writer) -> None:
        partial = self._stage.partial
        self._rows.write_finish(w, self._statistics())
        name, dtype = "out", self._specialization.dtype.value
        if partial is not None:
            name, dtype = partial.output.name, "fp32"
        out = self._arguments.tensor(name, dtype, written=True)
        strides = [self._arguments.stride(name, axis) for axis in range(3)]
        base = f"{out} + b * {strides[0]} + h * {strides[1]}"
        if not self._sources.scattered_queries:
            base += f" + {self._sources.query_token} * {strides[2]}"
        w.line(
            f"store_columns<Dv>(scratch.output, {self._rows.final_factor}, {base}, "
            f"{self._frame.step}{strides[2]}, {self._sources.rows}, COLUMNS);"
        )

    def _statistics(self) -> str | None:
        """Where the log-sum-exp of the tile's lane `lane` goes, if it is wanted."""
        name = "log_sum_exp"
        if self._stage.partial is not None:
            name = self._stage.partial.log_sum_exp.name
        elif not self._specialization.log_sum_exp:
            return None
        pointer = self._arguments.tensor(name, "fp32", written=True)
        strides = [self._arguments.stride(name, axis) for axis in range(3)]
        row = f"({self._sources.query_token} + {self._frame.step}lane)"
        if self._sources.scattered_queries:
            row = "queries.rows[lane]"
        return f"{pointer}[b * {strides[0]} + h * {strides[1]} + {row} * {strides[2]}]"


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    for number in count(2):
        yield f"{stem}_{number}"
