"""What may stand behind `normalize =`."""

from __future__ import annotations

import pytest

from attndsl.attention import Elementwise, GroupedSoftmax, Normalizer, Softmax
from attndsl.expression import Literal, ScoreValue
from attndsl.module import load_text
from attndsl.printing import normalizer_text
from tests.faults import assert_fault

DEFINITIONS = "def power(x, p) = relu(x) ** p  def shifted(x) = relu(x - log(Lk))"
INPUTS = "input sink: float[H] input sentinel: float[H, Dv] input exponent: float[H]"


def normalizer(written: str) -> Normalizer:
    spec = f"{DEFINITIONS} attention a(n: int = 2) {{ {INPUTS} normalize = {written} }}"
    return load_text(spec).attentions["a"].normalizer


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("softmax", "softmax"),
        ("softmax()", "softmax"),
        ("softmax1", "softmax(sink = 0.0)"),
        ("softmax(sink = sink[h])", "softmax(sink = sink[h])"),
        ("softmax(sink = 1)", "softmax(sink = float(1))"),
        (
            "softmax(sink = dot(q, q), value = sentinel[h])",
            "softmax(sink = dot(q, q), value = sentinel[h])",
        ),
        ("sigmoid", "weight(sigmoid(score))"),
        ("sigmoid(divide = Lk)", "weight(sigmoid(score), divide = float(Lk))"),
        ("relu(divide = i + 1)", "weight(relu(score), divide = float(i + 1))"),
        ("sum", "weight(score, divide = sum)"),
        ("sum(epsilon = 1e-6)", "weight(score, divide = sum, epsilon = 1e-06)"),
        ("none", "weight(score)"),
        ("none(divide = n)", "weight(score, divide = float(n))"),
        ("exp(divide = sum)", "weight(exp(score), divide = sum)"),
        ("relu2", "weight(relu(score) ** float(2))"),
        ("power(p = 3)", "weight(relu(score) ** float(3))"),
        ("power(exponent[h], divide = sum)", "weight(relu(score) ** exponent[h], divide = sum)"),
        ("shifted", "weight(relu(score - log(float(Lk))))"),
        ("weight(score * score, divide = Lk)", "weight(score * score, divide = float(Lk))"),
        (
            "grouped_softmax(group = j // 4, own = i // 4, gate = j % 4 == 3)",
            "grouped_softmax(group = j // 4, own = i // 4, gate = j % 4 == 3)",
        ),
    ],
)
def test_normalizers(written, printed):
    assert normalizer_text(normalizer(written)) == printed


def test_their_classes():
    assert normalizer("softmax1") == Softmax(Literal(0.0), None)
    assert normalizer("sum") == Elementwise(ScoreValue(), "sum", 0.0)
    assert isinstance(
        normalizer("grouped_softmax(group = j, own = i, gate = i < j)"), GroupedSoftmax
    )


@pytest.mark.parametrize(
    ("written", "code", "help"),
    [
        ("«sofmax»", "A047", "`softmax`"),
        ("«dot»", "A047", None),
        ("«causal»", "A047", None),
        ("«1.0»", "A047", "softmax"),
        ("softmax(«snk = 1.0»)", "A014", "`sink`"),
        ("softmax(«1.0»)", "A014", None),
        ("softmax1(«sink = 1.0»)", "A014", None),
        ("softmax(sink = 1.0, «sink = 2.0»)", "A014", None),
        ("softmax(sink = «j»)", "A019", None),
        ("softmax(sink = «causal»)", "A019", None),
        ("softmax(sink = «1 < 2»)", "A020", None),
        ("softmax(sink = «q»)", "A024", None),
        ("softmax(sink = 1.0, value = «q»)", "A024", None),
        ("softmax(value = «sentinel[h]»)", "A047", "sink"),
        ("sigmoid(divide = «j»)", "A019", None),
        ("sigmoid(epsilon = «n»)", "A029", "1e-6"),
        ("sigmoid(epsilon = «-1.0»)", "A029", None),
        ("sigmoid(«p = 3»)", "A014", None),
        ("«power»", "A023", None),
        ("power(«r = 3»)", "A014", None),
        ("weight(«score < 3»)", "A020", None),
        ("«weight(score, score)»", "A023", None),
        ("none(«3»)", "A014", None),
        ("«grouped_softmax(group = j)»", "A047", "own"),
        ("grouped_softmax(group = «1.0», own = i, gate = True)", "A024", None),
    ],
)
def test_normalizer_faults(written, code, help):
    spec = f"{DEFINITIONS} attention a(n: int = 2) {{ {INPUTS} normalize = {written} }}"
    assert_fault(spec, code, help)
