"""What a plan costs: counts to be worked out by hand, and block lists that agree with them."""

from __future__ import annotations

import numpy as np
import pytest
from hang_guard import ends
from naive import CASES, Case

from attndsl.binding import bind
from attndsl.evaluate import Environment
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.block_map import Kind
from attndsl.planner.cost import cost
from attndsl.planner.plan import Plan
from attndsl.planner.visits import count_blocks, visits


def planned(body: str) -> Plan:
    (attention,) = load_text(f"attention it {{\n{body}\n}}").attentions.values()
    return plan(bind(attention))


def test_causal_by_hand() -> None:
    found = cost(planned("mask = causal"), {"Lq": 256, "H": 2, "D": 32}, block_m=64, block_n=64)
    assert (found.blocks.partial, found.blocks.full, found.all_blocks) == (8, 12, 32)
    assert found.pairs == 20 * 64 * 64
    assert found.visible_pairs == 2 * 256 * 257 // 2
    assert found.matrix_flops == found.pairs * 2 * (32 + 32)
    assert found.least_bytes == 2 * 256 * 4 * 32 * 2


def test_everything_is_visible_without_a_mask() -> None:
    found = cost(planned(""), {"Lq": 100, "Lk": 130, "B": 3})
    assert found.visible_pairs == found.all_pairs == 3 * 100 * 130


def test_prepared_work_counts() -> None:
    plain = cost(planned(""), {"Lq": 128})
    heavy = cost(planned("q = relu(q)"), {"Lq": 128})
    assert heavy.other_operations == plain.other_operations + 128 * 64
    assert heavy.least_bytes > plain.least_bytes


def test_unknown_inputs_are_named() -> None:
    made = planned("input doc: int[B, Lk]\nmask = doc[b, i] == doc[b, j]")
    unknown = cost(made, {"Lq": 256})
    assert unknown.visible_pairs is None
    assert unknown.notes == ("`doc` is not given, so every block is counted",)
    known = cost(made, {"Lq": 256}, inputs={"doc": np.arange(256)[None] // 64})
    assert (known.blocks.full, known.blocks.partial) == (4, 0)
    assert known.visible_pairs == 4 * 64 * 64


def test_text_names_what_was_counted() -> None:
    shown = str(cost(planned("mask = causal and i - j < 100"), {"Lq": 1000}))
    for word in ("blocks", "pairs", "visible", "operations", "bytes", "intensity"):
        assert word in shown


@pytest.mark.parametrize("case", CASES, ids=str)
def test_counts_are_those_of_the_lists(case: Case) -> None:
    made = plan(case.load())
    call = case.call()
    shape = call.shape
    axes = call.axes(made.attention.axes) or {}
    sizes = {"B": shape.batch, "H": shape.heads, "Hkv": shape.key_heads, "Lq": shape.queries}
    sizes |= {"Lk": shape.keys, "D": shape.width, "Dv": shape.value_width, "offset": call.offset}
    sizes |= {f"axis.{name}": length for name, length in axes.items()}
    base = Environment(sizes=sizes, axes=made.attention.axes, inputs=call.inputs)
    counts = count_blocks(made.attend, base, 16, 16)
    listed = {Kind.PARTIAL: 0, Kind.FULL: 0}
    for visit in visits(made.attend, base, 16, 16):
        for block in visit.blocks:
            listed[block.kind] += visit.batches.size * visit.heads.size
    assert (counts.partial, counts.full) == (listed[Kind.PARTIAL], listed[Kind.FULL])


@pytest.mark.parametrize(
    "mask",
    [
        "causal and i - j < 256",
        "abs(i - j) <= 64 * 4 and (i - j) % 4 == 0",
        "causal or j < 1000",
        "i // 512 == j // 512",
    ],
)
def test_a_million_tokens_cost_nothing_to_count(mask: str) -> None:
    made = planned(f"mask = {mask}")
    with ends():
        found = cost(made, {"Lq": 1_000_000})
    assert 0 < found.blocks.visited < found.all_blocks
