"""C++ kernels over boxes of a grid: shapes, classes, rolled axes, missing queries, dtypes."""

from __future__ import annotations

import math

import pytest
import torch
from cpp_calls import assert_matches, attention_of, expected, operands

from attndsl.codegen.cpp.emitter import emit
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.planner.block_map import Product
from attndsl.planner.pipeline import plan
from attndsl.runtime.kernel import Kernel

NEAR = "attention near { axes y, x mask = neighborhood(5, 1) }"
NEAR_3D = "attention near { axes t, y, x mask = neighborhood(3, 1) }"
DILATED = "attention dilated { axes y, x mask = neighborhood(3, 2) }"
APART = """
attention apart {
    axes y, x
    let dy = i.y - j.y
    let dx = i.x - j.x
    mask = abs(dy) <= 6 and dy % 3 == 0 and abs(dx) <= 4 and dx % 2 == 0
}
"""
BY_LENGTH = """
attention by_length {
    axes y, x
    mask = (i.y - j.y) % (y.size // 3) == 0 and abs(i.x - j.x) <= 2
}
"""
STRIDED = (
    "attention strided { axes y, x mask = i.y // 3 == j.y // 3 and abs(i.x // 2 - j.x // 2) <= 1 }"
)
CAUSAL = "attention causal { axes y, x mask = j.y <= i.y and i.y - j.y < 9 and j.x <= i.x }"
ROLLED = """
attention rolled {
    axes y, x
    let same_y = (i.y - 3) % y.size // 7 == (j.y - 3) % y.size // 7
    let same_x = (i.x + 2) % x.size // 5 == (j.x + 2) % x.size // 5
    mask = same_y and same_x
}
"""
CIRCLE = "attention circle { axes y, x mask = (i.y - j.y) ** 2 + (i.x - j.x) ** 2 < 30 }"
LARGE_CIRCLE = "attention large { axes y, x mask = (i.y - j.y) ** 2 + (i.x - j.x) ** 2 < 200 }"
DIAMOND = """
attention diamond {
    axes y, x
    mask = abs(i.y - j.y + 1) + 2 * abs(i.x - j.x) <= 3 + 4 * h
}
"""
BALL = """
attention ball {
    axes t, y, x
    mask = (i.t - j.t) ** 2 + (i.y - j.y) ** 2 + (i.x - j.x) ** 2 <= 9
}
"""
WHOLE_ROWS = "attention whole_rows { axes y, x mask = abs(i.y - j.y) <= 2 }"
PER_HEAD = """
attention per_head {
    input reach: int[H]
    axes y, x
    mask = abs(i.y - j.y) <= reach[h] and abs(i.x - j.x) <= 2
}
"""
PLANE = {
    "near": NEAR,
    "dilated": DILATED,
    "apart": APART,
    "by length": BY_LENGTH,
    "strided": STRIDED,
    "causal": CAUSAL,
    "rolled": ROLLED,
    "whole rows": WHOLE_ROWS,
    "circle": CIRCLE,
    "large circle": LARGE_CIRCLE,
    "diamond": DIAMOND,
}
GRIDS = [(1, 23), (23, 1), (3, 5), (17, 23), (9, 40)]


@pytest.mark.parametrize("name", PLANE)
def test_masks_are_taken_by_boxes(name: str) -> None:
    """Otherwise the tests below say nothing about boxes."""
    stage = plan(attention_of(PLANE[name])).attend
    assert stage.grid is not None
    assert isinstance(stage.block_map, Product)


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sides_that_are_no_multiples_of_a_tile(name: str, grid: tuple[int, int]) -> None:
    length = math.prod(grid)
    assert_matches(PLANE[name], *operands(2, 2, 1, length, length), grid=grid)


