"""Memory of large results is used again when nobody has them any more, and never before."""

from __future__ import annotations

import sys

import pytest
import torch

from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.module import load_text
from attndsl.runtime.kernel import Kernel
from attndsl.runtime.large_memory import SMALLEST, LargeMemory

NUMBERS = SMALLEST // 4 + 16
SHAPE = (("one", (2, NUMBERS // 2), torch.float32),)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kept on Linux only")


def test_of_a_result_that_is_gone() -> None:
    memory = LargeMemory()
    first = memory.allocate(SHAPE)["one"]
    place = first.data_ptr()
    assert first.shape == (2, NUMBERS // 2)
    first.fill_(1.0)
    del first
    assert memory.allocate(SHAPE)["one"].data_ptr() == place


@pytest.mark.parametrize("held", ["tensor", "view", "array"])
def test_of_a_result_that_somebody_has(held: str) -> None:
    memory = LargeMemory()
    tensor = memory.allocate(SHAPE)["one"].fill_(1.0)
    kept = {"tensor": tensor, "view": tensor[1, 5:], "array": tensor.numpy()}[held]
    del tensor
    memory.allocate(SHAPE)["one"].fill_(2.0)
    assert bool((kept == 1.0).all())


def test_of_another_size() -> None:
    memory = LargeMemory()
    memory.allocate(SHAPE)
    found = memory.allocate((("one", (NUMBERS + 1,), torch.float32),))["one"]
    assert found.fill_(3.0).numel() == NUMBERS + 1


def test_small_results_own_their_memory() -> None:
    found = LargeMemory().allocate((("one", (3, 4), torch.float32), ("none", (0,), torch.int32)))
    assert [one.shape for one in found.values()] == [(3, 4), (0,)]


@pytest.mark.parametrize("keys", [2080, 2067], ids=["whole lines", "parts of lines"])
def test_gradients_that_no_cache_holds(keys: int) -> None:
    """Two at once, of which neither may write over the other, and where rows lie in any way."""
    kernel = Kernel(bind(_pair_bias()))
    generator = torch.Generator().manual_seed(0)
    heads, queries = 2, 2050
    q, out_gradient = (torch.randn(1, heads, queries, 16, generator=generator) for _ in range(2))
    k, v = (torch.randn(1, heads, keys, 16, generator=generator) for _ in range(2))
    biases = [torch.randn(heads, queries, keys, generator=generator) for _ in range(2)]
    found = [
        torch.autograd.grad(kernel(q, k, v, bias=one), one, out_gradient)[0]
        for one in (bias.requires_grad_() for bias in biases)
    ]
    for bias, gradient in zip(biases, found, strict=True):
        double = bias.detach().double().requires_grad_()
        score = q.double() @ k.double().transpose(-1, -2) / 4 + double
        out = score.softmax(-1) @ v.double()
        (expected,) = torch.autograd.grad(out, double, out_gradient.double())
        error = torch.linalg.vector_norm(gradient - expected)
        # Weights are made again from a log-sum-exp above 8, whose last bit is 2^-20.
        assert error <= 2.0**-18 * torch.linalg.vector_norm(expected)


def _pair_bias() -> Attention:
    text = """
        attention biased {
            input bias: float[H, Lq, Lk]
            score = dot(q, k) * scale + bias[h, row, j]
        }
    """
    (attention,) = load_text(text).attentions.values()
    return attention
