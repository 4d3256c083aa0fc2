"""Parameters get their values."""

from __future__ import annotations

import numpy as np
import pytest

from attndsl.binding import bind
from attndsl.diagnostics import AttnError
from attndsl.module import load_text
from attndsl.printing import text

SPEC = """
attention a(window: int where window > 0, cap: float = 50.0, on: bool = True,
            inner: int = 2 where inner < window) {
    input bias: float[window, H]
    score = dot(q, k) * cap
    mask = i - j < window and on and i % inner == 0
    normalize = relu(divide = window)
}
"""


@pytest.fixture(scope="module")
def attention():
    return load_text(SPEC).attentions["a"]


def test_values_replace_parameters_everywhere(attention):
    bound = bind(attention, window=8, cap=2)
    assert bound.is_bound
    assert not attention.is_bound
    assert text(bound.score) == "dot(q, k) * 2.0"
    assert text(bound.mask) == "i - j < 8 and True and i % 2 == 0"
    assert text(bound.inputs[0].dimensions[0]) == "8"
    assert text(bound.normalizer.divisor) == "float(8)"


def test_scalars_of_numpy_are_welcome(attention):
    bound = bind(attention, window=np.int64(8), cap=np.float32(0.5), on=np.bool_(False))
    assert text(bound.mask) == "i - j < 8 and False and i % 2 == 0"
    assert text(bound.score) == "dot(q, k) * 0.5"


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ({}, ["A060"]),
        ({"window": 3, "widow": 3}, ["A061"]),
        ({"widow": 3}, ["A061", "A060"]),
        ({"window": 3.0}, ["A062"]),
        ({"window": True}, ["A062"]),
        ({"window": "3"}, ["A062"]),
        ({"window": None}, ["A062"]),
        ({"window": 2**31}, ["A062"]),
        ({"window": np.arange(3)}, ["A062"]),
        ({"window": 3, "cap": float("nan")}, ["A062"]),
        ({"window": 3, "cap": "x" * 100_000}, ["A062"]),
        ({"window": 3, "on": 1}, ["A062"]),
        ({"window": 0}, ["A063", "A063"]),
        ({"window": 2}, ["A063"]),
    ],
)
def test_wrong_values(attention, values, codes):
    with pytest.raises(AttnError) as caught:
        bind(attention, **values)
    assert [found.code for found in caught.value.diagnostics] == codes
    assert len(str(caught.value)) < 2000


def test_a_misspelt_parameter_is_recognised(attention):
    with pytest.raises(AttnError, match="did you mean `window`"):
        bind(attention, window=3, widow=3)


def test_a_divisor_cannot_be_bound_to_zero():
    attention = load_text("attention a(n: int, m = 4) { mask = i // n == j % (m - n) }").attentions[
        "a"
    ]
    assert text(bind(attention, n=2).mask) == "i // 2 == j % (4 - 2)"
    for n in (0, 4):
        with pytest.raises(AttnError, match=f"A053.*\n.*\n.*\n.*\n.*0 for .*n = {n}"):
            bind(attention, n=n)


def test_a_guarded_divisor_can_be():
    spec = "attention a(n: int) { mask = j <= i or (i // n == j if n > 0 else False) }"
    bind(load_text(spec).attentions["a"], n=0)


def test_a_bound_without_a_value_is_broken():
    attention = load_text("attention a(w: int = 1 where 4 // w > 1) { mask = i < w }").attentions[
        "a"
    ]
    with pytest.raises(AttnError, match="A063"):
        bind(attention, w=0)
