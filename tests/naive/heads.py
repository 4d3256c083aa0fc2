"""Patterns that differ from head to head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import dense
from .case import Call, Case, Inputs, Shape, on

DENSE_HEADS = Shape(77, 77, heads=6, key_heads=3)


def _streaming(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"streaming": np.arange(shape.key_heads) % 2 == 1}


def duo(call: Call) -> Tensor:
    """Two groups of heads, each with a mask of its own."""
    sink, recent = call.parameters["sink"], call.parameters["recent"]
    everything = dense.causal(call)
    lambda_shape = everything & (dense.distances(call) < recent)
    lambda_shape[:, :sink] |= everything[:, :sink]
    group = call.shape.heads // call.shape.key_heads
    streaming = dense.tensor(call, "streaming").repeat_interleave(group)
    masks = torch.stack([lambda_shape if bit else everything for bit in streaming.tolist()])
    return dense.attend(call, masks[None])


def s2(call: Call) -> Tensor:
    """dkernel's layout: per key head a matrix of blocks, expanded to pairs, causal inside."""
    p = call.parameters
    shape, block = call.shape, p["block"]
    blocks = -(-shape.keys // block)
    step = max(1, p["stride"] // shape.key_heads)
    layout = torch.zeros(shape.key_heads, blocks, blocks, dtype=torch.bool)
    for head in range(shape.key_heads):
        for x in range(blocks):
            for y in range(x + 1):
                remote = (y + head * step + p["shift"]) % p["stride"] == 0
                dense_head = head >= shape.key_heads - p["dense"]
                layout[head, x, y] = dense_head or x - y < p["near"] or remote
    pairs = layout.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)
    pairs = pairs[:, call.offset : shape.keys, : shape.keys] & dense.causal(call)
    return dense.attend(call, pairs.repeat_interleave(shape.heads // shape.key_heads, dim=0)[None])


def _moa(shape: Shape, random: np.random.Generator) -> Inputs:
    # Rates that are exact in binary, so that rounding down does not depend on the precision.
    rates = np.array([0.0, 0.125, 0.25, 0.5, 0.0625, 0.375])[: shape.heads]
    return {"base": np.arange(3, 3 + shape.heads), "rate": rates}


def moa(call: Call) -> Tensor:
    """Fu et al. 2024, section 3.1: the span of head h is α_h + β_h · N."""
    rate = dense.tensor(call, "rate").detach().double().numpy()
    windows = call.inputs["base"] + np.floor(rate * call.shape.keys)
    sink = call.parameters["sink"]

    def keys(head: int, p: int) -> set[int]:
        recent = range(max(0, p - int(windows[head]) + 1), p + 1)
        return set(range(min(sink, p + 1))) | set(recent)

    return dense.attend(call, dense.from_head_sets(call, keys))


def _windows(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"window": 2 ** np.arange(1, shape.heads + 1)}


def multi_window(call: Call) -> Tensor:
    windows = call.inputs["window"]

    def keys(head: int, p: int) -> range:
        return range(max(0, p - int(windows[head]) + 1), p + 1)

    return dense.attend(call, dense.from_head_sets(call, keys))


def shifted_sparse(call: Call) -> Tensor:
    """LongLoRA's groups by slicing: those of the second half of the heads start half a group on,
    and the half groups that are left at the ends are groups of their own, so nothing leaks."""
    group, sink = call.parameters["group"], call.parameters["sink"]
    keys, heads = call.shape.keys, call.shape.heads
    masks = []
    for shift in (0, group // 2):
        # With a shift, the first group ends early.
        starts = [0, *range(group - shift, keys, group)]
        allowed = torch.zeros(keys, keys, dtype=torch.bool)
        for start, end in zip(starts, [*starts[1:], keys], strict=True):
            allowed[start:end, start:end] = True
        allowed[:, :sink] = True
        masks.append(allowed.tril()[call.offset :])
    plain, shifted = masks
    halves = [plain] * (heads // 2) + [shifted] * (heads - heads // 2)
    return dense.attend(call, torch.stack(halves)[None])


_S2 = {"block": 8, "near": 2, "stride": 4, "shift": 1, "dense": 0}

CASES = (
    Case("duo", duo, {"sink": 3, "recent": 15}, _streaming),
    Case("s2", s2, _S2),
    Case("s2", s2, {**_S2, "dense": 1}, shapes=(DENSE_HEADS,), variant="dense"),
    Case("moa", moa, {"sink": 2}, _moa),
    Case("multi_window", multi_window, make_inputs=_windows),
    Case("shifted_sparse", shifted_sparse, {"group": 16, "sink": 2}),
    Case(
        "shifted_sparse",
        shifted_sparse,
        {"group": 16, "sink": 0},
        shapes=(on(DENSE_HEADS, heads=5, key_heads=5),),
        variant="odd-heads",
    ),
)
