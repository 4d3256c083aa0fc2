"""Grid tiles: every block is of the kind that brute force finds, and the executor computes right.

Brute force knows the mask of every pair of positions, and nothing of tiles but what a visit says:
which rows it has, and which boxes of keys.
"""

from __future__ import annotations

from itertools import product

import block_grids
import numpy as np
import pytest
from grid_cases import CASES, GridCase, Rows, grid_plan, inputs_of, row_choices, sizes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl import reference
from attndsl.diagnostics import AttnError
from attndsl.evaluate import Environment
from attndsl.expression import index_names
from attndsl.module import load_text
from attndsl.planner.block_map import Kind, Product
from attndsl.planner.execute import execute
from attndsl.planner.grids import tile_pitch, tile_sides
from attndsl.planner.plan import Plan
from attndsl.planner.visits import Counts, count_blocks, visits

TILES = (16, 32, 64, 128)


def dense_mask(plan: Plan, sizes: dict[str, int], head: int) -> np.ndarray:
    attention = plan.attention
    return block_grids.pairs(attention.mask, sizes, axes=attention.axes, head=head)


def check_blocks(plan: Plan, sizes: dict[str, int], block_m: int, block_n: int) -> None:
    """Compare every tile and block with the mask of all pairs."""
    stage = plan.attend
    base = Environment(sizes=sizes, axes=plan.attention.axes, clamp=True)
    axes = len(plan.attention.axes)
    masks = [dense_mask(plan, sizes, head) for head in range(sizes["H"])]
    inner = sizes["Lk"] // sizes[f"axis.{plan.attention.axes[0]}"]
    # Of a tile that is cut by the first or the last row, a block too many may be visited; so too
    # where queries lie outside of the keys.
    is_cut = sizes["offset"] % inner or sizes["Lq"] % inner
    within = sizes["offset"] >= 0 and sizes["offset"] + sizes["Lq"] <= sizes["Lk"]
    assert stage.grid is not None
    if stage.grid.axes[0].shift is not None:
        is_cut = sizes["Lq"] != sizes["Lk"]
    exact = within and not is_cut
    seen_rows = np.zeros((sizes["H"], sizes["Lq"]), int)
    counts = {Kind.PARTIAL: 0, Kind.FULL: 0}
    full_pairs = 0
    for visit in visits(stage, base, block_m, block_n):
        rows = visit.queries.numbers
        assert 0 < rows.size <= block_m
        for head in visit.heads:
            seen_rows[head, rows] += 1
            visible = masks[head][rows]
            seen_keys = np.zeros(sizes["Lk"], int)
            for block in visit.blocks:
                keys = visit.problem.key_tokens(block.box).numbers
                assert 0 < keys.size <= block_n
                seen_keys[keys] += 1
                part = visible[:, keys]
                counts[block.kind] += 1
                sides = [stop - start for start, stop in block.box]
                is_whole = sides == list(tile_sides(block_n, axes))
                if block.kind == Kind.FULL:
                    assert is_whole
                    assert part.all()
                    full_pairs += part.size
                elif exact:
                    assert part.any(), "nothing in a visited block is visible"
                    assert not (is_whole and part.all()), "a block is FULL and not known to be"
            assert seen_keys.max(initial=0) <= 1, "a key is visited twice"
            assert not visible[:, seen_keys == 0].any(), "a visible key is not visited"
    assert (seen_rows == 1).all(), "every row is in one tile"
    counted = count_blocks(stage, base, block_m, block_n)
    assert counted == Counts(counts[Kind.PARTIAL], counts[Kind.FULL], full_pairs)


CALLS = [
    pytest.param(case, grid, id=f"{case}-{'x'.join(map(str, grid))}")
    for case in CASES
    for grid in case.grids
]


