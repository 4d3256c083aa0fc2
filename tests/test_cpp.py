"""C++ kernels compute what the reference does: lengths, heads, strides, dtypes, hidden numbers."""

from __future__ import annotations

import math

import pytest
import torch
from cpp_calls import assert_matches, attention_of, operands

from attndsl.runtime.kernel import Kernel

FULL = "attention full {}"
CAUSAL = "attention causal { mask = causal }"
WINDOW = "attention window { mask = causal and i - j < 20 }"
DILATED = "attention dilated { mask = abs(i - j) <= 12 and (i - j) % 3 == 0 }"
DOCUMENTS = """
attention documents {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}
"""
SIGMOID = """
attention sigmoid {
    score = dot(q, k) * scale - log(Lk)
    mask = causal
    normalize = sigmoid
}
"""

LENGTHS = [(1, 1), (1, 200), (63, 63), (64, 64), (65, 129), (130, 257), (7, 300), (200, 5)]


@pytest.mark.parametrize("spec", [FULL, CAUSAL, WINDOW, DILATED, SIGMOID])
@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
def test_lengths(spec: str, queries: int, keys: int) -> None:
    assert_matches(spec, *operands(2, 2, 1, queries, keys))


@pytest.mark.parametrize("spec", [CAUSAL, DILATED, SIGMOID])
@pytest.mark.parametrize("offset", [-90, -3, 0, 40, 1000])
def test_offset_of_the_first_query(spec: str, offset: int) -> None:
    """Also where no key, or every key, comes before a query."""
    assert_matches(spec, *operands(1, 2, 2, 100, 100), offset=offset)


NARROW = {
    "one key": "i == j",
    "band": "abs(i - j) <= 5",
    "behind": "i - 40 <= j and j < i - 21",
    "ahead": "i + 17 < j and j <= i + 33",
    "falling": "150 <= i + j and i + j < 163",
    "chunks": "i // 12 == j // 12",
    "two bands": "abs(i - j) < 3 or 60 <= i - j and i - j < 70",
    "steep": "2 * i - 9 <= j and j <= 2 * i",
}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(
    ("queries", "keys", "width", "value_width"),
    [(150, 150, 64, 64), (70, 203, 20, 12), (90, 41, 33, 7)],
)
def test_columns_that_see_few_keys(
    name: str, queries: int, keys: int, width: int, value_width: int
) -> None:
    """Columns of a tile that see different parts of a block, which products leave out."""
    spec = f"attention narrow {{ mask = {NARROW[name]} }}"
    assert_matches(spec, *operands(1, 2, 1, queries, keys, width, value_width))


@pytest.mark.parametrize("offset", [None, -5])
@pytest.mark.parametrize(
    "mask",
    [
        "causal and i // (Lk // 4) == j // (Lk // 4)",
        "(i - j) % (Lk // 7) == 0",
        "((i - 3) % Lk) // 7 == ((j - 3) % Lk) // 7",
        "(j - i) % Lk < 30",
    ],
)
def test_masks_that_divide_by_sizes(mask: str, offset: int | None) -> None:
    """Also by zero, where there are few keys, and for queries outside the keys."""
    spec = f"attention sizes {{ mask = {mask} }}"
    for queries, keys in ((150, 150), (77, 333), (3, 3), (1, 130)):
        assert_matches(spec, *operands(1, 2, 1, queries, keys), offset=offset)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_grouped_heads(heads: tuple[int, int]) -> None:
    assert_matches(WINDOW, *operands(2, *heads, 70, 90))


@pytest.mark.parametrize(("width", "value_width"), [(80, 80), (96, 40), (17, 5), (64, 128), (3, 1)])
def test_head_dimensions(width: int, value_width: int) -> None:
    assert_matches(CAUSAL, *operands(1, 2, 2, 70, 130, width, value_width))


def test_wide_heads() -> None:
    assert_matches(CAUSAL, *operands(1, 2, 1, 70, 130, 576, 512))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(dtype: torch.dtype) -> None:
    """Views of packed projections, with heads and tokens in any order."""
    tolerance = 3e-6 if dtype == torch.float32 else 1e-2
    packed = torch.randn(2, 150, 3, 4, 64).to(dtype)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    assert_matches(CAUSAL, q, k, v, tolerance=tolerance)
    turned = torch.randn(2, 4, 64, 150).to(dtype).transpose(-1, -2)
    assert_matches(CAUSAL, q, turned, turned, tolerance=tolerance)
    assert_matches(CAUSAL, q, k[:, :1].expand(-1, 4, -1, -1), v, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", [CAUSAL, WINDOW, DILATED, SIGMOID])
@pytest.mark.parametrize(("queries", "keys"), [(1, 200), (65, 129), (130, 257)])
def test_short_floats(spec: str, dtype: torch.dtype, queries: int, keys: int) -> None:
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-3
    assert_matches(spec, *operands(2, 2, 1, queries, keys, 64, dtype=dtype), tolerance=tolerance)


def test_bfloat16_is_as_precise_as_torch() -> None:
    """At most twice the error of torch's own kernel on the same numbers."""
    q, k, v = operands(1, 2, 2, 300, 300, 64, dtype=torch.bfloat16)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=True
    )
    torchs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    found = Kernel(attention_of(CAUSAL))(q, k, v)
    assert (found - wanted).abs().max() <= 2 * (torchs - wanted).abs().max()


