"""Gradients by Triton's kernels, under its interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from naive import CASES
from triton_calls import Spoiled
from triton_gradients import errors, errors_of_text, gradients_of_text
from triton_interpreted import Interpreter

# What differs most in its kernels; the whole matrix is slow.
QUICK = [
    ("causal", 0, "fp16"),
    ("dilated", 0, "fp32"),
    ("documents", 0, "fp32"),
    ("mla", 0, "fp32"),
]
MATRIX = [
    (case.name, number, dtype)
    for case in CASES
    for number in range(len(case.shapes))
    for dtype in ("fp32", "fp16")
    if (case.name, number, dtype) not in QUICK
]
TOLERANCES = {"fp32": 2e-5, "fp16": 2e-3}


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def check(interpreter: Interpreter, name: str, number: int, dtype: str) -> None:
    for tensor, (error, of_pytorch) in interpreter.call(errors, name, number, dtype).items():
        assert error <= max(2 * of_pytorch, TOLERANCES[dtype]), (tensor, error, of_pytorch)


@pytest.mark.parametrize(("name", "number", "dtype"), QUICK)
def test_example(interpreter: Interpreter, name: str, number: int, dtype: str) -> None:
    check(interpreter, name, number, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "dtype"), MATRIX)
def test_every_example(interpreter: Interpreter, name: str, number: int, dtype: str) -> None:
    check(interpreter, name, number, dtype)


SMALL = {"batch": 2, "heads": 2, "key_heads": 1, "queries": 19, "keys": 23, "width": 16}
TABLES = {
    "by_distance_and_head": ("input x: float[45, H]", "x[i - j + 22, h]"),
    "by_key_head": ("input x: float[Hkv, 4]", "x[g, min(abs(i - j), 3)]"),
    "of_two_indices": ("input x: float[3, 4]", "x[i % 3, j % 4]"),
    "vectors_by_distance": ("input x: float[45, D]", "dot(x[i - j + 22], q)"),
    "vectors_by_bucket": ("input x: float[5, D]", "dot(x[min(abs(i - j), 4)], q)"),
    "vectors_of_keys": ("input x: float[3, D]", "dot(x[min(abs(i - j), 2)], k)"),
    "of_pairs_of_a_batch": ("input x: float[B, Lq, Lk]", "x[b, row, j]"),
    "of_pairs_of_a_key_head": ("input x: float[Hkv, Lq, Lk]", "x[g, row, j]"),
    "of_pairs_of_all": ("input x: float[Lq, Lk]", "x[row, j]"),
}


# The others differ in what is summed up afterwards.
QUICK_TABLES = {"by_distance_and_head", "of_two_indices", "vectors_by_bucket", "of_pairs_of_all"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=() if one in QUICK_TABLES else pytest.mark.slow) for one in TABLES],
)
def test_sums_over_the_pairs_that_read_an_element(interpreter: Interpreter, name: str) -> None:
    declared, read = TABLES[name]
    text = f"attention a {{ {declared}\nscore = dot(q, k) * scale + {read}\nmask = causal }}"
    found = interpreter.call(errors_of_text, text, "fp32", SMALL)
    assert max(found.values()) <= TOLERANCES["fp32"], found


def test_sums_of_elements_in_several_turns(interpreter: Interpreter) -> None:
    """More tiles than a head has programs at a time."""
    text = """attention a {
        input x: float[3]
        score = dot(q, k) * scale + x[min(i - j, 2)]
        mask = causal and i - j < 5
    }"""
    sizes = {**SMALL, "batch": 1, "queries": 300, "keys": 300}
    found = interpreter.call(errors_of_text, text, "fp32", sizes)
    assert max(found.values()) <= TOLERANCES["fp32"], found


MASKS = {
    "stripes": ("causal and j % 20 < 3", 90, 90),
    "more_keys": ("causal and i - j < 20", 33, 70),
    "more_queries": ("causal and i - j < 20", 70, 33),
    "no_row_sees_any": ("j > i + 100", 20, 20),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(interpreter: Interpreter, name: str) -> None:
    mask, queries, keys = MASKS[name]
    sizes = {**SMALL, "batch": 1, "queries": queries, "keys": keys}
    found = interpreter.call(errors_of_text, f"attention a {{ mask = {mask} }}", "fp32", sizes)
    assert max(found.values()) <= TOLERANCES["fp32"], found


def test_the_log_sum_exp_has_a_gradient(interpreter: Interpreter) -> None:
    text = "attention a { mask = causal }"
    found = interpreter.call(errors_of_text, text, "fp32", SMALL, True)
    assert max(found.values()) <= TOLERANCES["fp32"], found


@pytest.mark.parametrize("sizes", [{"queries": 0}, {"keys": 0}, {"batch": 0}], ids=str)
def test_tensors_of_nothing(interpreter: Interpreter, sizes: dict[str, int]) -> None:
    text = "attention a { input x: float[H]\nscore = dot(q, k) * x[h] }"
    found = interpreter.call(gradients_of_text, text, {**SMALL, **sizes})
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize(
    "name",
    [
        "turn",
        "k_sum_by_head",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("part", "q_sum_here", "delta")),
    ],
)
def test_no_name_of_an_input_is_taken(interpreter: Interpreter, name: str) -> None:
    """What kernels read and write beside the inputs has names of its own."""
    text = "attention a { input NAME: float[3]\nscore = dot(q, k) * NAME[min(abs(i - j), 2)] }"
    found, expected = (
        interpreter.call(gradients_of_text, text.replace("NAME", one), SMALL)
        for one in (name, "plain")
    )
    np.testing.assert_array_equal(found.pop(name), expected.pop("plain"))
    for one, gradient in found.items():
        np.testing.assert_array_equal(gradient, expected[one])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_hidden_does_not_leak(interpreter: Interpreter, value: float) -> None:
    """A key that is not finite is in the gradients of those that see it, and of what these see."""
    text = "attention a { mask = causal and i - j < 12 }"
    sizes = {**SMALL, "batch": 1, "key_heads": 2, "queries": 60, "keys": 60}
    clean = interpreter.call(gradients_of_text, text, sizes)
    spoiled = [Spoiled(name, (0, 0, 30), value) for name in ("k", "v")]
    found = interpreter.call(gradients_of_text, text, sizes, spoiled)
    see_it = slice(30, 42)
    are_seen = slice(19, 42)
    for name, touched in (("q", see_it), ("k", are_seen), ("v", are_seen)):
        head = found[name].shape[1] // 2
        mine, others = found[name][0, :head], found[name][0, head:]
        np.testing.assert_array_equal(others, clean[name][0, head:])
        assert np.isnan(mine[:, touched]).any()
        apart = np.ones(60, bool)
        apart[touched] = False
        np.testing.assert_allclose(
            mine[:, apart], clean[name][0, :head, apart].swapaxes(0, 1), 1e-4, 1e-5
        )
