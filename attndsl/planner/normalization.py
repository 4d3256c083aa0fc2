"""Normalisation as an associative merge: what a row carries while tiles of scores go by.

Every normaliser has a carried state, `absorb`s a tile of scores and values, `merge`s two states of
disjoint sets of keys, and `finish`es a row. `merge` is associative and commutative, with `start` as
its neutral element, so the same definition serves tiles of a row, split keys in decoding, a joint
softmax over branches, and keys on several machines. Here in NumPy float64; emitters mirror it.

Softmax carries `(maximum, total, accumulator)` as Milakov & Gimelshein, "Online normalizer
calculation for softmax" (2018), do; elementwise weights carry `(total, accumulator)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attndsl.evaluate import Array


@dataclass(frozen=True)
class SoftmaxState:
    """`sum exp(score - maximum)` and `sum exp(score - maximum) * value` over the keys so far.

    `maximum` and `total` are `[..., rows]`, `accumulator` is `[..., rows, width]`. A row that
    has seen no key has maximum −∞ and zeros.
    """

    maximum: Array
    total: Array
    accumulator: Array

    @staticmethod
    def start(shape: tuple[int, ...], width: int) -> SoftmaxState:
        return SoftmaxState(np.full(shape, -np.inf), np.zeros(shape), np.zeros((*shape, width)))

    def absorb(
        self, score: Array, visible: Array, value: Array, kept: Array | float = 1.0
    ) -> SoftmaxState:
        """With a tile of keys: `score` and `visible` are `[..., rows, keys]`, `value` `[..., keys,
        width]`. What is not visible contributes nothing, whatever its score and value. `kept` is
        what dropout multiplies the weights of values by."""
        score = np.where(visible, score, -np.inf)
        maximum = np.max(score, axis=-1, initial=-np.inf)
        weights = np.where(visible, np.exp(score - _finite(maximum)[..., np.newaxis]), 0.0)
        total = np.sum(weights, axis=-1)
        tile = SoftmaxState(maximum, total, combine(weights * kept, visible, value))
        return self.merge(tile)

    def merge(self, other: SoftmaxState) -> SoftmaxState:
        """The state of both sets of keys together."""
        maximum = np.maximum(self.maximum, other.maximum)
        shift = _finite(maximum)
        mine, theirs = np.exp(self.maximum - shift), np.exp(other.maximum - shift)
        return SoftmaxState(
            maximum,
            mine * self.total + theirs * other.total,
            mine[..., np.newaxis] * self.accumulator + theirs[..., np.newaxis] * other.accumulator,
        )

    def finish(self, sink: Array | None, sink_value: Array | None) -> tuple[Array, Array]:
        """Output and log-sum-exp: 0 and −∞ for a row that saw nothing and has no sink.

        A sink is one more key: its score is `sink`, its value `sink_value`, or 0 where None.
        """
        state = self
        if sink is not None:
            sink = np.broadcast_to(sink, self.total.shape)
            value = np.zeros_like(self.accumulator) if sink_value is None else sink_value
            value = np.broadcast_to(value, self.accumulator.shape)
            state = self.merge(SoftmaxState(sink, np.ones_like(self.total), value))
        divisor = np.where(state.total == 0, 1.0, state.total)
        output = state.accumulator / divisor[..., np.newaxis]
        with np.errstate(divide="ignore"):
            return output, _finite(state.maximum) + np.log(state.total)


@dataclass(frozen=True)
class SumState:
    """`sum weight` and `sum weight * value` over the keys so far, `[..., rows]` and
    `[..., rows, width]`."""

    total: Array
    accumulator: Array

    @staticmethod
    def start(shape: tuple[int, ...], width: int) -> SumState:
        return SumState(np.zeros(shape), np.zeros((*shape, width)))

    def absorb(
        self, weight: Array, visible: Array, value: Array, kept: Array | float = 1.0
    ) -> SumState:
        """With a tile of keys, whose weights have been computed already."""
        weight = np.where(visible, weight, 0.0)
        tile = SumState(np.sum(weight, axis=-1), combine(weight * kept, visible, value))
        return self.merge(tile)

    def merge(self, other: SumState) -> SumState:
        """The state of both sets of keys together."""
        return SumState(self.total + other.total, self.accumulator + other.accumulator)

    def finish(self, divisor: Array | None) -> Array:
        """The output; a row whose divisor is zero gives 0."""
        if divisor is None:
            return self.accumulator
        divisor = np.broadcast_to(divisor, self.total.shape)[..., np.newaxis]
        safe = np.where(divisor == 0, 1.0, divisor)
        return np.where(divisor == 0, 0.0, self.accumulator / safe)


def _finite(maximum: Array) -> Array:
    """A shift that keeps `-inf - shift` from being NaN for rows that have seen nothing."""
    return np.where(np.isneginf(maximum), 0.0, maximum)


def combine(weight: Array, visible: Array, value: Array) -> Array:
    """The weighted sum of values; what is hidden is left out, not multiplied by 0."""
    if np.all(np.isfinite(value)):
        result: Array = weight @ value
        return result
    seen = np.where(visible[..., np.newaxis], value[..., np.newaxis, :, :], 0.0)
    total: Array = np.einsum("...mn,...mnd->...md", weight, seen)
    return total