@pytest.mark.parametrize("grid", [(3, 7, 10), (1, 1, 9), (5, 4, 6)], ids=str)
@pytest.mark.parametrize("spec", [NEAR_3D, BALL])
def test_three_axes(spec: str, grid: tuple[int, int, int]) -> None:
    length = math.prod(grid)
    assert_matches(spec, *operands(1, 2, 2, length, length), grid=grid)


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("queries", [1, 5, 40, 100])
def test_fewer_queries_than_keys(name: str, queries: int) -> None:
    """The last queries of the grid, which begin inside of a row."""
    assert_matches(PLANE[name], *operands(1, 2, 1, queries, 17 * 23), grid=(17, 23))


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("offset", [-100, -7, 30, 300])
def test_queries_outside_of_the_keys(name: str, offset: int) -> None:
    assert_matches(PLANE[name], *operands(1, 1, 1, 90, 12 * 13), grid=(12, 13), offset=offset)


@pytest.mark.parametrize("name", ["near", "dilated", "rolled", "causal", "large circle"])
@pytest.mark.parametrize(("width", "value_width"), [(64, 64), (33, 7), (20, 12), (64, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(name: str, width: int, value_width: int, dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 3e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}[dtype]
    q, k, v = operands(1, 4, 2, 17 * 23, 17 * 23, width, value_width, dtype)
    attention = attention_of(PLANE[name])
    wanted = expected(attention, q, k, v, {}, grid=(17, 23))
    out, statistics = Kernel(attention)(q, k, v, grid=(17, 23), return_lse=True)
    assert (out.double() - torch.from_numpy(wanted.output)).abs().max() <= tolerance
    assert wanted.log_sum_exp is not None
    assert (statistics.double() - torch.from_numpy(wanted.log_sum_exp)).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["near", "whole rows", "rolled", "large circle"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_hidden_numbers_do_not_leak(name: str, number: float, dtype: torch.dtype) -> None:
    """A key and a value that only a few queries see must not touch the others."""
    grid, bad = (17, 23), 9 * 23 + 11
    q, k, v = operands(1, 1, 1, 17 * 23, 17 * 23, 64, dtype=dtype)
    kernel = Kernel(attention_of(PLANE[name]))
    clean = kernel(q, k, v, grid=grid)
    k[..., bad, :] = number
    v[..., bad, :] = number
    found = kernel(q, k, v, grid=grid)
    positions = torch.arange(17 * 23)
    seen = _visible(name, positions[:, None], torch.tensor(bad), grid).squeeze(-1)
    assert 0 < seen.sum() < seen.numel()
    tolerance = 3e-6 if dtype == torch.float32 else 1e-2
    assert (found - clean)[..., ~seen, :].abs().max() <= tolerance
    assert not found[..., seen, :].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["near", "whole rows", "rolled", "large circle"])
def test_against_torch(name: str, dtype: torch.dtype) -> None:
    """Dense attention with a mask that is written out in torch."""
    grid = (17, 23)
    q, k, v = operands(2, 4, 2, 17 * 23, 17 * 23, 64, dtype=dtype)
    positions = torch.arange(17 * 23)
    mask = _visible(name, positions[:, None], positions, grid)
    keys, values = (one.repeat_interleave(2, dim=1).double() for one in (k, v))
    score = (q.double() @ keys.transpose(-1, -2) / 8).masked_fill(~mask, -math.inf)
    wanted = score.softmax(-1) @ values
    found = Kernel(attention_of(PLANE[name]))(q, k, v, grid=grid)
    tolerance = 3e-6 if dtype == torch.float32 else 1.5e-2
    assert (found.double() - wanted).abs().max() <= tolerance


def _visible(
    name: str, query: torch.Tensor, key: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    (height, width) = grid
    iy, ix, jy, jx = query // width, query % width, key // width, key % width
    if name == "near":
        top, left = (iy - 2).clamp(0, height - 5), (ix - 2).clamp(0, width - 5)
        return (top <= jy) & (jy < top + 5) & (left <= jx) & (jx < left + 5)
    if name == "large circle":
        return (iy - jy) ** 2 + (ix - jx) ** 2 < 200
    if name == "whole rows":
        return (iy - jy).abs() <= 2
    rows = (iy - 3) % height // 7 == (jy - 3) % height // 7
    return rows & ((ix + 2) % width // 5 == (jx + 2) % width // 5)


def test_windows_that_vary_with_the_head() -> None:
    reach = torch.tensor([0, 4, 1, 20], dtype=torch.int32)
    assert_matches(PER_HEAD, *operands(2, 4, 2, 17 * 23, 17 * 23), grid=(17, 23), reach=reach)


READS = {
    "per pair": (
        "input bias: float[Lq, Lk]",
        "score = dot(q, k) * scale + bias[row, j]",
        lambda m, n: {"bias": torch.randn(m, n)},
    ),
    "flags per pair": (
        "input flag: bool[H, Lq, Lk]",
        "score = dot(q, k) * scale + (1.0 if flag[h, row, j] else 0.0)",
        lambda m, n: {"flag": torch.rand(2, m, n) < 0.5},
    ),
    "by offsets": (
        "input table: float[H, 33, 45]",
        "score = dot(q, k) * scale + table[h, j.y - i.y + 16, j.x - i.x + 22]",
        lambda m, n: {"table": torch.randn(2, 33, 45)},
    ),
    "per query and per key": (
        "input slope: float[Lk] input lift: float[B, Lq]",
        "score = dot(q, k) * scale + slope[j] * lift[b, row] + 0.01 * i - 0.02 * j",
        lambda m, n: {"slope": torch.randn(n), "lift": torch.randn(1, m)},
    ),
    "two products": (
        "input other: float[Lk, D]",
        "score = dot(q, k) * scale + 0.3 * dot(q * q, k) + dot(q, other[j])",
        lambda m, n: {"other": torch.randn(n, 32)},
    ),
    "vectors pair by pair": (
        "input weight: float[D]",
        "score = dot(weight, tanh(q + k))",
        lambda m, n: {"weight": torch.randn(32)},
    ),
    "prepared vectors": (
        "input turn: float[Lk]",
        "q = q / sqrt(dot(q, q) + 1.0)\n k = k * turn[j]\n score = dot(q, k)",
        lambda m, n: {"turn": torch.randn(n)},
    ),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "mask", ["neighborhood(5, 1)", "neighborhood(3, 2)", "i.y // 4 == j.y // 4"]
)
@pytest.mark.parametrize("queries", [17 * 23, 100])
def test_inputs(name: str, mask: str, queries: int) -> None:
    declared, score, make = READS[name]
    torch.manual_seed(1)
    spec = f"attention reads {{\n{declared}\naxes y, x\n{score}\nmask = {mask}\n}}"
    assert plan(attention_of(spec)).attend.grid is not None
    inputs = make(queries, 17 * 23)
    q, k, v = operands(1, 2, 1, queries, 17 * 23)
    assert_matches(spec, q, k, v, grid=(17, 23), tolerance=1e-5, **inputs)


@pytest.mark.parametrize(
    "normalizer",
    ["softmax(sink = sink[h])", "sigmoid", "relu", "none", "sum"],
)
@pytest.mark.parametrize("mask", ["neighborhood(5, 1)", "i.y // 4 == j.y // 4"])
def test_normalisers(normalizer: str, mask: str) -> None:
    reads_sink = "sink" in normalizer
    spec = f"""
    attention normalised {{
        {"input sink: float[H]" if reads_sink else ""}
        axes y, x
        score = exp(0.1 * dot(q, k) * scale)
        mask = {mask}
        normalize = {normalizer}
    }}
    """
    inputs = {"sink": torch.tensor([0.5, -1.0])} if reads_sink else {}
    assert_matches(spec, *operands(2, 2, 1, 17 * 23, 17 * 23), grid=(17, 23), **inputs)


@pytest.mark.parametrize("tile", [Tile(32, 32), Tile(64, 32), Tile(16, 24), Tile(128, 64)], ids=str)
def test_any_tile_can_be_emitted(tile: Tile) -> None:
    for dtype in DType:
        text = emit(plan(attention_of(NEAR)), Specialization(dtype, 64, 64), tile).text
        assert "Queries<" in text
