"""Dropout by C++ kernels and in torch: the same pairs as the reference, and their gradients."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from cpp_calls import assert_close
from dropout_cases import DROPOUT, SPECS, case_of, kept_pairs

from attndsl.codegen import cpp
from attndsl.codegen.program import DType, Specialization
from attndsl.dropout import Dropout
from attndsl.planner.block_map import Table
from attndsl.planner.pipeline import plan
from attndsl.runtime import cpp_compiler

WIDTHS = {
    "avx2": ("-mno-avx512f",),
    "portable": ("-mno-avx512f", "-mno-avx2"),
}


# What is compiled in the quick tests; the others belong to the whole matrix.
COMPILED = {"sink", "sigmoid", "classes", "grid", "stripes", "documents"}


def some(quick: set[tuple[str, str]], others: Iterable[str]) -> list[Any]:
    """Every spec in every one of `others`; what is not quick belongs to the whole matrix."""
    return [
        pytest.param(name, other, marks=() if (name, other) in quick else pytest.mark.slow)
        for other in others
        for name in SPECS
    ]


def test_specs_are_of_every_kind() -> None:
    """What their names say is what plans make of them."""
    classes, grid, stripes, documents = (
        plan(case_of(name).attention, dropout=True)
        for name in ("classes", "grid", "stripes", "documents")
    )
    assert classes.attend.residue is not None
    assert grid.attend.grid is not None
    assert [stage.stripes is not None for stage in stripes.attends] == [True, False]
    assert isinstance(documents.attend.block_map, Table)


def check_forward(name: str, queries: int = 37) -> None:
    case = case_of(name, queries)
    assert_close(case.compiled().double().numpy(), case.reference().output, 3e-6)
    weights = case_of(name, queries, one_hot=True)
    np.testing.assert_array_equal(weights.compiled().numpy() != 0, kept_pairs(weights))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in COMPILED else pytest.mark.slow) for name in SPECS],
)
def test_kernels_drop_the_same_pairs(name: str) -> None:
    check_forward(name)


@pytest.mark.parametrize(("name", "width"), some({("sink", "avx2")}, WIDTHS))
def test_narrow_vectors_drop_the_same_pairs(
    name: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpp_compiler, "FLAGS", (*cpp_compiler.FLAGS, *WIDTHS[width]))
    check_forward(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMPILED else pytest.mark.slow)
        for name in ("softmax", "sink", "sum", "stripes", "documents")
    ],
)
@pytest.mark.parametrize("queries", [1, 3])
def test_few_queries_drop_the_same_pairs(name: str, queries: int) -> None:
    check_forward(name, queries)


@pytest.mark.parametrize("name", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_kernels_in_bfloat16_drop_the_same_pairs(name: str) -> None:
    weights = case_of(name, one_hot=True)
    found = weights.compiled(dtype=torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(found != 0, kept_pairs(weights))


@pytest.mark.parametrize("name", SPECS)
def test_torch_drops_the_same_pairs(name: str) -> None:
    case = case_of(name)
    assert_close(case.tiled().double().numpy(), case.reference().output, 3e-6)
    weights = case_of(name, one_hot=True)
    np.testing.assert_array_equal(weights.tiled().numpy() != 0, kept_pairs(weights))


@pytest.mark.parametrize(
    ("name", "target"),
    some(
        {(name, "torch") for name in SPECS}
        | {(name, "cpp") for name in ("sink", "classes", "grid")},
        ("cpp", "torch"),
    ),
)
def test_gradients(name: str, target: str) -> None:
    case = case_of(name)
    shape = case.reference().output.shape
    out_gradient = np.random.default_rng(1).normal(size=shape)
    wanted = case.exact_gradients(out_gradient)
    found = case.gradients(out_gradient, target)
    assert {"q", "k", "v"} <= found.keys()
    for tensor, gradient in found.items():
        assert_close(gradient.double().numpy(), wanted[tensor], 1e-5)


def test_positions_below_0() -> None:
    """They count as the 32-bit words of the same bits."""
    case = dataclasses.replace(case_of("sigmoid", one_hot=True), offset=-20)
    wanted = kept_pairs(case)
    assert wanted[:, :, :20].any()
    for found in (case.executed().output, case.compiled().numpy(), case.tiled().numpy()):
        np.testing.assert_array_equal(found != 0, wanted)


def test_a_part_of_a_batch_drops_what_the_whole_does() -> None:
    case = case_of("sink")
    last = dataclasses.replace(case, q=case.q[1:], k=case.k[1:], v=case.v[1:])
    dropout = dataclasses.replace(DROPOUT, first_batch=1)
    assert torch.equal(last.compiled(dropout), case.compiled()[1:])
    assert_close(last.tiled(dropout).double().numpy(), case.reference().output[1:], 3e-6)


@pytest.mark.parametrize("name", ["sink"])
def test_threads_change_nothing(name: str) -> None:
    case = case_of(name)
    out_gradient = np.random.default_rng(1).normal(size=case.reference().output.shape)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append([case.compiled(), *case.gradients(out_gradient, "cpp").values()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)


def test_another_call_builds_nothing_anew() -> None:
    """Probability and seed are arguments of one binary."""
    case = case_of("sink")
    for dropout in (Dropout(0.0, 0), Dropout(0.999, 2**64 - 1), DROPOUT):
        found = case.compiled(dropout).double().numpy()
        assert_close(found, case.reference(dropout).output, 3e-6 * dropout.factor)


@pytest.mark.parametrize("name", SPECS)
def test_without_dropout_kernels_know_nothing_of_it(name: str) -> None:
    attention = case_of(name).attention
    plain = Specialization(DType.FLOAT32, 16, 16)
    assert not re.search("[dD]ropout|Philox", cpp.emit(plan(attention), plain).text)
    assert "dropout" in cpp.emit(plan(attention, dropout=True), plain).text
