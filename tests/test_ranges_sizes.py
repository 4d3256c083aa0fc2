"""Closed forms of masks that divide by sizes: exact where the divisors are positive and queries lie
within the keys, sound everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicates import predicates
from test_ranges import SHAPES, TILES, closed_form, compare, mask_of, sizes_of

from attndsl.evaluate import Environment, evaluate
from attndsl.expression import TRUE, Expression
from attndsl.planner.ranges import derive_ranges
from attndsl.planner.regime import regime
from attndsl.planner.simplify import simplify

# With the fewest keys at which each is exact.
MASKS = {
    "quarters": ("i // (Lk // 4) == j // (Lk // 4)", 4),
    "causal_quarters": ("causal and i // (Lk // 4) == j // (Lk // 4)", 4),
    "chunks_by_head": ("i // cdiv(Lk, H) == j // cdiv(Lk, H)", 1),
    "chunk_causal": ("j // (Lk // 3) <= i // (Lk // 3)", 3),
    "grid": ("(i - j) % (Lk // 7) == 0", 7),
    "off_grid": ("causal and (i - j) % (Lk // 5) != 0", 5),
    "strided": ("(i - j) % (H * 16) == 0", 1),
    "tails": ("j % (Lk // 5) < 3", 5),
    "heads": ("i % (Lk // 5) == 2", 5),
    "window_of_chunks": ("abs(i // (Lk // 6) - j // (Lk // 6)) <= 1", 6),
    "rolled": ("((i - 3) % Lk) // 7 == ((j - 3) % Lk) // 7", 4),
    "rolled_far": ("((i - 20) % Lk) // 40 == ((j - 20) % Lk) // 40", 21),
    "rolled_back": ("(j + 5) % Lk < 20", 6),
    "rolled_by_half": ("((i - Lk // 2) % Lk) // 16 == ((j - Lk // 2) % Lk) // 16", 1),
    "mirrored": ("(-1 - j) % Lk < 20", 2),
    "ring": ("(j - i) % Lk < 30", 1),
    "scaled": ("j * Lk <= i * Lk + 5", 1),
    "half": ("j <= i and j >= Lk // 2 * (i // (Lk // 2))", 2),
}
LENGTHS = (*SHAPES, (3, 3), (5, 9), (28, 28), (16, 21))


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_exact(name: str) -> None:
    text, fewest = MASKS[name]
    mask = mask_of(text)
    ranges = closed_form(mask)
    for number, (queries, keys) in enumerate(LENGTHS):
        tile = TILES[number % 5], TILES[(number * 2 + 1) % 5]
        exact = keys >= fewest and keys >= queries
        compare(mask, ranges, sizes_of(queries, keys), tile, exact=exact, head=number % 4)


@pytest.mark.parametrize("block_m", TILES)
@pytest.mark.parametrize("block_n", TILES)
def test_every_tile_is_exact(block_m: int, block_n: int) -> None:
    for name in ("quarters", "grid", "rolled", "rolled_far", "ring", "tails"):
        mask = mask_of(MASKS[name][0])
        compare(mask, closed_form(mask), sizes_of(211, 307), (block_m, block_n))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("offset", [-90, -1, 7, 190, 400])
def test_any_offset_is_sound(name: str, offset: int) -> None:
    mask = mask_of(MASKS[name][0])
    exact = offset >= 0 and offset + 150 <= 190
    compare(mask, closed_form(mask), sizes_of(150, 190, offset), (32, 48), exact=exact)


def test_a_divisor_per_head_may_be_zero() -> None:
    mask = mask_of("i // chunk[h] == j // chunk[h]", "input chunk: int[H]")
    ranges = closed_form(mask)
    inputs = {"chunk": np.array([1, 40, 0, -16])}
    for head in range(4):
        sizes = sizes_of(120, 200)
        compare(mask, ranges, sizes, (32, 16), inputs=inputs, head=head, exact=head < 2)


def test_a_length_and_a_literal_need_no_test_per_tile() -> None:
    for name in ("chunks_by_head", "strided", "scaled"):
        assert regime(simplify(mask_of(MASKS[name][0]))).condition == TRUE


def test_what_cannot_be_bounded_has_no_closed_form() -> None:
    for text in ("i // (j + 1) == 0", "j // Lk % 2 == i % 2 * j", "(i * j) % Lk == 0"):
        assert derive_ranges(mask_of(text)) is None


def holds_everywhere(condition: Expression, sizes: dict[str, int], block_m: int, head: int) -> bool:
    """Whether the condition holds for every tile of a call."""
    first = np.arange(0, sizes["Lq"], block_m) + sizes["offset"]
    last = np.minimum(first + block_m, sizes["Lq"] + sizes["offset"]) - 1
    indices = {"i_first": first, "i_last": last, "h": np.asarray(head)}
    return bool(np.all(evaluate(condition, Environment(indices=indices, sizes=sizes))))


@settings(max_examples=400, deadline=None)
@given(
    predicates(sizes=True),
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
    condition = regime(simplify(mask)).condition
    exact = (offset is None or offset + queries <= keys) and holds_everywhere(
        condition, sizes, block_m, head
    )
    compare(mask, ranges, sizes, (block_m, block_n), exact=exact, head=head)
