"""Block tables are what brute force finds, for any mask, input, tile and length."""

from __future__ import annotations

import time

import numpy as np
import pytest
from block_grids import kinds, pairs, sizes_of_case, table_for
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import CASES, Case
from predicates import predicates, random_inputs
from unjudged import unjudged

from attndsl.expression import Expression, Read, index_names, walk
from attndsl.planner.block_map import BlockTable
from attndsl.planner.classify import classes, count_visits
from attndsl.planner.table import build_table

TILES = (16, 32, 48, 64, 128)


def sizes_of(queries: int, keys: int, **others: int) -> dict[str, int]:
    sizes = {"Lq": queries, "Lk": keys, "offset": keys - queries, "B": 2, "H": 4, "Hkv": 2}
    return {**sizes, **others}


def mask_of(text: str, statements: str = "") -> Expression:
    return unjudged(f"attention spec {{ {statements} mask = {text} }}").mask


def check(
    mask: Expression,
    sizes: dict[str, int],
    tile: tuple[int, int],
    inputs: dict[str, np.ndarray] | None = None,
    axes: tuple[str, ...] = (),
) -> BlockTable:
    inputs = inputs or {}
    table = build_table(mask, table_for(mask), sizes, inputs, *tile, axes=axes)
    assert table.partial_blocks.dtype == table.full_blocks.dtype == np.int32
    for batch in range(sizes["B"]):
        for head in range(sizes["H"]):
            visible = pairs(mask, sizes, inputs=inputs, axes=axes, batch=batch, head=head)
            want = kinds(visible, *tile)
            place = {"block_m": tile[0], "block_n": tile[1], "batch": batch, "head": head}
            np.testing.assert_array_equal(classes(table, sizes=sizes, **place), want)
            visits = count_visits(table, sizes=sizes, **place)
            assert (visits.partial, visits.full) == ((want == 1).sum(), (want == 2).sum())
    return table


@settings(max_examples=250, deadline=None)
@given(
    predicates(reads=True),
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(-40, 40),
    st.sampled_from(TILES[:3]),
    st.sampled_from(TILES[:3]),
    st.integers(0, 1000),
)
def test_random_predicates_are_exact(
    mask: Expression,
    queries: int,
    keys: int,
    shift: int,
    block_m: int,
    block_n: int,
    seed: int,
) -> None:
    sizes = sizes_of(queries, keys, offset=keys - queries + shift, B=1)
    check(mask, sizes, (block_m, block_n), random_inputs(keys, seed))


TABLES = [
    case
    for case in CASES
    if any(
        isinstance(node, Read) and index_names(node) & {"i", "j", "row"}
        for node in walk(case.load().mask)
    )
    or len(case.load().axes) > 1
    or "neighborhood" in case.example
]


@pytest.mark.parametrize("case", TABLES, ids=str)
def test_examples_are_exact(case: Case) -> None:
    attention = case.load()
    for number, shape in enumerate(case.shapes):
        call = case.call(shape)
        tile = TILES[number % 5], TILES[(number + 3) % 5]
        sizes = sizes_of_case(case, shape)
        check(attention.mask, sizes, tile, call.inputs, attention.axes)


@pytest.mark.parametrize("block_m", TILES)
@pytest.mark.parametrize("block_n", TILES)
def test_every_tile_is_exact(block_m: int, block_n: int) -> None:
    random = np.random.default_rng(0)
    inputs = {"doc": np.sort(random.integers(0, 5, (2, 290)), axis=1)}
    mask = mask_of("causal and documents(doc)", "input doc: int[B, Lk]")
    check(mask, sizes_of(203, 290, H=1, Hkv=1), (block_m, block_n), inputs)
    grid = mask_of("abs(i.y - j.y) <= 3 and abs(i.x - j.x) <= 2", "axes y, x")
    sizes = sizes_of(17 * 23, 17 * 23, B=1, H=1, Hkv=1, **{"axis.y": 17, "axis.x": 23})
    check(grid, sizes, (block_m, block_n), axes=("y", "x"))


