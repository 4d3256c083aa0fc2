"""What a tile carries for each query, how a block of scores changes it, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.cpp.expressions import Expressions, as_vector
from attndsl.codegen.cpp.products import LOG2_E, Unit
from attndsl.codegen.cpp.scope import Level, Scope, Text
from attndsl.codegen.writer import Writer
from attndsl.expression import FLOAT, Call, Literal

LN_2 = "0.693147181f"
WEIGH = "[&](int key, int column) __attribute__((always_inline))"
"""The head of what `make_weights` and `make_pairs` call for each vector of pairs."""


class Rows(Protocol):
    """`unit` is that of the products; `kept` what dropout multiplies a weight by, as it is written
    behind one; `members` are vectors per query in the scratch block;
    `hidden` is what a hidden pair gets; `factor` rescales what was summed so far, `final_factor`
    what is written."""

    unit: Unit
    kept: str
    hidden: str
    factor: str
    final_factor: str
    support: set[str]

    @property
    def members(self) -> tuple[str, ...]: ...

    def weight(self, expressions: Expressions) -> tuple[Scope, Text] | None:
        """The weight made of `score` on the spot, and what it is computed from."""

    def write_start(self, w: Writer) -> None:
        """The state of a row that has seen no key."""

    def write_before(self, w: Writer) -> None:
        """Ahead of a block's pairs."""

    def write_cell(self, w: Writer) -> None:
        """For every vector of pairs, by `score` or, where there is one, by `weight`."""

    def write_after(self, w: Writer) -> None:
        """After a block's pairs: weights are in `scores` now."""

    def write_finish(self, w: Writer, statistics: str | None) -> None:
        """The factor that the output is written with, and the log-sum-exp."""


