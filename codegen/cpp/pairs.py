"""What is computed for every pair of a block: whether it is visible, its score and its weight.

A mask depends on positions, heads and inputs alone, so it comes first: products are then made for
the keys that some query sees, on the edge of what is visible and wherever inputs decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.codegen.cpp.dropout import KeptTile
from attndsl.codegen.cpp.expressions import Expressions, as_mask, as_vector
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.normalizers import WEIGH, Rows
from attndsl.codegen.cpp.products import scores
from attndsl.codegen.cpp.query_factor import QueryFactors
from attndsl.codegen.cpp.reads import Reads
from attndsl.codegen.cpp.scope import Level, Scope
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.writer import Writer
from attndsl.expression import FLOAT, TRUE
from attndsl.planner.plan import Attend

_CELL = f"scratch.{scores(0)}[key * COLUMNS + column]"
_VISIBLE = "scratch.visible[key * COLUMNS + column]"


@dataclass
class Pairs:
    """The loops over the pairs of a block."""

    stage: Attend
    frame: TileFrame
    factors: QueryFactors
    rows: Rows
    kept: KeptTile | None

    @property
    def reads(self) -> Reads:
        return self.frame.reads

    @property
    def expressions(self) -> Expressions:
        return self.frame.expressions

    @property
    def members(self) -> tuple[str, ...]:
        """Members of the scratch block."""
        tiles = self.reads.pair_tiles.values()
        seen = ("Bits visible[BLOCK_N * COLUMNS];",) if self.stage.mask != TRUE else ()
        kept = () if self.kept is None else (self.kept.member,)
        return (*seen, *kept, *(tile.declaration for tile in tiles))

    def write(self, before: Writer, after: Writer) -> None:
        """What stands before the products of a block, and what follows them."""
        mask, pairs = Writer(comment="//"), Writer(comment="//")
        if self.stage.mask != TRUE:
            self._write_visible(mask)
        for_mask = tuple(self.reads.pair_tiles.values())
        self._write_scores(pairs)
        shared = [tile for tile in for_mask if uses(pairs.text(), f"scratch.{tile.member}")]
        for tile in shared:
            before.line(tile.load)
        before.line("[[maybe_unused]] Seen seen{};")
        if self.stage.mask != TRUE:
            before.comment("A block that no query sees is passed over.")
            with before.block("if constexpr (partial) {", "}"):
                for tile in for_mask:
                    if tile not in shared:
                        before.line(tile.load)
                before.line(mask.text().rstrip())
                before.line("seen = seen_in_block(scratch.visible, keys);")
                before.line("if (seen.none) return;")
        for tile in self.reads.pair_tiles.values():
            if tile not in for_mask:
                after.line(tile.load)
        if self.kept is not None:
            self.kept.write(after)
        after.line(pairs.text().rstrip())

    def _write_visible(self, w: Writer) -> None:
        """One bit for each pair of a block."""
        expressions = self.expressions
        kept = dict(expressions.scopes)
        expressions.scopes[Level.STEP] = Scope("key")
        expressions.scopes[Level.PAIR] = Scope("visible")
        expressions.count([self.stage.mask])
        visible = as_mask(expressions.text(self.stage.mask))
        pair_lines = expressions.scopes[Level.PAIR].lines
        with w.block("for (int key = 0; key < keys; ++key) {", "}"):
            loop = Writer(comment="//")
            loop.lines(*expressions.scopes[Level.STEP].lines)
            loop.line("UNROLL")
            with loop.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
                loop.lines(*pair_lines)
                loop.line(f"{_VISIBLE} = bits_of({visible.text});")
            self.frame.write_key(w, loop.text())
        expressions.scopes.update(kept)

    def _write_scores(self, w: Writer) -> None:
        """Scores, masked, and what the normaliser makes of them."""
        expressions, pairs = self.expressions, self.expressions.scopes[Level.PAIR]
        score = self.factors.score
        expressions.count([score])
        text = as_vector(expressions.text(score), FLOAT)
        lines = list(pairs.lines)
        weight = self.rows.weight(expressions)
        self.rows.write_before(w)
        if weight is None:
            self._write_masked(w, lines, text.text)
        else:
            lines += [f"const Floats score = {text.text};", *weight[0].lines]
            self._write_weights(w, lines, weight[1].text)
        self.rows.write_after(w)

    def _write_masked(self, w: Writer, lines: list[str], score: str) -> None:
        """Masked scores, of which the normaliser makes weights after the block's last."""
        as_stored = score == _CELL
        with w.block("for (int key = 0; key < keys; ++key) {", "}"):
            loop = Writer(comment="//")
            loop.lines(*self.expressions.scopes[Level.STEP].lines)
            loop.line("UNROLL")
            with loop.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
                loop.line(f"Floats &cell = {_CELL};")
                loop.lines(*lines)
                loop.line(f"Floats score = {'cell' if as_stored else score};")
                if self.stage.mask != TRUE:
                    with loop.block("if constexpr (partial) {", "}"):
                        self._write_hiding(loop, "score")
                        if as_stored:
                            loop.line("cell = score;")
                if not as_stored:
                    loop.line("cell = score;")
                self.rows.write_cell(loop)
            self.frame.write_key(w, loop.text())

    def _write_weights(self, w: Writer, lines: list[str], weight: str) -> None:
        """Weights that are known on the spot."""
        makes = "make_pairs" if self.rows.unit.rounds_weights else "make_weights"
        with w.block(f"{makes}(scratch.scores, keys, seen, {WEIGH} {{", "});"):
            body = Writer(comment="//")
            body.lines(*self.expressions.scopes[Level.STEP].lines)
            body.lines(*lines)
            body.line(f"Floats weight = {weight};")
            if self.stage.mask != TRUE:
                with body.block("if constexpr (partial) {", "}"):
                    self._write_hiding(body, "weight")
            self.rows.write_cell(body)
            body.line(f"return weight{self.rows.kept};")
            self.frame.write_key(w, body.text())

    def _write_hiding(self, w: Writer, result: str) -> None:
        w.line(f"{result} = select({_VISIBLE}, {result}, floats({self.rows.hidden}));")
