"""The graph of a plan: every example is acyclic, from operands to outputs."""

from __future__ import annotations

from pathlib import Path

import networkx
import pytest
from naive.case import EXAMPLES

from attndsl.binding import bind
from attndsl.module import load_file, load_text
from attndsl.planner import plan
from attndsl.planner.graph import plan_graph


def test_edges_follow_the_data() -> None:
    (attention,) = load_text(
        "attention it {\ninput f: float[B, H, Lk]\nlet c = cumsum(f)\nk = relu(k)\n"
        "score = dot(q, k) + c[b, h, j]\n}"
    ).attentions.values()
    graph = plan_graph(plan(bind(attention)))
    assert set(graph.edges) == {
        ("f", "stage 0"),
        ("stage 0", "c"),
        ("k", "stage 1"),
        ("stage 1", "k_prepared"),
        ("c", "stage 2"),
        ("q", "stage 2"),
        ("k_prepared", "stage 2"),
        ("v", "stage 2"),
        ("stage 2", "out"),
        ("stage 2", "log_sum_exp"),
    }
    kinds = dict(graph.nodes(data="kind"))
    assert kinds["f"] == "input"
    assert kinds["c"] == kinds["k_prepared"] == "buffer"
    assert kinds["q"] == "operand"
    assert kinds["out"] == "output"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda path: path.stem)
def test_every_example_flows_to_its_output(path: Path) -> None:
    for attention in load_file(path).attentions.values():
        made = plan(bind(attention))
        graph = plan_graph(made)
        assert networkx.is_directed_acyclic_graph(graph)
        assert networkx.ancestors(graph, "out") >= {f"stage {n}" for n in range(len(made.stages))}
        unread = {declared.name for declared in attention.inputs} - set(graph)
        assert not unread, "every input that a spec declares is read by some stage"
