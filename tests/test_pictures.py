"""Pictures show what the kernel does: each block of its kind, each pair in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grid_cases import CASES as GRID_CASES
from grid_cases import GridCase, Rows, sizes_of
from naive import CASES, Case, Shape

from attndsl.evaluate import Environment
from attndsl.pictures import HeadPicture, draw, head_pictures, terminal
from attndsl.planner import plan
from attndsl.planner.block_map import Kind
from attndsl.planner.visits import count_blocks

DRAWN = [case for case in CASES if case.example in ("dilated", "duo", "neighborhood2d", "fixed")]


@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_blocks_and_pairs_agree(case: Case, tmp_path: Path) -> None:
    attention = case.load()
    call = case.call()
    shape = call.shape
    sizes = {
        **{"B": shape.batch, "H": shape.heads, "Hkv": shape.key_heads, "D": shape.width},
        **{"Lq": shape.queries, "Lk": shape.keys, "Dv": shape.value_width},
        "offset": call.offset,
        **{f"axis.{name}": n for name, n in (call.axes(attention.axes) or {}).items()},
    }
    pictures = head_pictures(plan(attention), sizes, call.inputs, block_m=16, block_n=16, head=1)
    for picture in pictures:
        agrees(picture, shape)
    assert (pictures[0].order is not None) == (case.example != "duo")
    draw(pictures, tmp_path / "mask.png", "a mask")
    assert (tmp_path / "mask.png").stat().st_size > 5000


@pytest.mark.parametrize("case", GRID_CASES[:12:3], ids=str)
def test_boxes_of_a_grid(case: GridCase, tmp_path: Path) -> None:
    made, grid = case.plan(), case.grids[1]
    rows = Rows(int(np.prod(grid)), 0)
    sizes = sizes_of(made.attention, grid, rows, heads=1)
    (picture,) = head_pictures(made, sizes, {}, block_m=16, block_n=16)
    agrees(picture, Shape(rows.count, rows.count))
    assert picture.order is not None
    assert picture.order.startswith("in boxes of ")
    counted = count_blocks(made.attend, Environment(sizes=sizes, axes=made.attention.axes), 16, 16)
    assert (picture.count(Kind.PARTIAL), picture.count(Kind.FULL)) == (
        counted.partial,
        counted.full,
    )
    draw([picture], tmp_path / "mask.png", "a mask")
    assert (tmp_path / "mask.png").stat().st_size > 5000


def agrees(picture: HeadPicture, shape: Shape) -> None:
    assert sorted(picture.rows) == list(range(shape.queries))
    assert sorted(picture.keys) == list(range(shape.keys))
    in_order = picture.visible[np.ix_(picture.rows, picture.keys)]
    for (row, column), kind in np.ndenumerate(picture.kinds):
        block = in_order[
            picture.row_edges[row] : picture.row_edges[row + 1],
            picture.key_edges[column] : picture.key_edges[column + 1],
        ]
        if kind == Kind.EMPTY:
            assert not block.any()
        if kind == Kind.FULL:
            assert block.all()
    assert 0 < picture.density < 1
    assert len(terminal(picture, colours=False, columns=20).splitlines()[0]) <= 20
    assert "\033[" in terminal(picture, colours=True, columns=20)
