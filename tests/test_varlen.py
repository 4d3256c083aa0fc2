"""Sequences of different lengths, packed by `cu_seqlens` or as nested tensors.

Each sequence is compared with what torch computes of it alone: by `scaled_dot_product_attention`,
or by the formula, spelled out on a matrix of scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.runtime import operator
from attndsl.runtime.sequences import Schedule

SPEC = """
attention causal_softmax { mask = causal }
attention full {}
attention alibi {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask  = causal
}
attention tokens {
    input key_bias: float[B, H, Lk]
    input query_bias: float[B, Lq]
    input temperature: float[B, H]
    score = dot(q, k) * scale * temperature[b, h] + key_bias[b, h, j] * query_bias[b, row] - log(Lk)
}
attention forgetting {
    input gate: float[B, H, Lk]
    let c = cumsum(gate[b, h, t])
    score = dot(q, k) * scale + c[b, h, i] - c[b, h, j]
    mask  = causal
}
attention rotary {
    q = rope(q, i)
    k = rope(k, j)
    score = dot(q, k) * scale
}
attention bucketed {
    input bias: float[9, H]
    score = dot(q, k) * scale + bias[min(abs(i - j), 8), h]
}
attention own_bias {
    input bias: float[B, 9]
    score = dot(q, k) * scale + bias[b, min(abs(i - j), 8)]
}
attention placed {
    input place: float[40, D]
    score = dot(q + place[min(row, 39)], k) * scale
}
attention weighted {
    score = sigmoid(dot(q, k) * scale)
    normalize = sum
}
attention flash_sigmoid {
    score = dot(q, k) * scale - log(Lk)
    normalize = sigmoid
}
attention documents {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}
attention shared { v = k[0:16] mask = causal }
"""
LENGTHS = (5, 33, 1, 70, 2)
KEYS = (9, 33, 4, 3, 130)
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attndsl.SpecWarning)
        return attndsl.parse(SPEC)


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def bounds(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def operands(
    lengths: Sequence[int],
    keys: Sequence[int],
    *,
    heads: int = 4,
    key_heads: int = 2,
    dim: int = 16,
) -> list[Tensor]:
    return [
        random(sum(tokens), count, dim, seed=seed)
        for seed, (tokens, count) in enumerate(
            ((lengths, heads), (keys, key_heads), (keys, key_heads))
        )
    ]


# The formulas, on one sequence: q [H, Lq, D], and k and v [H, Lk, D] of as many heads.
Scores = Callable[..., Tensor]


def distance(q: Tensor, k: Tensor, offset: int | None = None) -> Tensor:
    """i - j"""
    queries, keys = q.shape[1], k.shape[1]
    first = keys - queries if offset is None else offset
    return torch.arange(queries)[:, None] + first - torch.arange(keys)


def dots(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(1, 2) / q.shape[2] ** 0.5


def hidden(scores: Tensor, visible: Tensor) -> Tensor:
    return scores.masked_fill(~visible, -torch.inf)


def causal_scores(q: Tensor, k: Tensor, **_: Any) -> Tensor:
    return hidden(dots(q, k), distance(q, k) >= 0)


def full_scores(q: Tensor, k: Tensor) -> Tensor:
    return dots(q, k)


def alibi_scores(q: Tensor, k: Tensor, slope: Tensor) -> Tensor:
    far = distance(q, k)
    return hidden(dots(q, k) - slope[:, None, None] * far, far >= 0)


def token_scores(
    q: Tensor, k: Tensor, key_bias: Tensor, query_bias: Tensor, temperature: Tensor
) -> Tensor:
    scores = dots(q, k) * temperature[:, None, None]
    return scores + key_bias[:, None] * query_bias[:, None] - torch.tensor(k.shape[1]).log()


def forgetting_scores(q: Tensor, k: Tensor, gate: Tensor) -> Tensor:
    sums, far = gate.cumsum(1), distance(q, k)
    queries = sums[:, k.shape[1] - q.shape[1] :]
    return hidden(dots(q, k) + queries[:, :, None] - sums[:, None], far >= 0)


def turned(x: Tensor, first: int) -> Tensor:
    half = x.shape[2] // 2
    speeds = 10000.0 ** (-torch.arange(half) / half)
    angles = (torch.arange(x.shape[1]) + first)[:, None] * speeds
    left, right = x[..., :half], x[..., half:]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1)


def rotary_scores(q: Tensor, k: Tensor) -> Tensor:
    return dots(turned(q, k.shape[1] - q.shape[1]), turned(k, 0))


def bucketed_scores(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    return dots(q, k) + bias[distance(q, k).abs().clamp(max=8)].permute(2, 0, 1)


def own_bias_scores(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    return dots(q, k) + bias[distance(q, k).abs().clamp(max=8)]


def placed_scores(q: Tensor, k: Tensor, place: Tensor) -> Tensor:
    return dots(q + place[torch.arange(q.shape[1]).clamp(max=39)], k)


def weighted_scores(q: Tensor, k: Tensor) -> Tensor:
    # Its weights are these, divided by their sum.
    return dots(q, k).sigmoid().log()


def document_scores(q: Tensor, k: Tensor, doc: Tensor) -> Tensor:
    rows = doc[k.shape[1] - q.shape[1] :]
    return hidden(dots(q, k), (distance(q, k) >= 0) & (rows[:, None] == doc))


def sigmoid_weights(q: Tensor, k: Tensor) -> Tensor:
    return (dots(q, k) - torch.tensor(k.shape[1]).log()).sigmoid()


def one_by_one(
    scores: Scores,
    tensors: Sequence[Tensor],
    ends: tuple[Tensor, Tensor],
    inputs: dict[str, Tensor],
    sides: dict[str, str],
    *,
    weights: bool = False,
) -> tuple[Tensor, Tensor]:
    """`[T, H, D]` and the log-sum-exp `[H, T]`; `sides` says which inputs are packed along what."""
    outs, statistics = [], []
    pairs = zip(pairwise(ends[0].tolist()), pairwise(ends[1].tolist()), strict=True)
    for number, ((first, last), (key_first, key_last)) in enumerate(pairs):
        q, k, v = tensors
        group = q.shape[1] // k.shape[1]
        q = q[first:last].transpose(0, 1)
        k, v = (
            one[key_first:key_last].transpose(0, 1).repeat_interleave(group, 0) for one in (k, v)
        )
        parts = {
            "queries": (..., slice(first, last)),
            "keys": (..., slice(key_first, key_last)),
            "sequences": number,
            "": ...,
        }
        own = {name: one[parts[sides.get(name, "")]] for name, one in inputs.items()}
        found = scores(q, k, **own)
        statistics.append(found.logsumexp(-1))
        by = found if weights else found.softmax(-1).nan_to_num()
        outs.append((by @ v).transpose(0, 1))
    return torch.cat(outs), torch.cat(statistics, 1)


# For so many queries, keys and sequences.
Inputs = Callable[[int, int, int], dict[str, Tensor]]


def cases() -> dict[str, tuple[Scores, Inputs, dict[str, str]]]:
    """By kernel: its scores, its inputs, and what these are packed along."""
    return {
        "causal_softmax": (causal_scores, lambda *_: {}, {}),
        "full": (full_scores, lambda *_: {}, {}),
        "alibi": (
            alibi_scores,
            lambda *_: {"slope": random(4)},
            {},
        ),
        "tokens": (
            token_scores,
            lambda queries, keys, count: {
                "key_bias": random(4, keys),
                "query_bias": random(queries),
                "temperature": random(count, 4),
            },
            {"key_bias": "keys", "query_bias": "queries", "temperature": "sequences"},
        ),
        "forgetting": (
            forgetting_scores,
            lambda queries, keys, count: {"gate": random(4, keys)},
            {"gate": "keys"},
        ),
        "rotary": (rotary_scores, lambda *_: {}, {}),
        "bucketed": (bucketed_scores, lambda *_: {"bias": random(9, 4)}, {}),
        "own_bias": (
            own_bias_scores,
            lambda queries, keys, count: {"bias": random(count, 9)},
            {"bias": "sequences"},
        ),
        "placed": (placed_scores, lambda *_: {"place": random(40, 16)}, {}),
        "weighted": (weighted_scores, lambda *_: {}, {}),
        "flash_sigmoid": (sigmoid_weights, lambda *_: {}, {}),
        "documents": (
            document_scores,
            lambda queries, keys, count: {"doc": torch.arange(keys) // 7},
            {"doc": "keys"},
        ),
    }


def check(
    kernel: attndsl.Kernel, lengths: Sequence[int], keys: Sequence[int], dim: int = 16
) -> None:
    """Output, log-sum-exp and all gradients, of one kernel."""
    scores, make, sides = cases()[kernel.name]
    ends = bounds(lengths), bounds(keys)
    tensors = operands(lengths, keys, dim=dim)
    inputs = make(sum(lengths), sum(keys), len(lengths))
    own_keys = {} if lengths == keys else {"cu_seqlens_k": ends[1]}
    has_lse = kernel.name not in ("weighted", "flash_sigmoid")
    found = kernel(*tensors, cu_seqlens=ends[0], **own_keys, return_lse=has_lse, **inputs)
    expected = one_by_one(
        *(scores, tensors, ends, inputs, sides), weights=kernel.name == "flash_sigmoid"
    )
    if not has_lse:
        found, expected = (found,), expected[:1]
    close(found, expected, rtol=2e-5, atol=2e-5)
    floats = [one for one in (*tensors, *inputs.values()) if one.requires_grad]
    gradients = [random(*one.shape, seed=7).detach() for one in found]
    if has_lse:  # a row that sees nothing has none
        gradients[1][found[1].isinf()] = 0
    close(
        torch.autograd.grad(found, floats, gradients),
        torch.autograd.grad(expected, floats, gradients),
        rtol=2e-4,
        atol=2e-4,
    )


@pytest.mark.parametrize("name", cases())
def test_each_sequence_is_attended_to_alone(module: attndsl.Module, name: str) -> None:
    check(module[name], LENGTHS, LENGTHS)


@pytest.mark.parametrize("name", ["alibi", "tokens", "rotary", "bucketed", "flash_sigmoid"])
def test_keys_of_other_lengths(module: attndsl.Module, name: str) -> None:
    longer = [max(pair) for pair in zip(LENGTHS, KEYS, strict=True)]
    check(module[name], LENGTHS, longer)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    st.sampled_from(["alibi", "bucketed", "causal_softmax"]),
)
def test_any_lengths(module: attndsl.Module, lengths: list[tuple[int, int]], name: str) -> None:
    """Sequences without queries or without keys among them."""
    queries, keys = ([one[side] for one in lengths] for side in (0, 1))
    q, k, v = operands(queries, keys)
    ends = {"cu_seqlens": bounds(queries), "cu_seqlens_k": bounds(keys)}
    inputs = cases()[name][1](sum(queries), sum(keys), len(lengths))
    found = module[name](q, k, v, **ends, **inputs)
    floats = [q, k, v, *inputs.values()]
    gradients = torch.autograd.grad(found.sin().sum(), floats)
    alone = [torch.zeros_like(one) for one in floats]
    edges = (pairwise(one.tolist()) for one in ends.values())
    for (first, last), (key_first, key_last) in zip(*edges, strict=True):
        parts = q[first:last], k[key_first:key_last], v[key_first:key_last]
        out = module[name](*(one.transpose(0, 1)[None] for one in parts), **inputs)
        close(found[first:last], out[0].transpose(0, 1))
        for whole, part in zip(alone, torch.autograd.grad(out.sin().sum(), floats), strict=True):
            whole += part
    close(gradients, tuple(alone), rtol=1e-4, atol=1e-4)


def test_scale_and_offset(module: attndsl.Module) -> None:
    tensors = operands(LENGTHS, LENGTHS)
    ends = bounds(LENGTHS)
    found = module.causal_softmax(*tensors, cu_seqlens=ends, scale=0.4, offset=0)
    outs = []
    for first, last in pairwise(ends.tolist()):
        q, k, v = (one[first:last].transpose(0, 1)[None] for one in tensors)
        outs.append(
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.4, enable_gqa=True)[0]
        )
    close(found, torch.cat(outs, 1).transpose(0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(module: attndsl.Module, dtype: torch.dtype) -> None:
    tensors = operands(LENGTHS, LENGTHS)
    half = [one.detach().to(dtype).requires_grad_() for one in tensors]
    ends = bounds(LENGTHS), bounds(LENGTHS)
    found = module.causal_softmax(*half, cu_seqlens=ends[0])
    assert found.dtype is dtype
    expected = one_by_one(causal_scores, [one.float() for one in half], ends, {}, {})[0]
    close(found.float(), expected, rtol=2e-2, atol=2e-2)
    gradients = torch.autograd.grad(found.float().sum(), half)
    expected_gradients = torch.autograd.grad(expected.sum(), half)
    assert all(one.dtype is dtype for one in gradients)
    close(gradients, expected_gradients, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("dim", [7, 19])
def test_head_dimensions_that_fill_no_vector(module: attndsl.Module, dim: int) -> None:
    check(module.causal_softmax, LENGTHS, LENGTHS, dim)


def test_any_strides(module: attndsl.Module) -> None:
    tensors = operands(LENGTHS, LENGTHS)
    ends = bounds(LENGTHS)
    expected = module.causal_softmax(*tensors, cu_seqlens=ends)
    heads_first = [one.transpose(0, 1).contiguous().transpose(0, 1) for one in tensors]
    spread = [torch.stack([one, one], -1)[..., 0] for one in tensors]
    for arranged in (heads_first, spread):
        assert not arranged[0].is_contiguous()
        assert torch.equal(module.causal_softmax(*arranged, cu_seqlens=ends), expected)
    narrow = [one[:, :1].expand(-1, 2, -1) for one in tensors]
    module.causal_softmax(*narrow, cu_seqlens=ends.long()).sum().backward()


def test_values_made_of_keys(module: attndsl.Module) -> None:
    q, k, _ = operands(LENGTHS, LENGTHS)
    ends = bounds(LENGTHS)
    found = module.shared(q, k, cu_seqlens=ends)
    close(found, module.causal_softmax(q, k, k, cu_seqlens=ends))


def test_the_path_without_a_compiler_agrees(
    module: attndsl.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.warns(RuntimeWarning, match="tiled torch path"):
        check(attndsl.Kernel(module.alibi.attention), LENGTHS, LENGTHS)


@pytest.mark.parametrize("name", ["bucketed", "forgetting", "tokens"])
def test_two_runs_agree_bit_for_bit(module: attndsl.Module, name: str) -> None:
    """Whatever the number of threads, which also decides what runs on all of them."""
    tensors = operands(LENGTHS, LENGTHS)
    inputs = cases()[name][1](sum(LENGTHS), sum(LENGTHS), len(LENGTHS))
    floats = [*tensors, *inputs.values()]

    def results() -> tuple[Tensor, ...]:
        out = module[name](*tensors, cu_seqlens=bounds(LENGTHS), **inputs)
        return out, *torch.autograd.grad(out.sin().sum(), floats)

    before, expected = torch.get_num_threads(), results()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for found, wanted in zip(results(), expected, strict=True):
                assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)


def test_long_sequences_have_all_threads_and_short_ones_share_them() -> None:
    import numpy as np

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        schedule = Schedule.of(np.array([1, 0, 500, 2, 3]))
        assert schedule.order.tolist() == [2, 4, 3, 0]
        assert (schedule.alone, schedule.threads) == (1, 2)
        assert Schedule.of(np.array([3] * 50)).alone == 0
        torch.set_num_threads(1)
        assert Schedule.of(np.array([1, 500])).alone == 0
    finally:
        torch.set_num_threads(before)


def test_nothing_of_the_size_of_all_pairs_is_made(module: attndsl.Module) -> None:
    """A hundred thousand tokens, of which a matrix would be 40 GB."""
    lengths = [50] * 2000
    q, k, v = (one.detach() for one in operands(lengths, lengths, heads=1, key_heads=1))
    out = module.causal_softmax(q, k, v, cu_seqlens=bounds(lengths))
    first = scaled_dot_product_attention(
        *(one[-50:].transpose(0, 1)[None] for one in (q, k, v)), is_causal=True
    )
    close(out[-50:].transpose(0, 1)[None], first)


# With torch


def test_opcheck(module: attndsl.Module) -> None:
    tensors = operands((3, 30, 6), (3, 30, 6))
    call = module.alibi.spec, *tensors, [random(4)], bounds((3, 30, 6)), None, None, None, None
    assert operator.kernel_of(module.alibi.spec)
    torch.library.opcheck(torch.ops.attndsl.attend.default, call)


def test_one_graph_for_any_lengths(module: attndsl.Module) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def called(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, slope: Tensor) -> Any:
        return module.alibi(q, k, v, slope=slope, cu_seqlens=ends, return_lse=True)

    compiled = torch.compile(called, fullgraph=True, dynamic=True, backend=counter)
    for lengths in ((5, 33, 1, 9, 8, 3), (7, 8, 1, 1, 1), (9, 1, 2, 44, 6, 2, 3)):
        tensors, slope = operands(lengths, lengths, heads=2), random(2)
        results = []
        for function in (compiled, called):
            out, log_sum_exp = function(*tensors, bounds(lengths), slope)
            total = out.sin().sum() + log_sum_exp.sum()
            results.append((out, log_sum_exp, torch.autograd.grad(total, [*tensors, slope])))
        close(*results)
    assert counter.frame_count == 1


def test_autocast_checkpoints_and_vmap(module: attndsl.Module) -> None:
    tensors, ends = operands(LENGTHS, LENGTHS), bounds(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.causal_softmax(*tensors, cu_seqlens=ends).dtype is torch.bfloat16

    def layer(*given: Tensor) -> Tensor:
        return module.causal_softmax(*given, cu_seqlens=ends)

    expected = layer(*tensors)
    kept = checkpoint(layer, *tensors, use_reentrant=False)
    close(
        torch.autograd.grad(kept.sin().sum(), tensors),
        torch.autograd.grad(expected.sin().sum(), tensors, retain_graph=True),
    )
    out = torch.vmap(layer)(*(torch.stack([one, one.sin()]) for one in tensors))
    close(out, torch.stack([expected, layer(*(one.sin() for one in tensors))]))
    (gradient,) = torch.autograd.grad(expected.sin().sum(), tensors[:1], create_graph=True)
    with pytest.raises(AttnError, match="A086"):
        gradient.sum().backward()


def test_artifacts_take_packed_sequences(module: attndsl.Module) -> None:
    artifact = attndsl.compile(module.causal_softmax, "cpu", head_dim=16, dtype="fp32")
    tensors, ends = [one.detach() for one in operands(LENGTHS, LENGTHS)], bounds(LENGTHS)
    close(artifact(*tensors, cu_seqlens=ends), module.causal_softmax(*tensors, cu_seqlens=ends))
    with pytest.raises(AttnError, match="A082"):
        artifact(tensors[0].requires_grad_(), *tensors[1:], cu_seqlens=ends)


# Nested tensors


def nested(values: Tensor, offsets: Tensor) -> Tensor:
    return torch.nested.nested_tensor_from_jagged(values, offsets).transpose(1, 2)


def test_nested_tensors(module: attndsl.Module) -> None:
    tensors, offsets = operands(LENGTHS, LENGTHS, key_heads=4), bounds(LENGTHS).long()
    q, k, v = (nested(one, offsets) for one in tensors)
    out, log_sum_exp = module.causal_softmax(q, k, v, return_lse=True)
    assert (out + q).shape == q.shape
    assert log_sum_exp.shape == q.shape[:3]
    every = (one.unbind() for one in (out, log_sum_exp, q, k, v))
    for found, statistic, *alone in zip(*every, strict=True):
        close(found, scaled_dot_product_attention(*alone, is_causal=True))
        close(statistic, causal_scores(*alone[:2]).logsumexp(-1))
    total = out.transpose(1, 2).values().sin().sum()
    packed = module.causal_softmax(*tensors, cu_seqlens=offsets)
    close(torch.autograd.grad(total, tensors), torch.autograd.grad(packed.sin().sum(), tensors))
    with torch.no_grad():
        assert not module.causal_softmax(q, k, v).requires_grad


def test_nested_keys_and_inputs_of_their_own(module: attndsl.Module) -> None:
    tensors = operands(LENGTHS, KEYS)
    offsets, key_offsets = bounds(LENGTHS).long(), bounds(KEYS).long()
    q, k, v = map(nested, tensors, (offsets, key_offsets, key_offsets))
    inputs = cases()["tokens"][1](sum(LENGTHS), sum(KEYS), len(LENGTHS))
    expected = module.tokens(*tensors, cu_seqlens=offsets, cu_seqlens_k=key_offsets, **inputs)
    inputs["key_bias"] = nested(inputs["key_bias"].T, key_offsets)
    inputs["query_bias"] = torch.nested.nested_tensor_from_jagged(inputs["query_bias"], offsets)
    found = module.tokens(q, k, v, **inputs)
    close(found.transpose(1, 2).values(), expected)


def test_nested_tensors_in_one_graph(module: attndsl.Module) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def called(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return module.full(q, k, v) + q

    compiled = torch.compile(called, fullgraph=True, dynamic=True, backend=counter)
    for lengths in ((5, 33, 1, 9, 8, 3), (7, 8, 1, 1, 1), (9, 1, 2, 44, 6, 2, 3)):
        tensors, offsets = operands(lengths, lengths, heads=2), bounds(lengths).long()
        packed = [nested(one, offsets) for one in tensors]
        out = [one.transpose(1, 2).values() for one in (compiled(*packed), called(*packed))]
        close(*out)
        close(*(torch.autograd.grad(one.sin().sum(), tensors) for one in out))
    assert counter.frame_count == 1


# What is refused: `tests/mistakes/calls` has the texts


Q, ENDS = torch.randn(15, 4, 16), bounds((4, 2, 9))
NESTED = nested(Q, ENDS)


@pytest.mark.parametrize(
    ("code", "called"),
    [
        ("A070", lambda module: module.full(Q, Q, Q, cu_seqlens=ENDS.tolist())),
        ("A070", lambda module: module.full(NESTED, Q, Q)),
        ("A070", lambda module: module.full(Q, NESTED, NESTED)),
        ("A070", lambda module: module.forgetting(None, Q, Q, gate=Q[:, :, 0], cu_seqlens=ENDS)),
        ("A071", lambda module: module.alibi(Q, Q, Q, cu_seqlens=ENDS)),
        ("A073", lambda module: module.full(Q, Q, Q, cu_seqlens=ENDS[None])),
        ("A073", lambda module: module.full(Q, Q, Q, cu_seqlens=ENDS, cu_seqlens_k=ENDS[1:])),
        ("A073", lambda module: module.full(Q, Q[1:], Q[1:], cu_seqlens=ENDS)),
        ("A073", lambda module: module.full(Q, Q[..., :3], Q, cu_seqlens=ENDS)),
        ("A073", lambda module: module.alibi(Q, Q, Q, cu_seqlens=ENDS, slope=Q[0, :1, 0])),
        ("A073", lambda module: module.full(NESTED, NESTED, nested(Q, ENDS.clone()))),
        ("A074", lambda module: module.full(Q, Q, Q, cu_seqlens=ENDS.float())),
        ("A079", lambda module: module.full(Q, Q, Q, cu_seqlens_k=ENDS)),
        ("A079", lambda module: module.full(Q, Q, Q, cu_seqlens=ENDS[:-1])),
        ("A079", lambda module: module.full(Q, Q, Q, cu_seqlens=ENDS + 1)),
        ("A079", lambda module: module.flash_sigmoid(Q, Q, Q, cu_seqlens=ENDS, return_lse=True)),
        ("A079", lambda module: module.full(NESTED, NESTED, NESTED, cu_seqlens=ENDS)),
    ],
)
def test_refusals(module: attndsl.Module, code: str, called: Callable[..., Any]) -> None:
    with pytest.raises(AttnError, match=rf"error\[{code}\]"):
        called(module)
