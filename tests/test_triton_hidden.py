"""What the mask hides leaves no trace in emitted kernels, and what it shows does.

Under Triton's interpreter, against the reference, which computes every row from its visible keys
alone: NaN and infinities must stand where it has them, and everything else must be as close as
ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_calls import Spoiled
from triton_interpreted import Interpreter

SIZES = {"queries": 45, "keys": 59, "batch": 1, "heads": 2, "key_heads": 1}
BAD = [math.nan, math.inf, -math.inf]
EVERY = slice(None)
# Keys that some rows of a tile see and others do not, keys in FULL blocks, the last key of all.
KEYS = [2, 17, 31, 40, 58]
SPECS = {
    "causal": "mask = causal",
    "no mask": "",
    "two intervals": "mask = causal and (i - j < 9 or j < 3)",
    "a table": "input doc: int[Lk]\nmask = doc[i] == doc[j] or i == j",
    "a table of values in pieces": "input seen: bool[Lq, Lk]\nmask = seen[row, j]",
    "residue classes": "mask = abs(i - j) <= 30 and (i - j) % 3 == 0",
    "two stages": "mask = causal and (i - j < 16 or (i - j) % 16 == 0)",
    "few rows see anything": "mask = j > i + 25",
    "a sink": "input sink: float[H]\nmask = causal\nnormalize = softmax(sink = sink[h])",
    "a sink with a value": "input sentinel: float[H, Dv]\nmask = causal\n"
    "normalize = softmax(sink = 0.5, value = sentinel[h])",
    "sigmoid": "mask = causal\nnormalize = sigmoid",
    "relu": "mask = i - j < 7\nnormalize = relu(divide = Lk)",
    "sum": "score = exp(dot(q, k) * scale)\nmask = causal\nnormalize = sum",
    "none": "mask = causal\nnormalize = none",
    "positions in the score": "input slope: float[H]\n"
    "score = dot(q, k) * scale - slope[h] * (i - j) + cos(float(j % 7))\nmask = causal",
    "congruences": "mask = i >= j and (i - j) % 5 != 2 and (j // 3 % 2 == 0 or i - j < 4)",
    "prepared vectors": "q = rope(q, i)\nk = rope(k, j)\nmask = causal",
    "prepared values": "v = rope(v, j)\nmask = causal",
    "vectors pair by pair": "score = sum(tanh(q + k)) * scale\nmask = causal",
    "values among the keys": "v = k[0:8]\nmask = causal",
}
KEY_SPECS = [
    "causal",
    "a table",
    "sigmoid",
    "none",
    "vectors pair by pair",
    "values among the keys",
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def spec(body: str) -> str:
    return f"attention a {{\n{body}\n}}"


def rows(name: str, keys: list[int], value: float) -> list[Spoiled]:
    """A third of the elements of some tokens of `q`, `k` or `v`."""
    return [Spoiled(name, (EVERY, EVERY, key, slice(1, None, 3)), value) for key in keys]


def spoiled_rows(name: str) -> list[Spoiled]:
    """A quarter of the elements of `KEYS` for each of `BAD`, and a quarter as it was."""
    return [
        Spoiled(name, (EVERY, EVERY, key, slice(first, None, 4)), value)
        for key in KEYS
        for first, value in enumerate(BAD)
    ]


@pytest.mark.parametrize("name", SPECS)
def test_values(interpreter: Interpreter, name: str) -> None:
    text = spec(SPECS[name])
    spoiled = spoiled_rows("v")
    interpreter.compare_text(text, "fp32", spoiled, **SIZES, value_width=24).check("fp32")


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", KEY_SPECS)
def test_keys(interpreter: Interpreter, name: str, bad: float) -> None:
    spoiled = rows("k", KEYS, bad)
    text = spec(SPECS[name])
    interpreter.compare_text(text, "fp32", spoiled, **SIZES).check("fp32")


@pytest.mark.parametrize("name", ["causal", "no mask", "a table", "two stages", "sigmoid"])
def test_the_last_keys_in_half_precision(interpreter: Interpreter, name: str) -> None:
    """Lanes of a tile past the last key repeat it, or are zeros."""
    spoiled = [*rows("v", [58], math.inf), *rows("v", [57, 33], math.nan)]
    interpreter.compare_text(spec(SPECS[name]), "fp16", spoiled, **SIZES).check("fp16")


def test_infinities_of_both_signs(interpreter: Interpreter) -> None:
    """They cancel to NaN in rows that see both, and in no other."""
    spoiled = [
        Spoiled("v", (EVERY, EVERY, 5, slice(0, 8)), math.inf),
        Spoiled("v", (EVERY, EVERY, 33, slice(4, 12)), -math.inf),
    ]
    interpreter.compare_text(spec("mask = causal"), "fp32", spoiled, **SIZES).check("fp32")


def test_a_visible_key_of_no_weight(interpreter: Interpreter) -> None:
    """A score of minus infinity gives weight 0, and 0 · NaN is NaN for the rows that see it."""
    text = spec(
        "input bias: float[Lk]\nscore = dot(q, k) * scale + bias[j]\nmask = causal and i - j < 20"
    )
    spoiled = [Spoiled("bias", (slice(0, 12),), -math.inf), *rows("v", [7, 21], math.nan)]
    interpreter.compare_text(text, "fp32", spoiled, **SIZES).check("fp32")


def test_a_divisor_of_zero_hides_the_row(interpreter: Interpreter) -> None:
    """Where all weights are 0 the row is 0 by definition, whatever the values."""
    text = spec(
        "score = dot(q, k) * (1.0 if i > 30 else 0.0)\nmask = causal\n"
        "normalize = relu(divide = sum)"
    )
    spoiled = rows("v", [3, 20, 40], math.nan)
    interpreter.compare_text(text, "fp32", spoiled, **SIZES).check("fp32")


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("normalize", ["softmax", "sigmoid", "relu(divide = sum)", "none"])
def test_inputs_at_hidden_pairs(interpreter: Interpreter, normalize: str, bad: float) -> None:
    """A bias for every pair, spoiled in columns that are visible to some rows only."""
    text = spec(
        "input bias: float[H, Lq, Lk]\nscore = dot(q, k) * scale + bias[h, row, j]\n"
        f"mask = causal and i - j < 20\nnormalize = {normalize}"
    )
    spoiled = [Spoiled("bias", (0, EVERY, key), bad) for key in (9, 30)]
    interpreter.compare_text(text, "fp32", spoiled, **SIZES).check("fp32")


@pytest.mark.parametrize("score", ["relu(x)", "max(x, 0.1)", "min(x, 0.5)", "abs(x)", "-x"])
def test_a_visible_nan_passes_through_functions(interpreter: Interpreter, score: str) -> None:
    text = spec(f"let x = dot(q, k) * scale\nscore = {score}\nmask = causal\nnormalize = none")
    spoiled = rows("k", [9, 30], math.nan)
    interpreter.compare_text(text, "fp32", spoiled, **SIZES).check("fp32")


def test_queries_past_the_tail(interpreter: Interpreter) -> None:
    """Lanes past the last row repeat it: a spoiled row spoils no other."""
    spoiled = rows("q", [3, 44], math.nan)
    interpreter.compare_text(spec("mask = causal"), "fp32", spoiled, **SIZES).check("fp32")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    window=st.integers(1, 60),
    step=st.integers(1, 5),
    normalize=st.sampled_from(["softmax", "softmax1", "sigmoid", "relu(divide = sum)", "none"]),
    places=st.lists(
        st.tuples(
            st.sampled_from("kv"), st.integers(0, 58), st.integers(0, 15), st.sampled_from(BAD)
        ),
        max_size=6,
    ),
)
def test_any_places(
    interpreter: Interpreter,
    window: int,
    step: int,
    normalize: str,
    places: list[tuple[str, int, int, float]],
) -> None:
    spoiled = [
        Spoiled(name, (EVERY, EVERY, key, element), bad) for name, key, element, bad in places
    ]
    mask = f"abs(i - j) < {window} and (i + j) % {step} == 0"
    text = spec(f"mask = {mask}\nnormalize = {normalize}")
    interpreter.compare_text(text, "fp32", spoiled, **SIZES).check("fp32")
