"""The plan executor agrees with the reference on the whole catalogue, at several tiles."""

from __future__ import annotations

import numpy as np
import pytest
from naive import CASES, Case, Shape

from attndsl import reference
from attndsl.planner import plan
from attndsl.planner.execute import execute

CALLS = [pytest.param(case, shape, id=f"{case}-{shape}") for case in CASES for shape in case.shapes]
TILES = [(16, 16), (32, 64), (64, 16)]


@pytest.mark.parametrize(("case", "shape"), CALLS)
def test_executor_agrees_with_reference(case: Case, shape: Shape) -> None:
    attention = case.load()
    call = case.call(shape)
    options = {
        "scale": call.scale,
        "offset": call.shape.offset,
        "axes": call.axes(attention.axes),
    }
    wanted = reference.run(attention, call.q, call.k, call.v, call.inputs, **options)
    made = plan(attention)
    for block_m, block_n in TILES:
        found = execute(
            made, call.q, call.k, call.v, call.inputs, block_m=block_m, block_n=block_n, **options
        )
        np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
        if wanted.log_sum_exp is None:
            assert found.log_sum_exp is None
        else:
            np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9, atol=1e-9)
