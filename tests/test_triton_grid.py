"""Triton kernels over boxes of a grid, under the interpreter: shapes, classes, rolled axes, missing
queries, reads, normalisers, and what the mask hides."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_calls import Spoiled
from triton_interpreted import Interpreter

from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton import emit
from attndsl.codegen.triton.configurations import tiles
from attndsl.codegen.triton.grid_loops import is_narrower
from attndsl.codegen.triton.grid_places import offsets_in_box
from attndsl.codegen.triton.grid_spans import axis_spans, class_count, tile_count
from attndsl.evaluate import evaluate_size
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.block_map import Product
from attndsl.planner.grids import spans, tile_sides
from attndsl.planner.plan import Plan

EVERY = slice(None)
BAD = (math.nan, math.inf, -math.inf)
NEAR = "mask = neighborhood(5, 1)"
PLANE = {
    "near": NEAR,
    "wide": "mask = abs(i.y - j.y) <= 7 and abs(i.x - j.x) <= 9",
    "dilated": "mask = neighborhood(3, 2)",
    "in steps": "mask = neighborhood(5, 1, 3)",
    "apart": "let dy = i.y - j.y\nlet dx = i.x - j.x\n"
    "mask = abs(dy) <= 6 and dy % 3 == 0 and abs(dx) <= 4 and dx % 2 == 0",
    "by length": "mask = (i.y - j.y) % max(1, y.size // 3) == 0 and abs(i.x - j.x) <= 2",
    "groups": "mask = i.y // 3 == j.y // 3 and abs(i.x // 2 - j.x // 2) <= 1",
    "causal": "mask = j.y <= i.y and i.y - j.y < 9 and j.x <= i.x",
    "rolled": "let same_y = (i.y - 3) % y.size // 7 == (j.y - 3) % y.size // 7\n"
    "let same_x = (i.x + 2) % x.size // 5 == (j.x + 2) % x.size // 5\n"
    "mask = same_y and same_x",
    "whole rows": "mask = abs(i.y - j.y) <= 2",
    "circle": "mask = (i.y - j.y) ** 2 + (i.x - j.x) ** 2 < 30",
    "large circle": "mask = (i.y - j.y) ** 2 + (i.x - j.x) ** 2 < 200",
    "diamond": "mask = abs(i.y - j.y + 1) + 2 * abs(i.x - j.x) <= 3 + 4 * h",
    "per head": "input near: bool[H]\n"
    "mask = abs(i.y - j.y) <= (1 if near[h] else 3) and abs(i.x - j.x) <= 2",
}
SPACE = {
    "near": "mask = neighborhood(3, 1)",
    "frames": "mask = j.t <= i.t and i.t - j.t < 3 and abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 2",
    "ball": "mask = (i.t - j.t) ** 2 + (i.y - j.y) ** 2 + (i.x - j.x) ** 2 <= 9",
    "dilated": "mask = (i.t - j.t) % 2 == 0 and abs(i.y - j.y) <= 1 and i.x // 3 == j.x // 3",
}
GRIDS = [(1, 23), (23, 1), (3, 5), (17, 23)]


def some_of(names: Iterable[str], *quick: str) -> list[Any]:
    """All names; those that are not quick belong to the whole matrix."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def spec(body: str, axes: str = "y, x") -> str:
    inputs = [line for line in body.splitlines() if line.startswith("input")]
    others = [line for line in body.splitlines() if not line.startswith("input")]
    return "\n".join(["attention a {", *inputs, f"axes {axes}", *others, "}"])


def plan_of(text: str) -> Plan:
    (attention,) = load_text(text).attentions.values()
    return plan(attention)


def sizes(grid: Sequence[int], queries: int | None = None, **others: Any) -> dict[str, Any]:
    keys = math.prod(grid)
    given = {"batch": 1, "heads": 2, "key_heads": 1, "grid": tuple(grid), "keys": keys}
    return {**given, "queries": keys if queries is None else queries, **others}


def check(
    interpreter: Interpreter,
    text: str,
    call: dict[str, Any],
    spoiled: Sequence[Spoiled] = (),
    dtype: str = "fp32",
) -> None:
    stage = plan_of(text).attend
    assert stage.grid is not None
    assert isinstance(stage.block_map, Product)
    interpreter.compare_text(text, dtype, spoiled, **call).check(dtype)


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sides_that_are_no_multiples_of_a_tile(
    interpreter: Interpreter, name: str, grid: tuple[int, int]
) -> None:
    check(interpreter, spec(PLANE[name]), sizes(grid))


@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize("grid", [(3, 7, 10), (1, 1, 9), (5, 4, 6)], ids=str)
def test_three_axes(interpreter: Interpreter, name: str, grid: tuple[int, int, int]) -> None:
    check(interpreter, spec(SPACE[name], "t, y, x"), sizes(grid))


