"""Patterns along one sequence, as the sets of keys that their papers give."""

from __future__ import annotations

import torch

from . import dense
from .case import SHAPES, Array, Call, Case, Shape


def full(call: Call) -> Array:
    everything = torch.ones(call.shape.queries, call.shape.keys, dtype=torch.bool)
    return dense.attend(call, everything)


def causal(call: Call) -> Array:
    return dense.attend(call, dense.causal(call))


def prefix_lm(call: Call) -> Array:
    """Raffel et al. 2020, figure 3: the prefix is visible to every position."""
    prefix = call.parameters["prefix"]
    allowed = dense.causal(call)
    allowed[:, :prefix] = True
    return dense.attend(call, allowed)


def sliding_window(call: Call) -> Array:
    window = call.parameters["window"]
    return dense.attend(call, dense.from_sets(call, lambda p: range(max(0, p - window + 1), p + 1)))


def dilated(call: Call) -> Array:
    window, step = call.parameters["window"], call.parameters["step"]

    def keys(p: int) -> list[int]:
        candidates = [p + step * n for n in range(-window, window + 1)]
        return [key for key in candidates if 0 <= key < call.shape.keys]

    return dense.attend(call, dense.from_sets(call, keys))


CASES = (
    Case("full", full),
    Case("causal", causal, shapes=(*SHAPES, Shape(30, 70, offset=11))),
    Case("prefix_lm", prefix_lm, {"prefix": 21}),
    Case("sliding_window", sliding_window, {"window": 19}),
    Case("dilated", dilated, {"window": 4, "step": 3}),
)
