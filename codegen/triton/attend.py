"""The kernel of an `Attend` stage: one program a (batch, head, block of queries)."""

from __future__ import annotations

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.program import DType, Tile
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.normalizers import (
    ElementwiseRows,
    Rows,
    SoftmaxRows,
    uses_scale,
)
from attndsl.codegen.triton.pair_tiles import PairTiles, precision_of
from attndsl.codegen.triton.places import Block, KeyTile
from attndsl.codegen.triton.repair import (
    REPAIRED_KEYS,
    WeightedTile,
    write_product_of_visible,
    write_test,
)
from attndsl.codegen.triton.sequences import begin
from attndsl.codegen.triton.tokens import (
    TRITON_TYPES,
    chunks_of,
    elements,
    first_of_head,
    tokens,
)
from attndsl.codegen.triton.values import Value
from attndsl.diagnostics import InternalError
from attndsl.expression import TRUE, Scale
from attndsl.planner.block_map import Kind
from attndsl.planner.plan import Attend


class AttendWriter:
    """Writes one stage into a kernel. `comments` are the spec's own words for score and mask."""

    def __init__(
        self,
        kernel: Kernel,
        stage: Attend,
        *,
        tile: Tile,
        log_sum_exp: bool,
        comments: dict[str, str],
    ):
        self.kernel = kernel
        self.stage = stage
        self.tiles = PairTiles(kernel, stage, tile=tile, comments=comments)
        self.places = self.tiles.places
        self.writes_log_sum_exp = log_sum_exp
        self.repaired_keys = min(REPAIRED_KEYS, tile.block_n)
        self.value_chunks = chunks_of(stage.value, kernel)

    def write(self) -> None:
        """The whole body of the kernel."""
        self.places.write_program()
        rows = self._rows()
        self._load_queries(rows)
        self.tiles.find_other()
        rows.begin(self.value_chunks)
        self._write_loops(rows)
        self._write_result(rows)

    def _write_loops(self, rows: Rows) -> None:
        """PARTIAL blocks first: what leaks from hidden values is then repaired among few blocks."""
        places = self.places

        def absorb(kind: Kind, block: Block) -> None:
            self._absorb_tile(rows, kind, places.begin_tile(kind, block))

        if places.has(Kind.PARTIAL):
            self.kernel.line("# Blocks in which the mask decides pair by pair.")
            places.write_loop(Kind.PARTIAL, absorb)
            if self.stage.mask != TRUE:
                self._write_repair(rows)
        if places.has(Kind.FULL):
            self.kernel.line("# Blocks in which every pair is visible.")
            places.write_loop(Kind.FULL, absorb)

    def _write_repair(self, rows: Rows) -> None:
        kernel, places, keys = self.kernel, self.places, self.repaired_keys
        kernel.line("# A hidden value that is not finite has spoiled the sums: 0 · NaN is NaN.")
        condition = write_test(kernel, rows.state.accumulators)

        def add_visible(kind: Kind, block: Block) -> None:
            header = f"for {{}} in tl.range(0, BLOCK_N, {keys}, num_stages=1):"
            with kernel.loop("first", header) as first:
                self._add_visible(rows, places.begin_few(block, first), first, few.text)

        with kernel.inside(f"if {condition}:"), places.few_keys(keys) as few:
            rows.begin_again(self.value_chunks)
            places.write_loop(Kind.PARTIAL, add_visible, pipelined=False)

    def _rows(self) -> Rows:
        match self.stage.normalizer:
            case Softmax() as softmax:
                return SoftmaxRows(self.kernel, softmax, self.stage.score)
            case Elementwise() as elementwise:
                return ElementwiseRows(self.kernel, elementwise, self.stage.score)
        raise InternalError(f"no tile loop for {type(self.stage.normalizer).__name__}")

    def _load_queries(self, rows: Rows) -> None:
        kernel = self.kernel
        self.tiles.load_own()
        if rows.scaled_maximum and uses_scale(self.stage.score):
            scale = kernel.value(Scale()).text
            kernel.line("# The scale's sign moves into the queries: a positive scale keeps maxima.")
            for tile_name in self.tiles.own.values():
                sign = f"tl.where({scale} < 0.0, -1.0, 1.0).to({tile_name}.dtype)"
                kernel.line(f"{tile_name} = {tile_name} * {sign}")
            kernel.define(Scale(), kernel.assign("positive_scale", Value(f"tl.abs({scale})")))
        self.tiles.find_own()

    def _absorb_tile(self, rows: Rows, kind: Kind, tile: KeyTile) -> None:
        """Scores of one tile, and what they add to the rows."""
        present = self.tiles.present(kind, tile)
        self.tiles.write_products(tile, present)
        visible = self.tiles.visible(tile) if kind is Kind.PARTIAL else None
        self.tiles.comment("score")
        weights, rescale = rows.absorb(visible)
        weights = self._dropped(weights)
        self._accumulate(rows, weights, rescale, tile, present)

    def _add_visible(self, rows: Rows, tile: KeyTile, first: str, few: str) -> None:
        """What the visible pairs of few keys, from a block's key number `first` on, add to the
        accumulators alone; `few` counts these keys."""
        kernel, places = self.kernel, self.places
        self.tiles.write_products(tile, "")
        visible = self.tiles.visible(tile)
        weighted = WeightedTile(
            self._dropped(rows.weigh_again(visible)),
            visible,
            few,
            places.key_count(tile, first, self.repaired_keys),
            lambda key: places.key_number(tile, first, key),
        )
        source = self.tiles.source(self.stage.value.name, own=False)
        accumulators = [
            (name, chunk, elements(kernel, chunk))
            for name, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True)
        ]
        write_product_of_visible(kernel, weighted, source, accumulators)

    def _dropped(self, weights: str) -> str:
        """The name of the weights as they multiply values."""
        if self.stage.kept is None:
            return weights
        kernel = self.kernel
        kernel.line("# Dropout: what rows are divided by is summed up without it.")
        kept = kernel.assign("kept", kernel.value(self.stage.kept)).text
        return kernel.assign("weights_kept", Value(f"{weights} * {kept}")).text

    def _accumulate(
        self, rows: Rows, weights: str, rescale: str, tile: KeyTile, present: str
    ) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        precision = precision_of(kernel)
        if dtype is not DType.FLOAT32:
            weights = f"{weights}.to({TRITON_TYPES[dtype]})"
        if rescale:
            for output in rows.state.accumulators:
                kernel.line(f"{output} = {output} * {rescale}[:, None]")
        for output, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True):
            values = self.tiles.load_other(self.stage.value, chunk, tile, present, "values")
            kernel.line(f"{output} = tl.dot({weights}, {values}, {output}{precision})")

    def _write_result(self, rows: Rows) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        kernel.line("")
        rows.finish()
        exists = kernel.assign("row_exists", Value(self.places.row_exists())).text
        name, element_type = "out", TRITON_TYPES[dtype]
        if self.stage.partial is not None:
            name, element_type = self.stage.partial.output.name, "tl.float32"
        places = self.places
        out = tokens(kernel, name, "h", places.first_row, places.step)
        tile = kernel.assign("out_tile", Value(out.tile_pointer(places.query_start))).text
        rows_there = f"{places.row_lane}[:, None] * {out.local_stride}"
        for output, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True):
            lanes = f"tl.arange(0, {chunk.width})"
            element = f"{chunk.start} + {lanes}" if chunk.start else lanes
            address = f"{tile} + ({rows_there} + ({element})[None, :])"
            mask = f"{exists}[:, None]"
            if chunk.used != chunk.width:
                mask = f"{mask} & ({lanes} < {chunk.used})[None, :]"
            kernel.line(f"tl.store({address}, {output}.to({element_type}), mask={mask})")
        if self.writes_log_sum_exp:
            self._write_log_sum_exp(rows, exists)

    def _write_log_sum_exp(self, rows: Rows, exists: str) -> None:
        kernel = self.kernel
        statistic = rows.statistic()
        if statistic is None:
            return
        row = f"{self.places.query_start} + {self.places.row_lane}"
        if self.places.step != 1:
            row = f"{self.places.first_row} + ({row}) * {self.places.step}"
        if self.stage.partial is None:
            target = kernel.tensor("log_sum_exp", "fp32")
            if kernel.specialization.packed:
                pointer = f"{target} + h * {kernel.stride('log_sum_exp', 1)}"
                pointer = f"{pointer} + {begin(kernel, 'Lq')} + {row}"
            else:
                batch, head = kernel.stride("log_sum_exp", 0), kernel.stride("log_sum_exp", 1)
                pointer = f"{target} + b * {batch} + h * {head} + {row}"
        else:
            buffer = self.stage.partial.log_sum_exp
            target = kernel.tensor(buffer.name, "fp32")
            line = first_of_head(kernel, buffer.dimensions, "h").text
            pointer = f"{target} + {line} + {row}"
        kernel.line(f"tl.store({pointer}, {statistic}, mask={exists})")
