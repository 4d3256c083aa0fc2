"""What the language says about numbers holds in emitted kernels, under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from triton_interpreted import Interpreter

SMALL = {"queries": 21, "keys": 37, "batch": 1, "heads": 2, "key_heads": 1}

MASKS = {
    "floor of negative differences": "(i - j) // 5 % 3 == 1 or j == 0",
    "floor by a power of two": "(i - j - 3) // 4 % 8 != 2",
    "remainder of a negative number": "(j - i - 7) % 6 < 4",
    "division by an input": "(i - j) // (abs(step[j]) + 1) % 2 == 0 or i == j",
    "division by a negative number": "(i - j) // -3 < 5 and (i + j) % -4 > -3",
    "floor of floats": "float(i - j) // 2.5 < 3.0 and float(j) % -2.5 > -2.0 or i == j",
    "no key for some rows": "i - j > 20",
    "no key at all": "flag[h] and i - j == 100",
    "negations": "not (i < j and not (i - j) % 2 == 0 or flag[h])",
    "choice of a bound": "i - j < (4 if h == 0 else 9) and i >= j",
    "reads out of range": "step[min(i * 3, Lk - 1)] > -5 or step[max(j - 40, 0)] == 3",
    "powers of integers": "(i - j) ** 2 < 90 and 2 ** (j % 4) != 4",
    "chunks of a size": "i // (Lk // 4) == j // (Lk // 4)",
    "a grid of a size": "(i - j) % (Lk // 3) == 0",
    "positions that wrap around": "((i - 3) % Lk) // 7 == ((j - 3) % Lk) // 7",
    "an input on both axes": "layout[i // 9, j // 9] or i == j",
}
SCORES = {
    "every function": (
        "dot(q, k) * scale + exp(-abs(float(i - j))) + exp2(-1.0 * abs(float(i)))"
        " + log(float(j) + 1.0)"
        " + log2(float(j) + 2.0) + sqrt(float(j)) + rsqrt(float(j) + 1.0) + tanh(float(i - j))"
        " + sigmoid(dot(q, k)) + softplus(dot(q, k)) + relu(dot(q, k)) + erf(dot(q, k))"
        " + sign(dot(q, k))"
        " + sin(float(i)) + cos(float(i - j)) + float(floor(dot(q, k))) * 0.001"
    ),
    "powers": "dot(q, k) * scale + float(abs(i - j)) ** 0.5 - 0.5 ** float(abs(i - j))"
    " + dot(q, k) ** 2 * 0.1 - (dot(q, k) + 9.0) ** 3 * 0.001",
    "distances as floats": "dot(q, k) * scale - 0.25 * abs(i - j) + 0.125 * max(i - j, 3)",
    "a negative factor": "-dot(q, k) * scale",
    "the same for every pair": "0.5",
    "per key only": "bias[j]",
    "a bounded score": "10.0 * tanh(dot(q, k) * scale / 10.0) * (2.0 if i > j else 1.0)",
    "reductions over pairs": "sum(q * k) * scale + amax(q + k) - norm(q - k) + mean(q) * norm(k)",
    "a choice between dots": "dot(q, k) * scale if (i - j) % 2 == 0 else dot(q[0:8], k[8:16])",
    "a table of distances": "dot(q, k) * scale + table[h, min(abs(i - j), 6)]",
}
NORMALIZERS = {
    "a sink of the row": "softmax(sink = table[h, 3] * 2.0 + float(i) * 0.1)",
    "off by one": "softmax1",
    "laplace": "laplace",
    "a function of one's own": "weigh",
    "sum": "relu2(divide = sum, epsilon = 0.25)",
    "by length": "relu(divide = Lk)",
    "none": "none",
}
INPUTS = """
    input step: int[Lk]
    input flag: bool[H]
    input bias: float[Lk]
    input layout: bool[cdiv(Lk, 9), cdiv(Lk, 9)]
    input table: float[H, 7]
"""


def spec(body: str) -> str:
    """An attention with those of `INPUTS` that its body reads."""
    used = [
        line for line in INPUTS.splitlines() if line and line.split()[1].rstrip(":") + "[" in body
    ]
    return "\n".join(["def weigh(x) = exp(x) / (1.0 + x * x)", "attention a {", *used, body, "}"])


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


@pytest.mark.parametrize("name", MASKS)
def test_masks(interpreter: Interpreter, name: str) -> None:
    text = spec(f"mask = {MASKS[name]}")
    interpreter.compare_text(text, "fp32", **SMALL).check("fp32")


@pytest.mark.parametrize("name", [name for name, mask in MASKS.items() if "[" not in mask])
def test_masks_with_negative_positions(interpreter: Interpreter, name: str) -> None:
    """More queries than keys: the first rows stand before position 0, where nothing can be read."""
    sizes = {**SMALL, "queries": 45, "keys": 20}
    interpreter.compare_text(spec(f"mask = {MASKS[name]}"), "fp32", **sizes).check("fp32")


@pytest.mark.parametrize("name", SCORES)
def test_scores(interpreter: Interpreter, name: str) -> None:
    text = spec(f"score = {SCORES[name]}\nmask = i - j < 30")
    interpreter.compare_text(text, "fp32", **SMALL).check("fp32")


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers(interpreter: Interpreter, name: str) -> None:
    text = spec(f"mask = i - j > 3\nnormalize = {NORMALIZERS[name]}")
    interpreter.compare_text(text, "fp32", **SMALL).check("fp32")


@pytest.mark.parametrize("scale", [0.0, -0.7, 3.0])
def test_any_scale(interpreter: Interpreter, scale: float) -> None:
    text = spec("mask = causal")
    interpreter.compare_text(text, "fp32", **SMALL, scale=scale).check("fp32")


@pytest.mark.parametrize(("width", "value_width"), [(8, 8), (24, 40), (72, 16), (96, 112), (1, 3)])
def test_any_head_dimension(interpreter: Interpreter, width: int, value_width: int) -> None:
    sizes = {**SMALL, "width": width, "value_width": value_width}
    interpreter.compare_text(spec("mask = causal"), "fp32", **sizes).check("fp32")


def test_wide_heads_of_absorbed_latent_attention(interpreter: Interpreter) -> None:
    """Keys of 576 elements whose first 512 are the values, as multi-head latent attention has."""
    sizes = {**SMALL, "queries": 5, "keys": 40, "width": 576, "value_width": 512}
    interpreter.compare_text(spec("v = k[0:512]"), "fp32", **sizes).check("fp32")


@pytest.mark.parametrize("queries", [0, 1, 32, 33])
@pytest.mark.parametrize("keys", [1, 16, 17])
def test_lengths_at_the_edges_of_tiles(interpreter: Interpreter, queries: int, keys: int) -> None:
    sizes = {**SMALL, "queries": queries, "keys": keys}
    interpreter.compare_text(spec("mask = causal"), "fp32", **sizes).check("fp32")


def test_hidden_scores_do_not_leak(interpreter: Interpreter) -> None:
    """NaN and infinities in the scores of hidden pairs leave no trace."""
    text = """attention a {
        input bad: float[Lk]
        score = dot(q, k) * scale + (bad[j] if j > 20 else 0.0)
        mask = j <= 20 and i - j < 25
    }"""
    interpreter.compare_text(text, "fp32", **SMALL).check("fp32")
