"""Index roles: a dimension knows what may index it."""

from __future__ import annotations

import pytest

from attndsl.module import load_text
from tests.faults import assert_fault

INPUTS = """input slope: float[H] input kv: float[Hkv] input doc: int[B, Lk] input rows: int[B, Lq]
    input layout: bool[H, Lq // 64, Lk // 64] input rel: float[2 * Lk - 1] input u: float[H, D]
    input table: float[H, 32] input deep: float[B, H, D, 4] input mixed: float[H, Lk]"""


@pytest.mark.parametrize(
    "score",
    [
        "slope[h]",
        "slope[0]",
        "slope[(h + 1) % H]",
        "kv[g]",
        "doc[b, i] + doc[b, j] + doc[b, max(j - 1, 0)]",
        "rows[b, row] + rows[b, row // 2]",
        "rel[i - j + Lk - 1] + rel[j]",
        "table[h, min(abs(i - j), 31)] + table[h, j % 32]",
        "slope[doc[b, j]]",
        "mixed[h, j]",
        "int(layout[h, i // 64, j // 64])",
        "deep[b, h, 3, 2] + u[h, 3]",
    ],
)
def test_indices_that_fit(score):
    load_text(f"attention a {{ {INPUTS} score = {score} }}")


@pytest.mark.parametrize(
    ("score", "code", "help"),
    [
        ("slope[«i»]", "A030", "slope[h]"),
        ("slope[«g»]", "A030", "slope[h]"),
        ("slope[«j // 2»]", "A030", "slope[h]"),
        ("kv[«h»]", "A030", "kv[g]"),
        ("doc[«h», j]", "A030", "doc[b, j]"),
        ("doc[b, «row»]", "A030", "doc[b, j]"),
        ("rows[b, «i»]", "A030", "`row`"),
        ("mixed[«j», h]", "A030", "mixed[h, j]"),
        ("int(layout[h, «i», j // 64])", "A030", "`i // 64`"),
        ("int(layout[h, i // 64, «h»])", "A030", None),
        ("«doc[b]»", "A032", "doc[b, j]"),
        ("«slope» * 2", "A032", "slope[h]"),
        ("int(«layout[h, i // 64]»)", "A032", "layout[h, i // 64, j // 64]"),
        ("«slope[h, 1]»", "A031", "slope[h]"),
        ("«u[h][0, 1]»", "A031", None),
        ("slope[«h / 2»]", "A024", "floor"),
        ("slope[«causal»]", "A024", None),
        ("slope[«0:1»]", "A031", None),
    ],
)
def test_indices_that_do_not_fit(score, code, help):
    assert_fault(f"attention a {{ {INPUTS} score = {score} }}", code, help)


@pytest.mark.parametrize(
    ("dimension", "code"),
    [("«1.5»", "A024"), ("«Q»", "A012"), ("«i»", "A012"), ("«f[0]»", "A033")],
)
def test_dimensions(dimension, code):
    spec = f"attention a {{ input f: int[4] input x: float[{dimension}] score = f[0] }}"
    assert_fault(spec, code)


def test_dimensions_speak_of_sizes_parameters_and_axes():
    spec = """attention a(w: int = 3) {
        axes y, x
        input bias: float[2 * w - 1, cdiv(Lk, w), y.size]
        score = bias[w, j // w, i.y]
    }"""
    assert load_text(spec).attentions["a"].inputs[0].name == "bias"