def test_four_axes(interpreter: Interpreter) -> None:
    check(interpreter, spec("mask = neighborhood(3, 1)", "u, t, y, x"), sizes((3, 2, 5, 6)))


@pytest.mark.parametrize("name", some_of(PLANE, "near", "rolled", "circle"))
@pytest.mark.parametrize("queries", [1, 40, 150])
def test_fewer_queries_than_keys(interpreter: Interpreter, name: str, queries: int) -> None:
    """The last queries of the grid, which begin inside of a row."""
    check(interpreter, spec(PLANE[name]), sizes((17, 13), queries))


@pytest.mark.parametrize("name", some_of(PLANE, "near", "rolled", "circle"))
@pytest.mark.parametrize("offset", [-100, -7, 30, 200])
def test_queries_outside_of_the_keys(interpreter: Interpreter, name: str, offset: int) -> None:
    check(interpreter, spec(PLANE[name]), sizes((12, 13), 60, offset=offset))


@pytest.mark.parametrize("name", ["near", "wide", "rolled"])
@pytest.mark.parametrize(("width", "value_width"), [(33, 7), (24, 80)])
def test_half_precision_and_any_head_dimension(
    interpreter: Interpreter, name: str, width: int, value_width: int
) -> None:
    call = sizes((17, 13), width=width, value_width=value_width)
    check(interpreter, spec(PLANE[name]), call, dtype="fp16")


READS = {
    "per pair": "input bias: float[Lq, Lk]\nscore = dot(q, k) * scale + bias[row, j]",
    "flags per pair": "input flag: bool[H, Lq, Lk]\n"
    "score = dot(q, k) * scale + (1.0 if flag[h, row, j] else 0.0)",
    "by offsets": "input table: float[H, 33, 25]\n"
    "score = dot(q, k) * scale + table[h, j.y - i.y + 16, j.x - i.x + 12]",
    "per query and per key": "input slope: float[Lk]\ninput lift: float[B, Lq]\n"
    "score = dot(q, k) * scale + slope[j] * lift[b, row] + 0.01 * i - 0.02 * j",
    "distances": "score = dot(q, k) * scale - 0.1 * abs(i.y - j.y) - 0.2 * float(abs(i - j) % 3)",
    "two products": "input other: float[Lk, D]\n"
    "score = dot(q, k) * scale + 0.3 * dot(q * q, k) + dot(q, other[j])",
    "vectors pair by pair": "input weight: float[D]\nscore = dot(weight, tanh(q + k))",
    "prepared vectors": "input turn: float[Lk]\nq = q / sqrt(dot(q, q) + 1.0)\nk = k * turn[j]\n"
    "score = dot(q, k)",
    "turned by coordinates": "q = rope(q, i)\nk = rope(k, j)\nscore = dot(q, k) * scale",
    "prepared values": "v = rope(v, j)",
}
MASKS = {
    "near": NEAR,
    "dilated": "mask = neighborhood(3, 2)",
    "groups": "mask = i.y // 4 == j.y // 4",
    "rolled": PLANE["rolled"],
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("mask", some_of(MASKS, "rolled"))
def test_reads(interpreter: Interpreter, name: str, mask: str) -> None:
    queries = 60 if mask == "rolled" else 17 * 13
    check(interpreter, spec(f"{READS[name]}\n{MASKS[mask]}"), sizes((17, 13), queries))


NORMALIZERS = {
    "a sink": "input sink: float[H]\nnormalize = softmax(sink = sink[h])",
    "a sink with a value": "input sentinel: float[H, Dv]\n"
    "normalize = softmax(sink = 0.5, value = sentinel[h])",
    "sigmoid": "normalize = sigmoid",
    "relu": "normalize = relu(divide = Lk)",
    "none": "normalize = none",
    "sum": "score = exp(dot(q, k) * scale)\nnormalize = sum",
}


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("mask", some_of(MASKS, "near"))
def test_normalisers(interpreter: Interpreter, name: str, mask: str) -> None:
    check(interpreter, spec(f"{NORMALIZERS[name]}\n{MASKS[mask]}"), sizes((17, 13)))


@pytest.mark.parametrize(
    "body",
    some_of(
        dict.fromkeys((*PLANE.values(), *NORMALIZERS.values())),
        *(PLANE["rolled"], NORMALIZERS["a sink"], NORMALIZERS["sigmoid"]),
    ),
)
def test_hidden_values_do_not_leak(interpreter: Interpreter, body: str) -> None:
    """NaN and infinities in some values: only the queries that see them have them."""
    text = spec(body if "mask" in body else f"{body}\n{NEAR}")
    spoiled = [
        Spoiled("v", (EVERY, EVERY, key, slice(first, None, 4)), value)
        for key in (0, 40, 111, 17 * 13 - 1)
        for first, value in enumerate(BAD)
    ]
    check(interpreter, text, sizes((17, 13)), spoiled)


@pytest.mark.parametrize("name", some_of(SPACE))
def test_hidden_values_do_not_leak_in_three_dimensions(interpreter: Interpreter, name: str) -> None:
    spoiled = [Spoiled("v", (EVERY, EVERY, key, EVERY), math.nan) for key in (0, 70, 209)]
    check(interpreter, spec(SPACE[name], "t, y, x"), sizes((3, 7, 10)), spoiled)


@pytest.mark.parametrize("name", some_of(PLANE, "rolled"))
@pytest.mark.parametrize("value", BAD)
def test_hidden_keys_do_not_leak(interpreter: Interpreter, name: str, value: float) -> None:
    spoiled = [Spoiled("k", (EVERY, EVERY, key, slice(1, None, 3)), value) for key in (0, 40, 111)]
    check(interpreter, spec(PLANE[name]), sizes((17, 13)), spoiled)


def test_masks_hide_their_own_inputs(interpreter: Interpreter) -> None:
    body = "input bad: float[Lk]\nscore = dot(q, k) + (bad[j] if j.x > 7 else 0.0)\n"
    body += "mask = neighborhood(5, 1) and j.x <= 7"
    interpreter.compare_text(spec(body), "fp32", **sizes((17, 13))).check("fp32")


SIDES = st.sampled_from([16, 32, 64, 128, 256])


@given(SIDES, st.integers(1, 5))
def test_lanes_lie_in_boxes_row_major(tile: int, axes: int) -> None:
    sides = tile_sides(tile, axes)
    lanes = np.arange(tile)
    found = [eval(one, {"lane": lanes}) + 0 * lanes for one in offsets_in_box("lane", sides)]
    assert np.array_equal(np.ravel_multi_index(found, sides), lanes)


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(PLANE)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 100),
    st.integers(-200, 1000),
    SIDES,
)
def test_as_many_programs_are_launched_as_there_are_tiles(
    name: str, grid: tuple[int, int], queries: int, offset: int, tile: int
) -> None:
    stage = plan_of(spec(PLANE[name])).attend
    assert stage.grid is not None
    call = {"B": 2, "H": 3, "Lq": queries, "Lk": math.prod(grid), "offset": offset}
    call |= {"axis.y": grid[0], "axis.x": grid[1]}
    own = axis_spans(stage.grid, tile, Specialization(DType.FLOAT16, 64, 64))
    expected = 0
    if queries:
        problems = spans(stage.grid, call, tile)
        expected = sum(math.prod(one.tiles * one.laps for one in along) for along in problems)
    launched = evaluate_size(tile_count(own), call) * evaluate_size(class_count(own), call)
    assert launched == expected


