"""Tables by the distance of a pair: read, and their gradients summed up, by diagonals of blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attndsl.attention import Attention
from attndsl.codegen.cpp import emit
from attndsl.codegen.cpp.distances import DISTANCE, over_distance
from attndsl.codegen.program import DType, Specialization
from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Read, index_names, walk
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.pipeline import plan_backward
from attndsl.runtime.kernel import Kernel

# An index into a table of 20, and the same in torch.
INDICES = {
    "i - j + 7 if abs(i - j) < 7 else 19": lambda i, j: torch.where(
        (i - j).abs() < 7, i - j + 7, 19
    ),
    "min(max(j - i, -9), 10) + 9": lambda i, j: (j - i).clamp(-9, 10) + 9,
    "(3 * i - 3 * j + 2) % 20": lambda i, j: (3 * i - 3 * j + 2) % 20,
    "(10 if j > i else 0) + min(abs(j - i) // 3, 9)": lambda i, j: (
        torch.where(j > i, 10, 0) + ((j - i).abs() // 3).clamp(max=9)
    ),
}
OTHERS = ["i // 16 + j // 16", "(i + j) % 20", "min(j, 19) * 0 + i % 20"]


def attention_of(body: str) -> Attention:
    (attention,) = load_text(f"attention it {{\n{body}\n}}").attentions.values()
    return attention


def index_of(text: str) -> Read:
    attention = attention_of(f"input t: float[20]\nscore = dot(q, k) + t[{text}]")
    return next(node for node in walk(attention.score) if isinstance(node, Read))


@pytest.mark.parametrize("text", INDICES)
def test_indices_over_distances(text: str) -> None:
    (index,) = index_of(text).indices
    over = over_distance(index)
    assert over is not None
    assert index_names(over) == {DISTANCE.name}
    i, j = np.arange(-5, 40)[:, None], np.arange(33)[None, :]
    expected = evaluate(index, Environment(indices={"i": i, "j": j}))
    found = evaluate(over, Environment(indices={DISTANCE.name: i - j}))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("text", OTHERS)
def test_other_indices_stay(text: str) -> None:
    (index,) = index_of(text).indices
    assert over_distance(index) is None


@pytest.mark.parametrize("text", [*INDICES, "i % 5 + 3 * (j % 5)"])
@pytest.mark.parametrize(("queries", "keys"), [(70, 70), (33, 150), (130, 65)])
@pytest.mark.parametrize("mask", ["True", "j <= i"])
def test_tables(text: str, queries: int, keys: int, mask: str) -> None:
    """For heads that share a table, and batches: against float64 autograd of dense attention."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, queries, 16, generator=generator)
    k, v = (torch.randn(2, 2, keys, 16, generator=generator) for _ in range(2))
    table = torch.randn(20, generator=generator)
    body = f"input t: float[20]\nscore = dot(q, k) * scale + t[{text}]\nmask = {mask}"
    kernel = Kernel(attention_of(body))
    i, j = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None, :]
    place = INDICES[text](i, j) if text in INDICES else i % 5 + 3 * (j % 5)

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        k, v = (one.repeat_interleave(2, 1) for one in (k, v))
        scores = q @ k.mT / 4 + t[place]
        if mask != "True":
            scores = scores.masked_fill(j > i, -torch.inf)
        return scores.softmax(-1).nan_to_num() @ v

    exact = [one.double().requires_grad_() for one in (q, k, v, table)]
    leaves = [one.requires_grad_() for one in (q, k, v, table)]
    wanted, out = dense(*exact), kernel(q, k, v, t=table)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    if mask != "True" and queries > keys:
        return  # autograd of dense attention has no gradient in rows that see nothing
    out_gradient = torch.randn(out.shape, generator=generator)
    found = torch.autograd.grad(out, leaves, out_gradient)
    for mine, theirs in zip(
        found, torch.autograd.grad(wanted, exact, out_gradient.double()), strict=True
    ):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((mine - theirs).abs().max()) <= 2e-5 * scale


@pytest.mark.parametrize(("queries", "keys"), [(70, 70), (33, 150)])
@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_vectors_of_distances(queries: int, keys: int, bad: float) -> None:
    """What a row holds that sees nothing reaches no element's gradient."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, length, 24, generator=generator) for length in (queries, keys, keys)
    )
    embedding = torch.randn(12, 24, generator=generator)
    body = (
        "input e: float[12, D]\nscore = (dot(q, k) + dot(q, e[min(i - j, 11)])) * scale\n"
        "mask = j <= i and row != 5"
    )
    i, j = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)[None, :]
    hidden = j > i

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        near = (q[:, :, :, None] * e[(i - j).clamp(0, 11)]).sum(-1)
        return ((q @ k.mT + near) / 24**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v

    exact = [one.double().requires_grad_() for one in (q, k, v, embedding)]
    out_gradient = torch.randn(q.shape, generator=generator)
    out_gradient[:, :, 5] = 0
    wanted = torch.autograd.grad(dense(*exact), exact, out_gradient.double())
    q[:, :, 5] += bad
    leaves = [one.requires_grad_() for one in (q, k, v, embedding)]
    out = Kernel(attention_of(body))(q, k, v, e=embedding)
    found = torch.autograd.grad(out, leaves, out_gradient)
    for mine, theirs in zip(found, wanted, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((mine - theirs).abs().max()) <= 2e-5 * scale


def test_a_table_is_not_gathered_pair_by_pair() -> None:
    body = f"input t: float[20]\nscore = dot(q, k) * scale + t[{next(iter(INDICES))}]"
    specialization = Specialization(DType.FLOAT32, 64, 64)
    for made in (plan(attention_of(body)), plan_backward(attention_of(body))):
        text = emit(made, specialization).text
        assert "load_diagonal(scratch." in text
        assert "scatter_add(arguments" not in text
