"""What takes the place of softmax, or joins it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from . import dense
from .case import Call, Case, Inputs, Shape


def _visible(weights: Tensor, call: Call) -> Tensor:
    return weights * dense.causal(call)


def _sinks(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"sink": random.normal(0.0, 2.0, shape.heads)}


def gpt_oss(call: Call) -> Tensor:
    """`sdpa` of gpt-oss: a column of sinks joins the scores and is dropped after the softmax."""
    window = call.parameters["window"]
    allowed = dense.causal(call).triu(call.offset - window + 1)
    logits = dense.scores(call).masked_fill(~allowed, float("-inf"))
    column = dense.tensor(call, "sink")[None, :, None, None].expand(*logits.shape[:-1], 1)
    weights = torch.softmax(torch.cat([logits, column], dim=-1), dim=-1)[..., :-1]
    return dense.output(weights, call)


def _sentinels(shape: Shape, random: np.random.Generator) -> Inputs:
    rows = (shape.batch, shape.heads, shape.queries)
    return {
        "sentinel_key": random.normal(size=(*rows, shape.width)),
        "sentinel": random.normal(size=(*rows, shape.value_width)),
    }


def visual_sentinel(call: Call) -> Tensor:
    """Lu et al. 2017, equations 11 to 13: β of the sentinel, 1 - β of the image."""
    q, k, v = dense.tensors(call)
    sentinel = dense.tensor(call, "sentinel")
    rows = []
    for row in range(call.shape.queries):
        extra = dense.tensor(call, "sentinel_key")[:, :, row, None]
        keys = torch.cat([k, extra], dim=2)
        weights = torch.softmax(q[:, :, row, None] @ keys.transpose(-1, -2) * call.scale, dim=-1)
        beta = weights[..., -1]
        context = weights[..., :-1] / (1 - beta[..., None]) @ v
        rows.append(beta * sentinel[:, :, row] + (1 - beta) * context[:, :, 0])
    return torch.stack(rows, dim=2)


def softmax_off_by_one(call: Call) -> Tensor:
    """exp(x) / (1 + Σ exp(x)), straight."""
    weights = _visible(torch.exp(dense.scores(call)), call)
    return dense.output(weights / (1 + weights.sum(dim=-1, keepdim=True)), call)


def flash_sigmoid(call: Call) -> Tensor:
    logits = dense.scores(call) - math.log(call.shape.keys)
    return dense.output(_visible(1 / (1 + torch.exp(-logits)), call), call)


def relu_attention(call: Call) -> Tensor:
    return dense.output(torch.relu(dense.scores(call)) / call.shape.keys, call)


def relu_squared(call: Call) -> Tensor:
    counts = dense.causal(call).sum(dim=-1, keepdim=True)
    return dense.output(_visible(torch.relu(dense.scores(call)) ** 2, call) / counts, call)


def _mega_bias(chunk: int, shape: Shape, random: np.random.Generator) -> Inputs:
    return {"bias": random.normal(0, 0.5, 2 * chunk - 1)}


def mega(call: Call) -> Tensor:
    """`laplace` and `SimpleRelativePositionalBias` of Mega's code, chunk by chunk."""
    chunk = call.parameters["chunk"]
    q, k, v = dense.tensors(call)
    bias = dense.tensor(call, "bias")
    result = v.new_zeros(*q.shape[:3], v.shape[-1])
    for start in range(0, call.shape.keys, chunk):
        end = min(start + chunk, call.shape.keys)
        first, last = max(start - call.offset, 0), max(end - call.offset, 0)
        for row in range(first, last):
            place = row + call.offset - start
            offsets = bias[chunk - 1 - place : chunk - 1 - place + end - start]
            logits = k[:, :, start:end] @ q[:, :, row, :, None] / chunk
            logits = logits[..., 0] + offsets
            weights = 0.5 * (1 + torch.special.erf((logits - 0.707107) / (0.282095 * 2**0.5)))
            result[:, :, row] = (weights[:, :, None] @ v[:, :, start:end])[:, :, 0]
    return result


def _recurrent(
    call: Call, query: Tensor, key: Tensor, decay: Tensor | None, *, divide: bool
) -> Tensor:
    """A state of key by value that is carried along the sequence; one head's decay a step."""
    _, _, v = dense.tensors(call)
    state = v.new_zeros(*key.shape[:2], key.shape[-1], v.shape[-1])
    total = v.new_zeros(*key.shape[:2], key.shape[-1])
    rows = []
    for t in range(call.shape.keys):
        if decay is not None:
            state = state * decay[None, :, None, None]
        state = state + key[:, :, t, :, None] * v[:, :, t, None, :]
        total = total + key[:, :, t]
        row = t - call.offset
        if row >= 0:
            read = (query[:, :, row, None] @ state)[:, :, 0]
            denominator = (query[:, :, row] * total).sum(dim=-1, keepdim=True)
            rows.append(read / denominator if divide else read)
    return torch.stack(rows, dim=2)


def hedgehog(call: Call) -> Tensor:
    """The recurrent form of linear attention."""
    q, k, _ = dense.tensors(call)
    q, k = (torch.cat([x.softmax(dim=-1), (-x).softmax(dim=-1)], dim=-1) for x in (q, k))
    return _recurrent(call, q, k, None, divide=True)


def linear_elu(call: Call) -> Tensor:
    q, k, _ = dense.tensors(call)
    q, k = (torch.nn.functional.elu(x) + 1 for x in (q, k))
    return _recurrent(call, q, k, None, divide=True)


def _decays(shape: Shape, random: np.random.Generator) -> Inputs:
    return {"log_decay": np.log(1 - 2.0 ** (-5 - np.arange(shape.heads)))}


def retention(call: Call) -> Tensor:
    """Sun et al. 2023, equation 6: S_n = γ S_{n-1} + K_nᵀ V_n."""
    q, k, _ = dense.tensors(call)
    decay = torch.exp(dense.tensor(call, "log_decay"))
    return _recurrent(call, q * call.scale, k, decay, divide=False)


def based(call: Call) -> Tensor:
    """The feature map of the second-order expansion: [1, x, x ⊗ x / √2]."""
    q, k, _ = dense.tensors(call)

    def feature(x: Tensor) -> Tensor:
        squares = (x[..., :, None] * x[..., None, :]).flatten(-2) / 2**0.5
        return torch.cat([torch.ones_like(x[..., :1]), x, squares], dim=-1)

    root = call.scale**0.5
    weights = _visible(feature(q * root) @ feature(k * root).transpose(-1, -2), call)
    return dense.output(weights / (weights.sum(dim=-1, keepdim=True) + 1e-6), call)


CASES = (
    Case("gpt_oss", gpt_oss, {"window": 18}, _sinks),
    Case("visual_sentinel", visual_sentinel, make_inputs=_sentinels),
    Case("softmax_off_by_one", softmax_off_by_one),
    Case("flash_sigmoid", flash_sigmoid),
    Case("relu_attention", relu_attention),
    Case("relu_squared", relu_squared),
    Case("mega", mega, {"chunk": 24}, lambda shape, random: _mega_bias(24, shape, random)),
    Case("hedgehog", hedgehog),
    Case("linear_elu", linear_elu),
    Case("retention", retention, make_inputs=_decays),
    Case("based", based),
)
