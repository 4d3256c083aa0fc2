"""The shortest form of every construct checks, and means what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from attndsl.attention import Attention, Elementwise, GroupedSoftmax, Softmax
from attndsl.diagnostics import Severity
from attndsl.module import load_file, load_text
from attndsl.printing import describe, text

TOUR = Path(__file__).parent / "specs" / "tour.attn"


@pytest.fixture(scope="module")
def attentions() -> dict[str, Attention]:
    module = load_file(TOUR)
    assert all(warning.severity is Severity.WARNING for warning in module.warnings)
    return module.attentions


def test_every_attention_is_there(attentions):
    names = """sliding_window dilated alibi gemma2 block_sparse documents duo neighborhood2d gpt_oss
        flash_sigmoid landmark moba hedgehog retention gated_delta nsa"""
    assert list(attentions) == names.split()


@pytest.mark.parametrize(
    ("name", "score", "mask"),
    [
        ("sliding_window", "dot(q, k) * scale", "j <= i and i - j < window"),
        ("alibi", "dot(q, k) * scale - slope[h] * float(i - j)", "j <= i"),
        ("gemma2", "cap * tanh(dot(q, k) * scale / cap)", "j <= i and i - j < window"),
        ("block_sparse", "dot(q, k) * scale", "layout[h, i // block, j // block]"),
        ("documents", "dot(q, k) * scale", "j <= i and doc[b, i] == doc[b, j]"),
        (
            "duo",
            "dot(q, k) * scale",
            "j <= i and (not streaming[g] or j < sink or i - j < recent)",
        ),
        ("flash_sigmoid", "dot(q, k) * scale - log(float(Lk))", "j <= i"),
        (
            "hedgehog",
            "dot(concat(softmax(q), softmax(-q)), concat(softmax(k), softmax(-k)))",
            "j <= i",
        ),
        ("retention", "dot(q, k) * scale * exp(log_decay[h] * float(i - j))", "j <= i"),
    ],
)
def test_scores_and_masks(attentions, name, score, mask):
    assert text(attentions[name].score) == score
    assert text(attentions[name].mask) == mask


def test_normalizers(attentions):
    assert attentions["gemma2"].normalizer == Softmax()
    sink = attentions["gpt_oss"].normalizer
    assert isinstance(sink, Softmax)
    assert sink.sink is not None
    assert text(sink.sink) == "sink[h]"
    weights = {
        name: normalizer
        for name, attention in attentions.items()
        if isinstance(normalizer := attention.normalizer, Elementwise)
    }
    assert {name: (text(w.weight), w.divisor) for name, w in weights.items()} == {
        "flash_sigmoid": ("sigmoid(score)", None),
        "hedgehog": ("score", "sum"),
        "retention": ("score", None),
    }
    assert isinstance(attentions["landmark"].normalizer, GroupedSoftmax)


def test_what_is_compiled_later_is_named(attentions):
    later = {
        name: [part.construct for part in a.later] for name, a in attentions.items() if a.later
    }
    assert later == {
        "moba": ["route"],
        "gated_delta": ["state"],
        "nsa": ["branch", "branch", "branch", "output"],
    }


def test_each_describes_itself(attentions):
    for name, attention in attentions.items():
        if not attention.later:
            assert load_text(describe(attention)).attentions[name] == attention


def test_warnings_never_cost_an_attention():
    spec = "\n".join(f"attention a{n}(unused: int = 1) {{ mask = causal }}" for n in range(40))
    module = load_text(spec)
    assert len(module.attentions) == len(module.warnings) == 40
