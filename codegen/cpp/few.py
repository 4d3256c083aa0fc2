"""The kernel for a few queries against many keys, as in decoding a token at a time.

Tiles of queries would be almost empty, so lanes are keys here. The keys are shared out among the
threads in parts; each part gives an output, a maximum and a sum, and these are merged at the end.
Heads that share keys are worked on together, so that keys and values are read once.
"""

from __future__ import annotations

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.block_loops import write_block_loops
from attndsl.codegen.cpp.expressions import Expressions, as_mask, as_vector
from attndsl.codegen.cpp.few_keys import few_keys_of
from attndsl.codegen.cpp.few_merge import write_merge
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.products import LOG2_E, Unit
from attndsl.codegen.cpp.query_factor import QueryFactors
from attndsl.codegen.cpp.reads import Array, Reads
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.sources import Place, Sources
from attndsl.codegen.cpp.vectors import ElementOf, Vectors
from attndsl.codegen.program import DType, Specialization
from attndsl.codegen.writer import Writer
from attndsl.expression import (
    FLOAT,
    INT,
    TRUE,
    Call,
    DotResult,
    Expression,
    Index,
    Literal,
    Scalar,
    ScoreValue,
    Size,
    index_names,
)
from attndsl.planner.block_map import Ranges, Table
from attndsl.planner.plan import Attend, Buffer, Plan, Source

MOST_QUERIES = 4
MOST_PARTS = 16


def has_few_form(stage: Attend) -> bool:
    """Residue classes and grids scatter a few queries over many problems: tiles serve those."""
    return stage.residue is None and stage.grid is None


