"""`grammar/std.attn`: every pattern against a few lines of Python."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from naive.grids import natten_window

from attndsl import reference
from attndsl.check.prelude import standard_patterns
from attndsl.evaluate import Environment, evaluate
from attndsl.module import load_text
from attndsl.parsing import parse
from attndsl.source import Source

LENGTH, GRID = 24, (4, 6)
DOC = np.sort(np.random.default_rng(0).integers(0, 4, (1, LENGTH)))
FLAG = np.arange(LENGTH)[None] % 7 == 3
LAYOUT = np.random.default_rng(1).random((1, 6, 6)) < 0.5


def near(p: int, c: int) -> bool:
    (y1, x1), (y2, x2) = divmod(p, GRID[1]), divmod(c, GRID[1])
    rows = natten_window(y1, GRID[0], 3, 2, 1, causal=False)
    columns = natten_window(x1, GRID[1], 3, 2, 1, causal=False)
    return y2 in rows and x2 in columns


MASKS: dict[str, Callable[[int, int], bool]] = {
    "causal": lambda i, j: j in range(i + 1),
    "sliding(5)": lambda i, j: j > i - 5,
    "band(3, 2)": lambda i, j: j in range(i - 3, i + 3),
    "dilated(2, 3)": lambda i, j: j in (i - 6, i - 3, i, i + 3, i + 6),
    "strided(5)": lambda i, j: j in range(i % 5, LENGTH, 5),
    "summaries(6, 2)": lambda i, j: j in (4, 5, 10, 11, 16, 17, 22, 23),
    "global_tokens(2)": lambda i, j: {i, j} & {0, 1} != set(),
    "sinks(3)": lambda i, j: j in (0, 1, 2),
    "prefix(7)": lambda i, j: j <= max(i, 6),
    "chunked(7)": lambda i, j: math.floor(i / 7) == math.floor(j / 7),
    "chunk_causal(7)": lambda i, j: j < (math.floor(i / 7) + 1) * 7,
    "a_shape(2, 4)": lambda i, j: j in (0, 1) or j > i - 4,
    "documents(doc)": lambda i, j: bool(DOC[0, i] == DOC[0, j]),
    "global_flags(flag)": lambda i, j: i % 7 == 3 or j % 7 == 3,
    "blocks(layout, 4)": lambda i, j: bool(LAYOUT[0, i // 4, j // 4]),
    "neighborhood1d(i, j, Lk, 5, dilation = 2)": lambda i, j: (
        j in natten_window(i, LENGTH, 5, 1, 2, causal=False)
    ),
    "neighborhood1d(i, j, Lk, 6, stride = 4, causal = True)": lambda i, j: (
        j in natten_window(i, LENGTH, 6, 4, 1, causal=True)
    ),
    "neighborhood(3, stride = 2)": near,
    "circle(3)": lambda i, j: math.dist(divmod(i, GRID[1]), divmod(j, GRID[1])) < 3 - 1e-9,
}


@pytest.mark.parametrize("mask", MASKS)
def test_mask(mask: str) -> None:
    inputs = {"doc": DOC, "flag": FLAG, "layout": LAYOUT}
    declared = {
        "doc": "input doc: int[B, Lk]",
        "flag": "input flag: bool[B, Lk]",
        "layout": "input layout: bool[H, Lq // 4, Lk // 4]",
    }
    used = [name for name in inputs if re.search(rf"\b{name}\b", mask)]
    axes = "axes y, x" if mask.startswith(("circle", "neighborhood(")) else ""
    body = " ".join([axes, *(declared[name] for name in used), f"mask = {mask}"])
    tokens = np.zeros((1, 1, LENGTH, 1))
    # With the identity as values, the output of a sum of ones is the mask itself.
    spec = load_text(f"attention a {{ {body} score = 1.0 normalize = none }}")
    result = reference.run(
        spec.attentions["a"],
        tokens,
        tokens,
        np.eye(LENGTH)[None, None],
        {name: inputs[name] for name in used},
        axes=dict(zip(("y", "x"), GRID, strict=True)) if axes else None,
    )
    expected = [[MASKS[mask](i, j) for j in range(LENGTH)] for i in range(LENGTH)]
    np.testing.assert_array_equal(result.output[0, 0], expected)


def score(text: str, x: np.ndarray | float, position: int = 3) -> np.ndarray:
    """The value of `text` where `q` is the vector `x` (or its one element) at `position`."""
    spec = load_text(f"attention a {{ axes y, x q = {text} }}").attentions["a"]
    ((_, expression),) = spec.prepared
    vector = np.atleast_1d(np.asarray(x, np.float64))
    environment = Environment(
        indices={"i": np.asarray(position)},
        operands={"q": vector},
        sizes={"D": len(vector), "axis.y": 4, "axis.x": 2},
        axes=("y", "x"),
    )
    return evaluate(expression, environment)


NUMBERS: dict[str, Callable[[float], float]] = {
    "softcap(q, 5.0)": lambda x: math.tanh(x / 5) * 5,
    "logsigmoid(q)": lambda x: math.log(1 / (1 + math.exp(-x))),
    "silu(q)": lambda x: x / (1 + math.exp(-x)),
    "gelu(q)": lambda x: x * (1 + math.erf(x * math.sqrt(0.5))) / 2,
    "clamp(q, -1.0, 2.0)": lambda x: sorted((-1.0, x, 2.0))[1],
    "relu2(q)": lambda x: x * x if x > 0 else 0.0,
    "laplace(q)": lambda x: (1 + math.erf((x - 0.707107) / 0.282095 / math.sqrt(2))) / 2,
    "taylor2(q)": lambda x: ((x + 1) ** 2 + 1) / 2,
    "elu1(q)": lambda x: x + 1 if x > 0 else math.exp(x),
}


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize("x", [-2.5, -0.3, 0.0, 0.7, 4.0])
def test_function_of_a_number(text: str, x: float) -> None:
    assert score(text, x)[..., 0] == pytest.approx(NUMBERS[text](x), rel=1e-12, abs=1e-14)


X = np.array([0.3, -1.2, 2.0, 0.7, -0.4, 1.1, 0.9, -2.2])


def turned(x: np.ndarray, first: list[int], second: list[int], position: int) -> np.ndarray:
    """Element `first[n]` turns with element `second[n]`, by `position · 10000^(-n / pairs)`."""
    result = x.copy()
    for n, (a, c) in enumerate(zip(first, second, strict=True)):
        angle = position * 10000.0 ** (-n / len(first))
        turned = complex(x[a], x[c]) * complex(math.cos(angle), math.sin(angle))
        result[a], result[c] = turned.real, turned.imag
    return result


VECTORS: dict[str, np.ndarray] = {
    "normalized(q)": X / np.linalg.norm(X),
    "rms_norm(q)": X / np.sqrt(np.mean(X**2) + 1e-6),
    "layer_norm(q)": (X - X.mean()) / np.sqrt(X.var() + 1e-5),
    "softmax_features(q)": np.concatenate(
        [np.exp(X) / np.exp(X).sum(), np.exp(-X) / np.exp(-X).sum()]
    ),
    "rope(q, i)": turned(X, [0, 1, 2, 3], [4, 5, 6, 7], 3),
    "rope_pairs(q, i)": turned(X, [0, 2, 4, 6], [1, 3, 5, 7], 3),
    "rope_partial(q, i, 4)": turned(X, [0, 1], [2, 3], 3),
    # Position 3 of a grid of width 2 is row 1, column 1.
    "rope2d(q, i.y, i.x)": np.concatenate(
        [turned(X[:4], [0, 1], [2, 3], 1), turned(X[4:], [0, 1], [2, 3], 1)]
    ),
}


@pytest.mark.parametrize("text", VECTORS)
def test_function_of_a_vector(text: str) -> None:
    np.testing.assert_allclose(score(text, X), VECTORS[text], rtol=1e-12)


def test_biases() -> None:
    spec = load_text(
        "attention a { input slope: float[H] "
        "score = alibi(slope) + distance_bucket(abs(i - j), 8, 128) normalize = none }"
    ).attentions["a"]
    tokens = np.zeros((1, 1, 200, 1))
    values = np.eye(200)[None, None]
    found = reference.run(spec, tokens, tokens, values, {"slope": [0.5]}).output[0, 0]
    # The first distance of each of T5's buckets from the eighth on.
    starts = [8, 12, 16, 23, 32, 46, 64, 91]
    for j in range(200):
        bucket = j if j < 8 else 7 + sum(j >= start for start in starts)
        assert found[0, j] == pytest.approx(bucket - 0.5 * j)


def test_every_pattern_is_tested_or_part_of_one_that_is() -> None:
    tested = {re.match(r"\w+", text)[0] for text in (*MASKS, *NUMBERS, *VECTORS)}  # type: ignore[index]
    tested |= {"alibi", "distance_bucket"}
    text = (Path(__file__).parents[1] / "grammar" / "std.attn").read_text("utf-8")
    parts = {"neighborhood_undilated", "neighborhood_start", "neighborhood_causal_start", "centred"}
    parts |= {"distance_bucket_wide", "rope_angles", "rope_frequencies", "rope_pair_angles"}
    assert set(standard_patterns().definitions) == (tested - {"neighborhood"}) | parts
    assert all(len(re.findall(rf"\b{part}\(", text)) > 1 for part in parts)


def test_each_pattern_is_read_by_itself_as_in_the_whole_file() -> None:
    path = Path(__file__).parent.parent / "grammar/std.attn"
    source = Source(path.read_text("utf-8"), "std.attn")
    whole = {one.name.parts[0]: one for one in parse(source).definitions}
    alone = {name: one.definition for name, one in standard_patterns().definitions.items()}
    assert alone == whole
    assert list(alone) == list(whole)
    assert [one.span for one in alone.values()] == [one.span for one in whole.values()]
