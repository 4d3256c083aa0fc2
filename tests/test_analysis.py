"""What analysis says about a spec, and that it has no false alarms on the catalogue."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicates import predicates
from unjudged import unjudged

from attndsl.analysis import analyze
from attndsl.attention import Attention, substitute_parameters
from attndsl.diagnostics import AttnError, Diagnostic, Severity
from attndsl.expression import Expression
from attndsl.module import load_file, load_text
from attndsl.probe import Point, value_at

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.attn"))


def attention_of(body: str, parameters: str = "") -> Attention:
    return unjudged(f"attention spec({parameters}) {{ {body} }}")


def found(body: str, parameters: str = "") -> list[Diagnostic]:
    return list(analyze(attention_of(body, parameters)))


def codes(body: str, parameters: str = "") -> list[str]:
    return [diagnostic.code for diagnostic in found(body, parameters)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_without_fault(path: Path) -> None:
    for attention in load_file(path).attentions.values():
        assert analyze(attention) == ()


@pytest.mark.parametrize(
    ("mask", "parameters"),
    [
        ("causal and j > i", ""),
        ("False", ""),
        ("j < 0", ""),
        ("j >= Lk", ""),
        ("i - j > window and i - j < window", "window: int = 4"),
        ("causal and i - j < 0 - window", "window: int = 4 where window >= 0"),
        ("causal and i - j < near and i - j > far", "near: int, far: int where far > near"),
        ("(i - j) % 4 == 4", ""),
        ("causal and (j == i + 1 or j >= i + 2)", ""),
        ("abs(i - j) < 0", ""),
    ],
)
def test_a_mask_that_hides_everything(mask: str, parameters: str) -> None:
    errors = [one for one in found(f"mask = {mask}", parameters) if one.code != "A056"]
    assert [one.code for one in errors] == ["A050"]
    assert errors[0].severity is Severity.ERROR
    assert errors[0].span is not None
    assert errors[0].span.text == mask


def test_contradictions_are_seen_beside_tables() -> None:
    statements = "input doc: int[B, Lk]"
    assert codes(f"{statements} mask = doc[b, i] == doc[b, j] and j > i and j < i") == ["A050"]


@pytest.mark.parametrize(
    ("mask", "parameters", "label"),
    [
        ("j < i", "", "query 0 of 24 sees no key"),
        ("j > i", "", "query 23 of 24 sees no key"),
        (
            "causal and i - j < window",
            "window: int = 8",
            "query 0 of 24 sees no key with window = 0",
        ),
        ("causal and i - j > 3", "", "query 0 of 24 sees no key"),
        ("causal and h > 0", "", "query 0 of 24 sees no key with h = 0"),
    ],
)
def test_a_row_that_can_be_empty(mask: str, parameters: str, label: str) -> None:
    (warning,) = found(f"mask = {mask}", parameters)
    assert (warning.code, warning.severity) == ("A051", Severity.WARNING)
    assert warning.label == label


@pytest.mark.parametrize(
    ("mask", "parameters"),
    [
        ("causal", ""),
        ("causal and i - j < window", "window: int = 8 where window > 0"),
        ("causal and chunked(size)", "size: int = 8 where size > 0"),
        ("abs(i - j) <= reach", "reach: int = 8 where reach >= 0"),
        ("j < i or j == 0", ""),
    ],
)
def test_a_row_that_is_never_empty(mask: str, parameters: str) -> None:
    assert found(f"mask = {mask}", parameters) == []


def test_what_depends_on_inputs_is_not_guessed() -> None:
    assert codes("input present: bool[B, Lk] mask = present[b, j]") == []
    assert codes("input window: int[H] mask = causal and i - j < window[h]") == []
    assert codes("input step: int[H] mask = causal and (i - j) % step[h] == 0") == []
    assert codes("input rate: float[H] score = dot(q, k) / rate[h]") == []


@pytest.mark.parametrize(
    ("score", "mask", "value"),
    [
        ("log(i - j)", "causal", "0.0 for i = 0, j = 0"),
        ("sqrt(i - j)", "True", "-23.0 for i = 0, j = 23"),
        ("1 / (i - j)", "causal", "0.0 for i = 0, j = 0"),
        ("rsqrt(i)", "causal", "0.0 for i = 0"),
    ],
)
def test_a_function_outside_its_domain(score: str, mask: str, value: str) -> None:
    (warning,) = found(f"score = dot(q, k) * scale + {score} mask = {mask}")
    assert (warning.code, warning.severity) == ("A052", Severity.WARNING)
    assert warning.label == value


@pytest.mark.parametrize(
    ("score", "mask"),
    [
        ("log(i - j + 1)", "causal"),
        ("log(i - j)", "j < i or j > i + 1 and False or j == i - 1 and i > 0"),
        ("log(abs(i - j) + 1)", "True"),
        ("(log(i - j) if j < i else 0.0)", "causal"),
        ("log(max(i - j, 1))", "causal"),
        ("1 / (i - j + 1)", "causal"),
    ],
)
def test_hidden_pairs_and_guards_are_respected(score: str, mask: str) -> None:
    assert "A052" not in codes(f"score = dot(q, k) * scale + {score} mask = {mask}")


def test_a_parameter_outside_the_domain() -> None:
    score = "score = cap * tanh(dot(q, k) * scale / cap)"
    (warning,) = found(score, "cap: float = 50.0")
    assert warning.code == "A052"
    assert warning.help == "bound the parameter: `where cap > 0`"
    assert found(score, "cap: float = 50.0 where cap > 0") == []


@pytest.mark.parametrize("operator", ["//", "%"])
def test_integer_division_by_a_possible_zero(operator: str) -> None:
    mask = f"mask = j {operator} step == 0 or j <= i"
    for bound in ("", " where step >= 0", " where step < 9"):
        (warning,) = found(mask, f"step: int = 4{bound}")
        assert (warning.code, warning.severity) == ("A053", Severity.WARNING)
        assert warning.span is not None
        assert warning.span.text == "step"
    assert found(mask, "step: int = 4 where step > 0") == []
    assert found(mask, "step: int = 4 where step != 0") == []


def test_a_parameter_that_divides_often_is_one_fault() -> None:
    mask = "mask = i // step == j // step or j % step == 0 or j <= i"
    assert codes(mask, "step: int = 4") == ["A053"]


def test_a_guarded_division_is_fine() -> None:
    assert codes("mask = j <= i or (i // n if n > 0 else 0) == j", "n: int = 4") == []
    assert codes("mask = j <= i or n > 0 and i % n == j", "n: int = 4") == []


def test_division_by_a_position() -> None:
    (error,) = [one for one in found("mask = j <= i or j % i == 0") if one.code == "A053"]
    assert error.label == "0 for i = 0"
    assert error.severity is Severity.ERROR


def test_bound_parameters_are_judged_by_their_value() -> None:
    spec = attention_of("mask = causal and (i - j) % step == 0", "step: int = 4")
    assert analyze(substitute_parameters(spec, {"step": 4})) == ()
    (error,) = analyze(substitute_parameters(spec, {"step": 0}))
    assert (error.code, error.severity) == ("A053", Severity.ERROR)
    window = attention_of("mask = causal and i - j < window", "window: int = 4")
    assert [d.code for d in analyze(substitute_parameters(window, {"window": 0}))] == ["A050"]


def test_what_is_never_used() -> None:
    unused = found("input slope: float[H] mask = causal", "window: int = 4")
    assert [one.code for one in unused] == ["A056", "A056"]
    assert [one.message for one in unused] == [
        "parameter `window` is never used",
        "input `slope` is never used",
    ]
    assert all(one.severity is Severity.WARNING for one in unused)


def test_uses_in_sizes_count() -> None:
    assert codes("input u: float[H, rank] score = sum(u[h]) + dot(q, k)", "rank: int = 4") == []
    assert codes("score = dot(q[0:rank], k[0:rank])", "rank: int = 4") == []
    assert (
        codes("input gate: float[H, Lk] let c = cumsum(gate[h, t]) score = c[h, i] - c[h, j]") == []
    )


@settings(max_examples=200, deadline=None)
@given(predicates(), st.integers(0, 3))
def test_a_mask_proved_empty_is_empty(mask: Expression, head: int) -> None:
    attention = attention_of("mask = causal")
    random = attention.map_expressions(lambda e: mask if e is attention.mask else e)
    if all(one.code != "A050" for one in analyze(random)):
        return
    for length in (1, 9, 20):
        sizes = {"Lk": length, "Lq": length, "offset": 0}
        for i in range(-3, length + 3):
            for j in range(length):
                point = Point({"i": i, "j": j, "h": head}, sizes, {})
                assert value_at(mask, point) is False


def test_loading_reports_what_analysis_finds() -> None:
    (warning,) = load_text("attention spec { mask = j < i }").warnings
    assert warning.code == "A051"
    with pytest.raises(AttnError, match="A050"):
        load_text("attention spec { mask = causal and j > i }")


def test_analysis_waits_for_no_large_library() -> None:
    code = (
        "import sys; from attndsl.module import load_text; from attndsl.analysis import analyze;"
        "analyze(load_text('attention a { mask = causal }').attentions['a']);"
        "print([name for name in ('numpy', 'sympy', 'torch', 'networkx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
