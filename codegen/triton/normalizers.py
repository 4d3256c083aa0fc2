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
        for number, chunk in enumerate(value_chunks):
            initial = f"tl.zeros([BLOCK_M, {chunk.width}], tl.float32)"
            if self.normalizer.sink_value is not None:
                initial = f"{initial} + {self._sink_value(chunk)}"
            name = "output" if len(value_chunks) == 1 else f"output_{number}"
            state.accumulators.append(kernel.assign(name, Value(initial)).text)

    def _sink_value(self, chunk: Chunk) -> str:
        """What the sink contributes to a chunk of the output."""
        vector = self.normalizer.sink_value
        assert vector is not None
        lane = lane_index(self.kernel, chunk.used, start=chunk.start, width=chunk.width)
        self.kernel.extents["d"] = str(chunk.width)
        value = self.kernel.value(element(vector, lane))
        weighted = infix("*", Binding.PRODUCT, Value(self.state.total, "m"), value)
        return weighted.text

    def absorb(self, visible: Value | None) -> tuple[str, str]:
        """Names of the tile's weights and of what the accumulators are multiplied by first."""
        kernel, state = self.kernel, self.state
        if self.scaled_maximum and visible is None:
            dot = kernel.value(DotResult(0))
            scale = kernel.value(self._scale())
            highest = f"tl.max({dot.text}, 1) * {scale.at_least(Binding.PRODUCT)}"
            scores = infix("*", Binding.PRODUCT, dot, scale).text
        else:
            expression = times(arrange(self.score, kernel.axes_of), LOG2_E, kernel.axes_of)
            value = spread_to_tile(kernel.arranged(expression))
            if visible is not None:
                condition = spread(visible, "mn").text
                value = Value(f'tl.where({condition}, {value.text}, float("-inf"))', "mn")
            scores = kernel.assign("scores", value).text
            highest = f"tl.max({scores}, 1)"
        highest_name = kernel.assign(
            "new_maximum", Value(f"tl.maximum({state.maximum}, {highest})")
        ).text
        weights = kernel.assign("weights", Value(f"tl.exp2({scores} - {highest_name}[:, None])"))
        rescale = kernel.assign("rescale", Value(f"tl.exp2({state.maximum} - {highest_name})"))
        kernel.line(f"{state.total} = {state.total} * {rescale.text} + tl.sum({weights.text}, 1)")
        kernel.line(f"{state.maximum} = {highest_name}")
        return weights.text, rescale.text

    def _scale(self) -> Expression:
        """The factor of the dot product, in base 2."""
        product = linear_in(self.score, DotResult(0))
        assert product is not None
        rest: Expression = Literal(1.0)
        for factor in product.factors:
            rest = factor
        return times(rest, product.coefficient * LOG2_E, self.kernel.axes_of)

    def finish(self) -> str:
        """The divisor of the row; 1 where nothing was visible, so that the row is 0."""
        total = self.state.total
        return self.kernel.assign(
            "divisor", Value(f"tl.where({total} == 0.0, 1.0, {total})", "m")
        ).text

    def log_sum_exp(self) -> str | None:
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

    def begin(self, value_chunks: tuple[Chunk, ...]) -> None:
        kernel = self.kernel
        if self.normalizer.divisor == "sum":
            self.state.total = kernel.assign("total", Value("tl.zeros([BLOCK_M], tl.float32)")).text
        for number, chunk in enumerate(value_chunks):
            name = "output" if len(value_chunks) == 1 else f"output_{number}"
            initial = Value(f"tl.zeros([BLOCK_M, {chunk.width}], tl.float32)")
            self.state.accumulators.append(kernel.assign(name, initial).text)

    def absorb(self, visible: Value | None) -> tuple[str, str]:
        kernel = self.kernel
        value = spread_to_tile(kernel.arranged(self.weight))
        if visible is not None:
            condition = spread(visible, "mn").text
            value = Value(f"tl.where({condition}, {value.text}, 0.0)", "mn")
        weights = kernel.assign("weights", value).text
        if self.state.total:
            kernel.line(f"{self.state.total} += tl.sum({weights}, 1)")
        return weights, ""

    def finish(self) -> str:
        """The divisor of the row, 0 replaced by infinity: such a row is 0. Empty for no divisor."""
        kernel, divisor = self.kernel, self.normalizer.divisor
        if divisor is None:
            return ""
        if isinstance(divisor, str):
            total = Value(self.state.total, "m")
            if self.normalizer.epsilon:
                epsilon = Value(repr(self.normalizer.epsilon))
                total = infix("+", Binding.SUM, total, epsilon)
        else:
            total = kernel.value(divisor)
        total = kernel.assign("divisor", total)
        text = f'tl.where({total.text} == 0.0, float("inf"), {total.text})'
        whole = "tl.zeros([BLOCK_M], tl.float32)"
        return kernel.assign("row_divisor", Value(f"{text} + {whole}", "m")).text

    def log_sum_exp(self) -> str | None:
        return None


Rows = SoftmaxRows | ElementwiseRows


def spread_to_tile(value: Value) -> Value:
    """The value with both axes of the tile: a score may vary with one side only, or with none."""
    if value.axes == "mn":
        return value
    tile = Value("tl.zeros([BLOCK_M, BLOCK_N], tl.float32)", "mn")
    return infix("+", Binding.SUM, value, tile)
