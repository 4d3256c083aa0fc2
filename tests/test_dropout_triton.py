"""Dropout by Triton kernels: the same pairs as the reference, and binaries that fit a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cpp_calls import Array, assert_close
from dropout_cases import DROPOUT, SPECS, Case, case_of, kept_pairs
from triton_interpreted import Interpreter

from attndsl.codegen import triton as emitter
from attndsl.codegen.program import DType, Program, Specialization, Tile
from attndsl.codegen.triton.functions import HELPERS
from attndsl.codegen.triton.targets import parse_target
from attndsl.dropout import DROPOUT_SIZES
from attndsl.planner.pipeline import plan
from attndsl.runtime.triton_source import load_module

QUICK = {"classes", "stripes", "documents"}
TARGETS = ("cuda:80", "cuda:90", "hip:gfx942")
BINARIES = [
    pytest.param(
        name,
        target,
        marks=() if (name, target) == ("sigmoid", "hip:gfx942") else pytest.mark.slow,
    )
    for name in ("sink", "sigmoid", "documents", "classes", "grid")
    for target in TARGETS
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def output(name: str, one_hot: bool) -> Array:
    """What a kernel gives, in a process where Triton interprets."""
    return np.float64(case_of(name, one_hot=one_hot).interpreted())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPECS],
)
def test_kernels_drop_the_same_pairs(name: str, interpreter: Interpreter) -> None:
    case = case_of(name, one_hot=True)
    found = interpreter.call(output, name, True)
    assert_close(found, case.reference().output, 3e-6)
    np.testing.assert_array_equal(found != 0, kept_pairs(case))


def gradients(name: str, out_gradient: Array) -> dict[str, Array]:
    found = case_of(name).gradients(out_gradient, "triton")
    return {one: np.float64(array) for one, array in found.items()}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SPECS],
)
def test_gradients(name: str, interpreter: Interpreter) -> None:
    case = case_of(name)
    random = np.random.default_rng(1)
    out_gradient = np.float64(np.float32(random.normal(size=case.reference().output.shape)))
    found = interpreter.call(gradients, name, out_gradient)
    for one, expected in case.exact_gradients(out_gradient).items():
        assert_close(found[one], expected, 1e-5)


def test_a_sink_and_its_value_are_not_dropped(interpreter: Interpreter) -> None:
    found = interpreter.call(output, "sink", False)
    assert_close(found, case_of("sink").reference().output, 3e-6)


def spoiled() -> Case:
    """Most queries do not see the key whose value is NaN."""
    case = case_of("softmax")
    case.v[:, :, 70] = np.nan
    return case


def spoiled_output() -> Array:
    return np.float64(spoiled().interpreted())


def test_what_is_hidden_never_leaks(interpreter: Interpreter) -> None:
    """The sums that are made anew for it drop the same pairs."""
    wanted = spoiled().reference(DROPOUT).output
    assert np.isnan(wanted).any()
    assert_close(interpreter.call(spoiled_output), wanted, 3e-6)


LAYOUTS = """
import triton
import triton.language as tl

HELPERS

@triton.jit
def draw(pairs, columns, rows, threshold, seed_low, seed_high, first_batch):
    i, j = tl.arange(0, 16) - 5, tl.arange(0, 32) + 64
    place = tl.arange(0, 16)[:, None] * 32 + tl.arange(0, 32)[None, :]
    kept = kept_pairs(1, 3, i[:, None], j[None, :], threshold, seed_low, seed_high, first_batch)
    tl.store(pairs + place, kept)
    kept = kept_columns(1, 3, i, 64, 32, threshold, seed_low, seed_high, first_batch)
    tl.store(columns + place, kept)
    kept = kept_rows(1, 3, i, 64, 32, threshold, seed_low, seed_high, first_batch)
    tl.store(rows + tl.trans(place), kept)
"""


def layouts() -> list[Array]:
    """What each helper draws for the same pairs."""
    helpers = "\n".join(HELPERS[name] for name in HELPERS if name.startswith(("philox", "kept")))
    text = LAYOUTS.replace("HELPERS", helpers)
    sizes = Specialization(DType.FLOAT32, 16, 16)
    module = load_module(Program("cuda:90", text, (), (), sizes, Tile(16, 32)))
    drawn = [torch.zeros(16, 32) for _ in range(3)]
    module.draw[1,](*drawn, *(DROPOUT.sizes[name] for name in DROPOUT_SIZES))
    return [np.float64(one) for one in drawn]


def test_every_layout_of_a_tile_draws_the_same(interpreter: Interpreter) -> None:
    places = np.ix_([1], [3], np.arange(16) - 5, np.arange(32) + 64)
    wanted = DROPOUT.kept(*places)[0, 0]
    for found in interpreter.call(layouts):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton cannot compile where it interprets"
)
@pytest.mark.parametrize(("name", "target"), BINARIES)
def test_binary_fits(name: str, target: str) -> None:
    """Without a stack, at head dimension 64."""
    from attndsl.runtime.triton_compile import choose

    made = plan(case_of(name).attention, dropout=True)
    sizes = Specialization(DType.BFLOAT16, 64, 64, log_sum_exp=True, dropout=True)
    _, binaries = choose(made, sizes, target)
    gpu = parse_target(target)
    for kernel in binaries.kernels:
        assert kernel.resources.stack == 0
        assert kernel.resources.shared <= gpu.shared


@pytest.mark.parametrize("name", SPECS)
def test_without_dropout_kernels_know_nothing_of_it(name: str) -> None:
    attention = case_of(name).attention
    plain, with_dropout = (
        emitter.emit(
            plan(attention, dropout=dropout),
            Specialization(DType.FLOAT32, 16, 16, dropout=dropout),
        ).text
        for dropout in (False, True)
    )
    assert "dropout" not in plain
    assert "dropout" in with_dropout