@dataclass
class SoftmaxRows:
    """The running maximum and sum.

    Exponentials refer to the maximum, or, where rescaling the output costs more than it is worth,
    to a number that follows the maximum when that has grown by 2^8.
    """

    softmax: Softmax
    expressions: Expressions
    unit: Unit
    kept: str = ""
    hidden: str = "-INFINITE"
    factor: str = "scratch.factor"
    final_factor: str = "final_factor"
    support: set[str] = field(default_factory=lambda: {"exp2"})

    @property
    def members(self) -> tuple[str, ...]:
        return ("highest", "total", "factor")

    def weight(self, expressions: Expressions) -> tuple[Scope, Text] | None:
        return None

    def write_start(self, w: Writer) -> None:
        with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            w.line("scratch.highest[column] = floats(-INFINITE);")
            w.line("scratch.total[column] = Floats{};")

    def write_before(self, w: Writer) -> None:
        w.line("Floats highest[COLUMNS];")
        w.line("UNROLL")
        w.line(
            "for (int column = 0; column < COLUMNS; ++column) "
            "highest[column] = scratch.highest[column];"
        )

    def write_cell(self, w: Writer) -> None:
        w.line("highest[column] = maximum(highest[column], score);")

    def write_after(self, w: Writer) -> None:
        w.line("Floats reference[COLUMNS], total[COLUMNS];")
        if self.unit.rounds_weights:
            w.line("Ints moved{};")
        w.line("UNROLL")
        with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            if self.unit.rounds_weights:
                w.comment("What weights refer to moves when they could grow past 2^8.")
                limit = f"scratch.highest[column] + 8.0f * (1.0f / {self.unit.factor})"
                w.line(f"const Ints moves = highest[column] > {limit};")
                w.line("highest[column] = select(moves, highest[column], scratch.highest[column]);")
                w.line("moved |= moves;")
            w.comment("A row that has seen nothing but -inf keeps weights of 0.")
            w.line(
                "reference[column] = "
                "select(highest[column] == -INFINITE, floats(0.0f), highest[column]);"
            )
            w.line(
                "scratch.factor[column] = "
                f"{self._power('scratch.highest[column] - reference[column]')};"
            )
            w.line("scratch.highest[column] = highest[column];")
            w.line("total[column] = scratch.total[column] * scratch.factor[column];")
        if self.unit.rounds_weights and not self.kept:
            operands = f"reference, {self.unit.factor}, total"
            w.line(f"exponentiate(scratch.scores, keys, seen, {operands});")
        else:
            self._write_exponentials(w)
        w.line("UNROLL")
        w.line(
            "for (int column = 0; column < COLUMNS; ++column) "
            "scratch.total[column] = total[column];"
        )
        if self.unit.rounds_weights:
            w.line("const bool rescaled = any(moved);")

    def _write_exponentials(self, w: Writer) -> None:
        makes = "make_pairs" if self.unit.rounds_weights else "make_weights"
        with w.block(f"{makes}(scratch.scores, keys, seen, {WEIGH} {{", "});"):
            score = "scratch.scores[key * COLUMNS + column]"
            w.line(f"const Floats weight = {self._power(f'{score} - reference[column]')};")
            w.line("total[column] += weight;")
            w.line(f"return weight{self.kept};")

    def write_finish(self, w: Writer, statistics: str | None) -> None:
        sink, value = self.softmax.sink, self.softmax.sink_value
        w.line("Floats final_factor[COLUMNS];")
        if value is not None:
            w.line("Floats sink_weight[COLUMNS];")
        sink_text = None
        if sink is not None:
            sink_text = as_vector(self.expressions.text(sink, Level.LANE), FLOAT)
        with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            if sink_text is None and statistics is not None:
                w.line("const Floats highest = scratch.highest[column];")
            if sink_text is None:
                w.line("const Floats total = scratch.total[column];")
                w.line("final_factor[column] = select(total == 0.0f, floats(0.0f), 1.0f / total);")
            else:
                self._write_sink(w, sink_text, value is not None)
            if statistics is not None:
                self._write_statistics(w, statistics)
        if value is not None:
            index, element = self.expressions.vectors.loop(self.expressions, value, Level.LANE)
            with (
                w.block(f"for (int {index} = 0; {index} < Dv; ++{index}) {{", "}"),
                w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"),
            ):
                w.line(f"Floats &element = scratch.output[{index} * COLUMNS + column];")
                w.line(
                    "element = element * final_factor[column] + "
                    f"sink_weight[column] * {element.inside(13)};"
                )
            w.line("for (Floats &factor : final_factor) factor = floats(1.0f);")

    def _write_sink(self, w: Writer, sink: Text, has_value: bool) -> None:
        w.comment("The sink joins the sum as one more key.")
        if self.unit.factor is None:
            w.line(f"const Floats sink = {sink.inside(12)} * {LOG2_E};")
        elif self.unit.is_natural:
            w.line(f"const Floats sink = {sink.text};")
        else:
            w.line(f"const Floats sink = {sink.inside(12)} * ({LOG2_E} / {self.unit.factor});")
        w.line("const Floats highest = maximum(scratch.highest[column], sink);")
        w.line("const Floats reference = select(highest == -INFINITE, floats(0.0f), highest);")
        w.line(f"const Floats kept = {self._power('scratch.highest[column] - reference')};")
        w.line(f"const Floats sunk = {self._power('sink - reference')};")
        w.line("const Floats total = scratch.total[column] * kept + sunk;")
        w.line("final_factor[column] = select(total == 0.0f, floats(0.0f), kept / total);")
        if has_value:
            w.line("sink_weight[column] = select(total == 0.0f, floats(0.0f), sunk / total);")

    def _write_statistics(self, w: Writer, statistics: str) -> None:
        self.support.add("log")
        if self.unit.factor is None:
            natural = f"highest * {LN_2}"
        elif self.unit.is_natural:
            natural = "highest"
        else:
            natural = f"highest * ({self.unit.factor} * {LN_2})"
        w.line(
            "const Floats log_sum_exp = "
            f"select(total == 0.0f, floats(-INFINITE), {natural} + log(total));"
        )
        _write_lanes(w, statistics, "log_sum_exp")

    def _power(self, difference: str) -> str:
        if self.unit.factor is None:
            return f"exp2({difference})"
        return f"exp2(({difference}) * {self.unit.factor})"