@pytest.mark.parametrize(("case", "grid"), CALLS)
def test_every_block_is_of_its_kind(case: GridCase, grid: tuple[int, ...]) -> None:
    plan = case.plan()
    assert isinstance(plan.attend.block_map, Product)
    heads = 3 if "h" in index_names(plan.attention.mask) else 1
    for block_m, block_n in product(TILES, TILES):
        check_blocks(
            plan, sizes_of(plan.attention, grid, Rows(np.prod(grid), 0), heads), block_m, block_n
        )
    for rows in row_choices(grid):
        check_blocks(plan, sizes_of(plan.attention, grid, rows, heads), 32, 64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_executor_agrees_with_the_reference(case: GridCase) -> None:
    plan = case.plan()
    attention = plan.attention
    random = np.random.default_rng(0)
    inputs = inputs_of(attention, random)
    for place, grid in enumerate(case.grids[:2]):
        axes = dict(zip(attention.axes, grid, strict=True))
        keys = int(np.prod(grid))
        for rows in row_choices(grid):
            shape = 1, 2, rows.count, 4
            q, k, v = random.normal(size=shape), *random.normal(size=(2, 1, 2, keys, 4))
            options = {"offset": rows.offset, "axes": axes}
            wanted = reference.run(attention, q, k, v, inputs, **options)
            tile = ((64, 32), (16, 128))[place]
            found = execute(plan, q, k, v, inputs, block_m=tile[0], block_n=tile[1], **options)
            np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
            if wanted.log_sum_exp is not None:
                np.testing.assert_allclose(
                    found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9, atol=1e-9
                )


def along(axis: str) -> st.SearchStrategy[str]:
    """A predicate over the coordinates of one axis."""
    i, j, n = f"i.{axis}", f"j.{axis}", f"{axis}.size"
    number = st.integers(1, 9)
    return st.one_of(
        st.just(f"{j} <= {i}"),
        st.builds(lambda a: f"abs({i} - {j}) < {a}", number),
        st.builds(lambda a: f"{j} < {a}", number),
        st.builds(lambda a: f"{i} < {a}", number),
        st.builds(lambda a, b: f"-{a} <= {i} - {j} < {b}", number, number),
        st.builds(lambda w, s: f"({i} + {s}) // {w} == ({j} + {s}) // {w}", number, number),
        st.builds(lambda w, s: f"({i} + {s}) // {w} >= {j} // {w}", number, number),
        st.builds(lambda m: f"({i} - {j}) % {m} == 0", number),
        st.builds(lambda m: f"{i} % max({n} // {m}, 1) == {j} % max({n} // {m}, 1)", number),
        st.builds(
            lambda w, s: f"({i} - {s}) % {n} // {w} == ({j} - {s}) % {n} // {w}", number, number
        ),
        st.builds(
            lambda w, d, s, c: f"neighborhood1d({i}, {j}, {n}, {w}, {d}, {s}, {c})",
            number,
            st.integers(1, 4),
            st.integers(1, 5),
            st.booleans(),
        ),
    )


def check_random_mask(
    mask: str, grid: tuple[int, ...], tile: tuple[int, int], data: st.DataObject
) -> None:
    """If tokens are taken in boxes, blocks are those that brute force finds, for any queries."""
    try:
        loaded = load_text(f"attention it {{\naxes y, x, z\nmask = {mask}\n}}")
    except AttnError:  # a mask that hides everything is an error of the spec
        return
    (attention,) = loaded.attentions.values()
    made = grid_plan(attention)
    if made.attend.grid is None:
        return
    keys = int(np.prod(grid))
    rows = Rows(data.draw(st.integers(1, keys)), data.draw(st.integers(-3, keys)))
    check_blocks(made, sizes_of(attention, grid, rows, 1), *tile)


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.one_of(along("y"), along("x"), along("z")), min_size=1, max_size=4),
    grid=st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 5)),
    block_m=st.sampled_from([16, 32, 64]),
    block_n=st.sampled_from([16, 32, 64]),
    data=st.data(),
)
def test_random_parts(
    parts: list[str], grid: tuple[int, ...], block_m: int, block_n: int, data: st.DataObject
) -> None:
    mask = " and ".join(f"({part})" for part in parts)
    check_random_mask(mask, grid, (block_m, block_n), data)


@pytest.mark.parametrize(
    "mask",
    [
        "(i.y - j.y) ** 2 - (i.x - j.x) ** 2 < 9",
        "(i.y - j.y) ** 2 + (i.x - j.x) ** 2 > 9",
        "(i.y - j.y) ** 2 + (i.x - j.x) ** 3 < 9",
        "(i.y - j.y) ** 2 + (i.x - j.x) ** 2 < 9 and j.x <= i.x",
        "(i.y - j.y) ** 2 + abs(i.y - j.y) + (i.x - j.x) ** 2 < 9",
        "(i.y - j.y) ** 2 + (i.x - j.x) ** 2 < i.x",
        "(i.y - j.y) ** 2 + (i.x - j.x) ** 2 < h",
        "abs(i.y - j.y) + abs(i.x - 2 * j.x) < 9",
        "abs(i.y - j.y) + abs(i.x - j.y) < 9",
        "j <= i and abs(i.x - j.x) < 3",
        "abs(i.y - j.y) < 3 or abs(i.x - j.x) < 3",
        "abs(i.y - j.x) < 3 and abs(i.x - j.x) < 3",
        "j.y < 2 or abs(i.y - j.y) < 2",
        "row < 5 and abs(i.y - j.y) < 3",
        "i - j < 3",
        # Between windows that are narrower than their stride there are gaps.
        "neighborhood(3, stride = 4)",
    ],
)
def test_other_masks_are_left(mask: str) -> None:
    assert GridCase(mask).plan().attend.grid is None


@pytest.mark.parametrize(
    "part",
    ["(i.y - j.y) % 100000 == 0", "(i.y - j.y) % (1000 * y.size) == 0", "i.y % (j.y + 1) == 0"],
)
def test_classes_are_no_more_than_there_can_be(part: str) -> None:
    stage = GridCase(f"{part} and abs(i.x - j.x) < 3").plan().attend
    assert stage.grid is None


