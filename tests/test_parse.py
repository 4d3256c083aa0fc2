"""Text to syntax tree: structure, spans, slips, and texts that mean harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hang_guard import ends

from attndsl import parser_table, syntax
from attndsl.diagnostics import AttnError
from attndsl.module import load_text
from attndsl.parsing import parse
from attndsl.source import MAXIMUM_LENGTH, Source
from tests.faults import assert_fault, fault, faults


def expression(text: str) -> syntax.Expression:
    return parse(Source(f"def f = {text}")).definitions[0].body


def shape(node: syntax.Expression | syntax.Slice) -> str:
    """The tree as text with every operation in brackets."""
    match node:
        case syntax.Name(parts=parts):
            return ".".join(parts)
        case syntax.Number(value=value) | syntax.Boolean(value=value):
            return repr(value)
        case syntax.Unary(operator=operator, operand=operand):
            return f"[{operator} {shape(operand)}]"
        case syntax.Binary(operator=operator, left=left, right=right):
            return f"[{shape(left)} {operator} {shape(right)}]"
        case syntax.Compare(operators=operators, operands=operands):
            parts = [shape(operands[0])]
            for operator, operand in zip(operators, operands[1:], strict=True):
                parts += [operator, shape(operand)]
            return f"[{' '.join(parts)}]"
        case syntax.Conditional(condition=condition, then=then, otherwise=otherwise):
            return f"[{shape(then)} if {shape(condition)} else {shape(otherwise)}]"
        case syntax.Call(function=function, arguments=arguments):
            inside = (
                f"{a.keyword}={shape(a.value)}" if a.keyword else shape(a.value) for a in arguments
            )
            return f"{shape(function)}({', '.join(inside)})"
        case syntax.Slice(start=start, stop=stop):
            return f"{shape(start) if start else ''}:{shape(stop) if stop else ''}"
        case syntax.Subscript(value=value, indices=indices):
            return f"{shape(value)}[{', '.join(map(shape, indices))}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", "[1 + [2 * 3]]"),
        ("1 - 2 - 3", "[[1 - 2] - 3]"),
        ("a // b % c", "[[a // b] % c]"),
        ("-x ** 2", "[- [x ** 2]]"),
        ("2 ** -x ** 3", "[2 ** [- [x ** 3]]]"),
        ("a or b and not c", "[a or [b and [not c]]]"),
        ("not a == b", "[not [a == b]]"),
        ("0 <= i - j < w", "[0 <= [i - j] < w]"),
        ("a if b else c if d else e", "[a if b else [c if d else e]]"),
        ("(a if b else c) + 1", "[[a if b else c] + 1]"),
        ("f(x, y = 2)", "f(x, y=2)"),
        ("f(x,)", "f(x)"),
        ("u[h][0:32]", "u[h][0:32]"),
        ("u[h, :, 1:, :2]", "u[h, :, 1:, :2]"),
        ("f(x)[3]", "f(x)[3]"),
        ("i.y", "i.y"),
        ("1.5e-3 + .5 + 2. + 1e3", "[[[0.0015 + 0.5] + 2.0] + 1000.0]"),
        ("True and False", "[True and False]"),
        ("notable + order + inner + iffy", "[[[notable + order] + inner] + iffy]"),
    ],
)
def test_precedence_and_structure(text, expected):
    assert shape(expression(text)) == expected


def test_statements_need_no_separator():
    tree = parse(
        Source(
            "attention a(w: int = 3 where w > 0, flag = True,) {"
            " input x: float[B, Lk // w] axes y, z let c = x[b, j] q = q mask = c < w"
            " route blocks of w { keep = top(3) }"
            " state S: [D, Dv] { S = S read = q } branch l = a(1) output = l }"
        )
    )
    (attention,) = tree.attentions
    kinds = [type(statement).__name__ for statement in attention.body]
    assert " ".join(kinds) == "Input Axes Let Assign Assign Route State Branch Assign"
    assert [p.name.parts[0] for p in attention.parameters] == ["w", "flag"]
    assert attention.parameters[0].where is not None
    assert attention.parameters[1].type is None


def test_imports_and_comments():
    tree = parse(Source('import "a.attn" # all\nfrom "b.attn" import x, y\n'))
    assert [(i.path, [n.parts[0] for n in i.names]) for i in tree.imports] == [
        ("a.attn", []),
        ("b.attn", ["x", "y"]),
    ]


def test_spans_cover_what_was_written():
    text = "def f(x) = (x + 1) * exp(x)"
    body = parse(Source(text)).definitions[0].body
    assert isinstance(body, syntax.Binary)
    assert body.span.text == "(x + 1) * exp(x)"
    assert body.left.span.text == "(x + 1)"
    assert body.right.span.text == "exp(x)"


def test_blocks_and_of_are_names_elsewhere():
    parse(Source("attention a(blocks: int = 3, of: int = 4) { mask = blocks < of }"))


@pytest.mark.parametrize(
    ("spec", "code", "help"),
    [
        ("attention a { mask «==» i < j }", "A001", "`=`"),
        ("attention a { mask = i «=» j }", "A001", "`==`"),
        ("attention a { mask = i < j «&&» j < 3 }", "A002", "`and`"),
        ("attention a { mask = i < j «||» j < 3 }", "A002", "`or`"),
        ("attention a { mask = «!»causal }", "A002", "`not`"),
        ("attention a { score = dot(q, k) «^» 2 }", "A002", "`**`"),
        ("attention a { mask = causal«;» }", "A002", "leave it out"),
        ("attention a { mask = i «≤» j }", "A002", "`<=`"),
        ("attention a { mask = i «−» j > 0 }", "A002", "`-`"),
        ("attention a { mask = i <= «\u00fc» }", "A002", "a to z"),
        ("attention a { mask = causal«»", "A004", "`}`"),
        ("attention a { score = dot(q, k «}»", "A003", "`)`"),
        ("attention a { score = dot(q, k)«)» }", "A003", "delete"),
        ("attention a(w: int = 3) «mask» = causal }", "A001", "`{` and `}`"),
        ("attention a«:» mask = causal", "A001", "`{` and `}`"),
        ("def f(x) «{» x }", "A001", "def name(x) ="),
        ("def f(x) «x»", "A001", "`=`"),
        ("def f(x) =«»", "A004", None),
        ("«attnetion» a {}", "A001", "`attention`"),
        ("attention a { «inptu» x: int[B] }", "A001", "`input`"),
        ("«mask» = causal", "A001", "braces of an `attention`"),
        ("attention a { window«:» int = 3 }", "A001", "input window"),
        ("attention a { mask = causal«,» }", "A001", "delete the comma"),
        ("attention a { mask = i «j» }", "A001", "operator between `i` and `j`"),
        ("attention a { mask = i «in» j }", "A001", "`<=`"),
        ("attention a { mask = «<» j }", "A001", "between `=` and `<`"),
        ("attention a { mask = i < «}»", "A001", "after `<`"),
        ("attention «input» {}", "A001", "another name"),
        ("attention a { input x «float»[B] }", "A001", "`x: float`"),
        ("attention a { input x «}»", "A001", "its type"),
        ("import «patterns»", "A001", '"patterns.attn"'),
        ("attention a { mask = causal «attention» b {}", "A001", "`}`"),
        ("def f = «2x»", "A006", "`2 * x`"),
        ("def f = «4_096»", "A006", "`4096`"),
        ("def f = «99999999999»", "A006", "float"),
        ("def f = «1e999»", "A006", None),
        ('import «"patterns.attn»', "A002", 'add `"`'),
        ("attention a { mask = «if» i < j }", "A001", "a if condition else b"),
        ("attention a { return «3» }", "A001", "`score = …`"),
    ],
)
def test_slips(spec, code, help):
    assert_fault(spec, code, help)


def test_truncated_text_points_to_its_end():
    text = "attention a {\n    mask = causal   # a comment\n\n"
    found = fault(text)
    assert found.code == "A004"
    assert found.span is not None
    assert found.span.start == found.span.end == text.index("causal") + len("causal")


def test_every_item_reports_its_own_fault():
    found = faults(
        "attention a { mask = }\nattention b { mask = causal }\ndef f(x) = x +\ndef g = * 2"
    )
    lines = [(f.code, f.span.line) for f in found if f.span is not None]
    assert lines == [("A001", 1), ("A004", 3), ("A001", 4)]


@pytest.mark.parametrize(
    "inside",
    [
        "(" * 10_000 + "1" + ")" * 10_000,
        "(" * 100_000,
        "f(" * 10_000 + ")" * 10_000,
        "x[" * 10_000,
        "not " * 40_000 + "causal",
        "-" * 100_000 + "1",
        "2 ** " * 30_000 + "2",
        "1 + " * 30_000 + "1",
        "1 < " * 30_000 + "1",
        "1 if True else " * 10_000 + "1",
        "i.y" * 20_000,
        "a" * 200_000,
        "9" * 200_000,
        '"' * 100_000,
        "#" * 200_000,
    ],
    ids=lambda text: text[:8],
)
def test_hostile_texts_end_in_a_diagnostic_soon(inside):
    with ends(), pytest.raises(AttnError) as caught:
        load_text("attention a { mask = " + inside + " }")
    assert all(d.code.startswith("A00") for d in caught.value.diagnostics)


def test_a_text_without_end_is_refused_unread():
    with ends():
        found = fault("(" * (MAXIMUM_LENGTH + 1))
    assert found.code == "A005"


def test_bracket_depth_has_a_limit_that_specs_do_not_meet():
    deep = "(" * 150 + "i" + ")" * 150
    parse(Source(f"attention a {{ mask = {deep} < j }}"))


def test_the_parser_table_is_that_of_the_grammar():
    """After a change to `attn.lark`: `python -m attndsl.parser_table`."""
    assert parser_table.is_current()
    text = (Path(__file__).parent / "specs" / "tour.attn").read_text("utf-8")
    loaded = parser_table.load_parser()
    built = parser_table.build_parser(
        (Path(parser_table.__file__).parent / "grammar" / "attn.lark").read_text("utf-8")
    )
    assert loaded.parse(text) == built.parse(text)


def test_another_table_is_not_used(tmp_path, monkeypatch):
    grammar = tmp_path / "attn.lark"
    grammar.write_text('start: "x"')
    parser_table.write_table(tmp_path / "attn.table")
    monkeypatch.setattr(parser_table.resources, "files", lambda package: tmp_path)
    assert not parser_table.is_current()
    assert parser_table.load_parser().parse("x").data == "start"
    parser_table.write_table(tmp_path / "attn.table")
    assert parser_table.is_current()
