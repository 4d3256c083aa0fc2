"""The ten variants that all benchmarks measure, in our form and in the peers' nearest forms.

The peers' forms are written by hand, as their own users would write them. Where a peer cannot
express a variant, its nearest form stands in and is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attndsl

EXAMPLES = Path(__file__).parent.parent / "examples"

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """q, k, v are `[batch, heads, length, head_dim]` of one dtype on one device."""

    batch: int
    heads: int
    length: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        shape = (self.batch, self.heads, self.length, self.head_dim)
        return tuple(torch.randn(shape, dtype=self.dtype, device=self.device) for _ in "qkv")


@dataclass(frozen=True)
class Forms:
    """A variant on one problem. `flex_name` and `sdpa_name` say what the peer really computes;
    `flex_score` makes FlexAttention's score of the inputs."""

    spec: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    grid: tuple[int, ...] | None = None
    flex_score: Callable[..., Score] | None = None
    flex_mask: Mask | None = None
    flex_name: str = "the same"
    sdpa_bias: Tensor | None = None
    sdpa_name: str = "causal"

    def ours(self) -> Attention:
        (name,) = (module := attndsl.load(EXAMPLES / f"{self.spec}.attn"))
        kernel = getattr(module, name)(**self.parameters)
        options = {**self.inputs, **({"grid": self.grid} if self.grid else {})}
        return lambda q, k, v: kernel(q, k, v, **options)

    def flex(self, problem: Problem) -> Attention:
        """FlexAttention, compiled for exactly these shapes, which is its fastest form."""
        torch.compiler.reset()
        block_mask = None
        if self.flex_mask is not None:
            lengths = (problem.length, problem.length)
            block_mask = create_block_mask(
                self.flex_mask, None, None, *lengths, device=str(problem.device)
            )
        score = None if self.flex_score is None else self.flex_score(**self.inputs)
        compiled = torch.compile(flex_attention, dynamic=False)
        return lambda q, k, v: compiled(q, k, v, score_mod=score, block_mask=block_mask)

    def learned(self) -> Forms:
        """The same, with gradients of every input of floats."""
        bias = self.sdpa_bias
        return replace(
            self,
            inputs={name: _learned(one) for name, one in self.inputs.items()},
            sdpa_bias=None if bias is None else _learned(bias),
        )

    @property
    def learned_inputs(self) -> list[Tensor]:
        return [one for one in self.inputs.values() if one.requires_grad]

    @property
    def learned_by_flex(self) -> list[Tensor]:
        """Those that FlexAttention's form reads: a score is made of all of them, or of none."""
        return [] if self.flex_score is None else self.learned_inputs

    @property
    def learned_biases(self) -> list[Tensor]:
        return [] if self.sdpa_bias is None else [self.sdpa_bias]

    def sdpa(self) -> Attention:
        if self.sdpa_bias is None:
            return lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True)
        return lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=self.sdpa_bias)


def _learned(one: Tensor) -> Tensor:
    return one.detach().clone().requires_grad_(one.is_floating_point())


def _causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


def causal(problem: Problem) -> Forms:
    return Forms("causal", flex_mask=_causal)


def window(problem: Problem) -> Forms:
    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < 256)

    return Forms("sliding_window", {"window": 256}, flex_mask=mask)


def alibi(problem: Problem) -> Forms:
    heads = torch.arange(1, problem.heads + 1, device=problem.device)
    slope = torch.exp2(-8.0 * heads / problem.heads)

    def score_of(slope: Tensor) -> Score:
        def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s - slope[h] * (i - j)

        return score

    return Forms("alibi", inputs={"slope": slope}, flex_score=score_of, flex_mask=_causal)


def softcap(problem: Problem) -> Forms:
    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return 50.0 * torch.tanh(s / 50.0)

    everything = max(problem.length, 1)
    parameters = {"window": everything, "cap": 50.0}
    return Forms("gemma2", parameters, flex_score=lambda: score, flex_mask=_causal)


def documents(problem: Problem) -> Forms:
    """Eight documents of uneven lengths, packed."""
    cuts = torch.tensor([0.05, 0.2, 0.28, 0.45, 0.6, 0.8, 0.9]) * problem.length
    positions = torch.arange(problem.length)
    doc = torch.bucketize(positions, cuts.long(), right=True).to(problem.device)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (doc[i] == doc[j])

    table = doc.int()[None].expand(problem.batch, -1)
    return Forms("documents", inputs={"doc": table}, flex_mask=mask)


def dilated(problem: Problem) -> Forms:
    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ((i - j).abs() <= 256) & ((i - j) % 4 == 0)

    return Forms("dilated", {"window": 64, "step": 4}, flex_mask=mask)


def pair_bias(problem: Problem) -> Forms:
    bias = torch.randn(problem.heads, problem.length, problem.length, device=problem.device)

    def score_of(bias: Tensor) -> Score:
        def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s + bias[h, i, j]

        return score

    return Forms(
        "pair_bias",
        inputs={"bias": bias},
        flex_score=score_of,
        sdpa_bias=bias[None].to(problem.dtype),
        sdpa_name="attn_mask",
    )


def sigmoid(problem: Problem) -> Forms:
    shift = math.log(problem.length)

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s - shift

    name = "softmax in place of sigmoid"
    return Forms("flash_sigmoid", flex_score=lambda: score, flex_mask=_causal, flex_name=name)


def neighborhood(problem: Problem) -> Forms:
    """A 7 × 7 window on a grid that is as square as powers of two allow."""
    width = 2 ** (int(math.log2(problem.length)) // 2)
    height = problem.length // width

    def near(query: Tensor, key: Tensor, length: int) -> Tensor:
        start = (query - 3).clamp(0, length - 7)
        return (key >= start) & (key < start + 7)

    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return near(i // width, j // width, height) & near(i % width, j % width, width)

    return Forms("neighborhood2d", {"window": 7}, grid=(height, width), flex_mask=mask)


def sink(problem: Problem) -> Forms:
    def mask(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & (i - j < 128)

    sinks = torch.randn(problem.heads, device=problem.device)
    name = "the window without the sink"
    return Forms("gpt_oss", {"window": 128}, {"sink": sinks}, flex_mask=mask, flex_name=name)


VARIANTS: dict[str, Callable[[Problem], Forms]] = {
    "causal": causal,
    "window 256": window,
    "ALiBi": alibi,
    "softcap": softcap,
    "documents": documents,
    "dilated": dilated,
    "per-pair bias": pair_bias,
    "sigmoid": sigmoid,
    "neighborhood 2-D": neighborhood,
    "sink": sink,
}
