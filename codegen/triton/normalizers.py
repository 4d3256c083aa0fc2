"""How a tile of scores is absorbed into the state of a row, and how the row is finished.

Softmax carries the row's maximum and sum, in base 2; other normalisers carry at most the sum. The
weighted sum of values is kept in one accumulator for each chunk of the value's elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attndsl.attention import Elementwise, Softmax
from attndsl.codegen.triton.arrange import arrange, linear_in, times
from attndsl.codegen.triton.functions import LN_2, LOG2_E
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.reductions import lane_index
from attndsl.codegen.triton.scalarize import element
from attndsl.codegen.triton.tokens import Chunk
from attndsl.codegen.triton.values import Binding, Value, infix, spread
from attndsl.expression import (
    DotResult,
    Expression,
    Index,
    Literal,
    Scale,
    ScoreValue,
    substitute,
)

# Below every score, above minus infinity: a row that sees nothing never subtracts infinities.
_LOWEST = "-1.0e30"


@dataclass
class RowState:
    """Names of what is carried from tile to tile."""

    accumulators: list[str] = field(default_factory=list)
    maximum: str = ""
    total: str = ""


def only_dot_is_scaled(score: Expression) -> float | None:
    """`c` where the score is `dot * scale * c` with c > 0: its maximum can be taken unscaled."""
    product = linear_in(score, DotResult(0))
    if product is None or product.coefficient <= 0 or product.factors not in ((), (Scale(),)):
        return None
    return product.coefficient


def uses_scale(score: Expression) -> bool:
    product = linear_in(score, DotResult(0))
    return product is not None and product.factors == (Scale(),)


class SoftmaxRows:
    """exp2 of scores in base 2, relative to the row's maximum so far."""

    def __init__(self, kernel: Kernel, normalizer: Softmax, score: Expression):
        self.kernel = kernel
        self.normalizer = normalizer
        self.score = score
        self.state = RowState()
        self.scaled_maximum = only_dot_is_scaled(score) is not None
        self.sink_exponent = ""

    def begin(self, value_chunks: tuple[Chunk, ...]) -> None:
        kernel, state = self.kernel, self.state
        if self.scaled_maximum and uses_scale(self.score):
            kernel.define(self._scale(), kernel.assign("scale_base_2", kernel.value(self._scale())))
        sink = self.normalizer.sink
        if sink is None:
            state.maximum = kernel.assign(
                "maximum", Value(f"tl.full([BLOCK_M], {_LOWEST}, tl.float32)", "m")
            ).text
            state.total = kernel.assign("total", Value("tl.zeros([BLOCK_M], tl.float32)")).text
        else:
            # The sink is a key that every row has seen already.
            value = spread(kernel.arranged(times(sink, LOG2_E, kernel.axes_of)), "m")
            start = f"tl.full([BLOCK_M], {_LOWEST}, tl.float32)"
            sink_value = kernel.assign("sink_exponent", Value(value.text, value.axes))
            state.maximum = kernel.assign(
                "maximum", Value(f"tl.maximum({start}, {sink_value.text})", "m")
            ).text
            state.total = kernel.assign(
                "total", Value(f"tl.exp2({sink_value.text} - {state.maximum})", "m")
            ).text
            self.sink_exponent = sink_value.text
        initial = [self._initial(chunk, state.total) for chunk in value_chunks]
        state.accumulators = name_accumulators(kernel, initial)

    def begin_again(self, value_chunks: tuple[Chunk, ...]) -> None:
        """The accumulators as before any key, relative to the maximum that is known by now."""
        kernel, state = self.kernel, self.state
        sink_weight = ""
        if self.normalizer.sink_value is not None:
            weight = f"tl.exp2({self.sink_exponent} - {state.maximum})"
            sink_weight = kernel.assign("sink_weight", Value(weight)).text
        for name, chunk in zip(state.accumulators, value_chunks, strict=True):
            kernel.line(f"{name} = {self._initial(chunk, sink_weight, again=True)}")

    def _initial(self, chunk: Chunk, sink_weight: str, *, again: bool = False) -> str:
        """What the sink contributes to a chunk of the output; `sink_weight` names a row's."""
        zeros = zeros_of(chunk)
        if self.normalizer.sink_value is None:
            return zeros
        return f"{zeros} + {self._sink_value(chunk, sink_weight, again)}"

    def _sink_value(self, chunk: Chunk, sink_weight: str, again: bool) -> str:
        vector = self.normalizer.sink_value
        assert vector is not None
        lane = lane_index(self.kernel, chunk.used, start=chunk.start, width=chunk.width)
        if again:
            # Under another name the value is read anew: kept, it would hold as many registers as
            # the accumulators throughout all loops.
            lanes = self.kernel.value(lane)
            lane = Index(f"{lane.name} again")
            self.kernel.define(lane, lanes)
        self.kernel.extents["d"] = str(chunk.width)
        value = self.kernel.value(element(vector, lane))
        return infix("*", Binding.PRODUCT, Value(sink_weight, "m"), value).text

    def absorb(self, visible: Value | None) -> tuple[str, str]:
        """Names of the tile's weights and of what the accumulators are multiplied by first."""
        kernel, state = self.kernel, self.state
        if self.scaled_maximum and visible is None:
            dot = kernel.value(DotResult(0))
            scale = kernel.value(self._scale())
            highest = f"tl.max({dot.text}, 1) * {scale.at_least(Binding.PRODUCT)}"
            scores = infix("*", Binding.PRODUCT, dot, scale).text
        else:
            scores = self._scores(visible)
            highest = f"tl.max({scores}, 1)"
        highest_name = kernel.assign(
            "new_maximum", Value(f"tl.maximum({state.maximum}, {highest})")
        ).text
        weights = kernel.assign("weights", Value(f"tl.exp2({scores} - {highest_name}[:, None])"))
        rescale = kernel.assign("rescale", Value(f"tl.exp2({state.maximum} - {highest_name})"))
        kernel.line(f"{state.total} = {state.total} * {rescale.text} + tl.sum({weights.text}, 1)")
        kernel.line(f"{state.maximum} = {highest_name}")
        return weights.text, rescale.text

    def weigh_again(self, visible: Value) -> str:
        """The name of the tile's weights, relative to the maximum that is known by now."""
        text = f"tl.exp2({self._scores(visible)} - {self.state.maximum}[:, None])"
        return self.kernel.assign("weights", Value(text)).text

    def _scores(self, visible: Value | None) -> str:
        """The name of the tile's scores in base 2."""
        kernel = self.kernel
        expression = times(arrange(self.score, kernel.axes_of), LOG2_E, kernel.axes_of)
        value = spread_to_tile(kernel, kernel.arranged(expression))
        if visible is not None:
            condition = spread(visible, "mn").text
            value = Value(f'tl.where({condition}, {value.text}, float("-inf"))', "mn")
        return kernel.assign("scores", value).text

    def _scale(self) -> Expression:
        """The factor of the dot product, in base 2."""
        product = linear_in(self.score, DotResult(0))
        assert product is not None
        rest: Expression = Literal(1.0)
        for factor in product.factors:
            rest = factor
        return times(rest, product.coefficient * LOG2_E, self.kernel.axes_of)

    def finish(self) -> None:
        """Divides the accumulators by the row's sum; a row that saw nothing is 0."""
        total = self.state.total
        divisor = self.kernel.assign("divisor", Value(f"tl.where({total} == 0.0, 1.0, {total})"))
        for output in self.state.accumulators:
            self.kernel.line(f"{output} = {output} / {divisor.text}[:, None]")

    def statistic(self) -> str | None:
        """The natural logarithm of the row's sum; -inf for a row that saw nothing."""
        state = self.state
        return self.kernel.assign(
            "log_sum_exp_row",
            Value(f"({state.maximum} + tl.log2({state.total})) * {LN_2!r}", "m"),
        ).text


