"""Plans and programs as JSON: the whole catalogue comes back, and nothing else comes out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from naive import CASES, Case

from attndsl.attention import Attention
from attndsl.codegen.program import DType, Program, Specialization
from attndsl.diagnostics import AttnError
from attndsl.expression import INT, Binary, Expression, Index, Literal, Unary
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.plan import Plan
from attndsl.runtime.compilation import emit
from attndsl.runtime.serialize import MAXIMUM_DEPTH, decode, encode
from attndsl.runtime.targets import Target


@pytest.mark.parametrize("case", CASES, ids=str)
def test_plans_come_back(case: Case) -> None:
    made = plan(case.load())
    stored = json.loads(json.dumps(encode(made)))
    again = decode(stored, Plan)
    assert again == made
    assert again.attention.span.text == made.attention.span.text
    assert again.attention.span.line == made.attention.span.line
    assert str(again) == str(made)


@pytest.fixture(scope="module")
def program() -> Program:
    (attention,) = load_text("attention causal { mask = causal }").attentions.values()
    return emit(attention, Specialization(DType.FLOAT32, 32, 32), Target("cpu"))[1]


def test_programs_come_back(program: Program) -> None:
    assert decode(json.loads(json.dumps(encode(program))), Program) == program


def test_meaning_alone_decides_without_spans() -> None:
    texts = ("attention a { mask = causal }", "# words\nattention a {\n  mask = j <= i\n}")
    first, second = (next(iter(load_text(text).attentions.values())) for text in texts)
    assert encode(first, spans=False) == encode(second, spans=False)
    assert encode(first) != encode(second)


def test_numbers_keep_their_types() -> None:
    for value in (1, 1.0, True, float("inf"), -0.0, 2**70):
        again = decode(json.loads(json.dumps(encode(Literal(value)))), Literal)
        assert again == Literal(value)
        assert type(again.value) is type(value)


def walk(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    places = []
    for key, value in items:
        places.append((*path, key))
        if isinstance(value, dict | list):
            places += walk(value, (*path, key))
    return places


def test_whatever_is_changed_is_an_error_or_another_program(program: Program) -> None:
    """Every value replaced by each of several others: only `AttnError` may come of it."""
    data = json.loads(json.dumps(encode(program)))
    refused = accepted = tried = 0
    for path in walk(data):
        for value in (None, -1, 10**9, "x", [], {"node": 0}, {"enum": "program.DType.FLOAT8"}):
            changed = copy.deepcopy(data)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            try:
                assert isinstance(decode(changed, Program), Program)
            except AttnError as problem:
                refused += problem.diagnostics[0].code == "A096"
            else:
                accepted += 1
            tried += 1
    assert refused + accepted == tried
    assert refused > 1000


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"nodes": [], "root": {"node": 0}},
        {"nodes": [["os.system", "true"]], "root": {"node": 0}},
        {"nodes": [["builtins.eval", "1"]], "root": {"node": 0}},
        {"nodes": [["block_map.BlockTable", 1, 1, 1, 1, 1, 1]], "root": {"node": 0}},
        {"nodes": [["expression.Node"]], "root": {"node": 0}},
        # An operand must come before its node, so nothing can contain itself.
        {
            "nodes": [
                ["expression.Unary", "-", {"node": 0}, {"enum": "expression.Scalar.INT"}, None]
            ],
            "root": {"node": 0},
        },
    ],
)
def test_what_is_no_program(data: Any) -> None:
    with pytest.raises(AttnError, match="A096"):
        decode(data, Attention)


def nested(count: int, operands: int) -> dict[str, Any]:
    """A negation of a negation …, or a sum of a thing with itself, of sums with themselves …"""
    scalar = {"enum": "expression.Scalar.INT"}
    nodes = encode(Index("i"))["nodes"]
    for number in range(count):
        below = [{"node": number}] * operands
        name, sign = ("expression.Unary", "-") if operands == 1 else ("expression.Binary", "+")
        nodes.append([name, None, sign, *below, scalar])
    return {"nodes": nodes, "root": {"node": count}}


def test_neither_depth_nor_size_runs_away() -> None:
    assert isinstance(decode(nested(20, 1), Unary), Unary)
    assert isinstance(decode(nested(10, 2), Binary), Binary)
    with pytest.raises(AttnError, match="too deep or too large"):
        decode(nested(MAXIMUM_DEPTH, 1), Unary)
    with pytest.raises(AttnError, match="too deep or too large"):
        decode(nested(60, 2), Binary)


def test_a_long_sum_is_no_deep_recursion() -> None:
    total: Expression = Index("i")
    for _ in range(3000):
        total = Binary("+", total, Index("j"), INT)
    assert len(encode(total)["nodes"]) == 3002
