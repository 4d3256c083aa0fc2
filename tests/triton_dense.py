"""Attention to every key and nothing else: the measure of a compiled kernel's FULL loop."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dense(
    q,
    k,
    v,
    out,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    out_batch,
    out_head,
    out_row,
    H,
    Hkv,
    Lk,
    scale,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    D: tl.constexpr,
):
    start = tl.program_id(0) * BLOCK_M
    h = tl.program_id(1) % H
    b = tl.program_id(1) // H
    g = h // (H // Hkv)
    rows = tl.arange(0, BLOCK_M)
    lanes = tl.arange(0, BLOCK_N)
    d = tl.arange(0, D)
    q_tile = q + b * q_batch + h * q_head + start * q_row
    queries = tl.load(q_tile + (rows[:, None] * q_row.to(tl.int32) + d[None, :]))
    k_start = k + b * k_batch + g * k_head
    v_start = v + b * v_batch + g * v_head
    factor = scale * 1.4426950408889634
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    output = tl.zeros([BLOCK_M, D], tl.float32)
    for first in tl.range(0, Lk, BLOCK_N):
        key_offsets = lanes[:, None] * k_row.to(tl.int32) + d[None, :]
        keys = tl.load(k_start + first * k_row + key_offsets)
        scores = tl.dot(queries, keys.T)
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * factor)
        weights = tl.exp2(scores * factor - new_maximum[:, None])
        rescale = tl.exp2(maximum - new_maximum)
        total = total * rescale + tl.sum(weights, 1)
        maximum = new_maximum
        output = output * rescale[:, None]
        value_offsets = lanes[:, None] * v_row.to(tl.int32) + d[None, :]
        values = tl.load(v_start + first * v_row + value_offsets)
        output = tl.dot(weights.to(values.dtype), values, output)
    output = output / total[:, None]
    out_tile = out + b * out_batch + h * out_head + start * out_row
    tl.store(
        out_tile + (rows[:, None] * out_row.to(tl.int32) + d[None, :]),
        output.to(out.dtype.element_ty),
    )