class FewQueries:
    """Emits the function `attend_few`; `partials` is the buffer that the parts write."""

    def __init__(
        self,
        plan: Plan,
        stage: Attend,
        specialization: Specialization,
        arrays: dict[str, Array],
        arguments: Arguments,
        factors: QueryFactors,
        partials: str,
    ):
        self._plan, self._stage, self._specialization = plan, stage, specialization
        self._arrays, self._arguments, self._factors = arrays, arguments, factors
        self._partials = partials
        self._keys = few_keys_of(stage, arguments)
        self._sources = Sources(
            arguments, specialization, arrays, None, scattered_keys=stage.stripes is not None
        )
        key_side = [dot.key for dot in stage.dots] + [stage.value]
        key_side += [source for name, source in stage.vectors if name != "q"]
        self._shared = "h" not in _block_indices(stage) and not any(
            map(self._sources.is_per_query_head, key_side)
        )
        self._scopes = {
            Level.UNIFORM: Scope("group"),
            Level.LANE: Scope("key", array=True),
            Level.STEP: Scope("row"),
            Level.PAIR: Scope("pair"),
        }
        row = Level.STEP
        levels = {"b": Level.UNIFORM, "g": Level.UNIFORM, "h": row, "i": row, "row": row}
        levels |= {"j": Level.LANE, "i_first": Level.UNIFORM, "i_last": Level.UNIFORM}
        if not self._shared:
            levels["h"] = Level.UNIFORM
        spelled: dict[Expression, Text] = {
            Index("K"): Text("block", Level.STEP),
            ScoreValue(): Text("score", Level.PAIR),
            **self._keys.spelled,
        }
        for dot in range(len(stage.dots)):
            cell = f"scratch.scores_{dot}[number * COLUMNS + column]"
            spelled[DotResult(dot)] = Text(cell, Level.PAIR)
        self._expressions = Expressions(
            arguments,
            Reads(arguments, arrays),
            specialization,
            plan.attention.axes,
            levels,
            spelled,
            self._scopes,
            Vectors(
                {
                    "q": lambda d: Text(f"to_float(query_vector[{d}])", Level.STEP),
                    "k": _staged("key_vector"),
                    "v": _staged("value_vector"),
                }
            ),
        )
        self._support = {"tile", "transpose", "keys_as_lanes", *self._keys.support}
        if specialization.dtype == DType.BFLOAT16:
            self._support.add("bfloat16_rows")
        self.unit = Unit(None if factors.is_product_alone else LOG2_E)

    @property
    def buffer(self) -> Buffer:
        """For each row and part: the output so far, its maximum and its sum."""
        rows = Call("min", (Size("Lq"), Literal(MOST_QUERIES)), INT)
        width = Literal(self._specialization.value_dim + 2)
        return Buffer(
            self._partials, Scalar.FLOAT, (Size("B"), Size("H"), rows, Literal(MOST_PARTS), width)
        )

    @property
    def support(self) -> set[str]:
        return self._support | self._expressions.used_support | self._sources.used_support

    def write(self, w: Writer) -> None:
        """The scratch block, the function over one part of the keys, and what shares them out."""
        part = Writer(comment="//")
        self._write_part(part)
        self._write_scratch(w)
        w.blank()
        w.line(part.text().rstrip())
        w.blank()
        self._support |= write_merge(
            w,
            self._plan,
            self._stage,
            self._specialization,
            self._arrays,
            self._arguments,
            self.unit,
            self._partials,
        )
        w.blank()
        self._write_sharing(w)

    @property
    def _is_softmax(self) -> bool:
        return isinstance(self._stage.normalizer, Softmax)

    def _write_scratch(self, w: Writer) -> None:
        w.comment("What one thread works on when queries are few; rows are queries of one group.")
        with w.block("struct alignas(64) FewScratch {", "};"):
            self._keys.write_members(w)
            for dot, product in enumerate(self._stage.dots):
                size = self._sources.size(product.query)
                w.line(f"alignas(64) float queries_{dot}[BLOCK_N * {size}];")
            for dot in range(max(1, len(self._stage.dots))):
                w.line(f"Floats scores_{dot}[BLOCK_N * COLUMNS];")
            for name, source in self._stage.vectors:
                if name != "q":
                    spelled = "key_vector" if name == "k" else "value_vector"
                    w.line(f"Floats {spelled}[{self._sources.size(source)} * COLUMNS];")
            w.line("float highest[BLOCK_N], total[BLOCK_N], output[BLOCK_N * Dv];")

    # One part of the keys ----------------------------------------------------------------------

    def _write_part(self, w: Writer) -> None:
        absorb, loops, body = (Writer(comment="//") for _ in range(3))
        self._write_absorb(absorb)
        write_block_loops(loops, self._stage.block_map, self._expressions)
        # With heads in one group, the lists of the first serve all.
        loops_text = loops.text()
        body.lines(*self._scopes[Level.UNIFORM].lines)
        self._write_start(body)
        body.blank()
        body.line(absorb.text().rstrip())
        body.blank()
        body.line(loops_text.rstrip())
        body.blank()
        self._write_partials(body)
        head = (
            "static void attend_few_part(const AttendArguments &arguments, FewScratch &scratch, "
            "int32_t b, int32_t h, int32_t heads, int32_t part, int32_t parts) {"
        )
        with w.block(head, "}"):
            text = body.text()
            self._arguments.write_locals(w, "H Hkv Lk " + text)
            if uses(text, "g"):
                w.line("const int32_t g = h / (H / Hkv);")
            w.line("const int32_t start = 0, first_head = h;")
            if uses(text, "i_first") or uses(text, "i_last"):
                w.line("const int32_t i_first = offset, i_last = offset + Lq - 1;")
            w.line("const int32_t count = heads * Lq;")
            self._keys.write_length(w)
            length = self._keys.length
            w.line(
                f"const int64_t blocks = (static_cast<int64_t>({length}) + BLOCK_N - 1) / BLOCK_N;"
            )
            w.line("const int64_t part_first = blocks * part / parts;")
            w.line("const int64_t part_last = blocks * (part + 1) / parts;")
            w.line(text.rstrip())

    def _write_start(self, w: Writer) -> None:
        heads = Writer(comment="//")
        scope = Scope("head")
        # Here a head is one of the group's, whatever it is elsewhere.
        levels = dict.fromkeys(("b", "h", "g"), Level.UNIFORM)
        own = Expressions(
            self._arguments,
            Reads(self._arguments, self._arrays),
            self._specialization,
            self._plan.attention.axes,
            levels,
            {},
            {Level.UNIFORM: scope},
            Vectors({}),
        )
        for dot, product in enumerate(self._stage.dots):
            place, size = self._sources.query(product.query), self._sources.size(product.query)
            heads.line(
                f"load_rows<{size}>({place.pointer}, {place.stride}, Lq, "
                f"{self._factor(own, dot)}, scratch.queries_{dot} + head * Lq * {size});"
            )
        self._support |= own.used_support
        if self._stage.dots:
            with w.block("for (int head = 0; head < heads; ++head) {", "}"):
                w.line("const int32_t h = first_head + head;")
                w.lines(*scope.lines)
                w.line(heads.text().rstrip())
        with w.block("for (int number = 0; number < count; ++number) {", "}"):
            w.line("scratch.highest[number] = -INFINITE;")
            w.line("scratch.total[number] = 0.0f;")
            w.line("for (int d = 0; d < Dv; ++d) scratch.output[number * Dv + d] = 0.0f;")

    def _factor(self, expressions: Expressions, dot: int) -> str:
        factor = self._factors.factors[dot]
        parts = [] if factor is None else [expressions.text(factor, Level.UNIFORM).inside(12)]
        if self._factors.is_product_alone:
            parts.append(LOG2_E)
        return " * ".join(parts) or "1.0f"

    def _write_absorb(self, w: Writer) -> None:
        pairs = Writer(comment="//")
        self._write_rows(pairs)
        with w.block("const auto absorb = [&](int32_t block, auto kind) {", "};"):
            w.line("[[maybe_unused]] constexpr bool partial = decltype(kind)::partial;")
            w.line("if (block < part_first || block >= part_last) return;")
            w.line("const int32_t first_key = block * BLOCK_N;")
            length = self._keys.length
            w.line(
                f"const int32_t keys = partial ? minimum(BLOCK_N, {length} - first_key) : BLOCK_N;"
            )
            self._keys.write_block(w)
            value = self._rows_of(w, self._stage.value, "values")
            w.line(f"const {value.element} *value = {value.pointer};")
            w.line(f"const int64_t value_stride = {value.stride};")
            for dot, product in enumerate(self._stage.dots):
                place, size = self._rows_of(w, product.key, "rows"), self._sources.size(product.key)
                w.line(
                    f"dot_keys<{size}>({place.pointer}, {place.stride}, keys, "
                    f"scratch.queries_{dot}, count, scratch.scores_{dot});"
                )
            for name, source in self._stage.vectors:
                if name != "q":
                    place, size = self._rows_of(w, source, "rows"), self._sources.size(source)
                    spelled = "key_vector" if name == "k" else "value_vector"
                    w.line(
                        f"load_columns<{size}>({place.pointer}, {place.stride}, keys, 1.0f, "
                        f"scratch.{spelled}, COLUMNS);"
                    )
            self._write_lanes(w)
            w.line(pairs.text().rstrip())

    def _rows_of(self, w: Writer, source: Source, member: str) -> Place:
        """The vectors of a block's keys."""
        size = self._sources.size(source)
        return self._keys.rows(w, self._sources.key(source), size, member)

    def _write_lanes(self, w: Writer) -> None:
        """What varies with the key only."""
        scope = self._scopes[Level.LANE]
        w.line("Ints j[COLUMNS];")
        w.lines(*scope.arrays)
        with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            w.comment("Lanes past the last key repeat it.")
            w.line(f"j[column] = {self._keys.position};")
            w.lines(*scope.lines)

    def _write_rows(self, w: Writer) -> None:
        """Scores of one query after another, and what they add to its output."""
        expressions, pairs = self._expressions, self._scopes[Level.PAIR]
        score, mask = self._factors.score, self._stage.mask
        expressions.count([score])
        text = as_vector(expressions.text(score), FLOAT)
        score_lines = list(pairs.lines)
        weight = self._weight()
        weight_lines = pairs.lines[len(score_lines) :]
        kept = ""
        if self._stage.kept is not None:
            kept = f" * {expressions.text(self._stage.kept).text}"
        hides = Scope("visible", names=dict(pairs.names))
        self._scopes[Level.PAIR] = hides
        expressions.count([mask])
        visible = None if mask == TRUE else as_mask(expressions.text(mask))
        self._scopes[Level.PAIR] = pairs
        result = "score" if weight is None else "weight"
        hidden = "-INFINITE" if weight is None else "0.0f"
        exists = "lane_numbers() + column * LANES < keys"

        inner = Writer(comment="//")
        with inner.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            inner.lines(*score_lines)
            inner.line(f"Floats score = {text.text};")
            if weight is not None:
                inner.lines(*weight_lines)
                inner.line(f"Floats weight = {weight.text};")
            with inner.block("if constexpr (partial) {", "}"):
                inner.lines(*hides.lines)
                condition = exists if visible is None else f"({exists}) & {visible.inside(7)}"
                inner.line(f"{result} = select({condition}, {result}, floats({hidden}));")
            inner.line(f"cells[column] = {result}{'' if weight is None else kept};")
            if weight is None:
                inner.line("highest = maximum(highest, score);")
            else:
                inner.line("total += weight;")
        inner_text = "\n".join([*self._scopes[Level.STEP].lines, inner.text(), kept])

        with w.block("for (int number = 0; number < count; ++number) {", "}"):
            vectors = any(name == "q" for name, _ in self._stage.vectors)
            if self._shared and (vectors or uses(inner_text, "h")):
                w.line("const int32_t h = first_head + number / Lq;")
            if uses(inner_text, "row") or uses(inner_text, "i"):
                w.line("const int32_t row = number % Lq;")
            if uses(inner_text, "i"):
                w.line("const int32_t i = row + offset;")
            self._write_query_vector(w)
            w.lines(*self._scopes[Level.STEP].lines)
            w.line("Floats cells[COLUMNS];")
            if self._is_softmax:
                w.line("Floats highest = floats(scratch.highest[number]);")
                w.line(inner.text().rstrip())
                self._write_softmax(w, kept)
            else:
                w.line("Floats total{};")
                w.line(inner.text().rstrip())
                w.line("scratch.total[number] += total_of(total);")
                w.line("const float factor = 1.0f;")
            size = self._sources.size(self._stage.value)
            w.line(
                f"add_values<{size}>(value, value_stride, keys, "
                "reinterpret_cast<const float *>(cells), factor, scratch.output + number * Dv);"
            )

    def _weight(self) -> Text | None:
        match self._stage.normalizer:
            case Elementwise(weight):
                return as_vector(self._expressions.text(weight), FLOAT)
        return None

    def _write_query_vector(self, w: Writer) -> None:
        for name, source in self._stage.vectors:
            if name == "q":
                place = self._sources.query(source)
                w.line(
                    f"const {place.element} *query_vector = {place.pointer} + "
                    f"number % Lq * {place.stride};"
                )

    def _write_softmax(self, w: Writer, kept: str) -> None:
        power = "exp2({})" if self.unit.factor is None else f"exp2(({{}}) * {LOG2_E})"
        w.line("const float greatest_score = greatest(highest);")
        w.line("const float reference = greatest_score == -INFINITE ? 0.0f : greatest_score;")
        w.line(f"const float factor = {power.format('scratch.highest[number] - reference')};")
        w.line("Floats total{};")
        with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            w.line(f"cells[column] = {power.format('cells[column] - reference')};")
            w.line("total += cells[column];")
            if kept:
                w.line(f"cells[column] = cells[column]{kept};")
        w.line("scratch.highest[number] = greatest_score;")
        w.line("scratch.total[number] = scratch.total[number] * factor + total_of(total);")

    def _write_partials(self, w: Writer) -> None:
        a, name = self._arguments, self._partials
        pointer = a.tensor(name, "fp32", written=True)
        with w.block("for (int number = 0; number < count; ++number) {", "}"):
            w.line(
                f"float *partial = {pointer} + b * {a.stride(name, 0)} + "
                f"(first_head + number / Lq) * {a.stride(name, 1)} + "
                f"number % Lq * {a.stride(name, 2)} + part * {a.stride(name, 3)};"
            )
            w.line("for (int d = 0; d < Dv; ++d) partial[d] = scratch.output[number * Dv + d];")
            w.line("partial[Dv] = scratch.highest[number];")
            w.line("partial[Dv + 1] = scratch.total[number];")

    def _write_sharing(self, w: Writer) -> None:
        self._arguments.size("threads")
        with w.block("static void attend_few(const AttendArguments &arguments) {", "}"):
            groups = "arguments.Hkv" if self._shared else "arguments.H"
            w.line(f"const int32_t groups = {groups}, heads = arguments.H / groups;")
            w.line("const int64_t problems = static_cast<int64_t>(arguments.B) * groups;")
            w.comment("Enough parts for every thread to have some work, and no more.")
            keys = "static_cast<int64_t>(arguments.Lk)"
            w.line(f"const int64_t blocks = ({keys} + BLOCK_N - 1) / BLOCK_N;")
            w.line("const int64_t wanted = (4 * arguments.threads + problems - 1) / problems;")
            w.line(
                "const int32_t parts = static_cast<int32_t>(maximum<int64_t>(1, "
                f"minimum<int64_t>(minimum<int64_t>(wanted, {MOST_PARTS}), blocks)));"
            )
            w.line("const int64_t pairs = problems * heads * arguments.Lq * arguments.Lk;")
            w.line("const int threads = threads_for(pairs, arguments.threads);")
            w.line("#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)")
            with w.block("for (int64_t task = 0; task < problems * parts; ++task) {", "}"):
                w.line("const FlushDenormals flush;")
                w.line("static thread_local FewScratch scratch;")
                w.line("const int32_t b = static_cast<int32_t>(task / parts / groups);")
                w.line("const int32_t h = static_cast<int32_t>(task / parts % groups) * heads;")
                w.line(
                    "attend_few_part(arguments, scratch, b, h, heads, "
                    "static_cast<int32_t>(task % parts), parts);"
                )
            w.line("merge_few(arguments, parts);")


def _staged(member: str) -> ElementOf:
    return lambda d: Text(f"scratch.{member}[({d}) * COLUMNS + column]", Level.LANE)


def _block_indices(stage: Attend) -> frozenset[str]:
    """What the block map varies with."""
    match stage.block_map:
        case Ranges(intervals):
            names = [
                index_names(bound)
                for one in intervals
                for bound in (one.first, one.last, one.guard)
            ]
            return frozenset().union(*names)
        case Table(varies_with=varies_with):
            return varies_with
    return frozenset("h")
