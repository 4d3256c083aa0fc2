"""What is printed parses and checks back to itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl.attention import Attention
from attndsl.check.body import check_attention
from attndsl.check.definitions import collect
from attndsl.check.prelude import standard_patterns
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Coordinate,
    Element,
    Expression,
    Index,
    Literal,
    Matrix,
    Operand,
    Parameter,
    Read,
    Scale,
    Select,
    Size,
    Slice,
    Unary,
    Vector,
)
from attndsl.module import load_file, load_text
from attndsl.parsing import parse
from attndsl.printing import describe, text
from attndsl.source import Source

ROOT = Path(__file__).parent.parent
D = Vector(Size("D"))
DD = Matrix(Size("D"), Size("D"))
SPEC = """attention a(w: int, cap: float, wide: bool) {{
    axes y, x
    input slope: float[H]
    input doc: int[B, Lk]
    input flag: bool[Lk]
    input u: float[H, D]
    input m: float[D, D]
    score = {score}
    mask = i < j or w < 3 and wide and cap < slope[h] and doc[b, i] < 3 and flag[j]
}}"""


def typed(spec: str) -> Attention:
    """The only attention of a spec, typed, whatever may be said about its sense."""
    tree = parse(Source(spec))
    scope, faults = collect(tree, standard_patterns(), None)
    attention, found = check_attention(tree.attentions[0], scope)
    assert attention is not None, [*faults, *found]
    return attention


def checked(score: str) -> Expression:
    return typed(SPEC.format(score=score)).score


def binary(
    operators: str, operands: st.SearchStrategy[Expression], type_: object
) -> st.SearchStrategy[Expression]:
    return st.builds(Binary, st.sampled_from(operators.split()), operands, operands, st.just(type_))


def call(
    names: str, type_: object, *arguments: st.SearchStrategy[Expression]
) -> st.SearchStrategy[Expression]:
    return st.builds(Call, st.sampled_from(names.split()), st.tuples(*arguments), st.just(type_))


def not_a_number(expression: Expression) -> bool:
    # The checker folds the sign into a literal.
    return not isinstance(expression, Literal)


ints: st.SearchStrategy[Expression] = st.deferred(
    lambda: st.one_of(
        st.integers(-100, 100).map(Literal),
        st.sampled_from([Index(name) for name in ("b", "h", "g", "i", "j", "row")]),
        st.sampled_from([Size(name) for name in ("B", "H", "Lk", "axis.y")]),
        st.just(Parameter("w", INT)),
        st.just(Coordinate("i", "y")),
        st.builds(lambda index: Read("doc", (Index("b"), index), INT), positions),
        binary("+ - * // %", ints, INT),
        st.builds(
            lambda left, right: Binary("**", left, Literal(right), INT), ints, st.integers(0, 3)
        ),
        st.builds(Unary, st.just("-"), ints.filter(not_a_number), st.just(INT)),
        call("min max", INT, ints, ints),
        call("abs", INT, ints),
        call("int", INT, bools),
        call("floor", INT, floats),
        st.builds(Select, bools, ints, ints, st.just(INT)),
    )
)
positions = st.sampled_from([Index("i"), Index("j"), Binary("-", Index("i"), Index("j"), INT)])
floats: st.SearchStrategy[Expression] = st.deferred(
    lambda: st.one_of(
        st.floats(allow_nan=False, allow_infinity=False).map(Literal),
        st.sampled_from([Scale(), Parameter("cap", FLOAT), Read("slope", (Index("h"),), FLOAT)]),
        st.builds(Element, st.just(Operand("q", D)), st.sampled_from([Literal(0), Size("H")])),
        binary("+ - * / // % **", floats, FLOAT),
        st.builds(Unary, st.just("-"), floats.filter(not_a_number), st.just(FLOAT)),
        call("exp log sqrt tanh sigmoid relu abs", FLOAT, floats),
        call("min max", FLOAT, floats, floats),
        call("float", FLOAT, st.one_of(ints, bools)),
        call("dot", FLOAT, vectors, vectors),
        call("sum mean amax norm", FLOAT, vectors),
        st.builds(Select, bools, floats, floats, st.just(FLOAT)),
    )
)
bools: st.SearchStrategy[Expression] = st.deferred(
    lambda: st.one_of(
        st.booleans().map(Literal),
        st.just(Parameter("wide", BOOL)),
        st.just(Read("flag", (Index("j"),), BOOL)),
        binary("< <= > >= == !=", ints, BOOL),
        binary("< <= > >= == !=", floats, BOOL),
        binary("== != and or", bools, BOOL),
        st.builds(Unary, st.just("not"), bools, st.just(BOOL)),
    )
)
vectors: st.SearchStrategy[Expression] = st.deferred(
    lambda: st.one_of(
        st.sampled_from([Operand("q", D), Operand("k", D), Read("u", (Index("h"),), D)]),
        binary("+ - * /", vectors, D),
        st.builds(
            lambda op, left, right: Binary(op, left, right, D),
            st.sampled_from("+-*/"),
            floats,
            vectors,
        ),
        st.builds(Unary, st.just("-"), vectors, st.just(D)),
        call("exp cos relu softmax rotate_half", D, vectors),
        st.just(Call("dot", (Read("m", (), DD), Operand("k", D)), D)),
        st.builds(
            lambda one, two: Call(
                "concat",
                (
                    Slice(one, Literal(0), Literal(4), Vector(Literal(4))),
                    Slice(
                        two,
                        Literal(4),
                        Size("D"),
                        Vector(Binary("-", Size("D"), Literal(4), INT)),
                    ),
                ),
                D,
            ),
            vectors,
            vectors,
        ),
    )
)


@settings(max_examples=150, deadline=None)
@given(floats)
def test_a_printed_expression_checks_back_to_itself(expression):
    printed = text(expression)
    assert checked(printed) == expression, printed


@pytest.mark.parametrize(
    "written",
    [
        "(i - j) % 4 == 0 and not (flag[j] or i < j)",
        "(-2) ** 2 < -2 ** 2",
        "i - (j - 1) < (i - j) - 1",
        "i // (j * 2) * 2 > 0",
        "(True if wide else False) or wide",
        "(i < j) == (j < i)",
        "not i < j and -i < --j",
        "2 ** 3 ** 2 < (2 ** 3) ** 2",
    ],
)
def test_parentheses_stand_where_they_are_needed_and_nowhere_else(written):
    spec = f"attention a(wide: bool) {{ input flag: bool[Lk] mask = {written} }}"
    mask = typed(spec).mask
    again = text(mask)
    assert typed(spec.replace(written, again)).mask == mask
    assert len(again) <= len(written) + again.count("float(") * 7


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.attn")), ids=lambda path: path.stem
)
def test_a_described_attention_is_a_spec_of_itself(path):
    for attention in load_file(path).attentions.values():
        described = describe(attention)
        assert load_text(described).attentions[attention.name] == attention, described


def test_parameters_and_normalisers_describe_themselves():
    spec = """attention a(w: int = 3 where w > 0 and w < 9, on: bool = True, x: float) {
    input f: float[B, H, Lk]
    input sentinel: float[H, Dv]
    let c = cumsum(log(f))
    score = c[b, h, j] * x + dot(q, k)
    mask = i < w and on
    normalize = softmax(sink = x, value = sentinel[h])
}"""
    attention = load_text(spec).attentions["a"]
    described = describe(attention)
    assert load_text(described).attentions["a"] == attention
    assert "w: int = 3 where w > 0 and w < 9, on: bool = True, x: float" in described
    for normalizer in ("relu2(divide = Lk, epsilon = 1e-6)", "sum(epsilon = 0.5)", "softmax1"):
        attention = load_text(f"attention a {{ normalize = {normalizer} }}").attentions["a"]
        assert load_text(describe(attention)).attentions["a"] == attention
