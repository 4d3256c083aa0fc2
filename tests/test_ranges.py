"""Closed-form block maps against brute force: sound everywhere, exact on the catalogue."""

from __future__ import annotations

import time

import numpy as np
import pytest
from block_grids import is_sound, kinds, pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import CASES, Case
from predicates import predicates
from unjudged import unjudged

from attndsl.expression import (
    BOOL,
    INT,
    TRUE,
    Expression,
    Read,
    index_names,
    walk,
)
from attndsl.module import load_text
from attndsl.planner.block_map import Kind, Ranges
from attndsl.planner.classify import classes, count_visits
from attndsl.planner.ranges import derive_ranges

TILES = (16, 32, 48, 64, 128)


def mask_of(text: str, inputs: str = "") -> Expression:
    """The mask of a spec whose parameters are all literals."""
    return unjudged(f"attention spec {{ {inputs} mask = {text} }}").mask


def closed_form(mask: Expression) -> Ranges:
    found = derive_ranges(mask)
    assert found is not None, "no closed form"
    return found


MASKS = {
    "full": "True",
    "causal": "causal",
    "sliding": "causal and i - j < 100",
    "symmetric": "abs(i - j) <= 40",
    "prefix": "prefix(70)",
    "chunked": "causal and chunked(96)",
    "bidirectional_chunks": "chunked(50)",
    "a_shape": "causal and a_shape(4, 60)",
    "wide_sinks": "causal and a_shape(50, 60)",
    "star": "causal and (j < 100 or i // 100 == j // 100)",
    "global": "abs(i - j) <= 20 or global_tokens(5)",
    "strided": "causal and (i - j < 40 or (i - j) % 40 == 0)",
    "fixed": "causal and (i // 40 == j // 40 or j % 40 >= 36)",
    "dilated": "dilated(8, 4)",
    "stripes": "j % 50 < 3",
    "diagonals": "(i - j) % 70 < 5",
    "blocks": "i // 30 == j // 30 or j // 30 % 3 == 0",
    "rows": "i % 40 == 0",
    "reversed": "j >= i",
    "falling": "i + j < 200",
    "own_tile": "i // 16 == j // 16 and j <= i",
    "bounded": "i >= 30 and j < 90 and i < 150",
    "square": "(i - j) ** 2 < 1000",
    "outside_a_square": "(i - j) * (i - j) >= 900 and causal",
    "square_of_keys": "2 * (j - 60) ** 2 <= 801",
    "two_steps": "2 * j <= i",
    "half_chunks": "i // 32 == j // 64",
    "conditional": "(j <= i) if h < 2 else (i - j < 50 and j <= i)",
    "by_head": "causal and i - j < 16 * (h + 1)",
    "never": "j < i and j > i",
    "two_edges": "2 * (i - j) < i or max(i - j, -2) < abs(i - j)",
    "chunk_or_sink": "causal and (chunked(64) or j < 30 or i - j < 12)",
}

READS = {
    "window": ("causal and i - j < window[h]", "input window: int[H]"),
    "duo": (
        "causal and (not streaming[g] or j < 4 or i - j < 50)",
        "input streaming: bool[Hkv]",
    ),
    "prefix": ("j <= i or j < prefix[b]", "input prefix: int[B]"),
}

# Lengths that are no multiple of a tile, one query, more queries than keys, none at all.
SHAPES = ((200, 200), (77, 333), (1, 300), (300, 77), (128, 256), (0, 50), (50, 0), (17, 1))


def sizes_of(queries: int, keys: int, offset: int | None = None) -> dict[str, int]:
    return {
        "Lq": queries,
        "Lk": keys,
        "offset": keys - queries if offset is None else offset,
        "B": 2,
        "H": 4,
        "Hkv": 2,
    }


def compare(
    mask: Expression,
    ranges: Ranges,
    sizes: dict[str, int],
    tile: tuple[int, int],
    *,
    exact: bool = True,
    inputs: dict[str, np.ndarray] | None = None,
    axes: tuple[str, ...] = (),
    head: int = 0,
    batch: int = 0,
) -> None:
    call = {"inputs": inputs, "batch": batch, "head": head}
    want = kinds(pairs(mask, sizes, axes=axes, **call), *tile)
    found = classes(ranges, sizes=sizes, block_m=tile[0], block_n=tile[1], **call)
    if exact:
        np.testing.assert_array_equal(found, want)
    assert is_sound(found, want)
    visits = count_visits(ranges, sizes=sizes, block_m=tile[0], block_n=tile[1], **call)
    assert visits.partial == (found == Kind.PARTIAL).sum()
    assert visits.full == (found == Kind.FULL).sum()
    assert visits.blocks == found.size


@pytest.mark.parametrize("name", MASKS)
def test_patterns_are_exact(name: str) -> None:
    mask = mask_of(MASKS[name])
    ranges = closed_form(mask)
    for number, (queries, keys) in enumerate(SHAPES):
        tile = TILES[number % 5], TILES[(number * 2 + 1) % 5]
        compare(mask, ranges, sizes_of(queries, keys), tile, head=number % 4)


@pytest.mark.parametrize("block_m", TILES)
@pytest.mark.parametrize("block_n", TILES)
def test_every_tile_is_exact(block_m: int, block_n: int) -> None:
    for name in ("sliding", "a_shape", "chunked", "strided", "fixed"):
        mask = mask_of(MASKS[name])
        compare(mask, closed_form(mask), sizes_of(211, 307), (block_m, block_n))


