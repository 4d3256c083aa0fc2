"""A few queries against many keys: parts of the keys merge to what all of them give."""

from __future__ import annotations

import math

import pytest
import torch
from cpp_calls import assert_matches, attention_of, operands

from attndsl.runtime.kernel import Kernel

SPECS = {
    "window": "attention window { mask = causal and i - j < 300 }",
    "cosine": """
        attention cosine {
            input heat: float[H]
            score = dot(q, k) * exp(heat[h])
            mask = causal
        }
    """,
    "alibi": """
        attention alibi {
            input heat: float[H]
            score = dot(q, k) * scale - 0.01 * heat[h] * (i - j)
            mask = causal
        }
    """,
    "pair_bias": """
        attention pair_bias {
            input bias: float[H, Lq, Lk]
            input seen: bool[B, Lk]
            score = dot(q, k) * scale + bias[h, row, j]
            mask = seen[b, j]
        }
    """,
    "heads_differ": """
        attention heads_differ {
            input window: int[H]
            mask = causal and i - j < window[h]
        }
    """,
    "sink": """
        attention sink {
            input heat: float[H]
            input held: float[H, Dv]
            mask = causal
            normalize = softmax(sink = heat[h], value = held[h])
        }
    """,
    "sum": """
        attention summed {
            score = dot(q, k) ** 2
            mask = j % 3 == 1
            normalize = sum
        }
    """,
    "sigmoid": """
        attention sigmoid {
            score = dot(q, k) * scale - log(Lk)
            normalize = sigmoid(divide = float(row + 1))
        }
    """,
}
CALLS = [(1, 1), (1, 64), (1, 1000), (3, 700), (4, 65)]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("heads", [(2, 2), (6, 2)])
def test_few_queries(name: str, heads: tuple[int, int]) -> None:
    attention = attention_of(SPECS[name])
    for queries, keys in CALLS:
        inputs = {
            "heat": torch.linspace(-1, 1, heads[0]),
            "held": torch.randn(heads[0], 24),
            "bias": torch.randn(heads[0], queries, keys),
            "seen": torch.rand(2, keys) > 0.3,
            "window": torch.arange(heads[0]).int() * 100 + 1,
        }
        wanted = {one.name: inputs[one.name] for one in attention.inputs}
        assert_matches(
            attention, *operands(2, *heads, queries, keys, 40, 24), tolerance=5e-6, **wanted
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats(dtype: torch.dtype) -> None:
    q, k, v = operands(2, 4, 2, 2, 500, 64, dtype=dtype)
    assert_matches(SPECS["window"], q, k, v, tolerance=1e-2 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hidden_numbers_never_leak(bad: float) -> None:
    q, k, v = operands(1, 2, 1, 2, 500, 40)
    kernel = Kernel(attention_of("attention early { mask = j < 130 }"))
    clean = kernel(q, k, v)
    k[:, :, 130:], v[:, :, 130:] = bad, bad
    assert torch.equal(kernel(q, k, v), clean)


def test_few_queries_agree_with_many() -> None:
    """The last rows of a long call, by either kernel."""
    q, k, v = operands(1, 4, 2, 100, 100, 64)
    kernel = Kernel(attention_of(SPECS["window"]))
    torch.testing.assert_close(kernel(q[:, :, -3:], k, v), kernel(q, k, v)[:, :, -3:])


def test_rows_that_see_nothing() -> None:
    q, k, v = operands(1, 1, 1, 2, 100)
    out, log_sum_exp = Kernel(attention_of("attention none_yet { mask = j > i }"))(
        q, k, v, return_lse=True
    )
    assert torch.equal(out[:, :, 1], torch.zeros_like(out[:, :, 1]))
    assert log_sum_exp[0, 0, 1] == -math.inf
