"""What dropout keeps, in kernels over tiles: one bit for each pair, drawn once per block of keys.

The generator gives the words of four neighbouring keys at once, so a block's bits are drawn key
after key ahead of what uses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.codegen.cpp.expressions import declare_dropout
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.cpp.tile_frame import TileFrame
from attndsl.codegen.writer import Writer
from attndsl.expression import Kept, walk
from attndsl.planner.pairs import pair_expressions
from attndsl.planner.plan import PairStage


def kept_in(stage: PairStage) -> Kept | None:
    """The leaf by which a stage drops pairs; all that are dropped are dropped by the same."""
    nodes = (node for expression in pair_expressions(stage) for node in walk(expression))
    return next((node for node in nodes if isinstance(node, Kept)), None)


@dataclass
class KeptTile:
    """The bits of a block, in the scratch block."""

    frame: TileFrame
    kept: Kept
    member: str = "Bits kept[BLOCK_N * COLUMNS];"
    factor: str = (
        "select(scratch.kept[key * COLUMNS + column], floats(dropout.factor), floats(0.0f))"
    )
    """What a pair's weight is multiplied by, inside the loops over `key` and `column`."""

    def __post_init__(self) -> None:
        self.frame.expressions.spell(self.kept, Text(self.factor, Level.PAIR))

    def write(self, w: Writer) -> None:
        """Draw the bits of a block."""
        expressions = self.frame.expressions
        declare_dropout(expressions)
        outer = dict(expressions.scopes)
        expressions.scopes[Level.STEP] = Scope("key")
        batch, head, query, key = self.kept.indices
        b, h = (expressions.text(one, Level.UNIFORM).text for one in (batch, head))
        i = expressions.text(query, Level.LANE).text
        j = expressions.text(key, Level.STEP)
        w.comment("Which pairs dropout keeps: four keys share a call of the generator.")
        w.line("Words words[COLUMNS][4];")
        w.line("int32_t fours = -1;")
        with w.block("for (int key = 0; key < keys; ++key) {", "}"):
            loop = Writer(comment="//")
            loop.lines(*expressions.scopes[Level.STEP].lines)
            loop.line(f"const int32_t key_position = {j.text};")
            with loop.block("if (key_position >> 2 != fours) {", "}"):
                loop.line("fours = key_position >> 2;")
                loop.line("UNROLL")
                loop.line("for (int column = 0; column < COLUMNS; ++column)")
                with loop.indented():
                    loop.line(f"dropout.draw({b}, {h}, {i}, fours, words[column]);")
            loop.line("UNROLL")
            loop.line("for (int column = 0; column < COLUMNS; ++column)")
            with loop.indented():
                loop.line(
                    "scratch.kept[key * COLUMNS + column] = "
                    "bits_of(words[column][key_position & 3] >= dropout.threshold);"
                )
            self.frame.write_key(w, loop.text())
        expressions.scopes.update(outer)


def kept_tile(frame: TileFrame) -> KeptTile | None:
    """None where the stage drops nothing."""
    kept = kept_in(frame.stage)
    return None if kept is None else KeptTile(frame, kept)