def test_a_mask_of_inputs_per_token_is_left() -> None:
    text = "axes y, x\ninput doc: int[Lk]\nmask = abs(i.y - j.y) < 3 and doc[j] == 1"
    (attention,) = load_text(f"attention it {{\n{text}\n}}").attentions.values()
    assert grid_plan(attention).attend.grid is None


@pytest.mark.parametrize(("window", "blocks"), [(7, 4), (13, 9)])
def test_millions_of_tokens_are_counted_from_their_tiles(window: int, blocks: int) -> None:
    plan = GridCase("neighborhood2d", {"window": window}).plan()
    visited = visited_blocks(plan, (4096, 4096))
    tiles = (4096 // 8) ** 2
    # Away from the edges a tile sees 8 + window - 1 keys along each axis.
    assert 0.97 * blocks * tiles <= visited <= blocks * tiles


def test_dilation_costs_what_the_window_does() -> None:
    plans = [
        GridCase("neighborhood2d", {"window": 7, "dilation": dilation}).plan()
        for dilation in (1, 2, 4)
    ]
    visited = [visited_blocks(made, (128, 128)) for made in plans]
    assert max(visited) <= 1.2 * min(visited)


@settings(max_examples=150, deadline=None)
@given(
    terms=st.lists(
        st.builds(
            lambda factor, form, axis, shift: (
                f"{factor} * " + form.format(f"(i.{axis} - j.{axis} + {shift})")
            ),
            st.integers(1, 4),
            st.sampled_from(["abs({0})", "{0} ** 2", "{0} * {0}"]),
            st.sampled_from("yxz"),
            st.integers(-2, 2),
        ),
        min_size=2,
        max_size=3,
    ),
    limit=st.integers(0, 60),
    operator=st.sampled_from(["<", "<="]),
    grid=st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 5)),
    tile=st.sampled_from([(16, 16), (64, 16), (16, 64)]),
    data=st.data(),
)
def test_random_bounds_on_sums(
    terms: list[str],
    limit: int,
    operator: str,
    grid: tuple[int, ...],
    tile: tuple[int, int],
    data: st.DataObject,
) -> None:
    mask = f"{' + '.join(terms)} {operator} {limit}"
    check_random_mask(mask, grid, tile, data)


def test_boxes_within_a_large_circle_are_full() -> None:
    made = GridCase("clear", {"radius": 33}).plan()
    sizes = sizes_of(made.attention, (512, 512), Rows(512 * 512, 0), 1)
    counted = count_blocks(made.attend, Environment(sizes=sizes, axes=("y", "x")), 64, 64)
    # Boxes of a tile in the middle, whose queries are 0 … 7 along each axis.
    starts = [(y, x) for y in range(-32, 40, 8) for x in range(-32, 40, 8)]
    near = [max(0, y - 7, -y - 7) ** 2 + max(0, x - 7, -x - 7) ** 2 < 33**2 for y, x in starts]
    far = [max(y + 7, 7 - y) ** 2 + max(x + 7, 7 - x) ** 2 < 33**2 for y, x in starts]
    tiles = 64 * 64
    assert 20 < sum(far) < sum(near) < 81
    assert 0.85 * sum(near) * tiles <= counted.visited <= sum(near) * tiles
    assert 0.85 * sum(far) * tiles <= counted.full <= sum(far) * tiles


def visited_blocks(plan: Plan, grid: tuple[int, int]) -> int:
    sizes = sizes_of(plan.attention, grid, Rows(grid[0] * grid[1], 0), 1)
    base = Environment(sizes=sizes, axes=plan.attention.axes)
    return count_blocks(plan.attend, base, 64, 64).visited


@given(exponent=st.integers(0, 12), odd=st.sampled_from([1, 3, 5]), axes=st.integers(2, 5))
def test_sides_of_a_tile(exponent: int, odd: int, axes: int) -> None:
    sides = tile_sides(odd << exponent, axes)
    assert len(sides) == axes
    assert np.prod(sides) == odd << exponent
    assert sorted(sides) == list(sides)
    assert max(sides) <= 2 * odd * min(sides)


def test_sides_are_as_documented() -> None:
    assert tile_sides(64, 2) == (8, 8)
    assert tile_sides(128, 2) == (8, 16)
    assert tile_sides(64, 3) == (4, 4, 4)
    assert tile_sides(128, 3) == (4, 4, 8)


@given(side=st.sampled_from([2, 4, 8, 16]), period=st.integers(1, 70))
def test_tiles_begin_where_groups_do(side: int, period: int) -> None:
    pitch = tile_pitch(side, period)
    assert 0 < pitch <= side
    assert pitch % period == 0 or period % pitch == 0 or pitch == side
