"""The kernel over tiles of the score matrix: 64 queries side by side in vector lanes, 64 keys deep.

Scores are kept transposed, `[key][query]`, so that maximum, sum and rescaling are elementwise over
lanes and neither keys nor values need packing.
"""

from __future__ import annotations

from contextlib import nullcontext

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.block_loops import write_block_loops
from attndsl.codegen.cpp.constants import constant
from attndsl.codegen.cpp.entry import write_entry
from attndsl.codegen.cpp.expressions import Expressions, as_mask, as_vector
from attndsl.codegen.cpp.kernel import Kernel
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.normalizers import ElementwiseRows, Rows, SoftmaxRows
from attndsl.codegen.cpp.query_factor import QueryFactors, fold_factors
from attndsl.codegen.cpp.reads import Array, Reads
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.sources import Place, Sources
from attndsl.codegen.cpp.vectors import Vectors
from attndsl.codegen.program import Entry, Specialization
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    FLOAT,
    TRUE,
    DotResult,
    Expression,
    Index,
    ScoreValue,
    Size,
)
from attndsl.planner.plan import Attend, Plan, Source

_LEVELS = {
    "b": Level.UNIFORM,
    "h": Level.UNIFORM,
    "g": Level.UNIFORM,
    "residue": Level.UNIFORM,
    "i": Level.LANE,
    "row": Level.LANE,
    "j": Level.STEP,
    "i_first": Level.UNIFORM,
    "i_last": Level.UNIFORM,
}


