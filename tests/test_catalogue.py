"""The catalogue in `examples/`: every spec means what its paper says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from naive import CASES, Case, Shape
from naive.case import EXAMPLES

from attndsl import reference
from attndsl.module import load_file

CALLS = [pytest.param(case, shape, id=f"{case}-{shape}") for case in CASES for shape in case.shapes]
SPECS = sorted(EXAMPLES.glob("*.attn"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_agrees_with_naive_at_length(case: Case) -> None:
    test_reference_agrees_with_naive(case, case.large)


@pytest.mark.parametrize(("case", "shape"), CALLS)
def test_reference_agrees_with_naive(case: Case, shape: Shape) -> None:
    attention = case.load()
    call = case.call(shape)
    result = reference.run(
        attention,
        call.q,
        call.k,
        call.v,
        call.inputs,
        scale=call.scale,
        offset=call.shape.offset,
        axes=call.axes(attention.axes),
    )
    np.testing.assert_allclose(result.output, case.naive(call), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_spec_is_short_and_explained(path) -> None:
    text = path.read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 15
    assert text.startswith("# "), "a comment says what the example is"
    assert re.search(rf"^attention {path.stem}\b", text, re.MULTILINE)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_spec_loads_without_warnings(path) -> None:
    assert load_file(path).warnings == ()


def test_every_example_has_a_case() -> None:
    assert {case.example for case in CASES} == {path.stem for path in SPECS}


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case_reaches_ragged_tiles(case: Case) -> None:
    """Some length of every case is no multiple of any tile that kernels use."""
    assert any(shape.queries % 16 or shape.keys % 16 for shape in case.shapes)