class ElementwiseRows:
    """A weight for each pair, independent of the others."""

    def __init__(self, kernel: Kernel, normalizer: Elementwise, score: Expression):
        self.kernel = kernel
        self.normalizer = normalizer
        self.weight = substitute(normalizer.weight, {ScoreValue(): score})
        self.state = RowState()
        self.scaled_maximum = False
        self.divisor = ""

    def begin(self, value_chunks: tuple[Chunk, ...]) -> None:
        kernel = self.kernel
        if self.normalizer.divisor == "sum":
            self.state.total = kernel.assign("total", Value("tl.zeros([BLOCK_M], tl.float32)")).text
        self.state.accumulators = name_accumulators(kernel, list(map(zeros_of, value_chunks)))

    def begin_again(self, value_chunks: tuple[Chunk, ...]) -> None:
        """The accumulators as before any key."""
        for name, chunk in zip(self.state.accumulators, value_chunks, strict=True):
            self.kernel.line(f"{name} = {zeros_of(chunk)}")

    def absorb(self, visible: Value | None) -> tuple[str, str]:
        """The name of the tile's weights; nothing is rescaled."""
        weights = self._weights(visible)
        if self.state.total:
            self.kernel.line(f"{self.state.total} += tl.sum({weights}, 1)")
        return weights, ""

    def weigh_again(self, visible: Value) -> str:
        """The name of the tile's weights."""
        return self._weights(visible)

    def _weights(self, visible: Value | None) -> str:
        kernel = self.kernel
        value = spread_to_tile(kernel, kernel.arranged(self.weight))
        if visible is not None:
            condition = spread(visible, "mn").text
            value = Value(f"tl.where({condition}, {value.text}, 0.0)", "mn")
        return kernel.assign("weights", value).text

    def finish(self) -> None:
        """Divides the accumulators, if there is a divisor; where it is 0 the row is 0."""
        kernel, divisor = self.kernel, self.normalizer.divisor
        if divisor is None:
            return
        if isinstance(divisor, str):
            total = Value(self.state.total, "m")
            if self.normalizer.epsilon:
                epsilon = Value(repr(self.normalizer.epsilon))
                total = infix("+", Binding.SUM, total, epsilon)
        else:
            whole = Value("tl.zeros([BLOCK_M], tl.float32)", "m")
            total = infix("+", Binding.SUM, kernel.value(divisor), whole)
        name = self.divisor = kernel.assign("divisor", total).text
        for output in self.state.accumulators:
            quotient = f"{output} / {name}[:, None]"
            kernel.line(f"{output} = tl.where({name}[:, None] == 0.0, 0.0, {quotient})")

    def statistic(self) -> str | None:
        """The sum that the row is divided by, if it is."""
        return self.divisor if isinstance(self.normalizer.divisor, str) else None


Rows = SoftmaxRows | ElementwiseRows


def zeros_of(chunk: Chunk) -> str:
    return f"tl.zeros([BLOCK_M, {chunk.width}], tl.float32)"


def name_accumulators(kernel: Kernel, initial: list[str]) -> list[str]:
    """An accumulator for each chunk of the value, set to what is given."""
    names = ["output"] if len(initial) == 1 else [f"output_{n}" for n in range(len(initial))]
    pairs = zip(names, initial, strict=True)
    return [kernel.assign(name, Value(text)).text for name, text in pairs]


def spread_to_tile(kernel: Kernel, value: Value) -> Value:
    """The value with both axes of the tile: a score may vary with one side only, or with none."""
    if value.axes == "mn":
        return value
    shape = f"{kernel.extents['m']}, {kernel.extents['n']}"
    tile = Value(f"tl.zeros([{shape}], tl.float32)", "mn")
    return infix("+", Binding.SUM, value, tile)
