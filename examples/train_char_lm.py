# ruff: noqa: F841
"""Trains a small language model, character by character, on the help texts that come with Python.

The same model is trained with three attentions: a sliding window with ALiBi, rotary embeddings with
a sink, and a sigmoid. Each is a spec below, trained through its kernels, forward and derived
backward; and a formula in plain PyTorch, trained from the same weights on the same batches. The two
loss curves lie on each other, as near as rounding lets them: a third run, of the formula from
weights that are off by rounding, tells how near that is. All curves are drawn to a picture.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import attndsl
from attndsl.language import H, Input, causal, dot, h, i, j, k, q, rope, scale, sigmoid, softmax

# Sizes of the model: two layers of four heads, on texts of 128 characters.
WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 64, 2, 4, 128, 8


@attndsl.kernel
def near(window: int = 32):
    """ALiBi within a sliding window; the slopes are learned."""
    assert window > 0
    slope = Input(float, H)
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask = causal and i - j < window


@attndsl.kernel
def sunk(q, k, window: int = 32):
    """Rotary embeddings, and a softmax with a learned sink for each head, as in GPT-OSS."""
    assert window > 0
    sink = Input(float, H)
    q = rope(q, i)
    k = rope(k, j)
    mask = causal and i - j < window
    normalize = softmax(sink=sink[h])


@attndsl.kernel
def squashed():
    """A sigmoid for each pair, shifted by a learned number, with ALiBi, and no sum over the row."""
    slope = Input(float, H)
    shift = Input(float)
    score = dot(q, k) * scale - slope[h] * (i - j) - shift
    mask = causal
    normalize = sigmoid


def scaled_dots(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])


def distances(key: Tensor) -> Tensor:
    """How far each key lies behind each query, `[L, L]`."""
    positions = torch.arange(key.shape[2])
    return positions[:, None] - positions


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding: element n of the first half turns with element n of the second."""
    half = x.shape[-1] // 2
    turn = torch.arange(x.shape[2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cosine, sine = turn.cos(), turn.sin()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def near_formula(query: Tensor, key: Tensor, slope: Tensor) -> Tensor:
    distance = distances(key)
    scores = scaled_dots(query, key) - slope[:, None, None] * distance
    return scores.masked_fill((distance < 0) | (distance >= 32), -math.inf).softmax(-1)


def sunk_formula(query: Tensor, key: Tensor, sink: Tensor) -> Tensor:
    distance = distances(key)
    scores = scaled_dots(rotated(query), rotated(key))
    scores = scores.masked_fill((distance < 0) | (distance >= 32), -math.inf)
    column = sink[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


def squashed_formula(query: Tensor, key: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    distance = distances(key)
    scores = scaled_dots(query, key) - slope[:, None, None] * distance - shift
    return torch.sigmoid(scores).masked_fill(distance < 0, 0.0)


@dataclass(frozen=True)
class Variant:
    """A spec and the formula in PyTorch for its weights."""

    title: str
    kernel: attndsl.Kernel
    formula: Callable[..., Tensor]


VARIANTS = (
    Variant("window + ALiBi", near, near_formula),
    Variant("rotary + sink", sunk, sunk_formula),
    Variant("sigmoid + ALiBi", squashed, squashed_formula),
)


class Eager(nn.Module):
    """A layer's attention by formula, with the layer's own parameters."""

    def __init__(self, layer: attndsl.nn.Attention, formula: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer, self.formula = layer, formula

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        projections = layer.q_proj, layer.k_proj, layer.v_proj
        query, key, value = (
            project(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for project in projections
        )
        attended = self.formula(query, key, **layer.inputs) @ value
        return layer.out_proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a network for each token, each around a residual."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.network = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.network(self.norms[1](x))


class Model(nn.Module):
    """Characters `[B, L]` to logits of the next one, `[B, L, characters]`."""

    def __init__(self, characters: int, variant: Variant, eager: bool) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, WIDTH)
        self.blocks = nn.Sequential()
        for _ in range(LAYERS):
            layer = attndsl.nn.Attention(variant.kernel, WIDTH, HEADS)
            self.blocks.append(Block(Eager(layer, variant.formula) if eager else layer))
        self.norm = nn.LayerNorm(WIDTH)
        self.logits = nn.Linear(WIDTH, characters)

    def forward(self, characters: Tensor) -> Tensor:
        return self.logits(self.norm(self.blocks(self.characters(characters))))


def corpus() -> tuple[Tensor, int]:
    """The help texts of Python as character numbers, and how many characters there are."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text]), len(alphabet)


def train(
    variant: Variant, steps: int, *, eager: bool, rounding: bool = False, seed: int = 0
) -> list[float]:
    """The loss of every step, in nats for a character. `rounding` begins with weights that are off
    by a unit in the last place or so."""
    text, characters = corpus()
    torch.manual_seed(seed)
    model = Model(characters, variant, eager)
    if rounding:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT - 1, (BATCH, 1), generator=order)
        window = text[starts + torch.arange(CONTEXT + 1)]
        logits = model(window[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@dataclass(frozen=True)
class Comparison:
    """The losses of one variant: with kernels, by formula, and by formula after rounding."""

    variant: Variant
    kernels: list[float]
    formula: list[float]
    rounded: list[float]

    @property
    def apart(self) -> float:
        """The mean difference of a step's loss between kernels and formula."""
        return mean_difference(self.kernels, self.formula)

    @property
    def noise(self) -> float:
        """The same between the formula and itself after rounding."""
        return mean_difference(self.rounded, self.formula)


def mean_difference(first: list[float], second: list[float]) -> float:
    return statistics.fmean(abs(a - b) for a, b in zip(first, second, strict=True))


def compare(variant: Variant, steps: int) -> Comparison:
    start = time.perf_counter()
    kernels = train(variant, steps, eager=False)
    between = time.perf_counter()
    formula = train(variant, steps, eager=True)
    end = time.perf_counter()
    found = Comparison(variant, kernels, formula, train(variant, steps, eager=True, rounding=True))
    last = max(1, steps // 10)
    first, ours, theirs = (
        statistics.fmean(part) for part in (kernels[:last], kernels[-last:], formula[-last:])
    )
    print(
        f"{variant.title:15} loss {first:.3f} to {ours:.3f}, by formula {theirs:.3f}; "
        f"a step is {found.apart:.1e} apart, and {found.noise:.1e} by rounding alone; "
        f"{between - start:.0f} s with kernels, {end - between:.0f} s by formula",
        flush=True,
    )
    return found


def draw(comparisons: list[Comparison], path: Path) -> None:
    """Each variant's curves, above the difference of its steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(comparisons), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, len(comparisons), squeeze=False, sharex=True, sharey="row")
    for (above, below), one in zip(axes.T, comparisons, strict=True):
        above.plot(one.formula, color="#fbb040", linewidth=3, label="PyTorch, eager")
        above.plot(one.kernels, color="#1f4e79", linewidth=0.9, label="attndsl")
        above.set_title(one.variant.title)
        below.set_yscale("log", nonpositive="mask")
        for curve, color, label in (
            (one.rounded, "#c9ccd1", "rounding alone"),
            (one.kernels, "#1f4e79", "attndsl"),
        ):
            # A logarithmic axis leaves out where they are equal.
            difference = [abs(a - b) for a, b in zip(curve, one.formula, strict=True)]
            below.plot(difference, ".", color=color, markersize=4, label=label)
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("loss, nats for a character")
    axes[1, 0].set_ylabel("difference from eager")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 500,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg or .pdf file.")
    ] = Path("build/char_lm.png"),
) -> None:
    """Train every variant with kernels and by formula, and draw both loss curves."""
    comparisons = [compare(variant, steps) for variant in VARIANTS]
    draw(comparisons, output)
    print(output)


if __name__ == "__main__":
    typer.run(main)
