"""The tiled torch path agrees with the reference on the whole catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grid_cases import CASES as GRID_CASES
from grid_cases import GridCase, inputs_of, row_choices, sizes_of
from naive import CASES, Case

from attndsl import reference
from attndsl.runtime import tiled
from attndsl.runtime.arguments import check_call, converted
from attndsl.runtime.compilation import plan_of
from attndsl.runtime.options import Options


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiles_agree_with_the_reference(case: Case) -> None:
    attention = case.load()
    given = case.call(case.shapes[-1 if len(case.shapes) < 2 else 1])
    operands = {
        name: torch.tensor(value, dtype=torch.float32)
        for name, value in (("q", given.q), ("k", given.k), ("v", given.v))
        if value is not None
    }
    inputs = {
        name: torch.as_tensor(value, dtype=torch.float32 if value.dtype.kind == "f" else None)
        for name, value in given.inputs.items()
    }
    axes = given.axes(attention.axes)
    options = Options(given.scale, given.shape.offset, axes)
    call = check_call(attention, operands, inputs, options)
    out, log_sum_exp = tiled.run(
        plan_of(attention),
        operands,
        converted(inputs, call),
        call.sizes,
        call.scale,
        block_m=32,
        block_n=48,
    )
    exact = reference.run(
        attention,
        *(None if value is None else np.float32(value) for value in (given.q, given.k, given.v)),
        {name: value.numpy() for name, value in inputs.items()},
        scale=given.scale,
        offset=given.shape.offset,
        axes=axes,
    )
    assert out.dtype is torch.float32
    size = max(1.0, np.abs(exact.output).max())
    np.testing.assert_allclose(out.numpy(), exact.output, rtol=0, atol=1e-4 * size)
    if exact.log_sum_exp is not None:
        np.testing.assert_allclose(log_sum_exp.numpy(), exact.log_sum_exp, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", GRID_CASES, ids=str)
def test_boxes_of_a_grid_agree_with_the_reference(case: GridCase) -> None:
    made = case.plan()
    attention, grid = made.attention, case.grids[-1]
    random = np.random.default_rng(0)
    inputs = inputs_of(attention, random)
    rows = list(row_choices(grid))[1]
    sizes = sizes_of(attention, grid, rows, heads=2)
    q = random.normal(size=(1, 2, rows.count, 4))
    k, v = random.normal(size=(2, 1, 2, sizes["Lk"], 4))
    out, _ = tiled.run(
        made,
        {name: torch.tensor(a, dtype=torch.float32) for name, a in (("q", q), ("k", k), ("v", v))},
        {name: torch.tensor(array, dtype=torch.float32) for name, array in inputs.items()},
        sizes,
        0.5,
        block_m=32,
        block_n=48,
    )
    axes = dict(zip(attention.axes, grid, strict=True))
    exact = reference.run(attention, q, k, v, inputs, offset=rows.offset, axes=axes)
    size = max(1.0, np.abs(exact.output).max())
    np.testing.assert_allclose(out.numpy(), exact.output, rtol=0, atol=1e-4 * size)


def test_what_is_hidden_never_leaks() -> None:
    from attndsl.module import load_text

    (attention,) = load_text("attention causal { mask = j <= i - 1 }").attentions.values()
    q, k, v = (torch.randn(1, 1, 40, 16) for _ in range(3))
    k[..., 20:, :] = torch.nan
    v[..., 20:, :] = torch.inf
    call = check_call(attention, {"q": q, "k": k, "v": v}, {})
    out, log_sum_exp = tiled.run(
        plan_of(attention), {"q": q, "k": k, "v": v}, {}, call.sizes, call.scale
    )
    # Row 0 sees nothing, and no row before 21 sees what is not finite.
    assert torch.isfinite(out[..., :21, :]).all()
    assert (out[..., 0, :] == 0).all()
    assert log_sum_exp[..., 0] == -torch.inf
