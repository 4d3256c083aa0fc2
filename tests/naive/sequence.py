"""Patterns along one sequence, as the sets of keys that their papers give."""

from __future__ import annotations

import torch
from torch import Tensor

from . import dense
from .case import SHAPES, Call, Case, Shape


def full(call: Call) -> Tensor:
    everything = torch.ones(call.shape.queries, call.shape.keys, dtype=torch.bool)
    return dense.attend(call, everything)


def causal(call: Call) -> Tensor:
    return dense.attend(call, dense.causal(call))


def prefix_lm(call: Call) -> Tensor:
    """Raffel et al. 2020, figure 3: the prefix is visible to every position."""
    prefix = call.parameters["prefix"]
    allowed = dense.causal(call)
    allowed[:, :prefix] = True
    return dense.attend(call, allowed)


def sliding_window(call: Call) -> Tensor:
    window = call.parameters["window"]
    return dense.attend(call, dense.from_sets(call, lambda p: range(max(0, p - window + 1), p + 1)))


def dilated(call: Call) -> Tensor:
    window, step = call.parameters["window"], call.parameters["step"]

    def keys(p: int) -> list[int]:
        candidates = [p + step * n for n in range(-window, window + 1)]
        return [key for key in candidates if 0 <= key < call.shape.keys]

    return dense.attend(call, dense.from_sets(call, keys))


def strided(call: Call) -> Tensor:
    """Child et al. 2019, 4.3: A1 = {max(0, i - l), …, i}; A2 = {j: (i - j) mod l = 0}."""
    stride = call.parameters["stride"]

    def keys(p: int) -> set[int]:
        first = set(range(max(0, p - stride), p + 1))
        second = {j for j in range(p + 1) if (p - j) % stride == 0}
        return first | second

    return dense.attend(call, dense.from_sets(call, keys))


def fixed(call: Call) -> Tensor:
    """Child et al. 2019, 4.3: A1 = {j: ⌊j/l⌋ = ⌊i/l⌋}; A2 = {j: j mod l in {l - c, …, l - 1}}."""
    block, summary = call.parameters["block"], call.parameters["summary"]

    def keys(p: int) -> set[int]:
        start = p - p % block
        columns = range(block - summary, block)
        return set(range(start, p + 1)) | {j for j in range(p + 1) if j % block in columns}

    return dense.attend(call, dense.from_sets(call, keys))


def chunked(call: Call) -> Tensor:
    """A block-diagonal matrix of lower triangles."""
    chunk, keys = call.parameters["chunk"], call.shape.keys
    lengths = [min(chunk, keys - start) for start in range(0, keys, chunk)]
    blocks = [torch.ones(n, n, dtype=torch.bool).tril() for n in lengths]
    return dense.attend(call, torch.block_diag(*blocks).bool()[call.offset :])


def streaming_llm(call: Call) -> Tensor:
    sink, window = call.parameters["sink"], call.parameters["window"]

    def keys(p: int) -> set[int]:
        return set(range(min(sink, p + 1))) | set(range(max(0, p - window + 1), p + 1))

    return dense.attend(call, dense.from_sets(call, keys))


def streaming_llm_rope(call: Call) -> Tensor:
    """A cache of sinks and recent keys for every query, rotated by the index in that cache."""
    sink, window = call.parameters["sink"], call.parameters["window"]
    q, k, v = dense.tensors(call)
    rows = []
    for row in range(call.shape.queries):
        position = row + call.offset
        kept = [j for j in range(position + 1) if j < sink or j > position - window]
        cache = dense.rotated(k[:, :, kept], torch.arange(len(kept)))
        query = dense.rotated(q[:, :, row : row + 1], torch.tensor([len(kept) - 1]))
        weights = torch.softmax(query @ cache.transpose(-1, -2) * call.scale, dim=-1)
        rows.append(weights @ v[:, :, kept])
    return torch.cat(rows, dim=2)


def star(call: Call) -> Tensor:
    """Star Attention, phase 1: every block is a context of its own, behind the anchor block."""
    block = call.parameters["block"]

    def keys(p: int) -> set[int]:
        start = p // block * block
        return set(range(min(block, p + 1))) | set(range(start, p + 1))

    return dense.attend(call, dense.from_sets(call, keys))


def titans_mac(call: Call) -> Tensor:
    """The mask of a segment of Titans MAC: memory tokens, then a causal block of tokens."""
    memory, segment = call.parameters["memory"], call.parameters["segment"]

    def keys(p: int) -> set[int]:
        seen = set(range(memory))
        token = p - memory
        if token >= 0:
            seen |= {memory + t for t in range(token // segment * segment, token + 1)}
        return seen

    return dense.attend(call, dense.from_sets(call, keys))


CASES = (
    Case("full", full),
    Case("causal", causal, shapes=(*SHAPES, Shape(30, 70, offset=11))),
    Case("prefix_lm", prefix_lm, {"prefix": 21}),
    Case("sliding_window", sliding_window, {"window": 19}),
    Case("dilated", dilated, {"window": 4, "step": 3}),
    Case("strided", strided, {"stride": 9}),
    Case("fixed", fixed, {"block": 12, "summary": 3}),
    Case("chunked", chunked, {"chunk": 24}),
    Case("streaming_llm", streaming_llm, {"sink": 3, "window": 14}),
    Case("streaming_llm_rope", streaming_llm_rope, {"sink": 3, "window": 14}),
    Case("star", star, {"block": 20}),
    Case("titans_mac", titans_mac, {"memory": 5, "segment": 16}),
)
