"""Simplification keeps every value and finds the identities that kernels profit from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicates import evaluate_scalar, integers, predicates

from attndsl.expression import (
    BOOL,
    FALSE,
    INT,
    TRUE,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Select,
    Size,
    Unary,
)
from attndsl.planner.simplify import simplify

I, J, LK = Index("i"), Index("j"), Size("Lk")  # noqa: E741


def op(operator: str, left: Expression, right: Expression) -> Expression:
    comparison = operator in ("<", "<=", ">", ">=", "==", "!=", "and", "or")
    return Binary(operator, left, right, BOOL if comparison else INT)


def n(value: int) -> Literal:
    return Literal(value)


@settings(max_examples=400, deadline=None)
@given(predicates(), st.integers(-40, 40), st.integers(0, 40), st.integers(0, 3))
def test_predicates_keep_their_value(mask: Expression, i: int, j: int, h: int) -> None:
    values = {"i": i, "j": j, "h": h, "Lk": 40}
    assert evaluate_scalar(simplify(mask), values) == evaluate_scalar(mask, values)


@settings(max_examples=400, deadline=None)
@given(integers(), st.integers(-40, 40), st.integers(0, 40), st.integers(0, 3))
def test_integers_keep_their_value(value: Expression, i: int, j: int, h: int) -> None:
    values = {"i": i, "j": j, "h": h, "Lk": 40}
    assert evaluate_scalar(simplify(value), values) == evaluate_scalar(value, values)


@settings(max_examples=100, deadline=None)
@given(predicates())
def test_simplifying_twice_changes_nothing(mask: Expression) -> None:
    once = simplify(mask)
    twice = simplify(once)
    assert simplify(twice) is twice


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (op("+", n(2), op("*", n(3), n(4))), n(14)),
        (op("//", n(-7), n(2)), n(-4)),
        (op("%", n(-7), n(4)), n(1)),
        (op("%", op("+", op("*", n(4), I), J), n(4)), op("%", J, n(4))),
        (op("//", op("*", n(4), I), n(4)), I),
        (op("//", op("+", op("*", n(4), I), n(3)), n(4)), I),
        (op("//", op("//", I, n(2)), n(3)), op("//", I, n(6))),
        (op("%", op("%", I, n(4)), n(4)), op("%", I, n(4))),
        (op("-", op("+", I, J), J), I),
        (op("<", I, op("+", I, n(1))), TRUE),
        (op("==", op("*", n(2), I), op("+", op("*", n(2), J), n(1))), FALSE),
        (op("and", TRUE, op("<", J, I)), op("<", J, I)),
        (op("or", op("<", J, I), op(">=", J, I)), TRUE),
        (Unary("not", op("<", J, I), BOOL), op(">=", J, I)),
        (
            Call("max", (I, Call("max", (op("+", I, n(1)), J), INT)), INT),
            Call("max", (op("+", I, n(1)), J), INT),
        ),
        (Select(TRUE, I, J, INT), I),
        (Call("min", (n(3), n(5), LK, n(4)), INT), Call("min", (n(3), LK), INT)),
    ],
)
def test_identities(before: Expression, after: Expression) -> None:
    assert simplify(before) == after


def test_division_by_zero_is_left_for_the_checker() -> None:
    assert simplify(op("//", I, n(0))) == op("//", I, n(0))
    assert simplify(op("%", n(4), n(0))) == op("%", n(4), n(0))


def test_unchanged_nodes_keep_their_identity() -> None:
    mask = op("and", op("<=", J, I), op("<", op("-", I, J), LK))
    assert simplify(mask) is mask