@pytest.mark.parametrize("name", READS)
def test_inputs_per_head_stay_closed_form(name: str) -> None:
    mask = mask_of(*READS[name])
    ranges = closed_form(mask)
    inputs = {
        "window": np.array([1, 0, 90, 1000]),
        "streaming": np.array([True, False]),
        "prefix": np.array([0, 120]),
    }
    for head in range(4):
        compare(
            mask, ranges, sizes_of(130, 260), (32, 64), inputs=inputs, head=head, batch=head % 2
        )


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("offset", [-90, -1, 7, 190, 400])
def test_any_offset_is_sound(name: str, offset: int) -> None:
    mask = mask_of(MASKS[name])
    ranges = closed_form(mask)
    sizes = sizes_of(150, 190, offset)
    # A query past the last key may cost a PARTIAL block that brute force would skip.
    compare(mask, ranges, sizes, (32, 48), exact=offset + 150 <= 190)


@settings(max_examples=300, deadline=None)
@given(
    predicates(),
    st.integers(0, 90),
    st.integers(0, 90),
    st.one_of(st.none(), st.integers(-60, 60)),
    st.sampled_from(TILES[:3]),
    st.sampled_from(TILES[:3]),
    st.integers(0, 3),
)
def test_random_predicates(
    mask: Expression,
    queries: int,
    keys: int,
    offset: int | None,
    block_m: int,
    block_n: int,
    head: int,
) -> None:
    ranges = derive_ranges(mask)
    if ranges is None:
        return
    sizes = sizes_of(queries, keys, offset)
    exact = offset is None or offset + queries <= keys
    compare(mask, ranges, sizes, (block_m, block_n), exact=exact, head=head)


def test_most_random_predicates_of_one_comparison_have_a_closed_form() -> None:
    for text in ("j <= i", "3 * j < 2 * i + 5", "(j + 3) // 7 <= i // 5", "abs(j - i // 2) < 9"):
        assert derive_ranges(mask_of(text)) is not None


STATIC = [case for case in CASES if derive_ranges(case.load().mask, axes=case.load().axes)]


def test_arithmetic_examples_need_no_table() -> None:
    """Every example on one axis whose mask reads nothing per token is in closed form."""
    for case in CASES:
        attention = case.load()
        reads = [node for node in walk(attention.mask) if isinstance(node, Read)]
        per_token = any(index_names(node) & {"i", "j", "row"} for node in reads)
        dilated = case.example.startswith("neighborhood") and case.parameters.get("dilation", 1) > 1
        if per_token or len(attention.axes) > 1 or dilated:
            continue
        assert derive_ranges(attention.mask, axes=attention.axes) is not None, case.name


@pytest.mark.parametrize("case", STATIC, ids=str)
def test_examples_are_exact(case: Case) -> None:
    attention = case.load()
    ranges = derive_ranges(attention.mask, axes=attention.axes)
    assert ranges is not None
    for number, shape in enumerate(case.shapes):
        call = case.call(shape)
        sizes = {
            **sizes_of(shape.queries, shape.keys, shape.offset),
            "B": shape.batch,
            "H": shape.heads,
            "Hkv": shape.key_heads,
        }
        tile = TILES[number % 5], TILES[(number + 2) % 5]
        for head in range(shape.heads):
            compare(
                attention.mask,
                ranges,
                sizes,
                tile,
                inputs=call.inputs,
                axes=attention.axes,
                head=head,
                batch=shape.batch - 1,
            )


def test_tables_and_grids_have_no_closed_form() -> None:
    assert derive_ranges(mask_of("doc[b, i] == doc[b, j]", "input doc: int[B, Lk]")) is None
    grid = load_text("attention spec { axes y, x mask = i.y == j.y }").attentions["spec"]
    assert derive_ranges(grid.mask, axes=grid.axes) is None


def test_one_axis_is_the_position() -> None:
    line = load_text("attention spec { axes x mask = abs(i.x - j.x) < 9 }").attentions["spec"]
    assert derive_ranges(line.mask, axes=line.axes) == derive_ranges(mask_of("abs(i - j) < 9"))


def test_bounds_mention_only_what_a_kernel_knows() -> None:
    for text in MASKS.values():
        for interval in closed_form(mask_of(text)).intervals:
            for bound in (interval.first, interval.last):
                assert index_names(bound) <= {"i_first", "i_last", "h", "g", "b"}
                assert bound.type == INT
            assert index_names(interval.guard) <= {"i_first", "i_last", "h", "g", "b", "K"}
            assert interval.guard.type == BOOL


def test_common_masks_need_no_guard() -> None:
    for name in ("full", "causal", "sliding", "prefix", "chunked", "a_shape", "star", "global"):
        assert all(one.guard == TRUE for one in closed_form(mask_of(MASKS[name])).intervals)


def test_causal_is_two_loops_and_sliding_three() -> None:
    assert len(closed_form(mask_of("causal")).intervals) == 2
    assert len(closed_form(mask_of("causal and i - j < 256")).intervals) == 3


@pytest.mark.parametrize("name", ["sliding", "dilated", "prefix", "chunked"])
def test_a_million_tokens(name: str) -> None:
    """Constant memory: what is derived does not depend on the length. The time is printed."""
    mask = mask_of(MASKS[name])
    start = time.perf_counter()
    ranges = closed_form(mask)
    spent = time.perf_counter() - start
    length = 1_000_000
    visits = count_visits(ranges, sizes=sizes_of(length, length), block_m=128, block_n=128)
    print(f"{name}: derived in {spent * 1e3:.1f} ms, {visits}")
    assert 0 < visits.partial + visits.full < visits.blocks
