"""Steps that many naive implementations share, in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .case import Call


def tensors(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, with a key head repeated for every query head that uses it."""
    q, k = torch.as_tensor(call.q), torch.as_tensor(call.k)
    v = k if call.v is None else torch.as_tensor(call.v)
    repeats = call.shape.heads // call.shape.key_heads
    return q, k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)


def scores(call: Call) -> Tensor:
    """Scaled dot products `[B, H, Lq, Lk]`."""
    q, k, _ = tensors(call)
    return q @ k.transpose(-1, -2) * call.scale


def softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys; a row that allows none gives zeros."""
    sees = allowed.any(dim=-1, keepdim=True)
    # A row of minus infinities has a gradient of NaN, whatever becomes of its weights.
    weights = torch.softmax(logits.masked_fill(~allowed & sees, float("-inf")), dim=-1)
    return torch.where(sees, weights, 0.0)


def output(weights: Tensor, call: Call) -> Tensor:
    """The weighted sum of the values."""
    _, _, v = tensors(call)
    return weights @ v


def attend(call: Call, allowed: Tensor, bias: Tensor | float = 0.0) -> Tensor:
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
    return torch.as_tensor(call.inputs[name])


def causal(call: Call) -> Tensor:
    """The mask `[Lq, Lk]` of keys that are not ahead of the query."""
    ones = torch.ones(call.shape.queries, call.shape.keys, dtype=torch.bool)
    return ones.tril(diagonal=call.offset)


def distances(call: Call) -> Tensor:
    """How far each key lies behind each query, `[Lq, Lk]`, negative where it is ahead."""
    queries = torch.arange(call.shape.queries) + call.offset
    return queries[:, None] - torch.arange(call.shape.keys)[None, :]


def rotated(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary embedding of `[…, tokens, D]`, the product of complex numbers; halves hold the parts.

    Su et al., "RoFormer", 2021, in the layout of GPT-NeoX.
    """
    real, imaginary = x.chunk(2, dim=-1)
    # Angles of short floats are taken in single precision, as models do.
    dtype = torch.promote_types(x.dtype, torch.float32)
    frequencies = base ** (-torch.arange(real.shape[-1], dtype=dtype) / real.shape[-1])
    angles = positions[:, None] * frequencies
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    turned = real * cosine - imaginary * sine, real * sine + imaginary * cosine
    return torch.cat(turned, dim=-1)
