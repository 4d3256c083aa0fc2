"""Patterns that read what the caller passes: flags, layouts, documents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import dense
from .case import SHAPES, SQUARE, TALL, Call, Case, Inputs, Shape


def _global_flags(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"is_global": random.random((shape.batch, shape.keys)) < 0.06}


def longformer(call: Call) -> Tensor:
    """The band first; then whole rows and whole columns of the global tokens."""
    half = call.parameters["window"] // 2
    masks = []
    for flags in dense.tensor(call, "is_global"):
        everything = torch.ones(call.shape.keys, call.shape.keys, dtype=torch.bool)
        band = everything.triu(-half).tril(half)
        band[flags.nonzero().flatten(), :] = True
        band[:, flags.nonzero().flatten()] = True
        masks.append(band[call.offset :])
    return dense.attend(call, torch.stack(masks)[:, None])


def _bigbird(block: int, shape: Shape, random: np.random.Generator) -> Inputs:
    blocks = -(-shape.keys // block)
    return {"random": random.integers(0, blocks, (shape.heads, blocks, 2))}


def bigbird(call: Call) -> Tensor:
    """Sets of key blocks for each query block, as figure 1 of the paper draws them."""
    block, keys = call.parameters["block"], call.shape.keys
    blocks = -(-keys // block)
    random = call.inputs["random"]
    masks = torch.zeros(call.shape.heads, keys, keys, dtype=torch.bool)
    for head in range(call.shape.heads):
        for x in range(blocks):
            seen = {x - 1, x, x + 1, 0, blocks - 1, *random[head, x].tolist()}
            if x in (0, blocks - 1):
                seen = set(range(blocks))
            for y in seen & set(range(blocks)):
                masks[head, x * block : (x + 1) * block, y * block : (y + 1) * block] = True
    return dense.attend(call, masks[None, :, call.offset :])


def _layout(block: int, shape: Shape, random: np.random.Generator) -> Inputs:
    size = (shape.heads, -(-shape.queries // block), -(-shape.keys // block))
    layout = random.random(size) < 0.4
    layout[..., 0] = True
    layout[0, 0] = False  # rows that see nothing
    return {"layout": layout}


def block_sparse(call: Call) -> Tensor:
    block = call.parameters["block"]
    pairs = np.kron(call.inputs["layout"], np.ones((1, block, block), dtype=bool))
    pairs = pairs[:, : call.shape.queries, : call.shape.keys]
    return dense.attend(call, torch.from_numpy(pairs)[None])


def _documents(shape: Shape, random: np.random.Generator) -> Inputs:
    starts = random.random((shape.batch, shape.keys)) < 0.08
    return {"doc": np.cumsum(starts, axis=1)}


def documents(call: Call) -> Tensor:
    """Every document on its own, then side by side."""
    masks = []
    for doc in call.inputs["doc"]:
        _, lengths = np.unique(doc, return_counts=True)
        parts = [torch.ones(n, n, dtype=torch.bool).tril() for n in lengths.tolist()]
        masks.append(torch.block_diag(*parts).bool()[call.offset :])
    return dense.attend(call, torch.stack(masks)[:, None])


def _segments(shape: Shape, random: np.random.Generator) -> Inputs:
    cuts = np.sort(random.choice(np.arange(1, shape.keys), (shape.batch, 5)), axis=1)
    positions = np.arange(shape.keys)
    return {"segment": np.stack([np.searchsorted(c, positions, side="right") for c in cuts])}


def blockrank(call: Call) -> Tensor:
    """Gupta et al. 2025, section 3: instruction, documents and query as spans of the sequence."""
    masks = []
    for segment in call.inputs["segment"]:
        spans = [np.flatnonzero(segment == number) for number in np.unique(segment)]
        instruction, query = np.flatnonzero(segment == 0), spans[-1]
        allowed = torch.zeros(call.shape.keys, call.shape.keys, dtype=torch.bool)
        for span in spans:
            for other in (span, instruction):
                allowed[np.ix_(span, other)] = True
        allowed[query] = True
        masks.append(allowed.tril()[call.offset :])
    return dense.attend(call, torch.stack(masks)[:, None])


def _lengths(shape: Shape, random: np.random.Generator) -> Inputs:
    lengths = np.linspace(0, shape.keys - 3, shape.batch).astype(int)  # one sentence is empty
    return {"present": np.arange(shape.keys)[None, :] < lengths[:, None]}


def padding(call: Call) -> Tensor:
    """Every sentence on its own, its padding cut off."""
    q, k, v = dense.tensors(call)
    result = v.new_zeros(*q.shape[:3], v.shape[-1])
    for b, present in enumerate(dense.tensor(call, "present")):
        if present.any():
            weights = torch.softmax(q[b] @ k[b][:, present].transpose(-1, -2) * call.scale, dim=-1)
            result[b] = weights @ v[b][:, present]
    return result


def _pair_bias(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"bias": random.normal(size=(shape.heads, shape.queries, shape.keys))}


def pair_bias(call: Call) -> Tensor:
    everything = torch.ones(call.shape.queries, call.shape.keys, dtype=torch.bool)
    return dense.attend(call, everything, dense.tensor(call, "bias"))


CASES = (
    Case("longformer", longformer, {"window": 15}, _global_flags),
    Case("bigbird", bigbird, {"block": 8}, lambda shape, random: _bigbird(8, shape, random)),
    Case(
        "block_sparse",
        block_sparse,
        {"block": 8},
        lambda shape, random: _layout(8, shape, random),
        shapes=(SQUARE, TALL),
    ),
    Case("documents", documents, make_inputs=_documents),
    Case("blockrank", blockrank, make_inputs=_segments, shapes=SHAPES),
    Case("padding", padding, make_inputs=_lengths, shapes=(SQUARE, TALL)),
    Case("pair_bias", pair_bias, make_inputs=_pair_bias),
)