@pytest.mark.parametrize(
    ("mask", "side", "expected"),
    [
        ("neighborhood(7, 1)", 8, True),
        ("neighborhood(8, 1)", 8, False),
        ("neighborhood(7, 3)", 8, True),
        ("neighborhood(7, 1, 3)", 8, True),
        ("abs(i.y - j.y) <= 3 and abs(i.x - j.x) <= 3", 8, True),
        ("abs(i.y - j.y) <= 4 and abs(i.x - j.x) <= 4", 8, False),
        ("j.y <= i.y and j.x <= i.x", 8, False),
        ("i.y // 7 == j.y // 7 and i.x // 7 == j.x // 7", 8, True),
        ("i.y // 8 == j.y // 8 and i.x // 8 == j.x // 8", 8, False),
    ],
)
def test_narrow_windows_have_no_loop_over_full_boxes(mask: str, side: int, expected: bool) -> None:
    """That no box can be FULL is proved of masks that are narrow, and of no others."""
    block_map = plan_of(spec(f"mask = {mask}")).attend.block_map
    assert isinstance(block_map, Product)
    assert all(is_narrower(window, side) == expected for window in block_map.windows)


@pytest.mark.parametrize("name", PLANE)
def test_no_division_of_positions_in_loops(name: str) -> None:
    """Coordinates of keys are counted along each axis; only the number of a box is divided."""
    made = plan_of(spec(PLANE[name]))
    text = emit(made, Specialization(DType.BFLOAT16, 64, 64), Tile(64, 64)).text
    loops = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.For)]
    assert loops
    divisions = [
        ast.unparse(node)
        for loop in loops
        for node in ast.walk(loop)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.FloorDiv, ast.Mod))
    ]
    by_axis_length = [one for one in divisions if "axis_" in one and "key_lane" in one]
    assert not by_axis_length


def test_small_windows_get_small_tiles() -> None:
    made = plan_of(spec("mask = neighborhood(7, 1)"))
    for target in ("cuda:80", "cuda:90", "hip:gfx942"):
        first = tiles(made, Specialization(DType.BFLOAT16, 64, 64), target)[0]
        assert (first.block_m, first.block_n) == (64, 64)
