"""The kernel of an `Attend` stage: one program a (batch, head, block of queries)."""

from __future__ import annotations

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.program import DType
from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START
from attndsl.codegen.triton.block_loops import write_block_loops
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.kernel import Kernel, pointer_to
from attndsl.codegen.triton.normalizers import (
    ElementwiseRows,
    Rows,
    SoftmaxRows,
    uses_scale,
)
from attndsl.codegen.triton.tokens import (
    TRITON_TYPES,
    Chunk,
    Tokens,
    chunks_of,
    head_of,
    load,
    tokens,
)
from attndsl.codegen.triton.values import Binding, Value, infix
from attndsl.diagnostics import InternalError
from attndsl.expression import TRUE, DotResult, Index, Scale, Size
from attndsl.planner.block_map import Kind
from attndsl.planner.plan import Attend, Source


class AttendWriter:
    """Writes one stage into a kernel. `comments` are the spec's own words for score and mask."""

    def __init__(
        self,
        kernel: Kernel,
        stage: Attend,
        *,
        log_sum_exp: bool,
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
        write_block_loops(
            self.kernel,
            self.stage.block_map,
            lambda kind, key_block: self._write_tile(rows, kind, key_block),
        )
        self._write_result(rows)

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

    def _write_tile(self, rows: Rows, kind: Kind, key_block: str) -> None:
        """Scores of one tile, and what they add to the rows."""
        kernel = self.kernel
        start = kernel.assign("key_start", Value(f"{key_block} * BLOCK_N")).text
        kernel.define(KEY_START, Value(start))
        lane = self.key_lanes
        if kind is Kind.PARTIAL:
            bounded = f"tl.minimum({lane}, {self.key_length} - 1 - {start})"
            lane = kernel.assign("key_lane", Value(bounded, "n")).text
        kernel.define_lazily(Index("j"), "j", Value(f"{start} + {lane}", "n", Binding.SUM))
        for name, vector in self.stage.vectors:
            if name != "q":
                self._define_rows(name, vector, start, lane, "n")
        loaded: dict[tuple[str, Chunk], str] = {}
        self._write_dots(start, lane, loaded)
        visible = self._visible(start) if kind is Kind.PARTIAL else None
        if "score" in self.comments:
            kernel.line(f"# {self.comments['score']}")
        weights, rescale = rows.absorb(visible)
        self._accumulate(rows, weights, rescale, start, lane, loaded)

    def _key_tile(
        self,
        source: Source,
        chunk: Chunk,
        start: str,
        lane: str,
        wanted: str,
        loaded: dict[tuple[str, Chunk], str],
    ) -> str:
        key = (source.name, chunk)
        if key not in loaded:
            where = self._source(source.name, True)
            pointer = where.tile_pointer(start)
            loaded[key] = load(self.kernel, where, pointer, lane, chunk, wanted).text
        return loaded[key]

    def _write_dots(self, start: str, lane: str, loaded: dict[tuple[str, Chunk], str]) -> None:
        kernel = self.kernel
        precision = precision_option(kernel.specialization.dtype)
        for number, dot in enumerate(self.stage.dots):
            pairs = zip(chunks_of(dot.query, kernel), chunks_of(dot.key, kernel), strict=True)
            name = ""
            for query_chunk, key_chunk in pairs:
                query = self.queries[dot.query.name, query_chunk]
                key = self._key_tile(dot.key, key_chunk, start, lane, "keys", loaded)
                if not name:
                    product = f"tl.dot({query}, {key}.T{precision})"
                    name = kernel.assign("dots", Value(product, "mn")).text
                else:
                    kernel.line(f"{name} = tl.dot({query}, {key}.T, {name}{precision})")
            kernel.define(DotResult(number), Value(name, "mn"))

    def _visible(self, start: str) -> Value:
        """Which pairs of the tile count: the mask, and that the key exists."""
        kernel = self.kernel
        exists = Value(f"{self.key_lanes} < {self.key_length} - {start}", "n", Binding.COMPARE)
        if self.stage.mask == TRUE:
            return kernel.assign("visible", exists)
        if "mask" in self.comments:
            kernel.line(f"# {self.comments['mask']}")
        mask = kernel.arranged(self.stage.mask)
        return kernel.assign("visible", infix("&", Binding.AND, exists, mask))

    def _accumulate(
        self,
        rows: Rows,
        weights: str,
        rescale: str,
        start: str,
        lane: str,
        loaded: dict[tuple[str, Chunk], str],
    ) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        precision = precision_option(dtype)
        if dtype is not DType.FLOAT32:
            weights = f"{weights}.to({TRITON_TYPES[dtype]})"
        if rescale:
            for output in rows.state.accumulators:
                kernel.line(f"{output} = {output} * {rescale}[:, None]")
        for output, chunk in zip(rows.state.accumulators, self.value_chunks, strict=True):
            tile = self._key_tile(self.stage.value, chunk, start, lane, "values", loaded)
            kernel.line(f"{output} = tl.dot({weights}, {tile}, {output}{precision})")

    def _write_result(self, rows: Rows) -> None:
        kernel = self.kernel
        dtype = kernel.specialization.dtype
        kernel.line("")
        divisor = rows.finish()
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
            if divisor:
                kernel.line(f"{output} = {output} / {divisor}[:, None]")
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
