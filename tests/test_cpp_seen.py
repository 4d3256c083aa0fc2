"""Kernels that evaluate a mask first, and make products for what it lets through: masks that inputs
hold, which may leave out any part of a block."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cpp_calls import assert_matches, attention_of, operands
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl.runtime.kernel import Kernel

NORMALIZERS = {
    "softmax": "softmax",
    "sigmoid": "sigmoid",
    "none": "none",
    "squares": "relu2(divide = sum)",
}
SCORES = {"product": "", "distance": "score = dot(q, k) * scale - abs(i - j) / 64\n"}
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 1e-2}


def _spans(normalizer: str, score: str = "product") -> str:
    """Each query sees a span of keys of its own."""
    return f"""
    attention spans {{
        input first: int[B, Lq]
        input last: int[B, Lq]
        {SCORES[score]}
        mask = first[b, row] <= j and j < last[b, row]
        normalize = {NORMALIZERS[normalizer]}
    }}
    """


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_spans_of_keys(data: st.DataObject, dtype: torch.dtype, normalizer: str) -> None:
    """Of any length, also none, for single queries and for whole columns of lanes."""
    queries, keys = data.draw(st.sampled_from([(70, 70), (64, 200), (130, 65), (33, 129)]))
    score = data.draw(st.sampled_from(sorted(SCORES)))
    run = data.draw(st.sampled_from([1, 5, 16, 64]))
    runs = -(-queries // run)
    bounds = st.tuples(st.integers(-3, keys + 3), st.integers(0, 40))
    spans = data.draw(st.lists(bounds, min_size=runs, max_size=runs))
    first = torch.tensor([start for start, _ in spans], dtype=torch.int32)
    last = first + torch.tensor([length for _, length in spans], dtype=torch.int32)
    first, last = (one.repeat_interleave(run)[None, :queries] for one in (first, last))
    q, k, v = operands(1, 2, 1, queries, keys, dtype=dtype)
    scale = None
    if normalizer == "squares":
        # Divided by their sum, scores a little above 0 magnify how the products were rounded,
        # whatever the order of summation. Whole numbers and a power of two leave nothing to round.
        q, k, scale = q.round(), k.round(), 1 / 8
    spec, tolerance = _spans(normalizer, score), TOLERANCES[dtype]
    assert_matches(spec, q, k, v, tolerance=tolerance, scale=scale, first=first, last=last)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_what_no_span_holds_never_leaks(dtype: torch.dtype, normalizer: str, bad: float) -> None:
    """Beside visible keys in the same block, and in blocks that nobody sees."""
    q, k, v = operands(1, 2, 2, 130, 300, dtype=dtype)
    first = (torch.arange(130, dtype=torch.int32) // 3 + 70)[None]
    last = first + 19
    kernel = Kernel(attention_of(_spans(normalizer)))
    clean = kernel(q, k, v, first=first, last=last)
    hidden = torch.ones(300, dtype=torch.bool)
    hidden[70 : int(last.max())] = False
    k[:, :, hidden], v[:, :, hidden] = bad, bad
    spoiled = kernel(q, k, v, first=first, last=last)
    torch.testing.assert_close(spoiled, clean, rtol=2**-7, atol=2**-8)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid"])
def test_what_a_query_sees_reaches_it_alone(dtype: torch.dtype, normalizer: str) -> None:
    q, k, v = operands(1, 1, 1, 100, 100, dtype=dtype)
    first = torch.arange(100, dtype=torch.int32)[None]
    v[:, :, 50] = math.nan
    out = Kernel(attention_of(_spans(normalizer)))(q, k, v, first=first, last=first + 3)
    spoiled = out.isnan().all(-1)[0, 0]
    assert spoiled.nonzero().flatten().tolist() == [48, 49, 50]
    assert out.isfinite().all(-1)[0, 0, ~spoiled].all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid"])
def test_a_score_that_is_no_number_is_not_a_weight(dtype: torch.dtype, normalizer: str) -> None:
    q, k, v = operands(1, 1, 1, 70, 70, dtype=dtype)
    q[:, :, 20] = math.nan
    spec = f"attention one {{ mask = causal\n normalize = {normalizer} }}"
    out = Kernel(attention_of(spec))(q, k, v)
    assert out[:, :, 20].isnan().all()
    assert out[:, :, torch.arange(70) != 20].isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("share", [0.004, 0.05, 0.9])
def test_any_pairs(dtype: torch.dtype, share: float) -> None:
    """Scattered pairs; the mask's table is read for the score as well."""
    spec = """
    attention scattered {
        input seen: bool[Lq, Lk]
        input level: int[Lq, Lk]
        score = dot(q, k) * scale + 0.1 * level[row, j]
        mask = seen[row, j] and level[row, j] > 0
    }
    """
    random = torch.Generator().manual_seed(1)
    seen = torch.rand(150, 210, generator=random) < share
    level = torch.randint(0, 5, (150, 210), generator=random, dtype=torch.int32)
    q, k, v = operands(2, 2, 1, 150, 210, dtype=dtype)
    assert_matches(spec, q, k, v, tolerance=TOLERANCES[dtype], seen=seen, level=level)


def test_buffers_serve_one_call_at_a_time() -> None:
    """They wait for the next call, which may come from another thread or have other lengths."""
    kernel = Kernel(attention_of("attention causal { mask = causal }"))
    calls = [
        operands(1, 2, 2, length, length, 64, dtype=torch.bfloat16, seed=seed)
        for seed, length in enumerate([300, 300, 200, 300, 200, 129])
    ]
    wanted = [Kernel(attention_of("attention causal { mask = causal }"))(*one) for one in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for found, expected in zip(
                pool.map(lambda one: kernel(*one), calls), wanted, strict=True
            ):
                assert torch.equal(found, expected)
