"""The kernel of an `Attend` stage: one program a (batch, head, block of queries)."""

from __future__ import annotations

from dataclasses import dataclass, field

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.program import DType
from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START
from attndsl.codegen.triton.block_loops import BlockLoops
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.kernel import Kernel, pointer_to
from attndsl.codegen.triton.normalizers import (
    ElementwiseRows,
    Rows,
    SoftmaxRows,
    uses_scale,
)
from attndsl.codegen.triton.repair import (
    REPAIRED_KEYS,
    WeightedTile,
    write_product_of_visible,
    write_test,
)
from attndsl.codegen.triton.tokens import (
    TRITON_TYPES,
    Chunk,
    Tokens,
    chunks_of,
    elements,
    head_of,
    load,
    tokens,
)
from attndsl.codegen.triton.values import Binding, Value, infix
from attndsl.diagnostics import InternalError
from attndsl.expression import TRUE, DotResult, Index, Scale, Size
from attndsl.planner.block_map import Kind
from attndsl.planner.plan import Attend, Source


@dataclass(frozen=True)
class KeyTile:
    """`start` names the first key of a tile, `lanes` those that follow, and `lane` the same without
    what lies past the last key; `loaded` what was read of it.

    `present` is a condition for keys that are read; others are taken to be zero.
    """

    start: str
    lanes: str
    lane: str
    present: str = ""
    loaded: dict[tuple[str, Chunk], str] = field(default_factory=dict)


