"""Blocks of queries for tiles of keys: sound everywhere, and what brute force finds on examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from block_grids import is_sound, kinds, pairs, sizes_of_case, table_for
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import CASES, Case
from predicates import predicates, random_inputs
from test_ranges import MASKS, READS, SHAPES, TILES, mask_of, sizes_of

from attndsl.evaluate import Environment
from attndsl.expression import TRUE, Expression
from attndsl.module import load_text
from attndsl.planner.block_lists import block_lists
from attndsl.planner.block_map import BlockMap, Kind
from attndsl.planner.pipeline import plan_backward
from attndsl.planner.plan import PairSums
from attndsl.planner.problems import LineProblem, TransposedProblem, problems
from attndsl.planner.transpose import transposed_ranges

Inputs = Mapping[str, np.ndarray]


def stage_of(mask: Expression, block_map: BlockMap) -> PairSums:
    return PairSums((), (), (), None, mask, (), block_map, tiles="key")


def found(
    stage: PairSums,
    environment: Environment,
    problem: LineProblem,
    tile: tuple[int, int],
    head: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """The kinds of all blocks, `[tiles of keys, blocks of queries]`."""
    flipped = TransposedProblem(problem)
    lists = block_lists(stage, environment, flipped, *tile)
    grid = np.zeros((flipped.tiles(tile[0]), -(-problem.rows // tile[1])), np.uint8)
    for number in range(len(grid)):
        for block in lists.of(*head, number):
            grid[number, block.box[0][0] // tile[1]] = block.kind
    return grid


def compare(
    mask: Expression,
    block_map: BlockMap,
    sizes: Mapping[str, int],
    tile: tuple[int, int],
    *,
    exact: bool = True,
    inputs: Inputs | None = None,
    axes: tuple[str, ...] = (),
    batch: int = 0,
    head: int = 0,
) -> None:
    visible = pairs(mask, sizes, inputs=inputs, axes=axes, batch=batch, head=head)
    want = kinds(visible.T, *tile)
    environment = Environment(sizes=sizes, axes=axes, inputs=dict(inputs or {}), clamp=True)
    problem = LineProblem(None, 1, 0, 0, sizes["Lq"], sizes["Lk"], sizes["offset"])
    grid = found(stage_of(mask, block_map), environment, problem, tile, (batch, head))
    if exact:
        np.testing.assert_array_equal(grid, want)
    assert is_sound(grid, want)


def keys_lie_before_the_last_query(sizes: Mapping[str, int]) -> bool:
    """Else a tile of keys may go through a block of queries too many."""
    return sizes["Lk"] <= sizes["Lq"] + sizes["offset"]


# Of alternatives that change places from tile to tile there is none.
WITHOUT_CLOSED_FORM = ("fixed", "blocks")


@pytest.mark.parametrize("name", [name for name in MASKS if name not in WITHOUT_CLOSED_FORM])
def test_patterns_are_exact(name: str) -> None:
    mask = mask_of(MASKS[name])
    ranges = transposed_ranges(mask)
    assert ranges is not None
    for number, (queries, keys) in enumerate(SHAPES):
        for shift in (0, -40, 25):
            sizes = sizes_of(queries, keys, keys - queries + shift)
            tile = TILES[number % 5], TILES[(number * 2 + 1) % 5]
            exact = keys_lie_before_the_last_query(sizes)
            compare(mask, ranges, sizes, tile, exact=exact, head=number % 4)


@pytest.mark.parametrize("name", READS)
def test_inputs_per_head_are_exact(name: str) -> None:
    text, declared = READS[name]
    mask = mask_of(text, declared)
    ranges = transposed_ranges(mask)
    assert ranges is not None
    inputs = {
        "window": np.array([1, 17, 64, 500]),
        "streaming": np.array([True, False]),
        "prefix": np.array([0, 90]),
    }
    for queries, keys in SHAPES[:4]:
        sizes = sizes_of(queries, keys)
        for head in range(4):
            place = {"inputs": inputs, "head": head, "batch": head % 2}
            compare(mask, ranges, sizes, (32, 48), **place)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    predicates(reads=True),
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(-40, 40),
    st.sampled_from(TILES[:3]),
    st.sampled_from(TILES[:3]),
    st.integers(0, 1000),
)
def test_random_predicates_are_sound(
    mask: Expression,
    queries: int,
    keys: int,
    shift: int,
    block_m: int,
    block_n: int,
    seed: int,
) -> None:
    """In closed form, if there is one; tables are exact."""
    sizes = {**sizes_of(queries, keys, keys - queries + shift), "B": 1}
    place = {"inputs": random_inputs(keys, seed), "head": seed % 4}
    tile = block_m, block_n
    compare(mask, table_for(mask), sizes, tile, **place)  # type: ignore[arg-type]
    ranges = transposed_ranges(mask)
    if ranges is not None:
        compare(mask, ranges, sizes, tile, exact=False, **place)  # type: ignore[arg-type]


def stage_of_keys(case: Case) -> PairSums | None:
    stages = plan_backward(case.load(), by_side=True).stages
    found = [one for one in stages if isinstance(one, PairSums) and one.tiles == "key"]
    return found[0] if found else None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_examples_are_exact(case: Case) -> None:
    """Whatever form the map of an example takes."""
    attention, stage = case.load(), stage_of_keys(case)
    assert stage is not None
    for number, shape in enumerate(case.shapes):
        call = case.call(shape)
        sizes = sizes_of_case(case, shape)
        environment = Environment(
            sizes=sizes, axes=attention.axes, inputs=dict(call.inputs), clamp=True
        )
        tile = TILES[number % 5], TILES[(number + 2) % 5]
        head, batch = shape.heads - 1, shape.batch - 1
        visible = pairs(
            attention.mask,
            sizes,
            inputs=call.inputs,
            axes=attention.axes,
            batch=batch,
            head=head,
        )
        for problem in problems(stage, sizes, tile[0]):
            assert isinstance(problem, LineProblem)
            every_key = ((0, problem.keys),)
            keys = problem.key_tokens(every_key).numbers
            own = visible[problem.first_row :: problem.step][:, keys]
            want = kinds(own.T, *tile)
            grid = found(stage, environment, problem, tile, (batch, head))
            assert is_sound(grid, want)
            if stage.stripes is None and keys_lie_before_the_last_query(sizes):
                np.testing.assert_array_equal(grid, want)


def test_keys_in_stripes() -> None:
    """Of the keys of a stripe, and of no others."""
    text = "attention a { mask = j <= i and i - j < 300 and j % 50 < 3 }"
    (attention,) = load_text(text).attentions.values()
    (stage,) = [
        one
        for one in plan_backward(attention, by_side=True).stages
        if isinstance(one, PairSums) and one.tiles == "key"
    ]
    assert stage.stripes is not None
    for queries, keys in ((900, 900), (77, 1000), (1000, 77), (1, 300)):
        sizes = sizes_of(queries, keys)
        environment = Environment(sizes=sizes)
        visible = pairs(attention.mask, sizes)
        for tile in ((16, 32), (32, 16)):
            (problem,) = problems(stage, sizes, tile[0])
            assert isinstance(problem, LineProblem)
            own = visible[:, problem.key_tokens(((0, problem.keys),)).numbers]
            grid, want = found(stage, environment, problem, tile), kinds(own.T, *tile)
            assert is_sound(grid, want)
            assert (grid != Kind.EMPTY).sum() <= 1.5 * (want != Kind.EMPTY).sum() + 2


def test_common_masks_need_no_list() -> None:
    for name in ("full", "causal", "sliding", "prefix", "chunked", "a_shape", "star", "global"):
        ranges = transposed_ranges(mask_of(MASKS[name]))
        assert ranges is not None
        assert all(one.guard == TRUE for one in ranges.intervals)
