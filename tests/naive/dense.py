"""Steps that many naive implementations share, in plain torch at float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from .case import Array, Call


def tensors(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, with a key head repeated for every query head that uses it."""
    q, k = torch.from_numpy(call.q), torch.from_numpy(call.k)
    v = k if call.v is None else torch.from_numpy(call.v)
    repeats = call.shape.heads // call.shape.key_heads
    return q, k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)


def scores(call: Call) -> Tensor:
    """Scaled dot products `[B, H, Lq, Lk]`."""
    q, k, _ = tensors(call)
    return q @ k.transpose(-1, -2) * call.scale


def softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys; a row that allows none gives zeros."""
    weights = torch.softmax(logits.masked_fill(~allowed, float("-inf")), dim=-1)
    return torch.where(allowed.any(dim=-1, keepdim=True), weights, 0.0)


def output(weights: Tensor, call: Call) -> Array:
    """The weighted sum of the values."""
    _, _, v = tensors(call)
    return (weights @ v).numpy()


def attend(call: Call, allowed: Tensor, bias: Tensor | float = 0.0) -> Array:
    """Scaled dot-product attention over the allowed keys, with a bias on the scores."""
    return output(softmax(scores(call) + bias, allowed), call)


def from_sets(call: Call, keys_of: Callable[[int], Iterable[int]]) -> Tensor:
    """The mask `[Lq, Lk]` in which the query at position p sees exactly the keys `keys_of(p)`."""
    allowed = torch.zeros(call.shape.queries, call.shape.keys, dtype=torch.bool)
    for row in range(call.shape.queries):
        for key in keys_of(row + call.offset):
            allowed[row, key] = True
    return allowed


def from_head_sets(call: Call, keys_of: Callable[[int, int], Iterable[int]]) -> Tensor:
    """The mask `[1, H, Lq, Lk]` of a set for every head and position."""
    heads = range(call.shape.heads)
    return torch.stack([from_sets(call, lambda p, h=h: keys_of(h, p)) for h in heads])[None]


def tensor(call: Call, name: str) -> Tensor:
    """An input by name."""
    return torch.from_numpy(np.asarray(call.inputs[name]))


def causal(call: Call) -> Tensor:
    """The mask `[Lq, Lk]` of keys that are not ahead of the query."""
    ones = torch.ones(call.shape.queries, call.shape.keys, dtype=torch.bool)
    return ones.tril(diagonal=call.offset)


def distances(call: Call) -> Tensor:
    """How far each key lies behind each query, `[Lq, Lk]`, negative where it is ahead."""
    queries = torch.arange(call.shape.queries) + call.offset
    return queries[:, None] - torch.arange(call.shape.keys)[None, :]


def rotated(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary embedding of `[…, tokens, D]` by complex multiplication; halves hold the two parts.

    Su et al., "RoFormer", 2021, in the layout of GPT-NeoX.
    """
    real, imaginary = x.chunk(2, dim=-1)
    frequencies = base ** (-torch.arange(real.shape[-1], dtype=torch.float64) / real.shape[-1])
    angles = positions[:, None].double() * frequencies
    turned = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)