def test_a_table_of_pairs() -> None:
    random = np.random.default_rng(0)
    blocks = random.random((4, 9, 7)) < 0.5
    table = np.repeat(np.repeat(blocks, 33, axis=1), 47, axis=2)[:, :290, :310]
    table[0, 100, 200] ^= True  # a single pair decides its block
    mask = mask_of("seen[h, row, j]", "input seen: bool[H, Lq, Lk]")
    check(mask, sizes_of(290, 310), (32, 64), {"seen": table})


def test_a_single_visible_pair_is_found() -> None:
    mask = mask_of("i == 777 and j == 333 or i == 2 and j == 900")
    table = check(mask, sizes_of(1000, 1000, B=1, H=1, Hkv=1), (128, 128))
    assert len(table.partial_blocks) == 2
    assert len(table.full_blocks) == 0


def test_heads_that_share_a_pattern_share_a_map() -> None:
    by_batch = mask_of("doc[b, i] == doc[b, j]", "input doc: int[B, Lk]")
    documents = {"doc": np.stack([np.arange(200) // 50, np.arange(200) // 120])}
    table = check(by_batch, sizes_of(200, 200), (32, 32), documents)
    assert table.map_index.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    layout = {"layout": np.array([[[1, 0], [1, 1]]] * 3 + [[[1, 1], [1, 1]]], bool)}
    by_head = mask_of("layout[h, i // 100, j // 100]", "input layout: bool[H, Lq//100, Lk//100]")
    table = check(by_head, sizes_of(200, 200), (32, 32), layout)
    assert table.map_index.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]


def test_floats_that_are_not_numbers_hide_nothing_else() -> None:
    weight = np.linspace(-1, 1, 200)[None, :].repeat(2, axis=0)
    weight[:, 40:90] = np.nan
    mask = mask_of("weight[b, j] > 0.25", "input weight: float[B, Lk]")
    check(mask, sizes_of(200, 200), (16, 16), {"weight": weight})


def test_memory_follows_what_is_visible() -> None:
    """Four times the documents of the same length: four times the blocks, not sixteen times."""
    mask = mask_of("causal and documents(doc)", "input doc: int[B, Lk]")
    counts = []
    for length in (20_000, 80_000):
        doc = (np.arange(length) // 500)[None]
        sizes = sizes_of(length, length, B=1, H=1, Hkv=1)
        table = build_table(mask, table_for(mask), sizes, {"doc": doc}, 64, 64)
        counts.append(len(table.partial_blocks) + len(table.full_blocks))
    assert 3.8 < counts[1] / counts[0] < 4.2


@pytest.mark.parametrize("block", [64, 128])
def test_a_million_tokens_in_a_thousand_documents(block: int) -> None:
    """The time is printed; the lists are compared with what one document needs."""
    length, documents = 1_000_000, 1000
    cuts = np.sort(np.random.default_rng(0).choice(length, documents - 1, replace=False))
    marks = np.zeros(length, np.int32)
    marks[cuts] = 1
    inputs = {"doc": np.cumsum(marks, dtype=np.int32)[None]}
    mask = mask_of("causal and documents(doc)", "input doc: int[B, Lk]")
    sizes = sizes_of(length, length, B=1, H=8, Hkv=8)
    start = time.perf_counter()
    table = build_table(mask, table_for(mask), sizes, inputs, block, block)
    spent = time.perf_counter() - start
    print(f"documents, tile {block}: {spent * 1e3:.0f} ms")
    # Along the diagonal every block is visible and none is FULL.
    assert len(np.unique(table.map_index)) == 1
    first = inputs["doc"][0]
    rows = np.repeat(np.arange(table.query_blocks), np.diff(table.partial_offsets))
    assert np.isin(np.arange(table.query_blocks), rows[rows == table.partial_blocks]).all()
    # A visible block begins no later than the first token of the document of its first query.
    begin = np.searchsorted(first, first[np.arange(table.query_blocks) * block]) // block
    for offsets, blocks in (
        (table.partial_offsets, table.partial_blocks),
        (table.full_offsets, table.full_blocks),
    ):
        rows = np.repeat(np.arange(table.query_blocks), np.diff(offsets))
        assert (blocks >= begin[rows]).all()
        assert (blocks <= rows).all()
