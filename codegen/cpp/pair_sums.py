"""The kernel of a backward: sums over the pairs of a tile, for its queries and for its keys.

As in the forward, lanes are queries, and scores lie as `[key][query]`. From them come the values
that are summed up; sums of a query stay with its tile, sums of a key are added in memory, where the
lanes are the elements of the key's vector. A head of keys, or a part of it (see `parts.py`), is
worked on by one thread, its tiles in order, so that results do not depend on how many there are.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext

from attndsl.codegen.cpp.bfloat16_pair_products import Bfloat16PairProducts, has_bfloat16_form
from attndsl.codegen.cpp.dropout import kept_tile
from attndsl.codegen.cpp.element_sums import element_total
from attndsl.codegen.cpp.expressions import as_mask, as_vector
from attndsl.codegen.cpp.kernel import Kernel
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.pair_products import FloatPairProducts, PairProducts, Pairs
from attndsl.codegen.cpp.parts import PART, is_shared_by_batches, part_count
from attndsl.codegen.cpp.products import scores
from attndsl.codegen.cpp.reads import DTYPES, Array
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.stored_products import store_products
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.program import Entry, Specialization, Tile
from attndsl.codegen.writer import Writer
from attndsl.expression import FLOAT, TRUE, DotResult, Expression, Literal, Scalar, Size
from attndsl.planner.plan import PairSum, PairSums, Plan, Source


class PairSumsKernel:
    """Emits one `PairSums` stage. `number` is the stage's place in the plan."""

    def __init__(
        self,
        plan: Plan,
        stage: PairSums,
        number: int,
        specialization: Specialization,
        arrays: dict[str, Array],
        tile: Tile,
    ):
        self._stage, self._number = stage, number
        frame = self._frame = TileFrame(plan, stage, specialization, arrays, tile)
        self._arguments, self._sources = frame.arguments, frame.sources
        self._expressions = frame.expressions
        self._kept = kept_tile(frame)
        self._parts = part_count(stage, frame.residue, tile)
        self._expressions.spell(PART, Text("part.number", Level.UNIFORM))
        self._elements = [
            element_total(number, one, frame, arrays, self._parts)
            for number, one in enumerate(stage.elements)
        ]
        # Each value once; the first ones take the place of the scores that they are made of.
        values = [value for one in stage.sums for value, _ in one.terms]
        values += [value for total in self._elements for value in total.values]
        self._stored = store_products(stage, dict.fromkeys(values))
        floats = [value for value in values if isinstance(value.type, Scalar)]
        self._values: dict[Expression, int] = {
            value: place for place, value in enumerate(dict.fromkeys(floats))
        }
        # Products and sums of elements take a block's values from memory; plain sums do not.
        taken = [value for one in stage.sums for value, source in one.terms if source is not None]
        taken += [total.values[0] for total in self._elements]
        self._kept_places = {self._values[one] for one in taken if one in self._values}
        pairs = self._pairs = Pairs(stage, self._stored, frame, self._values)
        self._products: PairProducts = FloatPairProducts(pairs)
        if has_bfloat16_form(pairs, tile):
            self._products = Bfloat16PairProducts(number, pairs, arrays, tile)
        for dot in range(len(self._stored.dots)):
            self._expressions.spell(DotResult(dot), self._products.spelled(dot))
        self._support = {"tile", "transpose", "guard", "key_sums", "gather"}
        self._support.update(*(total.support for total in self._elements))

    def emit(self) -> Kernel:
        """The scratch block, the tile function and the entry point."""
        function = f"sums_{self._number}"
        tile, entry_point = Writer(comment="//"), Writer(comment="//")
        self._write_tile(tile)
        self._write_entry(entry_point, function)
        w = Writer(comment="//")
        with w.block(f"namespace part_{self._number} {{", "}"):
            self._arguments.write_struct(w)
            w.blank()
            self._write_scratch(w)
            for part in (tile, entry_point):
                w.blank()
                w.line(part.text().rstrip())
        entry = Entry(self._number, function, self._arguments.collected)
        copies = tuple(one.copies for one in self._elements if one.copies is not None)
        support = self._frame.support | self._support | self._products.support
        return Kernel(w.text(), entry, frozenset(support), (*copies, *self._products.buffers))

    # The scratch block -----------------------------------------------------------------------

    def _write_scratch(self, w: Writer) -> None:
        w.comment(
            "What one thread works on; rows of COLUMNS vectors hold one number for each query."
        )
        with w.block("struct alignas(64) SumsScratch {", "};"):
            for member in self._frame.places.members:
                w.line(member)
            self._products.write_members(w)
            for place in sorted(self._kept_places.union(range(len(self._stored.dots)))):
                w.line(f"Floats {scores(place)}[BLOCK_N * COLUMNS];")
            for number, one in enumerate(self._stage.sums):
                if one.side == "query":
                    w.line(f"Floats {_total(number)}[{self._width(one)} * COLUMNS];")
            self._frame.write_vector_members(w)
            for tile in self._frame.reads.pair_tiles.values():
                w.line(tile.declaration)
            if self._kept is not None:
                w.line(self._kept.member)
            for total in self._elements:
                total.write_members(w)

    def _width(self, one: PairSum) -> int:
        """How many numbers a token's sum has."""
        if len(one.buffer.dimensions) == 3:
            return 1
        return self._sources.size(Source(one.buffer.name, Size("D"), one.buffer.dimensions[3]))

    # The tile --------------------------------------------------------------------------------

    def _write_tile(self, w: Writer) -> None:
        self._frame.write_tile(
            w,
            "sum_tile(const AttendArguments &arguments, SumsScratch &scratch, "
            "[[maybe_unused]] const Part &part",
            self._write_absorb,
            self._write_finish,
            self._write_rows,
            None if self._parts is None else self._write_ahead,
        )

    def _write_ahead(self, w: Writer) -> None:
        """Queries of which no key of the part is seen are left as they are."""
        with w.block("if (!part.is_first) {", "}"):
            w.line("bool any = false;")
            w.line("visit([&](int32_t block, auto) { any |= part.has(block); });")
            w.line("if (!any) return;")

    def _write_rows(self, w: Writer, after: str) -> None:
        """What is computed once per tile: lane values, the queries' vectors, sums of nothing."""
        if self._sources.scattered_queries:
            exists = "const Ints *const exists = lanes_of(queries.exists);"
            self._frame.write_lanes(w, after, [exists])
        else:
            filled = "exists[column] = lane_numbers() + column * LANES < rows;"
            self._frame.write_lanes(w, after, ["Ints exists[COLUMNS];"], [filled])
        self._products.write_queries(w)
        self._frame.write_vectors(w)
        for number, one in enumerate(self._stage.sums):
            if one.side == "query":
                self._write_query_start(w, number, one)
        for total in self._elements:
            total.write_start(w)
        if uses(after, "ones"):
            w.line("Floats ones[COLUMNS];")
            w.line("for (Floats &one : ones) one = floats(1.0f);")

    def _write_query_start(self, w: Writer, number: int, one: PairSum) -> None:
        nothing = f"for (Floats &element : scratch.{_total(number)}) element = Floats{{}};"
        if self._parts is None:
            w.line(nothing)
            return
        pointer, stride = self._query_target(one)
        w.line("if (part.is_first)")
        with w.indented():
            w.line(nothing)
        w.line("else")
        with w.indented():
            w.line(
                f"load_columns<{self._width(one)}>({pointer}, {stride}, {self._sources.rows}, "
                f"1.0f, scratch.{_total(number)}, COLUMNS);"
            )

    # One block of keys -----------------------------------------------------------------------

    def _write_absorb(self, w: Writer) -> None:
        w.comment("One block of keys. In a partial one the mask says which pairs count.")
        with w.block(f"const auto absorb = [&]({self._frame.places.absorb}) {{", "};"):
            w.line("[[maybe_unused]] constexpr bool partial = decltype(kind)::partial;")
            if self._parts is not None:
                w.line("if (!part.has(block)) return;")
            self._frame.places.write_block_start(w)
            w.line("[[maybe_unused]] constexpr Seen seen{};")
            self._products.write_dots(w)
            pairs = Writer(comment="//")
            self._write_values(pairs)
            for tile in self._frame.reads.pair_tiles.values():
                w.line(tile.load)
            if self._kept is not None:
                self._kept.write(w)
            w.line(pairs.text().rstrip())
            for total in self._elements:
                place = self._values.get(total.values[0])
                if place is not None:
                    total.write_block(w, f"scratch.{scores(place)}")
            self._products.write_values(w)
            for number, one in enumerate(self._stage.sums):
                for value, source in one.terms:
                    if source is None:
                        continue
                    if one.side == "query":
                        place = self._values[value]
                        self._products.write_query_sum(w, place, source, _total(number))
                    else:
                        self._products.write_key_sum(w, self._values[value], source, one)

    def _write_values(self, w: Writer) -> None:
        """The values of all pairs of the block, 0 where they are hidden, and their plain sums."""
        expressions, pairs = self._expressions, self._frame.scopes[Level.PAIR]
        stored = self._stored.values
        expressions.count(stored.values())
        # What is a float and summed up has a name too.
        expressions.count(stored[value] for value in self._values)
        texts = [as_vector(expressions.text(stored[value]), FLOAT) for value in self._values]
        totals = Writer(comment="//")
        of_keys = self._write_totals(totals)
        lines = list(pairs.lines)
        hides = Scope("visible", names=dict(pairs.names))
        self._frame.scopes[Level.PAIR] = hides
        expressions.count([self._stage.mask])
        mask = self._stage.mask
        visible = None if mask == TRUE else as_mask(expressions.text(mask))
        self._frame.scopes[Level.PAIR] = pairs
        with w.block("for (int key = 0; key < keys; ++key) {", "}"):
            body = Writer(comment="//")
            body.lines(*self._frame.scopes[Level.STEP].lines)
            for number, width in of_keys.items():
                body.line(f"Floats of_key_{number}[{width}]{{}};")
            body.line("UNROLL")
            with body.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
                cell = Writer(comment="//")
                cell.lines(*lines)
                for place, text in enumerate(texts):
                    cell.line(f"Floats value_{place} = {text.text};")
                if visible is not None:
                    cell.line("[[maybe_unused]] Ints visible = ints(-1);")
                    with cell.block("if constexpr (partial) {", "}"):
                        cell.lines(*hides.lines)
                        cell.line(f"visible = {visible.text};")
                        for place in range(len(texts)):
                            cell.line(
                                f"value_{place} = select(visible, value_{place}, floats(0.0f));"
                            )
                for place in sorted(self._kept_places):
                    cell.line(f"scratch.{scores(place)}[key * COLUMNS + column] = value_{place};")
                if uses(totals.text(), "counts"):
                    seen = "exists[column]" if visible is None else "exists[column] & visible"
                    cell.line(f"const Ints counts = {seen};")
                if totals.text():
                    cell.line(totals.text().rstrip())
                body.line(cell.text().rstrip())
            for number, width in of_keys.items():
                pointer, stride = self._pairs.key_target(self._stage.sums[number])
                body.line(f"for (int d = 0; d < {width}; ++d)")
                with body.indented():
                    body.line(
                        f"{pointer}[{self._key} * {stride} + d] += "
                        f"sum_of_lanes(of_key_{number}[d]);"
                    )
            self._frame.write_key(w, body.text())

    def _write_totals(self, w: Writer) -> dict[int, int]:
        """What is added up pair by pair, inside the loop over columns; the sums of keys among them,
        with their widths, are added to memory after it."""
        expressions = self._expressions
        of_keys: dict[int, int] = {}
        for number, one in enumerate(self._stage.sums):
            for value, source in one.terms:
                if source is not None:
                    continue
                width = self._width(one)
                is_vector = not isinstance(value.type, Scalar)
                element, d, step = "", "0", "0"
                if is_vector:
                    whole = self._stored.values[value]
                    d, text = expressions.vectors.loop(expressions, whole, Level.PAIR)
                    element, step = text.text, f"{d} * COLUMNS"
                    w.line(f"for (int {d} = 0; {d} < {width}; ++{d})")
                else:
                    element = f"value_{self._values[value]}"
                with w.indented() if is_vector else nullcontext():
                    if one.side == "query":
                        # Lanes that repeat a query have its sum too.
                        if self._stage.mask != TRUE:
                            element = f"select(visible, {element}, floats(0.0f))"
                        w.line(f"scratch.{_total(number)}[{step} + column] += {element};")
                    else:
                        of_keys[number] = width
                        real = f"select(counts, {element}, floats(0.0f))"
                        w.line(f"of_key_{number}[{d}] += {real};")
        for total in self._elements:
            summed = total.values[0]
            name = f"value_{self._values[summed]}" if summed in self._values else None
            total.write_cell(w, self._stored.values[summed], name)
        return of_keys

    @property
    def _key(self) -> str:
        """The number of the key at hand, from where its block begins."""
        return "scratch.keys.numbers[key]" if self._sources.scattered_keys else "key"

    # The end of a tile -----------------------------------------------------------------------

    def _write_finish(self, w: Writer) -> None:
        for number, one in enumerate(self._stage.sums):
            if one.side != "query":
                continue
            pointer, stride = self._query_target(one)
            w.line(
                f"store_columns<{self._width(one)}>(scratch.{_total(number)}, ones, "
                f"{pointer}, {stride}, {self._sources.rows}, COLUMNS);"
            )
        for total in self._elements:
            total.write_finish(w)

    def _query_target(self, one: PairSum) -> tuple[str, str]:
        """The sum of the tile's first query, and the step from query to query."""
        token = None if self._sources.scattered_queries else self._sources.query_token
        place = self._sources.buffer(one.buffer.name, token, "h")
        return place.pointer, f"{self._frame.step}{place.stride}"

    # The entry point -------------------------------------------------------------------------

    def _write_entry(self, w: Writer, name: str) -> None:
        body = Writer(comment="//")
        self._write_tasks(body)
        with w.block(f'extern "C" void {name}(const AttendArguments *passed) {{', "}"):
            w.line("const AttendArguments &arguments = *passed;")
            self._arguments.write_locals(w, body.text())
            w.line(body.text().rstrip())

    def _write_tasks(self, w: Writer) -> None:
        """A task is one head of keys, or a part of it, its tiles in order. Batches that share an
        element of an input are one task too, and so are classes of positions."""
        modulus = 1 if self._frame.residue is None else self._frame.residue
        shares_batch = is_shared_by_batches(self._stage)
        self._frame.places.write_tiles(w)
        w.line("const int32_t group = H / Hkv;")
        batches = "1" if shares_batch else "B"
        w.line("const int64_t pairs = static_cast<int64_t>(B) * H * Lq * Lk;")
        w.line("const int threads = threads_for(pairs, arguments.threads);")
        self._write_zeros(w)
        classes = 1 if self._elements else modulus
        number = Literal(1) if self._parts is None else self._parts
        parts = self._expressions.text(number, Level.UNIFORM).text
        w.line(f"const int32_t parts = {parts};")
        self._frame.places.write_key_blocks(w)
        self._products.write_before_tiles(w)
        w.line(f"const int64_t tasks = static_cast<int64_t>({batches}) * Hkv * {classes} * parts;")
        with w.block("for (int32_t phase = 0; phase < parts; ++phase) {", "}"):
            self._write_phase(w, shares_batch, classes, modulus)
        for one in self._elements:
            one.write_merge(w)

    def _write_phase(self, w: Writer, shares_batch: bool, classes: int, modulus: int) -> None:
        w.line("#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)")
        with w.block("for (int64_t task = 0; task < tasks; ++task) {", "}"):
            w.line("const FlushDenormals flush;")
            self._products.write_task(w)
            w.line("static thread_local SumsScratch scratch;")
            w.line("const Part part = part_of(task, phase, parts, blocks);")
            w.line("const int64_t first_tile = part.number * tiles / parts;")
            w.line("const int64_t last_tile = (part.number + 1) * tiles / parts;")
            w.line(f"const int32_t g = static_cast<int32_t>(task / parts / {classes} % Hkv);")
            loops = []
            if shares_batch:
                loops.append("for (int32_t b = 0; b < B; ++b)")
            else:
                w.line(f"const int32_t b = static_cast<int32_t>(task / parts / {classes} / Hkv);")
            if self._frame.residue is not None:
                if classes == 1:
                    loops.append(f"for (int32_t residue = 0; residue < {modulus}; ++residue)")
                else:
                    residue = f"static_cast<int32_t>(task / parts % {classes})"
                    w.line(f"const int32_t residue = {residue};")
            loops.append("for (int32_t h = g * group; h < (g + 1) * group; ++h)")
            loops.append("for (int64_t tile = first_tile; tile < last_tile; ++tile)")
            with ExitStack() as nested:
                for loop in loops:
                    w.line(loop)
                    nested.enter_context(w.indented())
                passed = self._frame.places.passed
                w.line(f"sum_tile(arguments, scratch, part, b, h, {passed});")

    def _write_zeros(self, w: Writer) -> None:
        """Sums of keys and of elements are added up in memory."""
        for one in self._stage.sums:
            if one.side == "key":
                pointer = self._arguments.tensor(one.buffer.name, DTYPES[FLOAT], written=True)
                heads = "H" if one.buffer.dimensions[1] == Size("H") else "Hkv"
                count = f"static_cast<int64_t>(B) * {heads} * Lk * {self._width(one)}"
                w.line(f"clear({pointer}, {count}, threads);")
        for total in self._elements:
            pointer = self._arguments.tensor(total.target.name, DTYPES[FLOAT], written=True)
            count = total.count()
            w.line(f"prefer_large_pages({pointer}, {count});")
            if total.is_cleared:
                w.line(f"clear({pointer}, {count}, threads);")


def _total(number: int) -> str:
    return f"total_{number}"