@dataclass
class ElementwiseRows:
    """A sum of weighted values, and of the weights where the rows are divided by that."""

    elementwise: Elementwise
    expressions: Expressions
    unit: Unit
    kept: str = ""
    hidden: str = "0.0f"
    factor: str = "scratch.factor"
    final_factor: str = "final_factor"
    support: set[str] = field(default_factory=set)

    @property
    def members(self) -> tuple[str, ...]:
        return ("total", "factor") if self._sums else ("factor",)

    @property
    def _sums(self) -> bool:
        return self.elementwise.divisor == "sum"

    def weight(self, expressions: Expressions) -> tuple[Scope, Text] | None:
        scope = Scope("weight", names=dict(expressions.scopes[Level.PAIR].names))
        kept, expressions.scopes[Level.PAIR] = expressions.scopes[Level.PAIR], scope
        text = self._weight(expressions)
        expressions.scopes[Level.PAIR] = kept
        return scope, text

    def _weight(self, expressions: Expressions) -> Text:
        match self.elementwise.weight:
            case Call(function="sigmoid", arguments=(argument,)) if self.unit.rounds_weights:
                expressions.used_support.add("short_sigmoid")
                inner = as_vector(expressions.text(argument), FLOAT)
                return Text(f"short_sigmoid({inner.text})", Level.PAIR)
            case weight:
                return as_vector(expressions.text(weight), FLOAT)

    def write_start(self, w: Writer) -> None:
        w.line("for (Floats &factor : scratch.factor) factor = floats(1.0f);")
        if self._sums:
            w.line("for (Floats &total : scratch.total) total = Floats{};")

    def write_before(self, w: Writer) -> None:
        if self._sums:
            w.line("Floats total[COLUMNS];")
            w.line("UNROLL")
            w.line(
                "for (int column = 0; column < COLUMNS; ++column) "
                "total[column] = scratch.total[column];"
            )

    def write_cell(self, w: Writer) -> None:
        if self._sums:
            w.line("total[column] += weight;")

    def write_after(self, w: Writer) -> None:
        if self.unit.rounds_weights:
            w.line("constexpr bool rescaled = false;")
        if self._sums:
            w.line("UNROLL")
            w.line(
                "for (int column = 0; column < COLUMNS; ++column) "
                "scratch.total[column] = total[column];"
            )

    def write_finish(self, w: Writer, statistics: str | None) -> None:
        divisor = self.elementwise.divisor
        w.line("Floats final_factor[COLUMNS];")
        if divisor is None:
            w.line("for (Floats &factor : final_factor) factor = floats(1.0f);")
            return
        if isinstance(divisor, str):
            epsilon = self.expressions.text(Literal(float(self.elementwise.epsilon)), Level.LANE)
            text = f"scratch.total[column] + {epsilon.text}"
        else:
            text = as_vector(self.expressions.text(divisor, Level.LANE), FLOAT).text
        with w.block("for (int column = 0; column < COLUMNS; ++column) {", "}"):
            w.line(f"const Floats divisor = {text};")
            w.line("final_factor[column] = select(divisor == 0.0f, floats(0.0f), 1.0f / divisor);")
            if statistics is not None and isinstance(self.elementwise.divisor, str):
                _write_lanes(w, statistics, "divisor")


def _write_lanes(w: Writer, statistics: str, value: str) -> None:
    """Stores one column's numbers, each at its lane's place."""
    w.line("for (int lane = column * LANES; lane < rows && lane < (column + 1) * LANES; ++lane)")
    with w.indented():
        w.line(f"{statistics} = {value}[lane % LANES];")
