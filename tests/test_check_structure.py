"""Definitions, lets, scans, duplicates, imports, and expansion that must end."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hang_guard import ends

from attndsl.attention import TokenScan
from attndsl.diagnostics import AttnError
from attndsl.expression import INT
from attndsl.module import load_file, load_text
from attndsl.printing import describe, text
from tests.faults import assert_fault, fault, faults


def score(written: str, definitions: str = "", body: str = "") -> str:
    spec = f"{definitions}\nattention a {{ {body} score = {written} }}"
    return text(load_text(spec).attentions["a"].score)


def test_definitions_are_written_out():
    definitions = "def near = abs(i - j) < 3  def f(x, y = 2, z = y) = x * y + z"
    assert score("f(1.0)", definitions) == "1.0 * float(2) + float(2)"
    assert score("f(1.0, 5)", definitions) == "1.0 * float(5) + float(5)"
    assert score("f(z = 3.0, x = 1.0)", definitions) == "1.0 * float(2) + 3.0"
    assert score("1.0 if near else 0.0", definitions) == "1.0 if abs(i - j) < 3 else 0.0"
    assert score("1.0 if near() else 0.0", definitions) == "1.0 if abs(i - j) < 3 else 0.0"


def test_parameters_of_definitions_may_have_types():
    definitions = "def f(x: float) = x * x"
    assert score("f(i)", definitions) == "float(i) * float(i)"
    assert_fault(f"{definitions} attention a {{ score = f(«causal») }}", "A024")


def test_one_definition_serves_ints_floats_and_vectors():
    definitions = "def double(x) = x + x"
    assert score("double(i) + double(1.5) + dot(double(q), k)", definitions) == (
        "float(i + i) + (1.5 + 1.5) + dot(q + q, k)"
    )


def test_lets_may_stand_in_any_order_and_refer_to_each_other():
    body = "let far = 2 * near  let near = i - j"
    assert score("far * 1.0", body=body) == "float(2 * (i - j)) * 1.0"


def test_faults_in_standard_patterns_are_shown_at_the_call():
    found = fault("attention a { mask = sliding(causal) }")
    assert found.span is not None
    assert found.span.text in ("sliding(causal)", "causal")


def test_faults_in_own_definitions_are_shown_there_with_the_call():
    found = fault("def f(x) = x + causal\nattention a { score = f(1.0) }")
    assert found.span is not None
    assert found.span.text == "causal"
    assert found.notes == ("in `f`, called at <text>:2:23",)


@pytest.mark.parametrize(
    ("spec", "code", "help"),
    [
        ("def f(x) = f(x) attention a { score = f(1.0) }", "A041", None),
        ("def f = p def p = f attention a { score = f }", "A041", None),
        ("attention a { let x = y let y = x score = x }", "A041", None),
        ("def f(x, «x») = x", "A040", "rename"),
        ("def f(x = 1, «y») = x", "A048", "first"),
        ("def f(x where «x > 1») = x", "A048", None),
        ("def f = 1 def «f» = 2", "A040", None),
        ("def «g» = 2", "A015", None),
        ("attention a {} attention «a» {}", "A040", None),
        ("attention a { mask = causal «mask» = causal }", "A040", "let"),
        ("attention a(w: int = 3) { input «w»: float[H] score = w }", "A040", None),
        ("attention a { axes y, x «axes z» mask = i.y < 3 }", "A045", "axes y, x"),
        ("attention a { axes y, «y» mask = i.y < 3 }", "A040", None),
        ('«import "x.attn"» attention a {}', "A043", "file"),
    ],
)
def test_structural_faults(spec, code, help):
    if "«" in spec:
        assert_fault(spec, code, help)
    else:
        assert {found.code for found in faults(spec)} == {code}


@pytest.mark.parametrize(
    "spec",
    [
        # Twice in each definition: 2 ** 40 nodes.
        "def f0(x) = x "
        + " ".join(f"def f{n}(x) = f{n - 1}(x) + f{n - 1}(x)" for n in range(1, 40))
        + " attention a { score = f39(1.0) }",
        "def f0(x) = x + x "
        + " ".join(f"def f{n}(x) = f{n - 1}(x + x)" for n in range(1, 40))
        + " attention a { score = f39(1.0) }",
        "def f0(x) = x "
        + " ".join(f"def f{n}(x) = -f{n - 1}(-x)" for n in range(1, 300))
        + " attention a { score = f299(1.0 * i) }",
        "attention a { let l0 = i - j "
        + " ".join(f"let l{n} = l{n - 1} + l{n - 1}" for n in range(1, 40))
        + " score = l39 }",
    ],
    ids=["twice-called", "twice-used", "deep", "lets"],
)
def test_expansion_ends(spec):
    with ends(), pytest.raises(AttnError) as caught:
        load_text(spec)
    assert {found.code for found in caught.value.diagnostics} == {"A042"}
    assert len(str(caught.value)) < 20_000


# --- token scans ---------------------------------------------------------------------------------


def scan(statement: str, inputs: str = "input f: float[B, H, Lk]") -> TokenScan:
    spec = f"attention a {{ {inputs} let c = cumsum({statement}) }}"
    return load_text(spec).attentions["a"].scans[0]


def test_a_cumsum_runs_over_the_last_dimension():
    found = scan("log(sigmoid(f)) - 1")
    assert text(found.element) == "log(sigmoid(f[b, h, t])) - float(1)"
    assert [text(size) for size in found.dimensions] == ["B", "H", "Lk"]
    assert [text(size) for size in scan("s", "input s: int[Lk]").dimensions] == ["Lk"]
    assert scan("s[b, t] == 3", "input s: int[B, Lk]").element.type is INT
    both = "input f: float[B, Lk] input s: float[Hkv]"
    assert [text(size) for size in scan("f * s[g]", both).dimensions] == ["B", "Hkv", "Lk"]


def test_scans_are_read_like_inputs():
    spec = """attention a {{
        input f: float[B, H, Lk]
        let c = cumsum(f)
        score = dot(q, k) + c[b, h, i] - {}
    }}"""
    attention = load_text(spec.format("c[b, h, j]")).attentions["a"]
    assert text(attention.score) == "dot(q, k) + c[b, h, i] - c[b, h, j]"
    assert fault(spec.format("c[b, i, j]")).code == "A030"
    assert fault(spec.format("c")).code == "A032"


@pytest.mark.parametrize(
    ("argument", "code"),
    [("«1.0»", "A034"), ("«x»", "A033"), ("«q»", "A019"), ("«i»", "A019"), ("«u[h]»", "A024")],
)
def test_scan_faults(argument, code):
    inputs = "input x: float[Lk, H] input u: float[H, D]"
    assert_fault(f"attention a {{ {inputs} let c = cumsum({argument}) score = 1 }}", code)


# --- imports -------------------------------------------------------------------------------------


def test_imports_are_relative_and_bring_definitions(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "base.attn").write_text("def width = 7")
    (tmp_path / "lib" / "near.attn").write_text(
        'import "base.attn"\ndef near = abs(i - j) < width\ndef other = True\nattention b {}'
    )
    spec = tmp_path / "spec.attn"
    spec.write_text('from "lib/near.attn" import near\nattention a { mask = near }')
    assert text(load_file(spec).attentions["a"].mask) == "abs(i - j) < 7"
    spec.write_text('from "lib/near.attn" import near\nattention a { mask = near and other }')
    with pytest.raises(AttnError, match="A012"):
        load_file(spec)
    spec.write_text('import "lib/near.attn"\nattention a { mask = near and other }')
    assert list(load_file(spec).attentions) == ["a"]
    spec.write_text('from "lib/near.attn" import naer\nattention a {}')
    with pytest.raises(AttnError, match="did you mean `near`"):
        load_file(spec)


def test_import_faults(tmp_path):
    one, two = tmp_path / "one.attn", tmp_path / "two.attn"
    one.write_text('import "two.attn"')
    two.write_text('import "one.attn"')
    with pytest.raises(AttnError, match=r"A044.*`one.attn` imports itself"):
        load_file(one)
    one.write_text('import "three.attn"')
    with pytest.raises(AttnError, match=r"A043.*three.attn"):
        load_file(one)
    one.write_bytes(b"def f = \xff")
    with pytest.raises(AttnError, match=r"A043.*UTF-8"):
        load_file(one)
    with pytest.raises(AttnError, match="A043"):
        load_file(tmp_path)
    one.write_text("def f = True\nattention b { mask = f + 1 }")
    two.write_text('import "one.attn"\nattention a {}')
    with pytest.raises(AttnError) as caught:
        load_file(two)
    (found,) = caught.value.diagnostics
    assert found.span is not None
    assert found.span.source.name.endswith("one.attn")


def test_a_file_imported_twice_is_one(tmp_path):
    (tmp_path / "base.attn").write_text("def width = 7")
    for name in ("x", "y"):
        (tmp_path / f"{name}.attn").write_text(f'import "base.attn"\ndef {name} = width')
    (tmp_path / "z.attn").write_text(
        'import "x.attn"\nimport "y.attn"\nattention a { mask = i < x + y + width }'
    )
    assert text(load_file(tmp_path / "z.attn").attentions["a"].mask) == "i < 7 + 7 + 7"


def wrapped(before: str, middle: str, after: str, times: int = 190) -> str:
    return before * times + middle + after * times


@pytest.mark.parametrize(
    "spec",
    [
        "def f(x) = x attention a { score = " + wrapped("f(", "1.0", ")") + " }",
        "attention a { score = " + wrapped("max(1.0, ", "1.0", ")") + " }",
        "attention a { score = " + wrapped("softcap(", "1.0", ", 2.0)") + " }",
        "attention a { input x: int[4] score = " + wrapped("x[", "0", "]") + " }",
        "attention a { score = sum(q" + "[0:4]" * 190 + ") }",
        "attention a { mask = " + wrapped("(i < j) == (", "True", ")") + " }",
        "attention a { mask = " + " < ".join("i" * 190) + " }",
        "def d0 = i "
        + " ".join(f"def d{n} = d{n - 1}" for n in range(1, 400))
        + " attention a { score = d399 }",
        "attention a { let d0 = i "
        + " ".join(f"let d{n} = -d{n - 1}" for n in range(1, 400))
        + " score = d399 }",
    ],
)
def test_deep_nesting_never_exhausts_the_stack(spec):
    """Each either checks and prints, or is refused with a diagnostic."""

    def under(frames: int) -> None:
        if frames:
            under(frames - 1)
            return
        with suppress(AttnError):
            describe(load_text(spec).attentions["a"])

    under(100)
