"""Constructs that are checked now and compiled later."""

from __future__ import annotations

import pytest

from attndsl.attention import GroupedSoftmax
from attndsl.module import load_text
from tests.faults import assert_fault

ROUTE = "affinity = dot(q, mean(k)) keep = top(3)"
STATE = "state S: [D, Dv] {{ {} }}"


@pytest.mark.parametrize(
    ("body", "constructs"),
    [
        (f"route blocks of 64 {{ {ROUTE} always = n == i // 64 never = n > i // 64 }}", ["route"]),
        ("route blocks of 64 { affinity = dot(q, amax(k)) keep = mass(0.9) }", ["route"]),
        (STATE.format("S = 0.9 * S + outer(k, v) read = dot(S, q)"), ["state"]),
        (STATE.format("S = S + outer(k, v - dot(S, k)) read = dot(S, q) * scale"), ["state"]),
        ("branch l = local(3) branch p = pooled(64) output = l + 0.5 * p",
         ["branch", "branch", "output"]),
    ],
)  # fmt: skip
def test_they_check(body, constructs):
    spec = f"attention local(w: int) {{ mask = i - j < w }} attention a {{ {body} }}"
    later = load_text(spec).attentions["a"].later
    assert [part.construct for part in later] == constructs


def test_grouped_softmax_is_a_normalizer():
    spec = "attention a { normalize = grouped_softmax(group = j // 4, own = i // 4, gate = j < i) }"
    attention = load_text(spec).attentions["a"]
    assert isinstance(attention.normalizer, GroupedSoftmax)
    assert attention.later == ()


@pytest.mark.parametrize(
    ("body", "code", "help"),
    [
        ("route blocks of «1.5» { affinity = 1 keep = top(3) }", "A024", None),
        ("route blocks of «i» { affinity = 1 keep = top(3) }", "A019", None),
        (f"route blocks of 64 {{ {ROUTE} «alwys» = True }}", "A018", "`always`"),
        (f"route blocks of 64 {{ {ROUTE} never = «1» }}", "A024", None),
        (f"route blocks of 64 {{ {ROUTE} never = «j» > 3 }}", "A019", None),
        ("«route blocks of 64 { keep = top(3) }»", "A046", "affinity"),
        ("route blocks of 64 { affinity = «q» keep = top(3) }", "A024", None),
        ("route blocks of 64 { affinity = 1 keep = «3» }", "A046", "top(3)"),
        ("route blocks of 64 { affinity = 1 keep = top(«0.5») }", "A024", None),
        ("«state S: [D] { read = q }»", "A046", "[D, Dv]"),
        ("«state S: [D, Dv] { S = S }»", "A046", "read"),
        (STATE.format("S = «q» read = q"), "A024", None),
        (STATE.format("S = S «T» = 3 read = q"), "A018", None),
        (STATE.format("S = S + outer(k, «1.0») read = q"), "A024", None),
        ("score = «outer(q, k)»", "A019", "state"),
        ("branch x = «slidng»(3) output = x", "A013", None),
        ("branch x = «3» output = x", "A046", None),
        ("branch x = pooled(3) output = «dot(x, x)»", "A024", None),
    ],
)
def test_faults(body, code, help):
    if code == "A013":
        body = body.replace("«slidng»(3)", "«slidng(3)»")
    assert_fault(f"attention a {{ {body} }}", code, help)