class AttendWriter:
    """Writes one stage into a kernel. `comments` are the spec's own words for score and mask."""

    def __init__(
        self,
        kernel: Kernel,
        stage: Attend,
        *,
        log_sum_exp: bool,
        block_n: int,
        comments: dict[str, str],
    ):
        self.kernel = kernel
        self.stage = stage
        self.modulus = 1
        if stage.residue is not None:
            self.modulus = integer(stage.residue, kernel.specialization)
        self.first_row = self.first_key = ""
        self.writes_log_sum_exp = log_sum_exp
        self.comments = comments
        self.repaired_keys = min(REPAIRED_KEYS, block_n)
        self.queries: dict[tuple[str, Chunk], str] = {}
        self.sources: dict[tuple[str, bool], Tokens] = {}
        self.value_chunks = chunks_of(stage.value, kernel)

    def write(self) -> None:
        """The whole body of the kernel."""
        self._write_program()
        rows = self._rows()
        self._load_queries(rows)
        self._find_keys()
        rows.begin(self.value_chunks)
        self._write_loops(rows)
        self._write_result(rows)

    def _write_loops(self, rows: Rows) -> None:
        """PARTIAL blocks first: what leaks from hidden values is then repaired among few blocks."""
        loops = BlockLoops(self.kernel, self.stage.block_map)

        def absorb(kind: Kind, key_block: str) -> None:
            self._absorb_tile(rows, kind, key_block)

        if loops.has(Kind.PARTIAL):
            self.kernel.line("# Blocks in which the mask decides pair by pair.")
            loops.write(Kind.PARTIAL, absorb)
            if self.stage.mask != TRUE:
                self._write_repair(rows, loops)
        if loops.has(Kind.FULL):
            self.kernel.line("# Blocks in which every pair is visible.")
            loops.write(Kind.FULL, absorb)

    def _write_repair(self, rows: Rows, loops: BlockLoops) -> None:
        kernel, keys = self.kernel, self.repaired_keys
        kernel.line("# A hidden value that is not finite has spoiled the sums: 0 · NaN is NaN.")
        condition = write_test(kernel, rows.state.accumulators)

        def add_visible(kind: Kind, key_block: str) -> None:
            header = f"for {{}} in tl.range(0, BLOCK_N, {keys}, num_stages=1):"
            with kernel.loop("first", header) as first:
                start = f"{key_block} * BLOCK_N + {first}"
                self._add_visible(rows, self._begin_tile(Kind.PARTIAL, start, lanes.text))

        with kernel.inside(f"if {condition}:"):
            lanes = kernel.assign("few_lanes", Value(f"tl.arange(0, {keys})", "n"))
            with kernel.other_lanes(KEY_LANE, lanes, str(keys)):
                rows.begin_again(self.value_chunks)
                loops.write(Kind.PARTIAL, add_visible, pipelined=False)

    def _rows(self) -> Rows:
        match self.stage.normalizer:
            case Softmax() as softmax:
                return SoftmaxRows(self.kernel, softmax, self.stage.score)
            case Elementwise() as elementwise:
                return ElementwiseRows(self.kernel, elementwise, self.stage.score)
        raise InternalError(f"no tile loop for {type(self.stage.normalizer).__name__}")

    def _write_program(self) -> None:
        """Which batch, head and rows this program has, and the positions of its rows."""
        kernel = self.kernel
        heads = kernel.size("H")
        blocks = kernel.assign("query_blocks", Value(f"tl.cdiv({self._longest()}, BLOCK_M)")).text
        program = kernel.assign("program", Value("tl.program_id(0)")).text
        kernel.line("# The last queries come first: under a causal mask they take longest.")
        block = kernel.assign("query_block", Value(f"{blocks} - 1 - {program} % {blocks}")).text
        number = f"{program} // {blocks}"
        if self.modulus != 1:
            number = kernel.assign("number", Value(number)).text
            residue = kernel.assign("residue", Value(f"{number} % {self.modulus}"))
            kernel.define(Index("residue"), residue)
            number = f"{number} // {self.modulus}"
        head = kernel.assign("h", Value(f"{number} % {heads}"))
        batch = kernel.assign("b", Value(f"{number} // {heads}"))
        kernel.define(Index("b"), batch)
        kernel.define(Index("h"), head)
        kernel.define(Index("Q"), Value(block))
        kernel.define(Index("query_blocks"), Value(blocks))
        define_group(kernel)
        self._write_rows(block)

    def _longest(self) -> str:
        """The number of rows of the longest residue class."""
        length = self.kernel.size("Lq")
        return length if self.modulus == 1 else f"tl.cdiv({length}, {self.modulus})"

    def _write_rows(self, block: str) -> None:
        kernel, modulus = self.kernel, self.modulus
        length, key_length, offset = (kernel.size(name) for name in ("Lq", "Lk", "offset"))
        if modulus != 1:
            kernel.helpers.add("floor_modulo")
            residue = kernel.value(Index("residue")).text
            kernel.line(
                f"# Positions of class r are r + {modulus} * i, and so are those of its keys."
            )
            first = f"floor_modulo({residue} - {offset}, {modulus})"
            self.first_row = kernel.assign("first_row", Value(first)).text
            self.first_key = residue
            length = self._class_length("row_count", length, self.first_row)
            key_length = self._class_length("key_count", key_length, residue)
            kernel.helpers.add("floor_divide")
            shifted = f"floor_divide({self.first_row} + {offset} - {residue}, {modulus})"
            offset = kernel.assign("class_offset", Value(shifted)).text
            kernel.define(Size("local.Lq"), Value(length))
            kernel.define(Size("local.Lk"), Value(key_length))
            kernel.define(Size("local.offset"), Value(offset))
        self.length, self.key_length = length, key_length
        start = kernel.assign("query_start", Value(f"{block} * BLOCK_M")).text
        if modulus != 1:
            with kernel.inside(f"if {start} >= {length}:"):
                kernel.line("return")
        kernel.line("# Lanes past the last query repeat it; they are not stored.")
        bounded = f"tl.minimum(tl.arange(0, BLOCK_M), {length} - 1 - {start})"
        lane = kernel.assign("row_lane", Value(bounded, "m")).text
        self.query_start, self.row_lane = start, lane
        positions = Value(f"{start} + {lane} + {offset}", "m", Binding.SUM)
        kernel.define_lazily(Index("row"), "row", Value(f"{start} + {lane}", "m", Binding.SUM))
        kernel.define_lazily(Index("i"), "i", positions)
        kernel.define_lazily(Index("i_first"), "i_first", Value(f"{start} + {offset}"))
        last = f"tl.minimum({start} + BLOCK_M, {length}) - 1 + {offset}"
        kernel.define_lazily(Index("i_last"), "i_last", Value(last))

    def _class_length(self, wanted: str, length: str, first: str) -> str:
        """How many of `length` tokens are congruent to `first`."""
        count = f"tl.maximum({length} - {first} + {self.modulus - 1}, 0) // {self.modulus}"
        return self.kernel.assign(wanted, Value(count)).text

    def _source(self, name: str, key_side: bool) -> Tokens:
        key = (name, key_side)
        if key not in self.sources:
            head = head_of(self.kernel, name, key_side)
            first = self.first_key if key_side else self.first_row
            self.sources[key] = tokens(self.kernel, name, head, first, self.modulus)
        return self.sources[key]

    def _load_queries(self, rows: Rows) -> None:
        kernel = self.kernel
        for dot in self.stage.dots:
            source = self._source(dot.query.name, False)
            for chunk in chunks_of(dot.query, kernel):
                if (dot.query.name, chunk) in self.queries:
                    continue
                pointer = source.tile_pointer(self.query_start)
                tile = load(kernel, source, pointer, self.row_lane, chunk, "queries")
                self.queries[dot.query.name, chunk] = tile.text
        if rows.scaled_maximum and uses_scale(self.stage.score):
            scale = kernel.value(Scale()).text
            kernel.line("# The scale's sign moves into the queries: a positive scale keeps maxima.")
            for tile_name in self.queries.values():
                sign = f"tl.where({scale} < 0.0, -1.0, 1.0).to({tile_name}.dtype)"
                kernel.line(f"{tile_name} = {tile_name} * {sign}")
            kernel.define(Scale(), kernel.assign("positive_scale", Value(f"tl.abs({scale})")))
        for name, vector in self.stage.vectors:
            if name == "q":
                self._define_rows("q", vector, self.query_start, self.row_lane, "m")

    def _define_rows(self, operand: str, vector: Source, first: str, lanes: str, axis: str) -> None:
        """Pointers to the tokens of an operand that pair-wise arithmetic reads."""
        source = self._source(vector.name, operand != "q")
        start = self.kernel.value(vector.start).text
        shift = f" + {start}" if start != "0" else ""
        text = f"{source.tile_pointer(first)} + {lanes} * {source.local_stride}{shift}"
        self.kernel.define_lazily(
            pointer_to(operand), f"{operand}_rows", Value(text, axis, Binding.SUM)
        )

    def _find_keys(self) -> None:
        """Addresses of keys and values, before any loop."""
        for dot in self.stage.dots:
            self._source(dot.key.name, True)
        for name, vector in self.stage.vectors:
            if name != "q":
                self._source(vector.name, True)
        self._source(self.stage.value.name, True)
        lanes = self.kernel.assign("key_lanes", Value("tl.arange(0, BLOCK_N)", "n"))
        self.key_lanes = lanes.text
        self.kernel.define(KEY_LANE, lanes)

    def _absorb_tile(self, rows: Rows, kind: Kind, key_block: str) -> None:
        """Scores of one tile, and what they add to the rows."""
        tile = self._begin_tile(kind, f"{key_block} * BLOCK_N", self.key_lanes)
        visible = self._visible(tile) if kind is Kind.PARTIAL else None
        self._comment("score")
        weights, rescale = rows.absorb(visible)
        self._accumulate(rows, weights, rescale, tile)

    def _add_visible(self, rows: Rows, tile: KeyTile) -> None:
        """What the visible pairs of a tile add to the accumulators alone."""
        kernel = self.kernel
        visible = self._visible(tile)
        weights, keys = rows.weigh_again(visible), self.repaired_keys
        weighted = WeightedTile(weights, visible, tile.start, tile.lanes, keys)
        source = self._source(self.stage.value.name, True)
        accumulators = [
            (name, chunk, elements(kernel, chunk))
            for name, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True)
        ]
        write_product_of_visible(kernel, weighted, source, self.key_length, accumulators)

    def _begin_tile(self, kind: Kind, first: str, lanes: str) -> KeyTile:
        """Positions of a tile's keys, and the products that its scores are made of."""
        kernel = self.kernel
        start = kernel.assign("key_start", Value(first)).text
        kernel.define(KEY_START, Value(start))
        lane, present = lanes, ""
        if kind is Kind.PARTIAL:
            if self.stage.mask == TRUE:
                # Nothing but keys past the end is hidden; zeros have nothing to leak.
                present = self._exists(start, lanes)
            bounded = f"tl.minimum({lanes}, {self.key_length} - 1 - {start})"
            lane = kernel.assign("key_lane", Value(bounded, "n")).text
        kernel.define_lazily(Index("j"), "j", Value(f"{start} + {lane}", "n", Binding.SUM))
        for name, vector in self.stage.vectors:
            if name != "q":
                self._define_rows(name, vector, start, lane, "n")
        tile = KeyTile(start, lanes, lane, present)
        self._write_dots(tile)
        return tile

    def _comment(self, what: str) -> None:
        if what in self.comments:
            self.kernel.line(f"# {self.comments[what]}")

    def _load_keys(self, source: Source, chunk: Chunk, tile: KeyTile, wanted: str) -> str:
        """The name of a chunk of the tile's keys or values."""
        key = (source.name, chunk)
        if key not in tile.loaded:
            where = self._source(source.name, True)
            pointer = where.tile_pointer(tile.start)
            tile.loaded[key] = load(
                self.kernel, where, pointer, tile.lane, chunk, wanted, tile.present
            ).text
        return tile.loaded[key]

    def _write_dots(self, tile: KeyTile) -> None:
        kernel = self.kernel
        precision = precision_option(kernel.specialization.dtype)
        for number, dot in enumerate(self.stage.dots):
            pairs = zip(chunks_of(dot.query, kernel), chunks_of(dot.key, kernel), strict=True)
            name = ""
            for query_chunk, key_chunk in pairs:
                query = self.queries[dot.query.name, query_chunk]
                key = self._load_keys(dot.key, key_chunk, tile, "keys")
                if not name:
                    product = f"tl.dot({query}, {key}.T{precision})"
                    name = kernel.assign("dots", Value(product, "mn")).text
                else:
                    kernel.line(f"{name} = tl.dot({query}, {key}.T, {name}{precision})")
            kernel.define(DotResult(number), Value(name, "mn"))

    def _visible(self, tile: KeyTile) -> Value:
        """Which pairs of the tile count: the mask, and that the key exists."""
        kernel = self.kernel
        exists = Value(self._exists(tile.start, tile.lanes), "n", Binding.COMPARE)
        if self.stage.mask == TRUE:
            return kernel.assign("visible", exists)
        self._comment("mask")
        mask = kernel.arranged(self.stage.mask)
        return kernel.assign("visible", infix("&", Binding.AND, exists, mask))

    def _exists(self, start: str, lanes: str) -> str:
        """The condition for lanes of the tile that are keys."""
        return f"{lanes} < {self.key_length} - {start}"

    def _accumulate(self, rows: Rows, weights: str, rescale: str, tile: KeyTile) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        precision = precision_option(dtype)
        if dtype is not DType.FLOAT32:
            weights = f"{weights}.to({TRITON_TYPES[dtype]})"
        if rescale:
            for output in rows.state.accumulators:
                kernel.line(f"{output} = {output} * {rescale}[:, None]")
        for output, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True):
            values = self._load_keys(self.stage.value, chunk, tile, "values")
            kernel.line(f"{output} = tl.dot({weights}, {values}, {output}{precision})")

    def _write_result(self, rows: Rows) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        kernel.line("")
        rows.finish()
        exists = kernel.assign(
            "row_exists",
            Value(f"tl.arange(0, BLOCK_M) < {self.length} - {self.query_start}"),
        ).text
        name, element_type = "out", TRITON_TYPES[dtype]
        if self.stage.partial is not None:
            name, element_type = self.stage.partial.output.name, "tl.float32"
        out = tokens(kernel, name, "h", self.first_row, self.modulus)
        tile = kernel.assign("out_tile", Value(out.tile_pointer(self.query_start))).text
        for output, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True):
            lanes = f"tl.arange(0, {chunk.width})"
            element = f"{chunk.start} + {lanes}" if chunk.start else lanes
            address = (
                f"{tile} + ({self.row_lane}[:, None] * {out.local_stride} + ({element})[None, :])"
            )
            mask = f"{exists}[:, None]"
            if chunk.used != chunk.width:
                mask = f"{mask} & ({lanes} < {chunk.used})[None, :]"
            kernel.line(f"tl.store({address}, {output}.to({element_type}), mask={mask})")
        if self.writes_log_sum_exp:
            self._write_log_sum_exp(rows, exists)

    def _write_log_sum_exp(self, rows: Rows, exists: str) -> None:
        kernel = self.kernel
        statistic = rows.log_sum_exp()
        if statistic is None:
            return
        row = f"{self.query_start} + {self.row_lane}"
        if self.modulus != 1:
            row = f"{self.first_row} + ({row}) * {self.modulus}"
        if self.stage.partial is None:
            target = kernel.tensor("log_sum_exp", "fp32")
            batch, head = kernel.stride("log_sum_exp", 0), kernel.stride("log_sum_exp", 1)
            pointer = f"{target} + b * {batch} + h * {head} + {row}"
        else:
            target = kernel.tensor(self.stage.partial.log_sum_exp.name, "fp32")
            line = f"tl.cast(b * {kernel.size('H')} + h, tl.int64) * {kernel.size('Lq')}"
            pointer = f"{target} + {line} + {row}"
        kernel.line(f"tl.store({pointer}, {statistic}, mask={exists})")


def define_group(kernel: Kernel) -> None:
    """`g`, the key head of query head `h`."""
    heads, groups = kernel.size("H"), kernel.size("Hkv")
    kernel.define_lazily(Index("g"), "g", Value(f"h // ({heads} // {groups})"))


def precision_option(dtype: DType) -> str:
    """Single precision stays single precision: no rounding to tf32 behind the user's back."""
    return ', input_precision="ieee"' if dtype is DType.FLOAT32 else ""
