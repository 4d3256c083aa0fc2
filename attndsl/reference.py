"""The definition of the language: an attention run densely in NumPy float64.

Nothing here knows of blocks, tiles or targets. Every other way to run a spec is compared with this
one, so it is written to be read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from attndsl.attention import (
    Attention,
    Elementwise,
    GroupedSoftmax,
    Normalizer,
    Softmax,
    TokenScan,
)
from attndsl.diagnostics import InternalError, error
from attndsl.dropout import Dropout
from attndsl.evaluate import Array, Environment, evaluate, evaluate_size
from attndsl.expression import Expression, Scalar, Size, Vector

_DTYPES = {Scalar.BOOL: np.bool_, Scalar.INT: np.int64, Scalar.FLOAT: np.float64}
_INDEX_OF_SIZE = {"B": "b", "H": "h", "Hkv": "g"}


@dataclass(frozen=True)
class Result:
    """`output` is float64 `[B, H, Lq, Dv]`.

    `log_sum_exp` is float64 `[B, H, Lq]`, the natural logarithm of the sum that softmax divides by
    (−∞ for a row that sees nothing); None for normalisers that take no exponential. `divisor` is
    float64 `[B, H, Lq]` where the weights of a row are divided by their sum, else None.
    """

    output: Array
    log_sum_exp: Array | None
    divisor: Array | None = None

    @staticmethod
    def of(normalizer: Normalizer, output: Array, statistic: Array) -> Result:
        """With what a normaliser knows of every row beside its output."""
        if not isinstance(normalizer, Elementwise):
            return Result(output, statistic)
        by_sum = isinstance(normalizer.divisor, str)
        return Result(output, None, statistic if by_sum else None)


def run(
    attention: Attention,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike | None,
    inputs: Mapping[str, ArrayLike],
    *,
    scale: float | None = None,
    offset: int | None = None,
    axes: Mapping[str, int] | None = None,
    dropout: Dropout | None = None,
) -> Result:
    """Run an attention whose parameters are bound.

    `q` is `[B, H, Lq, D]`, `k` `[B, Hkv, Lk, D]`, `v` `[B, Hkv, Lk, Dv]` (None where the spec makes
    it of `k`); query head `h` uses key head `h // (H // Hkv)`. Query row 0 sits at position
    `offset`, `Lk - Lq` by default; `scale` is `1 / sqrt(D)` by default; `axes` gives the length
    of each axis that the spec declares. `dropout` multiplies the weights of values, after
    normalisation. Shapes are the caller's to check.

    Raises `AttnError` A078 where a visible pair reads an input out of range, and A080 for a
    construct that cannot be run yet.
    """
    if not attention.is_bound:
        raise InternalError(f"the parameters of `{attention.name}` are not bound")
    for later in attention.later:
        raise error("A080", f"`{later.construct}` cannot be run yet", later.span)
    given = {"q": np.asarray(q, np.float64), "k": np.asarray(k, np.float64)}
    if v is not None:
        given["v"] = np.asarray(v, np.float64)
    call = _Call(attention, given, inputs, scale, offset, axes or {}, dropout)
    batches, heads, rows = (call.sizes[name] for name in ("B", "H", "Lq"))
    output = np.zeros((batches, heads, rows, call.vectors["v"].shape[-1]))
    statistic = np.zeros((batches, heads, rows))
    for b in range(batches):
        for h in range(heads):
            output[b, h], statistic[b, h] = call.head(b, h)
    return Result.of(attention.normalizer, output, statistic)


class _Call:
    """One call: sizes, inputs and scans, and the vectors as they are scored."""

    def __init__(
        self,
        attention: Attention,
        given: Mapping[str, Array],
        inputs: Mapping[str, ArrayLike],
        scale: float | None,
        offset: int | None,
        axes: Mapping[str, int],
        dropout: Dropout | None,
    ):
        self.attention = attention
        self._dropout = dropout
        batches, heads, rows, width = given["q"].shape
        key_heads, keys = given["k"].shape[1:3]
        self.sizes: dict[str, int] = {
            "B": batches,
            "H": heads,
            "Hkv": key_heads,
            "Lq": rows,
            "Lk": keys,
        }
        self.sizes |= {"D": width, "offset": keys - rows if offset is None else offset}
        self.sizes |= {f"axis.{name}": length for name, length in axes.items()}
        self.sizes["Dv"] = self._value_width(given)
        self.base = Environment(
            sizes=self.sizes,
            axes=attention.axes,
            scale=1.0 / math.sqrt(width) if scale is None else scale,
            inputs={
                declared.name: np.asarray(inputs[declared.name], _DTYPES[declared.element])
                for declared in attention.inputs
            },
        )
        for scan in attention.scans:
            total = {scan.name: self._scan(scan)}
            self.base = dataclasses.replace(self.base, inputs={**self.base.inputs, **total})
        self.vectors = {**given, **self._prepare(given)}

    def _value_width(self, given: Mapping[str, Array]) -> int:
        """`Dv`: the size of the values that the caller gives or, if none, of those made."""
        if "v" in given:
            return int(given["v"].shape[-1])
        made = dict(self.attention.prepared)["v"]
        if not isinstance(made.type, Vector):
            raise InternalError("a value is not a vector")
        return evaluate_size(made.type.size, self.sizes)

    def _scan(self, scan: TokenScan) -> Array:
        shape = tuple(evaluate_size(dimension, self.sizes) for dimension in scan.dimensions)
        names = [
            _INDEX_OF_SIZE[dimension.name]
            for dimension in scan.dimensions[:-1]
            if isinstance(dimension, Size)
        ]
        indices = dict(zip([*names, "t"], np.indices(shape, sparse=True), strict=True))
        element = evaluate(scan.element, dataclasses.replace(self.base, indices=indices))
        return np.cumsum(np.broadcast_to(element, shape), axis=-1)

    def _prepare(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """The vectors that the spec replaces before scoring, made of those that the caller gave."""
        vectors = {}
        for name, element in self.attention.prepared:
            environment = dataclasses.replace(
                self.base,
                indices=self._token_indices(name),
                operands={other: _on_grid(other, array) for other, array in given.items()},
            )
            heads, tokens = ("H", "Lq") if name == "q" else ("Hkv", "Lk")
            value = evaluate(element, environment)
            shape = (self.sizes["B"], self.sizes[heads], self.sizes[tokens], value.shape[-1])
            vectors[name] = np.broadcast_to(value, _on_grid(name, np.empty(shape)).shape).reshape(
                shape
            )
        return vectors

    def _token_indices(self, name: str) -> dict[str, Array]:
        """Indices over all tokens of one side, on the grid `[b, head, i, j]`."""
        batch = np.arange(self.sizes["B"]).reshape(-1, 1, 1, 1)
        if name == "q":
            head = np.arange(self.sizes["H"]).reshape(1, -1, 1, 1)
            row = np.arange(self.sizes["Lq"]).reshape(1, 1, -1, 1)
            return {
                "b": batch,
                "h": head,
                "g": head // self._group,
                "i": row + self.sizes["offset"],
                "row": row,
            }
        return {
            "b": batch,
            "g": np.arange(self.sizes["Hkv"]).reshape(1, -1, 1, 1),
            "j": np.arange(self.sizes["Lk"]).reshape(1, 1, 1, -1),
        }

    @property
    def _group(self) -> int:
        """How many query heads share a key head."""
        return max(1, self.sizes["H"] // max(1, self.sizes["Hkv"]))

    def head(self, b: int, h: int) -> tuple[Array, Array]:
        """Output `[Lq, Dv]` of one batch and head, and `[Lq]` its log-sum-exp or divisor."""
        g = h // self._group
        pairs = self._pairs(b, h, g)
        shape = self.sizes["Lq"], self.sizes["Lk"]
        hidden_may_read_anything = dataclasses.replace(pairs, clamp=True)
        visible = evaluate(self.attention.mask, hidden_may_read_anything)
        pairs = dataclasses.replace(pairs, visible=visible)
        evaluate(self.attention.mask, pairs)  # for the error, if a visible pair reads out of range
        score = np.broadcast_to(evaluate(self.attention.score, pairs), (1, 1, *shape))[0, 0]
        visible = np.broadcast_to(visible, (1, 1, *shape))[0, 0]
        value = self.vectors["v"][b, g]
        with np.errstate(all="ignore"):
            match self.attention.normalizer:
                case Softmax(sink, sink_value):
                    return self._softmax(score, visible, value, sink, sink_value, pairs)
                case Elementwise() as elementwise:
                    return self._elementwise(score, visible, value, elementwise, pairs)
                case GroupedSoftmax() as grouped:
                    return self._grouped_softmax(score, visible, value, grouped, pairs)

    def _pairs(self, b: int, h: int, g: int) -> Environment:
        rows = self._token_indices("q")
        at_head = {name: np.full((1, 1, 1, 1), n) for name, n in {"b": b, "h": h, "g": g}.items()}
        return dataclasses.replace(
            self.base,
            indices={
                **at_head,
                "i": rows["i"],
                "row": rows["row"],
                "j": self._token_indices("k")["j"],
            },
            operands={
                name: _on_grid(name, array[b, h if name == "q" else g][np.newaxis, np.newaxis])
                for name, array in self.vectors.items()
            },
        )

    def _per_row(self, expression: Expression, pairs: Environment) -> Array:
        """A float that does not vary with `j`, for every row; a vector gives `[Lq, size]`."""
        rows = evaluate(expression, dataclasses.replace(pairs, visible=None))
        if isinstance(expression.type, Vector):
            rows = np.broadcast_to(rows, (1, 1, self.sizes["Lq"], 1, rows.shape[-1]))
            return rows[0, 0, :, 0]
        return np.broadcast_to(rows, (1, 1, self.sizes["Lq"], 1))[0, 0, :, 0]

    def _kept(self, pairs: Environment) -> Array | float:
        """What dropout multiplies the weights of values by."""
        if self._dropout is None:
            return 1.0
        kept: Array = self._dropout.kept(*(pairs.indices[name] for name in "bhij"))[0, 0]
        return kept

    def _softmax(
        self,
        score: Array,
        visible: Array,
        value: Array,
        sink: Expression | None,
        sink_value: Expression | None,
        pairs: Environment,
    ) -> tuple[Array, Array]:
        extra = None if sink is None else self._per_row(sink, pairs)
        weights, sink_weight, log_sum_exp = _softmax(score, visible, extra)
        output = _combine(weights * self._kept(pairs), visible, value)
        if sink_value is not None:
            output = output + sink_weight[:, np.newaxis] * self._per_row(sink_value, pairs)
        return output, log_sum_exp

    def _elementwise(
        self,
        score: Array,
        visible: Array,
        value: Array,
        normalizer: Elementwise,
        pairs: Environment,
    ) -> tuple[Array, Array]:
        scored = dataclasses.replace(pairs, score=score[np.newaxis, np.newaxis])
        weights = evaluate(normalizer.weight, scored)
        weights = np.where(visible, np.broadcast_to(weights, (1, 1, *visible.shape))[0, 0], 0.0)
        output = _combine(weights * self._kept(pairs), visible, value)
        match normalizer.divisor:
            case None:
                divisor = np.ones(len(output))
            case str():
                divisor = np.sum(weights, axis=-1) + normalizer.epsilon
            case expression:
                divisor = self._per_row(expression, pairs)
        output = np.where(divisor[:, np.newaxis] == 0, 0.0, output / divisor[:, np.newaxis])
        return output, divisor

    def _grouped_softmax(
        self,
        score: Array,
        visible: Array,
        value: Array,
        normalizer: GroupedSoftmax,
        pairs: Environment,
    ) -> tuple[Array, Array]:
        """Landmark attention: Mohtashami & Jaggi, "Random-Access Infinite Context Length" (2023).

        One softmax runs over the ordinary keys of the query's own group and the gates of the
        others; a gate's weight is shared out over the ordinary keys of its group by a second one.
        Gates themselves contribute no value.
        """
        shape = (1, 1, *visible.shape)
        group = np.broadcast_to(evaluate(normalizer.group, pairs), shape)[0, 0]
        own = np.broadcast_to(evaluate(normalizer.own, pairs), shape)[0, 0] == group
        gate = np.broadcast_to(evaluate(normalizer.gate, pairs), shape)[0, 0]
        first, _, log_sum_exp = _softmax(score, visible & (own != gate))
        weights = np.where(own, first, 0.0)
        for number in np.unique(group[visible]):
            member = visible & ~own & (group == number)
            shared = np.sum(np.where(member & gate, first, 0.0), axis=-1, keepdims=True)
            within, _, _ = _softmax(score, member & ~gate)
            weights = weights + shared * within
        return _combine(weights * self._kept(pairs), visible, value), log_sum_exp


def _on_grid(name: str, array: Array) -> Array:
    """`[b, head, tokens, d]` as `[b, head, i, 1, d]` for queries, `[b, head, 1, j, d]` for keys."""
    return np.expand_dims(array, 3 if name == "q" else 2)


def _softmax(score: Array, visible: Array, sink: Array | None = None) -> tuple[Array, Array, Array]:
    """Weights of the visible keys, the weight of the sink, and the log-sum-exp, of every row."""
    score = np.where(visible, score, -np.inf)
    greatest = np.max(score, axis=-1, initial=-np.inf)
    if sink is None:
        sink = np.full(greatest.shape, -np.inf)
    greatest = np.maximum(greatest, sink)
    greatest = np.where(np.isneginf(greatest), 0.0, greatest)
    exponentials = np.where(visible, np.exp(score - greatest[:, np.newaxis]), 0.0)
    of_sink = np.exp(sink - greatest)
    total = np.sum(exponentials, axis=-1) + of_sink
    divisor = np.where(total == 0, 1.0, total)
    weights = exponentials / divisor[:, np.newaxis]
    return weights, of_sink / divisor, greatest + np.log(total)


def _combine(weights: Array, visible: Array, value: Array) -> Array:
    """The weighted sum of values. What a row does not see is left out, not multiplied by 0."""
    if np.all(np.isfinite(value)):
        product: Array = weights @ value
        return product
    rows = [weights[row, seen] @ value[seen] for row, seen in enumerate(visible)]
    return np.stack(rows) if rows else np.zeros((0, value.shape[-1]))
