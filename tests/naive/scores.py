"""Scores other than a scaled dot product, under softmax."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from . import dense
from .case import SHAPES, SQUARE, TALL, Array, Call, Case, Inputs, Shape, on


def _causal_softmax(logits: Tensor, call: Call) -> Tensor:
    return dense.output(dense.softmax(logits, dense.causal(call)), call)


def _everywhere(logits: Tensor, call: Call) -> Tensor:
    return dense.output(torch.softmax(logits, dim=-1), call)


def _slopes(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"slope": 2.0 ** (-8.0 * np.arange(1, shape.heads + 1) / shape.heads)}


def alibi(call: Call) -> Tensor:
    """Press et al. 2021, figure 3: m · [-(i - 1), …, -2, -1, 0], right-aligned on the diagonal."""
    slopes = dense.tensor(call, "slope")[None, :, None, None]
    ramp = torch.arange(call.shape.keys) - (call.shape.keys - 1)
    bias = torch.stack(
        [torch.roll(ramp, row + call.offset + 1) for row in range(call.shape.queries)]
    )
    return _causal_softmax(dense.scores(call) + slopes * bias, call)


def _t5_table(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"bias": random.normal(size=(32, shape.heads))}


def t5(call: Call) -> Tensor:
    """`_relative_position_bucket` of T5, bidirectional, with its logarithms as whole numbers.

    Distance n passes the m-th of 8 wide buckets where n ≥ 8 · 16^(m/8), that is n⁸ ≥ 8⁸ · 16^m.
    """

    def bucket(relative: int) -> int:
        n, start = abs(relative), 16 if relative > 0 else 0
        if n < 8:
            return start + n
        passed = max(m for m in range(64) if n**8 >= 8**8 * 16**m)
        return start + min(8 + passed, 15)

    table = dense.tensor(call, "bias")
    relative = (-dense.distances(call)).tolist()
    buckets = torch.tensor([[bucket(r) for r in row] for row in relative])
    q, k, _ = dense.tensors(call)
    return _everywhere(q @ k.transpose(-1, -2) + table[buckets].permute(2, 0, 1)[None], call)


def _transformer_xl(shape: Shape, random: np.random.Generator) -> Inputs:
    return {
        "content": random.normal(size=(shape.heads, shape.width)),
        "position": random.normal(size=(shape.heads, shape.width)),
        "distance": random.normal(size=(shape.heads, shape.keys, shape.width)),
    }


def _relative_shift(x: Tensor, call: Call) -> Tensor:
    """Scores `[B, H, Lq, Lk]` by distance, the furthest first, moved to where their keys are.

    The shift of Transformer-XL and of Music Transformer: a column of zeros, and another shape.
    """
    rows, keys = x.shape[-2:]
    padded = torch.cat([x.new_zeros(*x.shape[:-1], 1), x], dim=-1)
    return padded.reshape(*x.shape[:-2], keys + 1, rows)[..., 1:, :].reshape(x.shape)


def transformer_xl(call: Call) -> Tensor:
    """`RelPartialLearnableMultiHeadAttn`: AC + the shifted BD."""
    q, k, _ = dense.tensors(call)
    content, position = (dense.tensor(call, n)[:, None] for n in ("content", "position"))
    from_furthest = dense.tensor(call, "distance").flip(1)
    ac = (q + content) @ k.transpose(-1, -2)
    bd = _relative_shift((q + position) @ from_furthest.transpose(-1, -2), call)
    return _causal_softmax((ac + bd) * call.scale, call)


def _music(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"embedding": random.normal(size=(shape.keys, shape.width))}


def music_transformer(call: Call) -> Tensor:
    """Huang et al. 2018, section 3.4: skewing Q·Eᵀ."""
    q, _, _ = dense.tensors(call)
    embedding = dense.tensor(call, "embedding").flip(0)
    relative = _relative_shift(q @ embedding.T, call)
    return _causal_softmax(dense.scores(call) + relative * call.scale, call)


def gemma2(call: Call) -> Tensor:
    cap, window = call.parameters["cap"], call.parameters["window"]
    logits = torch.tanh(dense.scores(call) / cap) * cap
    allowed = dense.causal(call).triu(call.offset - window + 1)
    return dense.output(dense.softmax(logits, allowed), call)


def _gates(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"gate": random.normal(2.0, 1.0, (shape.batch, shape.heads, shape.keys))}


def forgetting(call: Call) -> Tensor:
    """Lin et al. 2025, equation 3: exp(q·k) times the product of the gates after the key."""
    gates = torch.sigmoid(dense.tensor(call, "gate"))
    b, h, keys = gates.shape
    # One row of products after another; nothing lies after the row's own key.
    rows = [functional.one_hot(torch.tensor([0] * b * h), keys).view(b, h, keys).to(gates.dtype)]
    for i in range(1, keys):
        own = functional.one_hot(torch.tensor(i), keys)
        rows.append(rows[-1] * gates[:, :, i, None] + own)
    products = torch.stack(rows[call.offset :], dim=2)
    weights = torch.exp(dense.scores(call)) * products
    return dense.output(weights / weights.sum(dim=-1, keepdim=True), call)


def tapa(call: Call) -> Tensor:
    """arXiv 2509.12635, with θ = 1/2, row by row."""
    q, k, _ = dense.tensors(call)
    width, alpha = call.shape.width, call.parameters["alpha"]
    size_q, phase_q = q.split([width // 2, width - width // 2], dim=-1)
    size_k, phase_k = k.split([width // 2, width - width // 2], dim=-1)
    rows = []
    for row in range(call.shape.queries):
        distance = (row + call.offset - torch.arange(call.shape.keys)).abs().to(q.dtype)
        size = (size_k @ size_q[:, :, row, :, None])[..., 0] / np.sqrt(width // 2)
        phase = (phase_k @ phase_q[:, :, row, :, None])[..., 0] / np.sqrt(width - width // 2)
        rows.append(size * torch.cos(2 * np.pi * distance.pow(alpha) * phase))
    return _causal_softmax(torch.stack(rows, dim=2), call)


_LATENT = 12
_ROTATED = 4
_MSCALE = 1.3


def mla(call: Call) -> Tensor:
    """DeepSeek-V2's equations as they stand, before W_uk is absorbed into the query.

    Keys are W_uk·c beside the shared rotated part. A head's own query is found by undoing the
    absorption, which a square W_uk allows.
    """
    random = np.random.default_rng(1)
    up = torch.from_numpy(random.normal(size=(call.shape.heads, _LATENT, _LATENT)))
    up = up + 4 * torch.eye(_LATENT)
    q, k = torch.as_tensor(call.q), torch.as_tensor(call.k)
    latent, shared = k.split([_LATENT, _ROTATED], dim=-1)
    absorbed, rotated = q.split([_LATENT, _ROTATED], dim=-1)
    # absorbed = W_ukᵀ · query
    query = torch.linalg.solve(up.mT, absorbed.double().mT).mT.to(q.dtype)
    keys = latent @ up.mT.to(k.dtype)
    queries = torch.cat([query, rotated], dim=-1)
    shared = shared.expand(*keys.shape[:-1], _ROTATED)
    all_keys = torch.cat([keys, shared], dim=-1)
    logits = queries @ all_keys.transpose(-1, -2) * (_LATENT + _ROTATED) ** -0.5 * _MSCALE
    weights = dense.softmax(logits, dense.causal(call))
    return weights @ latent


def rope(call: Call) -> Tensor:
    """As GPT-NeoX and LLaMA rotate: complex numbers made of the two halves."""
    q, k, _ = dense.tensors(call)
    base = call.parameters["base"]
    q = dense.rotated(q, torch.arange(call.shape.queries) + call.offset, base)
    k = dense.rotated(k, torch.arange(call.shape.keys), base)
    return _causal_softmax(q @ k.transpose(-1, -2) * call.scale, call)


def _log_scale(shape: Shape, random: np.random.Generator) -> Inputs:
    # Swin V2 starts at log 10 and clips at log 100: some heads lie above.
    return {"log_scale": np.linspace(1.0, 5.5, shape.heads)}


def cosine(call: Call) -> Tensor:
    """`WindowAttention` of Swin Transformer V2."""
    q, k, _ = dense.tensors(call)
    cosines = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-1, -2)
    scale = torch.clamp(dense.tensor(call, "log_scale"), max=np.log(1.0 / 0.01)).exp()
    return _everywhere(cosines * scale[:, None, None], call)


def _additive(hidden: int, shape: Shape, random: np.random.Generator) -> Inputs:
    deviation = shape.width**-0.5
    return {
        "of_key": random.normal(0, deviation, (shape.key_heads, hidden, shape.width)),
        "of_query": random.normal(0, deviation, (shape.heads, hidden, shape.width)),
        "weight": random.normal(size=(shape.heads, hidden)),
    }


def additive(call: Call) -> Tensor:
    """Vinyals et al. 2015, equation 3, a unit of the hidden layer at a time."""
    q, k, _ = dense.tensors(call)
    group = call.shape.heads // call.shape.key_heads
    of_key = dense.tensor(call, "of_key").repeat_interleave(group, dim=0)
    keys = torch.einsum("had,bhjd->bhaj", of_key, k)
    queries = torch.einsum("had,bhid->bhai", dense.tensor(call, "of_query"), q)
    weight = dense.tensor(call, "weight")
    logits = q.new_zeros(1)
    for unit in range(weight.shape[1]):
        pair = queries[:, :, unit, :, None] + keys[:, :, unit, None, :]
        logits = logits + weight[:, unit, None, None] * torch.tanh(pair)
    return _everywhere(logits, call)


def _trilinear(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"w": random.normal(0, 0.5, (3, shape.width))}


def bidaf(call: Call) -> Tensor:
    """Seo et al. 2016, equation 1: the vectors of every pair, concatenated."""
    q, k, _ = dense.tensors(call)
    weight = dense.tensor(call, "w").flatten()
    rows = []
    for row in range(call.shape.queries):
        query = q[:, :, row, None].expand_as(k)
        rows.append(torch.cat([query, k, query * k], dim=-1) @ weight)
    return _everywhere(torch.stack(rows, dim=2), call)


def _steering(shape: Shape, random: np.random.Generator) -> Inputs:
    return {
        "emphasised": random.random((shape.batch, shape.keys)) < 0.2,
        "steered": np.arange(shape.heads) % 3 != 1,
    }


def pasta(call: Call) -> Tensor:
    """Zhang et al. 2023, equation 2: weights scaled after the softmax, rows renormalised."""
    weights = dense.softmax(dense.scores(call), dense.causal(call))
    alpha = weights.new_tensor(call.parameters["alpha"])
    factor = alpha.repeat(*call.inputs["emphasised"].shape)
    factor[dense.tensor(call, "emphasised")] = 1.0
    steered = weights * factor[:, None, None, :]
    steered = steered / steered.sum(dim=-1, keepdim=True)
    chosen = dense.tensor(call, "steered")[None, :, None, None]
    return dense.output(torch.where(chosen, steered, weights), call)


def _neural(rank: int, hidden: int, shape: Shape, random: np.random.Generator) -> Inputs:
    def layer(*size: int) -> Array:
        return random.normal(0, 2.0 * size[-1] ** -0.5, size)

    return {
        "of_query": layer(shape.heads, rank, shape.width),
        "of_key": layer(shape.key_heads, rank, shape.width),
        "first": layer(hidden, 2 * rank),
        "second": layer(hidden, hidden),
        "third": layer(hidden),
    }


def neural(call: Call) -> Tensor:
    """Every pair is an example of one batch through three linear layers."""
    q, k, _ = dense.tensors(call)
    group = call.shape.heads // call.shape.key_heads
    query = q @ dense.tensor(call, "of_query").transpose(-1, -2)
    of_key = dense.tensor(call, "of_key").repeat_interleave(group, dim=0)
    key = k @ of_key.transpose(-1, -2)
    size = (*query.shape[:3], call.shape.keys, -1)
    pairs = torch.cat([query[:, :, :, None].expand(size), key[:, :, None].expand(size)], dim=-1)
    hidden = torch.relu(functional.linear(pairs, dense.tensor(call, "first")))
    hidden = torch.relu(functional.linear(hidden, dense.tensor(call, "second")))
    return _causal_softmax(
        functional.linear(hidden, dense.tensor(call, "third")[None])[..., 0], call
    )


def _positions(size: int, shape: Shape, random: np.random.Generator) -> Inputs:
    length = (shape.heads, shape.keys, size)
    return {name: random.normal(size=length) for name in ("at_query", "at_key")}


def positional(call: Call) -> Tensor:
    """softmax(P Pᵀ) V, where the tokens give the values alone."""
    queries = dense.tensor(call, "at_query")[:, call.offset :]
    keys = dense.tensor(call, "at_key")
    logits = queries @ keys.transpose(-1, -2) / np.sqrt(keys.shape[-1])
    return _everywhere(logits[None].expand(call.shape.batch, -1, -1, -1), call)


def uniform(call: Call) -> Tensor:
    """The running mean of the values."""
    _, _, v = dense.tensors(call)
    means = v.cumsum(dim=2) / torch.arange(1, call.shape.keys + 1)[:, None]
    return means[:, :, call.offset :]


_MLA = Shape(61, 61, heads=4, key_heads=1, width=_LATENT + _ROTATED, value_width=_LATENT)
_SMALL = (SQUARE, on(TALL, width=16))

CASES = (
    Case("alibi", alibi, make_inputs=_slopes),
    Case("t5", t5, make_inputs=_t5_table, shapes=(*SHAPES, Shape(150, 150, batch=1))),
    Case("transformer_xl", transformer_xl, make_inputs=_transformer_xl),
    Case("music_transformer", music_transformer, make_inputs=_music),
    Case("gemma2", gemma2, {"window": 23, "cap": 1.5}),
    Case("forgetting", forgetting, make_inputs=_gates),
    Case("tapa", tapa, {"alpha": 0.1}),
    Case(
        "mla",
        mla,
        {"latent": _LATENT},
        shapes=(_MLA, on(_MLA, queries=23, keys=90)),
        large=on(_MLA, queries=333, keys=450, batch=1),
        scale=lambda shape: shape.width**-0.5 * _MSCALE,
        passes_value=False,
    ),
    Case("rope", rope, {"base": 10000.0}),
    Case("cosine", cosine, make_inputs=_log_scale),
    Case(
        "additive",
        additive,
        {"hidden": 8},
        lambda shape, random: _additive(8, shape, random),
        shapes=_SMALL,
    ),
    Case("bidaf", bidaf, make_inputs=_trilinear),
    Case("pasta", pasta, {"alpha": 0.05}, _steering),
    Case(
        "neural",
        neural,
        {"rank": 4, "hidden": 8},
        lambda shape, random: _neural(4, 8, shape, random),
        shapes=_SMALL,
    ),
    Case(
        "positional",
        positional,
        {"size": 12},
        lambda shape, random: _positions(12, shape, random),
    ),
    Case("uniform", uniform),
)
