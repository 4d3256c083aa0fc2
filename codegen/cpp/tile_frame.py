"""What kernels over tiles of the score matrix have in common, whatever they make of the pairs.

A tile's queries are its lanes. Its function computes what the head shares, then what each query
has, says what is done with one block of keys (`absorb`), goes through the blocks, and finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.constants import constant
from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.reads import Array, Reads
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.sources import Sources
from attndsl.codegen.cpp.stage_places import places_of
from attndsl.codegen.cpp.vectors import Vectors
from attndsl.codegen.program import Specialization, Tile
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression, Index
from attndsl.planner.plan import PairStage, Plan

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


class TileFrame:
    """The arguments, sources, places and expressions of one stage, and the parts of its kernel that
    depend on these alone."""

    def __init__(
        self,
        plan: Plan,
        stage: PairStage,
        specialization: Specialization,
        arrays: dict[str, Array],
        tile: Tile,
    ):
        self.stage = stage
        self.arguments = Arguments("AttendArguments")
        self.residue = None if stage.residue is None else constant(stage.residue, specialization)
        scattered_keys = stage.grid is not None or stage.stripes is not None
        self.sources = Sources(
            self.arguments,
            specialization,
            arrays,
            self.residue,
            scattered_queries=stage.grid is not None,
            scattered_keys=scattered_keys,
        )
        self.reads = Reads(
            self.arguments,
            arrays,
            stages=True,
            residue=stage.residue is not None,
            scattered_keys=scattered_keys,
        )
        self.places = places_of(stage, self.arguments, self.residue, tile)
        # What the kernel asks for in any case, in this order.
        for name in ("B", "H", "Hkv", "Lq", "Lk", "offset", "threads"):
            self.arguments.size(name)
        self.scopes = {
            Level.UNIFORM: Scope("head"),
            Level.LANE: Scope("row", array=True),
            Level.STEP: Scope("key"),
            Level.PAIR: Scope("pair"),
        }
        spelled: dict[Expression, Text] = {Index("K"): Text("block", Level.STEP)}
        spelled |= self.places.spelled
        self.expressions = Expressions(
            self.arguments,
            self.reads,
            specialization,
            plan.attention.axes,
            _LEVELS,
            spelled,
            self.scopes,
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
        self.places.expressions = self.expressions

    @property
    def support(self) -> set[str]:
        """The support pieces that this much needs."""
        return self.places.support | self.expressions.used_support | self.sources.used_support

    @property
    def step(self) -> str:
        """From one row of the problem to the next, as a factor."""
        return "" if self.residue is None else f"{self.residue} * "

    # The scratch block -----------------------------------------------------------------------

    def write_vector_members(self, w: Writer) -> None:
        """Vectors per query that pairs do arithmetic with."""
        for name, source in self.stage.vectors:
            if name == "q":
                w.line(f"Floats query_vector[{self.sources.size(source)} * COLUMNS];")
        for staged in self.reads.staged_vectors.values():
            w.line(f"Floats {staged.member}[{staged.size} * COLUMNS];")

    # The tile --------------------------------------------------------------------------------

    def write_tile(
        self,
        w: Writer,
        head: str,
        write_absorb: Callable[[Writer], None],
        write_finish: Callable[[Writer], None],
        write_rows: Callable[[Writer, str], None],
        write_ahead: Callable[[Writer], None] | None = None,
    ) -> None:
        """The function over one tile: `head` is its name and first parameters. `write_rows` is told
        the text that follows what it writes. `write_ahead` writes what comes before all that, with
        `visit` there to say which blocks there are."""
        # Written from the inside out: what is computed once per tile is known at the end.
        block, loops, finish, prologue, windows = (Writer(comment="//") for _ in range(5))
        write_absorb(block)
        self.places.write_windows(windows)
        self.places.write_blocks(loops)
        write_finish(finish)
        write_rows(prologue, block.text() + finish.text())
        body = Writer(comment="//")
        body.lines(*self.scopes[Level.UNIFORM].lines)
        if write_ahead is not None:
            with body.block("const auto visit = [&](const auto &absorb) {", "};"):
                body.line(loops.text().rstrip())
            write_ahead(body)
            loops = Writer(comment="//")
            loops.line("visit(absorb);")
        for part in (prologue, windows, block, loops, finish):
            if part.text():
                body.blank()
                body.line(part.text().rstrip())
        extent = Writer(comment="//")
        if uses(body.text(), "g"):
            extent.line("const int32_t g = h / (H / Hkv);")
        self.places.write_extent(extent, body.text())
        self.places.write_functions(w)
        parameters = f"int32_t b, int32_t h, {self.places.parameters}"
        with w.block(f"static void {head}, {parameters}) {{", "}"):
            self.arguments.write_locals(w, extent.text() + body.text())
            w.line(extent.text().rstrip())
            w.line(body.text().rstrip())

    def write_lanes(
        self, w: Writer, after: str, declared: Iterable[str] = (), filled: Iterable[str] = ()
    ) -> None:
        """The values of every lane: positions, what expressions need of them, and what else is
        `declared` and, for each column, `filled`. `after` is what follows."""
        scope, used = self.scopes[Level.LANE], self.expressions.used_indices
        lanes = "\n".join([*scope.lines, *scope.arrays])
        self.places.write_positions(w, used, lanes + after)
        w.lines(*scope.arrays, *declared)
        loop = Writer(comment="//")
        self.places.write_lane_positions(loop, used)
        loop.lines(*scope.lines, *filled)
        if loop.text().strip():
            with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
                w.line(loop.text().rstrip())

    def write_vectors(self, w: Writer) -> None:
        """Bring the vectors of `write_vector_members` there."""
        for name, source in self.stage.vectors:
            if name == "q":
                place, size = self.sources.query(source), self.sources.size(source)
                w.line(
                    f"load_columns<{size}>({place.pointer}, {place.stride}, {self.sources.rows}, "
                    "1.0f, scratch.query_vector, COLUMNS);"
                )
        for staged in self.reads.staged_vectors.values():
            with w.block(f"for (int d = 0; d < {staged.size}; ++d) {{", "}"):
                w.line(
                    "for (int column = 0; column < COLUMNS; ++column) "
                    f"scratch.{staged.member}[d * COLUMNS + column] = "
                    f"gather({staged.base} + d * {staged.stride}, {staged.rows.text});"
                )

    def write_key(self, w: Writer, loop: str) -> None:
        """What `loop` refers to of key `key`, and the loop's body."""
        self.places.write_key(w, self.expressions.used_indices, loop)
        for name, source in self.stage.vectors:
            spelled = "key_vector" if name == "k" else "value_vector"
            if name != "q" and uses(loop, spelled):
                place, vector = self.sources.key(source), self.sources.key_vector(source)
                w.line(f"const {place.element} *{spelled} = {vector};")
        w.line(loop.rstrip())