class AttendKernel:
    """Emits one `Attend` stage. `number` is the stage's place in the plan."""

    def __init__(
        self,
        plan: Plan,
        stage: Attend,
        number: int,
        specialization: Specialization,
        arrays: dict[str, Array],
    ):
        self._plan, self._stage, self._number = plan, stage, number
        self._specialization = specialization
        self._arguments = Arguments("AttendArguments")
        self._residue = None if stage.residue is None else constant(stage.residue, specialization)
        self._sources = Sources(self._arguments, specialization, arrays, self._residue)
        self._reads = Reads(self._arguments, arrays, stages=True, residue=stage.residue is not None)
        # What the kernel asks for in any case, in this order.
        for name in ("B", "H", "Hkv", "Lq", "Lk", "offset", "threads"):
            self._arguments.size(name)
        scopes = {
            Level.UNIFORM: Scope("head"),
            Level.LANE: Scope("row", array=True),
            Level.STEP: Scope("key"),
            Level.PAIR: Scope("pair"),
        }
        self._factors: QueryFactors = fold_factors(stage)
        spelled: dict[Expression, Text] = {
            DotResult(dot): Text(f"scratch.{self._scores(dot)}[key * COLUMNS + column]", Level.PAIR)
            for dot in range(len(stage.dots))
        }
        spelled[Index("K")] = Text("block", Level.STEP)
        spelled[ScoreValue()] = Text("score", Level.PAIR)
        spelled |= {
            Size(f"local.{name}"): Text(f"class_{name}", Level.UNIFORM)
            for name in ("Lq", "Lk", "offset")
        }
        self._expressions = Expressions(
            self._arguments,
            self._reads,
            specialization,
            plan.attention.axes,
            _LEVELS,
            spelled,
            scopes,
            Vectors(
                {
                    "q": lambda d: Text(
                        f"scratch.query_vector[({d}) * COLUMNS + column]", Level.LANE
                    ),
                    "k": lambda d: Text(f"to_float(key_vector[{d}])", Level.STEP),
                    "v": lambda d: Text(f"to_float(value_vector[{d}])", Level.STEP),
                }
            ),
        )
        self._support = {"tile", "transpose", "guard"}
        self._rows = self._normalizer_rows()

    def emit(self) -> Kernel:
        """The scratch block, the tile function and the entry point."""
        tile = Writer(comment="//")
        self._write_tile(tile)
        w = Writer(comment="//")
        # Each of several kernels has a block of arguments and a tile function of its own.
        alone = len(self._plan.attends) == 1
        with nullcontext() if alone else w.block(f"namespace part_{self._number} {{", "}"):
            self._arguments.write_struct(w)
            w.blank()
            self._write_scratch(w)
            w.blank()
            w.line(tile.text().rstrip())
            w.blank()
            write_entry(w, f"attend_{self._number}", self._residue)
        support = (
            self._support
            | self._rows.support
            | self._expressions.used_support
            | self._sources.used_support
        )
        entry = Entry(self._number, f"attend_{self._number}", self._arguments.collected)
        return Kernel(w.text(), entry, frozenset(support))

    def _normalizer_rows(self) -> Rows:
        match self._stage.normalizer:
            case Softmax() as softmax:
                return SoftmaxRows(softmax, self._expressions, self._factors.in_powers_of_two)
            case Elementwise() as elementwise:
                return ElementwiseRows(elementwise, self._expressions)
        raise InternalError("the cpp target has no rule for this normaliser")

    def _scores(self, dot: int) -> str:
        return "scores" if dot == 0 else f"scores_{dot}"

    # The scratch block -----------------------------------------------------------------------

    def _write_scratch(self, w: Writer) -> None:
        sizes = [self._sources.size(dot.query) for dot in self._stage.dots]
        w.comment(
            "What one thread works on; rows of COLUMNS vectors hold one number for each query."
        )
        with w.block("struct alignas(64) AttendScratch {", "};"):
            for dot, size in enumerate(sizes):
                w.line(f"Floats {self._query(dot)}[{size} * COLUMNS];")
            for dot in range(max(1, len(sizes))):
                w.line(f"Floats {self._scores(dot)}[BLOCK_N * COLUMNS];")
            w.line("Floats output[Dv * COLUMNS];")
            for name in self._rows.members:
                w.line(f"Floats {name}[COLUMNS];")
            for name, source in self._stage.vectors:
                if name == "q":
                    w.line(f"Floats query_vector[{self._sources.size(source)} * COLUMNS];")
            for staged in self._reads.staged_vectors.values():
                w.line(f"Floats {staged.member}[{staged.size} * COLUMNS];")
            for tile in self._reads.pair_tiles.values():
                w.line(f"{tile.kind} {tile.member}[BLOCK_N * COLUMNS];")
            width = self._sources.converted_width
            if width:
                w.line(f"alignas(64) float converted[BLOCK_N * {width}];")

    def _query(self, dot: int) -> str:
        return "query" if dot == 0 else f"query_{dot}"

    # The tile --------------------------------------------------------------------------------

    def _write_tile(self, w: Writer) -> None:
        block = Writer(comment="//")
        self._write_absorb(block)
        loops = Writer(comment="//")
        write_block_loops(loops, self._stage.block_map, self._expressions)
        finish = Writer(comment="//")
        self._write_finish(finish)
        prologue = Writer(comment="//")
        self._write_rows(prologue)

        head = (
            "static void attend_tile(const AttendArguments &arguments, AttendScratch &scratch, "
            "int32_t b, int32_t h, int32_t tile"
            + (", int32_t residue) {" if self._residue is not None else ") {")
        )
        body = Writer(comment="//")
        self._write_scope(body, self._expressions.scopes[Level.UNIFORM])
        for part in (prologue, block, loops, finish):
            body.blank()
            body.line(part.text().rstrip())
        extent = Writer(comment="//")
        self._write_extent(extent, body.text())
        with w.block(head, "}"):
            self._arguments.write_locals(w, extent.text() + body.text())
            w.line(extent.text().rstrip())
            w.line(body.text().rstrip())

    def _write_extent(self, w: Writer, body: str) -> None:
        """The tile's place: its queries are `start`, …, `start + rows - 1` of the problem."""
        if uses(body, "g"):
            w.line("const int32_t g = h / (H / Hkv);")
        w.line("const int32_t start = tile * BLOCK_M;")
        if self._residue is None:
            w.line("const int32_t rows = minimum(BLOCK_M, Lq - start);")
        else:
            self._write_class(w, self._residue)
        if uses(body, "i_first") or uses(body, "i_last"):
            offset = "offset" if self._residue is None else "class_offset"
            w.line(f"const int32_t i_first = start + {offset}, i_last = i_first + rows - 1;")

    def _write_class(self, w: Writer, m: int) -> None:
        self._support.add("floor_divide")
        w.comment(
            f"Positions congruent to `residue` modulo {m}: the class's own lengths and offset."
        )
        w.line(f"const int32_t class_row = floor_modulo(residue - offset, {m});")
        w.line(f"const int32_t class_Lq = class_row < Lq ? (Lq - class_row + {m - 1}) / {m} : 0;")
        w.line(f"const int32_t class_Lk = residue < Lk ? (Lk - residue + {m - 1}) / {m} : 0;")
        w.line(f"const int32_t class_offset = floor_divide(class_row + offset - residue, {m});")
        w.line("const int32_t rows = minimum(BLOCK_M, class_Lq - start);")
        w.line("if (rows <= 0) return;")

    def _write_scope(self, w: Writer, scope: Scope) -> None:
        for line in scope.lines:
            w.line(line)

    def _write_rows(self, w: Writer) -> None:
        """What is computed once per tile: lane values, the query's elements, an empty state."""
        scope = self._expressions.scopes[Level.LANE]
        positions = [name for name in ("i", "row") if name in self._expressions.used_indices]
        for position in positions:
            w.line(f"Ints {position}[COLUMNS];")
        for declaration in scope.arrays:
            w.line(declaration)
        if positions or scope.lines:
            with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
                if positions:
                    w.comment("Lanes past the last query repeat it.")
                    w.line(
                        "const Ints number = start + "
                        "minimum(lane_numbers() + column * LANES, ints(rows - 1));"
                    )
                if "row" in positions:
                    w.line("row[column] = number;")
                if "i" in positions:
                    offset = "offset" if self._residue is None else "class_offset"
                    w.line(f"i[column] = number + {offset};")
                self._write_scope(w, scope)
        for dot, product in enumerate(self._stage.dots):
            self._write_load(w, product.query, self._factor(dot), self._query(dot))
        for name, source in self._stage.vectors:
            if name == "q":
                self._write_load(w, source, "1.0f", "query_vector")
        for staged in self._reads.staged_vectors.values():
            with w.block(f"for (int d = 0; d < {staged.size}; ++d) {{", "}"):
                w.line(
                    "for (int column = 0; column < COLUMNS; ++column) "
                    f"scratch.{staged.member}[d * COLUMNS + column] = "
                    f"gather({staged.base} + d * {staged.stride}, {staged.rows.text});"
                )
        w.line("for (Floats &element : scratch.output) element = Floats{};")
        self._rows.write_start(w)

    def _write_load(self, w: Writer, source: Source, factor: str, member: str) -> None:
        place, size = self._sources.query(source), self._sources.size(source)
        w.line(
            f"load_columns<{size}>({place.pointer}, {place.stride}, rows, {factor}, "
            f"scratch.{member}, COLUMNS);"
        )

    def _factor(self, dot: int) -> str:
        factor = self._factors.factors[dot]
        text = "1.0f" if factor is None else self._expressions.text(factor, Level.UNIFORM).text
        if self._factors.in_powers_of_two:
            return f"{text} * 1.44269504f" if factor is not None else "1.44269504f"
        return text

    # One block of keys -----------------------------------------------------------------------

    def _write_absorb(self, w: Writer) -> None:
        w.comment("One block of keys. In a partial one the mask says which pairs count.")
        with w.block("const auto absorb = [&](int32_t block, auto kind) {", "};"):
            w.line("[[maybe_unused]] constexpr bool partial = decltype(kind)::partial;")
            w.line("const int32_t first_key = block * BLOCK_N;")
            length = "Lk" if self._residue is None else "class_Lk"
            w.line(
                f"const int32_t keys = partial ? minimum(BLOCK_N, {length} - first_key) : BLOCK_N;"
            )
            value = self._sources.key(self._stage.value)
            w.line(f"const {value.element} *value = {value.pointer};")
            self._write_dots(w, value)
            inner = Writer(comment="//")
            self._write_scores(inner)
            for tile in self._reads.pair_tiles.values():
                w.line(
                    f"load_pairs(static_cast<const {tile.element} *>({tile.base}) + "
                    f"first_key * {tile.stride}, {tile.rows.text.removesuffix('[column]')}, "
                    f"{tile.stride}, keys, scratch.{tile.member});"
                )
            w.line(inner.text().rstrip())
            self._write_accumulate(w, value)

    def _write_dots(self, w: Writer, value: Place) -> None:
        for dot, product in enumerate(self._stage.dots):
            size = self._sources.size(product.key)
            place = self._sources.key(product.key)
            name = "key_rows" if dot == 0 else f"key_rows_{dot}"
            w.line(f"const {place.element} *{name} = {place.pointer};")
            pointer, stride = name, place.stride
            if place.element != "float":
                self._sources.converted(size)
                w.line(f"convert_tile<{size}>({name}, {place.stride}, keys, scratch.converted);")
                pointer, stride = "scratch.converted", str(size)
            ahead, ahead_stride, width = pointer, stride, 0
            if dot == 0 and value.element == "float":
                ahead, ahead_stride = "value", value.stride
                width = self._sources.size(self._stage.value)
            w.line(
                f"dot_tile<{size}>({pointer}, {stride}, keys, scratch.{self._query(dot)}, "
                f"scratch.{self._scores(dot)}, {ahead}, {ahead_stride}, {width});"
            )

    def _write_scores(self, w: Writer) -> None:
        """Scores, masked, and what the normaliser makes of them."""
        expressions = self._expressions
        score, mask = self._factors.score, self._stage.mask
        expressions.count([score])
        pairs = expressions.scopes[Level.PAIR]
        as_stored = score == DotResult(0)
        text = as_vector(expressions.text(score), FLOAT)
        score_lines = list(pairs.lines)
        weight = self._rows.weight(expressions)
        hides = Scope("visible", names=dict(pairs.names))
        expressions.scopes[Level.PAIR] = hides
        expressions.count([mask])
        visible = None if mask == TRUE else as_mask(expressions.text(mask))
        expressions.scopes[Level.PAIR] = pairs
        result = "score" if weight is None else "weight"

        self._rows.write_before(w)
        with w.block("for (int key = 0; key < keys; ++key) {", "}"):
            if "j" in expressions.used_indices:
                w.line("[[maybe_unused]] const int32_t j = first_key + key;")
            self._write_pair_vectors(w)
            for line in expressions.scopes[Level.STEP].lines:
                w.line(line)
            w.line("UNROLL")
            with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
                w.line("Floats &cell = scratch.scores[key * COLUMNS + column];")
                for line in score_lines:
                    w.line(line)
                w.line(f"Floats score = {'cell' if as_stored else text.text};")
                if weight is not None:
                    for line in weight[0].lines:
                        w.line(line)
                    w.line(f"Floats weight = {weight[1].text};")
                changed = weight is not None or not as_stored
                if visible is not None:
                    with w.block("if constexpr (partial) {", "}"):
                        for line in hides.lines:
                            w.line(line)
                        hidden = f"floats({self._rows.hidden})"
                        w.line(f"{result} = select({visible.text}, {result}, {hidden});")
                        if not changed:
                            w.line("cell = score;")
                if changed:
                    w.line(f"cell = {result};")
                self._rows.write_cell(w)
        self._rows.write_after(w)

    def _write_pair_vectors(self, w: Writer) -> None:
        for name, source in self._stage.vectors:
            if name != "q":
                place = self._sources.key(source)
                spelled = "key_vector" if name == "k" else "value_vector"
                w.line(
                    f"const {place.element} *{spelled} = {place.pointer} + key * {place.stride};"
                )

    def _write_accumulate(self, w: Writer, value: Place) -> None:
        size = self._sources.size(self._stage.value)
        pointer, stride = "value", value.stride
        if value.element != "float":
            self._sources.converted(size)
            w.line(f"convert_tile<{size}>(value, {value.stride}, keys, scratch.converted);")
            pointer, stride = "scratch.converted", str(size)
        ahead, ahead_stride, width = pointer, stride, 0
        if self._stage.dots:
            key = self._sources.key(self._stage.dots[0].key)
            if key.element == "float":
                ahead, ahead_stride = f"key_rows + BLOCK_N * {key.stride}", key.stride
                width = self._sources.size(self._stage.dots[0].key)
        factor = self._rows.factor
        accumulate = (
            f"accumulate_tile<{size}>({pointer}, {stride}, keys, scratch.scores, {factor}, "
            f"scratch.output, {ahead}, {ahead_stride}, {width});"
        )
        guarded = (
            f"accumulate_guarded<{size}>({pointer}, {stride}, keys, scratch.scores, {factor}, "
            "scratch.output);"
        )
        if self._stage.mask == TRUE:
            w.line(accumulate)
            return
        w.comment("A hidden value that is not finite must not reach the sum.")
        w.line(f"if (!partial || all_finite<{size}>({pointer}, {stride}, keys))")
        with w.indented():
            w.line(accumulate)
        w.line("else")
        with w.indented():
            w.line(guarded)

    # The end of a tile, and the entry ----------------------------------------------------------

    def _write_finish(self, w: Writer) -> None:
        self._rows.write_finish(w, self._statistics())
        step = "" if self._residue is None else f"{self._residue} * "
        token = self._sources.query_token
        name, dtype = "out", self._specialization.dtype.value
        if self._stage.partial is not None:
            name, dtype = self._stage.partial.output.name, "fp32"
        a = self._arguments
        pointer = (
            f"{a.tensor(name, dtype, written=True)} + b * {a.stride(name, 0)} + "
            f"h * {a.stride(name, 1)} + {token} * {a.stride(name, 2)}"
        )
        w.line(
            f"store_columns<Dv>(scratch.output, {self._rows.final_factor}, {pointer}, "
            f"{step}{a.stride(name, 2)}, rows, COLUMNS);"
        )

    def _statistics(self) -> str | None:
        """Where the log-sum-exp of the tile's lane `lane` goes, if it is wanted."""
        name = "log_sum_exp"
        if self._stage.partial is not None:
            name = self._stage.partial.log_sum_exp.name
        elif not self._specialization.log_sum_exp:
            return None
        a = self._arguments
        step = "" if self._residue is None else f"{self._residue} * "
        return (
            f"{a.tensor(name, 'fp32', written=True)}[b * {a.stride(name, 0)} + "
            f"h * {a.stride(name, 1)} + "
            f"({self._sources.query_token} + {step}lane) * {a.stride(name, 2)}]"
        )
