"""Specs, tensors and formulas in torch for the tests of a kernel as an operator of torch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attndsl
from attndsl.language import causal as causal_pairs
from attndsl.language import i, j
from attndsl.runtime import operator  # noqa: F401 (what `torch.ops.attndsl` is)

SPEC = """
attention causal_softmax { mask = causal }
attention alibi {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask  = causal
}
attention window(width: int = 20 where width > 0) { mask = abs(i - j) < width }
attention documents {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}
attention near {
    axes y, x
    mask = abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1
}
attention tempered {
    input temperature: float
    score = dot(q, k) * temperature
}
attention everywhere { normalize = sigmoid }
attention weighted {
    score = exp(dot(q, k) * scale)
    normalize = sum
}
attention added {
    input first: float[H]
    input second: float[H]
    score = dot(q, k) * scale + (first[h] + second[h]) * j * 0.1
}
attention routed(block: int = 64) {
    mask = causal
    route blocks of block {
        affinity = dot(q, mean(k))
        keep     = top(3)
    }
}
"""
attend = torch.ops.attndsl.attend.default
attend_backward = torch.ops.attndsl.attend_backward.default
close = torch.testing.assert_close


def parsed() -> attndsl.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attndsl.SpecWarning)
        return attndsl.parse(SPEC)


@attndsl.kernel
def decorated(width: int = 7):
    assert width > 0
    mask = causal_pairs and i - j < width
    return mask


def operands(
    length: int = 30, *, heads: int = 4, grad: bool = False, seed: int = 0
) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, count, length, 16, generator=random).requires_grad_(grad)
        for count in (heads, 2, 2)
    ]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def alibi_in_torch(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    place = torch.arange(q.shape[2])
    distance = place[:, None] - place
    bias = torch.where(distance >= 0, -slope[:, None, None] * distance, -torch.inf)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)


def calls(module: attndsl.Module, grad: bool) -> dict[str, tuple[Any, ...]]:
    """Arguments of the operator, by what is special about them."""
    slope = torch.rand(4).requires_grad_(grad)
    doc = (torch.arange(30) // 7).expand(2, 30)
    one = torch.tensor(0.3).requires_grad_(grad)

    def call(
        kernel: attndsl.Kernel,
        inputs: list[Tensor],
        scale: Any = None,
        offset: Any = None,
        grid: Any = None,
    ) -> tuple[Any, ...]:
        return kernel.bind().spec, *operands(grad=grad), inputs, None, None, scale, offset, grid

    return {
        "plain": call(module.causal_softmax, []),
        "per head": call(module.alibi, [slope]),
        "integers": call(module.documents, [doc], 0.3, 2),
        "grid": call(module.near, [], None, None, [5, 6]),
        "scalar": call(module.tempered, [one]),
        "no statistic": call(module.everywhere, []),
        "sum": call(module.weighted, []),
    }


def tokens(length: int) -> Tensor:
    return torch.randn(2, length, 64, generator=torch.Generator().manual_seed(length))


class Block(torch.nn.Module):
    def __init__(self, module: attndsl.Module) -> None:
        super().__init__()
        self.project = torch.nn.Linear(64, 3 * 64)
        self.slope = torch.nn.Parameter(torch.rand(4))
        self.module = module
        self.attention = module.window(width=4)
        self.width = 6

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        out = self.attention(q, k, v) + self.module.alibi(q, k, v, slope=self.slope)
        out = out + self.module.window(width=self.width)(q, k, v)
        return x + out.transpose(1, 2).flatten(2)
