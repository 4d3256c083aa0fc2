"""Specs whose derivatives are small as graphs, and as trees too large to walk, print or emit."""

from __future__ import annotations

import torch
from hang_guard import ends

import attndsl
from attndsl.codegen import cpp
from attndsl.codegen.program import Tile
from attndsl.codegen.triton import emit_stage
from attndsl.expression import FLOAT, Binary, Expression, Read, walk
from attndsl.planner.pipeline import plan_backward
from attndsl.planner.plan import Fold, Plan
from attndsl.runtime.compilation import specialize

DEPTH = 40


def nested(depth: int) -> str:
    score = "dot(q, k) * scale"
    for number in range(depth):
        score = f"min({score} * slope[h], limit[h] + {number})"
    return f"""
attention deep {{
    input slope: float[H]
    input limit: float[H]
    score = {score}
}}
"""


def backward_of(depth: int, *, by_side: bool = False) -> Plan:
    return plan_backward(attndsl.parse(nested(depth)).deep.attention, by_side=by_side)


def doubled(depth: int) -> Expression:
    node: Expression = Read("x", (), FLOAT)
    for _ in range(depth):
        node = Binary("+", node, node, FLOAT)
    return node


def test_a_shared_node_is_walked_once() -> None:
    with ends():
        assert sum(1 for _ in walk(doubled(200))) == 201


def test_equal_graphs_are_equal() -> None:
    with ends():
        one, two, other = doubled(200), doubled(200), Binary("+", doubled(199), doubled(198), FLOAT)
        assert one == two
        assert len({one, two, other}) == 2
        assert one != other


def test_plans_are_read() -> None:
    with ends():
        shallow, deep = (str(backward_of(depth)) for depth in (DEPTH // 2, DEPTH))
    assert len(deep) < 3 * len(shallow)


def test_sources_grow_with_the_spec() -> None:
    with ends():
        attention = attndsl.parse(nested(DEPTH)).deep.attention
        specialization = specialize(attention, 64, None, "fp32")
        program = cpp.emit(backward_of(DEPTH), specialization, Tile(64, 64))
        assert program.text.count("\n") < 100 * DEPTH
        made = backward_of(DEPTH, by_side=True)
        for number, stage in enumerate(made.stages):
            if not isinstance(stage, Fold):
                source = emit_stage(made, number, specialization, Tile(64, 32, 4, 1)).text
                assert source.count("\n") < 100 * DEPTH


def test_gradients() -> None:
    depth, heads, length = 9, 2, 33
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    q, k, v = (drawn(1, heads, length, 16) for _ in range(3))
    slope, limit = drawn(heads), drawn(heads)
    tensors = (q, k, v, slope, limit)
    attndsl.parse(nested(depth)).deep(q, k, v, slope=slope, limit=limit).square().sum().backward()
    found = [tensor.grad for tensor in tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    q, k, v, slope, limit = exact
    score = q @ k.mT / 4
    for number in range(depth):
        score = torch.minimum(
            score * slope[:, None, None], limit[:, None, None].expand_as(score) + number
        )
    (score.softmax(-1) @ v).square().sum().backward()
    for one, other in zip(found, exact, strict=True):
        assert one is not None
        assert other.grad is not None
        torch.testing.assert_close(one.double(), other.grad, rtol=1e-4, atol=1e-5)
