"""Names: what is known where, what may be declared, and what was probably meant."""

from __future__ import annotations

import pytest

from attndsl.expression import Coordinate, Index, Read, Size, walk
from attndsl.module import load_text
from tests.faults import assert_fault, faults


@pytest.mark.parametrize(
    ("spec", "code", "help"),
    [
        ("attention a(window: int = 3) { mask = i - j < «windw» }", "A012", "`window`"),
        ("attention a { mask = «cuasal» }", "A012", "`causal`"),
        ("attention a { mask = «true» }", "A012", "`True`"),
        ("attention a { score = -«inf» }", "A012", "mask"),
        ("attention a { input x: float[«Hq»] score = 0 }", "A012", "`H`"),
        ("attention a { score = «sofcap»(1.0, 2.0) }", "A013", "`softcap`"),
        ("attention a { input x: float[H] score = «x»(h) }", "A013", "`x[…]`"),
        ("attention a { score = «cumsum»(1.0) }", "A013", "let c = cumsum"),
        ("attention a { score = softcap(1.0, «cpa = 2.0») }", "A014", "`cap`"),
        ("attention a { score = exp(«x = 1.0») }", "A014", "`exp(…)`"),
        ("attention a { score = softcap(1.0, 2.0, «cap = 3.0») }", "A014", None),
        ("attention a { input «q»: float[H] }", "A015", "another name"),
        ("attention a { input «out»: float[H] }", "A015", "another name"),
        ("attention a { input «log_sum_exp»: float[H] }", "A015", "another name"),
        ("attention a { input x: float[B, H, Lk]\nlet «out» = cumsum(x) }", "A015", None),
        ("attention a(«scale»: float = 1.0) { score = 1 }", "A015", None),
        ("def «softmax»(x) = x", "A015", "another name"),
        ("attention a { mask = «i.y» == 3 }", "A016", "axes y, x"),
        ("attention a { axes y, x mask = «i.z» == 3 }", "A016", "`i.y`"),
        ("attention a { «scroe» = 1.0 }", "A018", "`score`"),
        ("attention a { «near» = i - j < 3 }", "A018", "let near"),
        ("attention a { mask = «n» > 3 }", "A019", "`route`"),
        ("attention a { q = rope(q, «j») }", "A019", "`i`"),
        ("attention a { input u: float[H, D] k = k + u[«h»] }", "A019", "`g`"),
        ("attention a { mask = «q»[0] > 0 }", "A019", "positions"),
        ("attention a { k = «q» }", "A019", None),
        ("attention a(w: int = «i») { mask = i < w }", "A019", None),
        ("def twice(x) = x + «window» attention a(window: int) { score = twice(1.0) * window }",
         "A012", None),
    ],
)  # fmt: skip
def test_names(spec, code, help):
    assert_fault(spec, code, help)


def test_a_failed_declaration_is_reported_once():
    found = faults(
        "attention a(w: integer) { input x: flot[H] mask = i - j < w score = x[h] q = y }"
    )
    assert [fault.code for fault in found] == ["A028", "A028", "A012"]


def test_an_input_may_hide_an_index_that_matters_elsewhere():
    attention = load_text("attention a { input g: float[B, H, Lk] score = g[b, h, j] }").attentions[
        "a"
    ]
    assert isinstance(attention.score, Read)


def test_parameters_and_functions_have_namespaces_of_their_own():
    spec = "attention a(exp: int = 3, softcap: float = 2.0) { score = exp(softcap(exp, softcap)) }"
    assert load_text(spec).attentions["a"].parameters[0].name == "exp"


def test_own_definitions_hide_standard_ones():
    spec = "def causal = j < i attention a { mask = causal }"
    assert load_text(spec).attentions["a"].mask == (
        load_text("attention a { mask = j < i }").attentions["a"].mask
    )


def test_a_definition_does_not_see_the_names_of_its_caller():
    """Only its own parameters, indices, sizes and operands."""
    spec = "def shifted = x[h] attention a { input x: float[H] score = shifted }"
    assert [fault.code for fault in faults(spec)] == ["A012"]


def test_coordinates_and_axis_lengths():
    mask = load_text("attention a { axes y, x mask = i.y + j.x < x.size }").attentions["a"].mask
    nodes = set(walk(mask))
    assert {Coordinate("i", "y"), Coordinate("j", "x"), Size("axis.x")} <= nodes


def test_an_input_can_be_passed_to_a_definition_whole():
    spec = """
        def same(doc, p, r) = doc[b, p] == doc[b, r]
        attention a { input d: int[B, Lk] mask = same(d, i, j) }
    """
    mask = load_text(spec).attentions["a"].mask
    assert Read("d", (Index("b"), Index("i")), mask.left.type) in set(walk(mask))


def test_unused_lets_are_warnings():
    module = load_text("attention a { let near = i - j < 3 mask = causal }")
    assert [(w.code, w.span.text) for w in module.warnings if w.span] == [("A056", "near")]
    assert load_text("attention a { let near = i - j < 3 mask = near }").warnings == ()


def test_independent_faults_of_one_formula_are_reported_together():
    found = faults("attention a(window: int) { mask = casual and i - j < max(windw, wndow) }")
    assert [fault.span.text for fault in found if fault.span] == ["casual", "windw", "wndow"]
