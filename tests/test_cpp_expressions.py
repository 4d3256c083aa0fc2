"""Emitted expressions: integers are exact and floor, functions are precise, names are harmless.

With values of the identity and weights that are the scores themselves, the output is the score of
every pair. Heads choose among expressions, so that many share one kernel.
"""

from __future__ import annotations

import math
import random
import re
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from cpp_calls import attention_of

from attndsl.runtime.kernel import Kernel

QUERIES, KEYS = 70, 83


def scores(expressions: list[str], inputs: str = "", **tensors: Any) -> np.ndarray[Any, Any]:
    """The score of every pair by each expression, float32 `[expression, query, key]`."""
    chosen = reduce(
        lambda rest, one: f"({one[1]}) if h == {one[0]} else ({rest})",
        enumerate(expressions[1:], 1),
        expressions[0],
    )
    spec = f"attention all {{ {inputs}\n score = {chosen}\n normalize = none }}"
    q = torch.zeros(1, len(expressions), QUERIES, 4)
    k = torch.zeros(1, 1, KEYS, 4)
    v = torch.eye(KEYS).reshape(1, 1, KEYS, KEYS)
    return Kernel(attention_of(spec))(q, k, v, offset=-20, **tensors)[0].numpy()


def random_integer(choose: random.Random, depth: int) -> str:
    """An integer expression whose values stay far below 2^24."""
    if depth == 0:
        return choose.choice(["i", "j", "h", "(i - j)", str(choose.randint(-9, 9)), "Lk", "row"])
    left, right = (random_integer(choose, depth - 1) for _ in range(2))
    divisor = choose.choice([-7, -4, -3, 1, 2, 3, 5, 8, 16])
    match choose.randrange(8):
        case 0:
            return f"({left} + {right})"
        case 1:
            return f"({left} - {right})"
        case 2:
            return f"({left} // {divisor})"
        case 3:
            return f"({left} % {divisor})"
        case 4:
            return f"min({left}, {right})"
        case 5:
            return f"max(abs({left}), {right})"
        case 6:
            return f"({left} if {left} < {right} and not {right} == {left} else {right})"
    return f"(({left} % 19) * ({right} % 23) // (abs({right}) + 1))"


def in_python(expression: str, h: int) -> np.ndarray[Any, Any]:
    """What Python makes of an expression, whose division floors."""
    code = compile(expression, "<expression>", "eval")
    functions = {"min": min, "max": max, "abs": abs, "Lk": KEYS, "h": h}
    return np.array(
        [
            [eval(code, {**functions, "row": row, "i": row - 20, "j": j}) for j in range(KEYS)]
            for row in range(QUERIES)
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_integers_are_exact_and_floor(seed: int) -> None:
    choose = random.Random(seed)
    expressions = [random_integer(choose, 1 + number % 3) for number in range(16)]
    found = scores([f"float({one})" for one in expressions])
    for number, expression in enumerate(expressions):
        wanted = in_python(expression, number)
        np.testing.assert_array_equal(found[number], wanted, err_msg=expression)


def test_division_by_zero_does_not_trap() -> None:
    """A hidden pair may divide by zero; what it gives is nobody's business."""
    spec = """
    attention divided {
        mask = j > 0 and i >= j and (i // j) % 2 == 0
    }
    """
    q, k, v = (torch.randn(1, 1, 100, 8) for _ in range(3))
    assert torch.isfinite(Kernel(attention_of(spec))(q, k, v)).all()


FUNCTIONS = {
    "exp(x)": (np.exp, -80.0, 80.0),
    "exp2(x)": (np.exp2, -120.0, 120.0),
    "log(x)": (np.log, 1e-30, 1e30),
    "log2(x)": (np.log2, 1e-3, 100.0),
    "sqrt(x)": (np.sqrt, 0.0, 1e6),
    "rsqrt(x)": (lambda x: 1 / np.sqrt(x), 1e-6, 1e6),
    "tanh(x)": (np.tanh, -12.0, 12.0),
    "sigmoid(x)": (lambda x: 1 / (1 + np.exp(-x)), -18.0, 80.0),
    "softplus(x)": (lambda x: np.log1p(np.exp(x)), -80.0, 80.0),
    "sin(x)": (np.sin, -30.0, 30.0),
    "cos(x)": (np.cos, -1e6, 1e6),
    "erf(x)": (np.vectorize(math.erf), -5.0, 5.0),
    "abs(x)": (np.abs, -1.0, 1.0),
    "sign(x)": (np.sign, -1.0, 1.0),
    "relu(x)": (lambda x: np.maximum(x, 0), -1.0, 1.0),
    "x ** 3": (lambda x: x**3, -5.0, 5.0),
    "x ** 1.7": (lambda x: x**1.7, 1e-3, 5.0),
    "float(floor(x))": (np.floor, -1000.0, 1000.0),
    "min(x, 0.5)": (lambda x: np.minimum(x, 0.5), -1.0, 1.0),
    "x / 3.0": (lambda x: x / 3, -5.0, 5.0),
    "x // 0.5": (lambda x: np.floor(x / 0.5), -9e9, 9e9),
    "x % 0.5": (lambda x: np.remainder(x, 0.5), -100.0, 100.0),
    "x % -0.5": (lambda x: np.remainder(x, -0.5), -100.0, 100.0),
}


def test_functions_are_precise() -> None:
    names = list(FUNCTIONS)
    generator = np.random.default_rng(0)
    x = np.empty((len(names), QUERIES, KEYS), np.float32)
    for number, (_, low, high) in enumerate(FUNCTIONS.values()):
        spread = generator.uniform(low, high, (QUERIES, KEYS))
        # Small arguments too: errors there are relative to a small result.
        spread[::2] *= generator.uniform(0, 1, (QUERIES // 2, KEYS)) ** 8
        x[number] = np.maximum(spread, low)
    found = scores(
        [re.sub(r"\bx\b", "x[h, row, j]", name) for name in names],
        "input x: float[H, Lq, Lk]",
        x=torch.from_numpy(x),
    )
    for number, (name, (function, _, _)) in enumerate(FUNCTIONS.items()):
        wanted = function(x[number].astype(np.float64))
        # Relative to the result, or to the argument's own rounding where that is larger.
        allowed = 1.5e-6 * np.abs(wanted) + 1e-37
        if name in ("log(x)", "log2(x)", "cos(x)", "sin(x)"):
            allowed += 2e-7
        error = np.abs(found[number] - wanted)
        assert (error <= allowed).all(), (name, float((error / allowed).max()))


SPELLINGS = """
linux register score cell scratch INLINE exp2_ rows out_stride_0 Floats minimum keys head_1
arguments partial asm
"""


@pytest.mark.parametrize("name", SPELLINGS.split())
def test_names_of_a_spec_never_clash(name: str) -> None:
    """Inputs may be called what the emitter or C++ call their own things."""
    spec = f"""
    attention named {{
        input {name}: float[H]
        score = dot(q, k) * scale + {name}[h] * (j - i)
        mask = causal
    }}
    """
    q, k, v = (torch.randn(1, 2, 70, 16) for _ in range(3))
    slope = torch.tensor([0.1, 0.2])
    plain = spec.replace(name + ":", "slope:").replace(f"{name}[h]", "slope[h]")
    wanted = Kernel(attention_of(plain))(q, k, v, slope=slope)
    assert torch.equal(Kernel(attention_of(spec))(q, k, v, **{name: slope}), wanted)