@pytest.mark.parametrize("scale", [-0.3, 0.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_scale(scale: float, dtype: torch.dtype) -> None:
    tolerance = 3e-6 if dtype == torch.float32 else 1e-2
    q, k, v = operands(1, 2, 2, 70, 140, 64, dtype=dtype)
    assert_matches(CAUSAL, q, k, v, scale=scale, tolerance=tolerance)


def test_rows_that_see_nothing_are_zero() -> None:
    q, k, v = operands(1, 1, 1, 130, 130)
    out, log_sum_exp = Kernel(attention_of("attention late { mask = j > i + 100 }"))(
        q, k, v, return_lse=True
    )
    assert torch.equal(out[:, :, 40:], torch.zeros_like(out[:, :, 40:]))
    assert torch.all(log_sum_exp[:, :, 40:] == -math.inf)
    assert torch.all(torch.isfinite(log_sum_exp[:, :, :29]))


def test_no_keys_at_all() -> None:
    q, k, v = operands(1, 2, 2, 5, 0)
    out, log_sum_exp = Kernel(attention_of(FULL))(q, k, v, return_lse=True)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.all(log_sum_exp == -math.inf)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", [CAUSAL, DILATED, SIGMOID])
def test_hidden_numbers_never_leak(spec: str, dtype: torch.dtype, bad: float) -> None:
    """Keys and values that a query does not see may hold anything."""
    q, k, v = operands(1, 2, 2, 150, 150, 32, dtype=dtype)
    kernel = Kernel(attention_of(spec))
    clean = kernel(q, k, v)
    k[:, :, 100:], v[:, :, 100:] = bad, bad
    spoiled = kernel(q, k, v)
    first = 100 if "causal" in spec else 88
    torch.testing.assert_close(spoiled[:, :, :first], clean[:, :, :first], rtol=1e-2, atol=1e-2)
    assert not torch.isfinite(spoiled[:, :, 120:]).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_hidden_bias_never_leaks(bad: float) -> None:
    spec = """
    attention biased {
        input bias: float[H, Lq, Lk]
        score = dot(q, k) * scale + bias[h, row, j]
        mask = causal
    }
    """
    q, k, v = operands(2, 2, 2, 100, 100)
    bias = torch.randn(2, 100, 100)
    spoiled = bias.masked_fill(torch.ones(100, 100).triu(1).bool(), bad)
    kernel = Kernel(attention_of(spec))
    assert torch.equal(kernel(q, k, v, bias=bias), kernel(q, k, v, bias=spoiled))


def test_scores_of_minus_infinity_weigh_nothing() -> None:
    spec = "attention biased { input bias: float[Lk]\n score = dot(q, k) * scale + bias[j] }"
    bias = torch.zeros(200)
    bias[:130] = -math.inf
    assert_matches(spec, *operands(1, 1, 1, 70, 200), bias=bias)


def test_the_least_float_as_a_bias_is_a_score() -> None:
    """A row whose scores are all the least float has equal weights, as the formula says."""
    spec = "attention biased { input bias: float[Lk]\n score = bias[j] }"
    bias = torch.full((90,), torch.finfo(torch.float32).min)
    q, k, v = operands(1, 1, 1, 70, 90)
    out = Kernel(attention_of(spec))(q, k, v, bias=bias)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(out), rtol=1e-5, atol=1e-6)


def test_large_scores() -> None:
    q, k, v = operands(1, 1, 1, 70, 200)
    assert_matches(CAUSAL, 100 * q, 100 * k, v, tolerance=1e-4)


def test_pair_bias_with_any_strides() -> None:
    spec = """
    attention biased {
        input bias: float[B, H, Lq, Lk]
        input seen: bool[Lq, Lk]
        score = dot(q, k) * scale + bias[b, h, row, j]
        mask = seen[row, j]
    }
    """
    q, k, v = operands(2, 2, 1, 70, 141)
    seen = torch.rand(70, 141) > 0.5
    bias = torch.randn(2, 2, 70, 141)
    assert_matches(spec, q, k, v, bias=bias, seen=seen)
    assert_matches(spec, q, k, v, bias=bias.transpose(2, 3).contiguous().transpose(2, 3), seen=seen)
    assert_matches(spec, q, k, v, bias=bias[:1, :1].expand_as(bias), seen=seen)


def test_document_lists() -> None:
    doc = torch.arange(300).div(37, rounding_mode="floor").int().expand(2, 300)
    assert_matches(DOCUMENTS, *operands(2, 2, 1, 300, 300), doc=doc)


def test_sink_and_its_value() -> None:
    spec = """
    attention sunk {
        input sink: float[H]
        input held: float[H, Dv]
        mask = causal and j > 20
        normalize = softmax(sink = sink[h], value = held[h])
    }
    """
    inputs = {"sink": torch.tensor([0.5, -3.0]), "held": torch.randn(2, 32)}
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 1e-2)):
        assert_matches(
            spec, *operands(1, 2, 2, 100, 100, dtype=dtype), tolerance=tolerance, **inputs
        )


def test_several_threads_agree_with_one() -> None:
    q, k, v = operands(2, 4, 2, 200, 200)
    kernel = Kernel(attention_of(CAUSAL))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kernel(q, k, v)
        torch.set_num_threads(3)
        assert torch.equal(kernel(q, k, v), alone)
    finally:
        torch.set_num_threads(before)
