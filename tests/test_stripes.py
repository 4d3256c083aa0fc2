"""Keys in stripes: numbered as documented, in blocks of the kind that brute force finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import product

import block_grids
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.case import EXAMPLES
from stripe_cases import MASKS

from attndsl import reference
from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.diagnostics import AttnError, InternalError
from attndsl.evaluate import Environment, evaluate, evaluate_size
from attndsl.expression import TRUE, Index, Literal, Size
from attndsl.module import load_file, load_text
from attndsl.pictures import head_pictures
from attndsl.planner import plan
from attndsl.planner.block_map import Kind, Product, Ranges
from attndsl.planner.cost import cost
from attndsl.planner.execute import execute
from attndsl.planner.find_stripes import stripes_of
from attndsl.planner.passes.split_strides import strided_part
from attndsl.planner.plan import Attend, Grid, GridAxis, Plan
from attndsl.planner.ranges import SMALLEST_TILE
from attndsl.planner.stripes import Stripes
from attndsl.planner.verify import verify
from attndsl.planner.visits import count_blocks, visits
from attndsl.printing import text


def attention_of(mask: str, rest: str = "") -> Attention:
    (attention,) = load_text(f"attention it {{\nmask = {mask}\n{rest}\n}}").attentions.values()
    return bind(attention)


def fixed(block: int = 128, summary: int = 8) -> Attention:
    attention = load_file(EXAMPLES / "fixed.attn").attentions["fixed"]
    return bind(attention, block=block, summary=summary)


def sizes_of(rows: int, keys: int, offset: int) -> dict[str, int]:
    sizes = {"B": 1, "H": 2, "Hkv": 2, "D": 4, "Dv": 4}
    return sizes | {"Lq": rows, "Lk": keys, "offset": offset}


def striped(made: Plan) -> list[Attend]:
    return [stage for stage in made.attends if stage.stripes is not None]


def check_numbers(stripes: Stripes, inside: np.ndarray) -> None:
    """`inside[j]` says whether a key lies in a stripe."""
    for keys in (0, 1, inside.size // 2, inside.size):
        wanted = np.flatnonzero(inside[:keys])
        assert evaluate_size(stripes.keys, {"Lk": keys}) == wanted.size
        numbers = Environment(indices={"x": np.arange(wanted.size)})
        assert np.array_equal(evaluate(stripes.position(Index("x")), numbers), wanted)
    ends = Environment(indices={"end": np.arange(-inside.size, inside.size + 1)})
    below = np.broadcast_to(evaluate(stripes.below(Index("end")), ends), 2 * inside.size + 1)
    assert np.array_equal(below[inside.size + 1 :], np.cumsum(inside))
    assert (np.diff(below) >= 0).all()


def number(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(least, most)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(
        st.one_of(
            st.builds(
                "{} {} {}".format,
                st.just("{0}"),
                st.sampled_from(["<", "<=", ">", ">=", "=="]),
                number(0, 12),
            ),
            st.builds(
                "{1} {0} {2}".format, st.sampled_from(["<", ">="]), number(0, 12), st.just("{0}")
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    value=st.one_of(
        st.builds("(j + {})".format, number(-20, 20)),
        st.builds("({} - j)".format, number(-20, 20)),
        st.builds("(({} + j) // {} + {})".format, number(-9, 9), number(1, 4), number(-9, 9)),
        st.builds("(5 - (j // {} - 1) // {})".format, number(1, 3), number(1, 3)),
    ),
    modulus=number(2, 13),
)
def test_stripes_of_conjuncts(parts: list[str], value: str, modulus: int) -> None:
    remainder = f"{value} % {modulus}"
    try:
        mask = attention_of(" and ".join(part.format(remainder) for part in parts)).mask
    except AttnError:  # a mask that hides everything is an error of the spec
        return
    found = stripes_of(mask)
    if found is None:
        return
    stripes, rest = found
    keys = Environment(indices={"j": np.arange(300)})
    whole = np.broadcast_to(evaluate(mask, keys), 300)
    others = np.broadcast_to(evaluate(rest, keys), 300)
    inside = (np.arange(300) - stripes.start) % stripes.period < stripes.width
    assert np.array_equal(inside & others, whole)
    check_numbers(stripes, inside)


@pytest.mark.parametrize(
    ("mask", "stripes", "rest"),
    [
        ("j % 40 < 3", Stripes(40, 3, 0), "True"),
        ("causal and j % 128 >= 120", Stripes(128, 8, 120), "j <= i"),
        ("(j + 5) % 20 < 8", Stripes(20, 8, -5), "True"),
        ("3 <= j % 9 and j % 9 < 5", Stripes(9, 2, 3), "True"),
        ("j // 16 % 4 == 1", Stripes(64, 16, 16), "True"),
    ],
)
def test_stripes_as_written(mask: str, stripes: Stripes, rest: str) -> None:
    found = stripes_of(attention_of(mask).mask)
    assert found is not None
    assert found[0] == stripes
    assert text(found[1]) == rest


@pytest.mark.parametrize("mask", ["i % 8 < 2", "(i - j) % 8 < 2", "j % 8 != 3", "j < 9", "True"])
def test_masks_without_stripes(mask: str) -> None:
    assert stripes_of(attention_of(mask).mask) is None


def check_blocks(stage: Attend, visible: np.ndarray, sizes: dict[str, int], m: int, n: int) -> None:
    """Compare every block of one stage with brute force over the keys of its stripes."""
    assert stage.stripes is not None
    stripes = stage.stripes
    inside = (np.arange(sizes["Lk"]) - stripes.start) % stripes.period < stripes.width
    assert not visible[:, ~inside].any()
    exact = block_grids.kinds(visible[:, inside], m, n)
    found = np.zeros_like(exact)
    for visit in visits(stage, Environment(sizes=sizes, clamp=True), m, n):
        if 0 not in visit.heads:
            continue
        for block in visit.blocks:
            found[visit.tile, block.box[0][0] // n] = block.kind
            keys = visit.problem.key_tokens(block.box).numbers
            assert np.array_equal(keys, np.flatnonzero(inside)[slice(*block.box[0])])
    assert block_grids.is_sound(found, exact)
    if sizes["offset"] >= 0 and sizes["offset"] + sizes["Lq"] <= sizes["Lk"]:
        # For blocks smaller than any kernel's, few FULL ones may be left PARTIAL.
        exact = exact if n >= SMALLEST_TILE else np.minimum(exact, Kind.PARTIAL)
        found = found if n >= SMALLEST_TILE else np.minimum(found, Kind.PARTIAL)
        assert np.array_equal(found, exact)


@pytest.mark.parametrize("mask", MASKS)
def test_every_block_is_of_its_kind(mask: str) -> None:
    made = plan(attention_of(mask))
    (stage,) = striped(made)
    calls = [(90, 90, 0), (40, 90, 50), (33, 101, 20), (1, 200, 199), (50, 7, -3), (60, 30, -9)]
    calls += [(5, keys, keys - 5) for keys in (1, 2, 15, 16, 17, 40)]
    for (rows, keys, offset), m, n in product(calls, (4, 16), (4, 16, 32)):
        sizes = sizes_of(rows, keys, offset)
        visible = block_grids.pairs(made.attention.mask, sizes)
        if stage.partial is not None:
            visible &= ~block_grids.pairs(made.attend.mask, sizes)
        check_blocks(stage, visible, sizes, m, n)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("normalize", ["softmax(sink = s[h])", "relu(divide = Lk)"])
def test_executor_agrees_with_the_reference(mask: str, normalize: str) -> None:
    score = "score = dot(q, k) * scale + dot(w[h], k) - s[h] * abs(i - j)"
    rest = f"input s: float[H]\ninput w: float[H, D]\n{score}\nnormalize = {normalize}"
    attention = attention_of(mask, rest)
    made = plan(attention)
    random = np.random.default_rng(0)
    inputs = {"s": random.normal(size=2), "w": random.normal(size=(2, 4))}
    for rows, keys, offset in [(70, 70, 0), (21, 90, None), (45, 61, 7), (9, 5, -2), (30, 20, 13)]:
        q, k, v = (random.normal(size=(1, 2, length, 4)) for length in (rows, keys, keys))
        wanted = reference.run(attention, q, k, v, inputs, offset=offset)
        found = execute(made, q, k, v, inputs, block_m=8, block_n=16, offset=offset)
        np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
        if wanted.log_sum_exp is not None:
            np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    block=number(2, 40),
    summary=number(1, 12),
    rows=number(1, 90),
    keys=number(1, 90),
    offset=st.one_of(st.none(), number(-9, 40)),
    tile=st.sampled_from([(16, 16), (8, 16), (16, 4)]),
)
def test_fixed_patterns(
    block: int, summary: int, rows: int, keys: int, offset: int | None, tile: tuple[int, int]
) -> None:
    attention = fixed(block, summary)
    made = plan(attention)
    assert bool(striped(made)) == (4 * summary <= block)
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 1, length, 4)) for length in (rows, keys, keys))
    wanted = reference.run(attention, q, k, v, {}, offset=offset)
    found = execute(made, q, k, v, {}, block_m=tile[0], block_n=tile[1], offset=offset)
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
    sizes = sizes_of(rows, keys, keys - rows if offset is None else offset)
    for stage in striped(made):
        visible = block_grids.pairs(attention.mask, sizes)
        visible &= ~block_grids.pairs(made.attend.mask, sizes)
        check_blocks(stage, visible, sizes, *tile)


@pytest.mark.parametrize(("length", "share"), [(4096, 0.75), (1 << 15, 0.9)])
def test_fixed_costs_its_visible_pairs(length: int, share: float) -> None:
    made = plan(fixed())
    sizes = sizes_of(length, length, 0) | {"H": 1, "Hkv": 1}
    base = Environment(sizes=sizes)
    computed = sum(count_blocks(stage, base, 64, 64).visited for stage in made.attends) * 64 * 64
    blocks = length // 128
    # In its own block a query sees 64.5 keys in the mean, and 8 of every block before it.
    visible = length * 129 // 2 + 8 * 128 * blocks * (blocks - 1) // 2
    assert visible >= share * computed


def test_all_of_the_stripes_is_full() -> None:
    made = plan(attention_of("j % 100 < 10"))
    assert made.attend.mask == TRUE
    found = cost(made, {"Lq": 640, "Lk": 6400})
    assert (found.blocks.full, found.blocks.partial) == (100, 0)
    assert found.pairs == found.visible_pairs == 640 * 640


@pytest.mark.parametrize(
    "mask",
    [
        "j % 1024 < 64",  # whole blocks
        "j % 1000 < 300",  # wide
        "j % 3 == 1",  # dense
        f"j % {1 << 21} == 5",  # sparser than any length
        "i % 40 < 3",
    ],
)
def test_other_masks_are_left(mask: str) -> None:
    assert not striped(plan(attention_of(mask)))


@pytest.mark.parametrize(
    ("mask", "apart"),
    [
        ("causal and (i // 32 == j // 32 or j % 32 == 31)", "j // 32 < i // 32"),
        ("j < i and (i // 32 == j // 32 or j % 32 == 31)", "j // 32 < i // 32"),
        ("i >= j and (i // 32 == j // 32 or j % 32 == 31)", "j // 32 < i // 32"),
        ("i <= j and (i // 32 == j // 32 or j % 32 == 31)", "i // 32 < j // 32"),
        (
            "j <= i + 1 and (i // 32 == j // 32 or j % 32 == 31)",
            "j <= i + 1 and i // 32 != j // 32",
        ),
        ("causal and (i // 32 == j // 64 or j % 32 == 31)", "j <= i and i // 32 != j // 64"),
    ],
)
def test_groups_in_order(mask: str, apart: str) -> None:
    parts = strided_part(attention_of(mask).mask)
    assert parts is not None
    found = stripes_of(parts[0])
    assert found is not None
    assert text(found[1]) == apart


def test_a_picture_shows_the_keys_of_the_stripes() -> None:
    made = plan(fixed(32, 4))
    first, last = head_pictures(made, sizes_of(96, 100, 4), {}, block_m=16, block_n=8)
    assert first.order == "4 keys of every 32 first"
    assert list(first.keys[:12]) == [*range(28, 32), *range(60, 64), *range(92, 96)]
    assert sorted(first.keys) == list(range(100))
    assert first.kinds.shape == (6, 3)
    assert not first.kinds[:, 2].any()
    assert last.order is None


BROKEN: dict[str, tuple[Callable[[Plan], dict[str, object]], str]] = {
    "classes": (lambda _: {"residue": Literal(2)}, "residue classes or stripes"),
    "grid": (
        lambda _: {"grid": Grid((GridAxis("y"),)), "block_map": Product(())},
        "a grid or stripes",
    ),
    "all keys": (lambda _: {"stripes": Stripes(8, 8, 0)}, "stripes leave keys out"),
    "no keys": (lambda _: {"stripes": Stripes(8, 0, 0)}, "stripes leave keys out"),
    "late": (lambda _: {"stripes": Stripes(8, 2, 7)}, "stripes begin in the first period"),
    "no stripes": (lambda _: {"stripes": None}, "size `local.Lk` is known here"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_stripes_are_refused(name: str) -> None:
    made = plan(attention_of("j % 40 < 3"))
    assert isinstance(made.attend.block_map, Ranges)
    verify(made)
    change, rule = BROKEN[name]
    stage = dataclasses.replace(made.attend, **change(made))
    with pytest.raises(InternalError) as caught:
        verify(dataclasses.replace(made, stages=(stage,)))
    assert rule in str(caught.value)


def test_kinds_of_a_known_case() -> None:
    stage = plan(attention_of("causal and j % 8 == 7")).attend
    sizes = sizes_of(64, 64, 0) | {"H": 1, "Hkv": 1}
    (*_, last) = visits(stage, Environment(sizes=sizes), 16, 4)
    assert [block.kind for block in last.blocks] == [Kind.FULL, Kind.PARTIAL]
    assert evaluate_size(stage.stripes.keys if stage.stripes else Size("Lk"), sizes) == 8
