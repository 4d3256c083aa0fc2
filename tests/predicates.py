"""Random masks for the property tests, and the slow, obvious way to evaluate one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from attndsl.expression import (
    BOOL,
    INT,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Read,
    Select,
    Size,
    Unary,
)

Values = Mapping[str, int | np.ndarray]


def random_inputs(keys: int, seed: int) -> dict[str, np.ndarray]:
    """Numbers for all that a mask of `predicates(reads=True)` may read, for four heads."""
    random = np.random.default_rng(seed)
    return {
        "doc": np.sort(random.integers(-5, 5, keys)),
        "flag": random.random(keys) < 0.1,
        "limit": random.integers(-5, keys + 5, 4),
        "head_flag": random.random(4) < 0.5,
    }


def evaluate_scalar(expression: Expression, values: Values) -> int | bool:
    """The value at one point; inputs are arrays in `values` under their names."""
    match expression:
        case Literal(value=value):
            assert not isinstance(value, float)
            return value
        case Index(name=name) | Size(name=name):
            return int(values[name])
        case Read(name=name, indices=indices, type=kind):
            at = tuple(int(evaluate_scalar(index, values)) for index in indices)
            value = np.asarray(values[name])[at]
            return bool(value) if kind == BOOL else int(value)
        case Unary(operator="-", operand=operand):
            return -evaluate_scalar(operand, values)
        case Unary(operator="not", operand=operand):
            return not evaluate_scalar(operand, values)
        case Select(condition=condition, then=then, otherwise=otherwise):
            return evaluate_scalar(
                then if evaluate_scalar(condition, values) else otherwise, values
            )
        case Call(function="abs", arguments=(operand,)):
            return abs(evaluate_scalar(operand, values))
        case Call(function="min", arguments=arguments):
            return min(evaluate_scalar(argument, values) for argument in arguments)
        case Call(function="max", arguments=arguments):
            return max(evaluate_scalar(argument, values) for argument in arguments)
        case Binary(operator=operator, left=left, right=right):
            a, b = evaluate_scalar(left, values), evaluate_scalar(right, values)
            return _BINARY[operator](a, b)
    raise AssertionError(expression)


_BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
}


def dense(mask: Expression, *, queries: int, keys: int, offset: int, values: Values) -> np.ndarray:
    """The mask over every pair, bool[queries, keys]; `values` holds sizes, heads and inputs."""
    return np.array(
        [
            [
                bool(evaluate_scalar(mask, {**values, "i": row + offset, "j": j}))
                for j in range(keys)
            ]
            for row in range(queries)
        ],
        dtype=bool,
    ).reshape(queries, keys)


def _size(operator: str, left: Expression, right: int) -> Expression:
    return Binary(operator, left, Literal(right), INT)


# Divisors that are no literals: always positive, zero for few keys, negative for few keys.
SIZES: tuple[Expression, ...] = (
    Size("Lk"),
    Size("H"),
    _size("//", Size("Lk"), 3),
    _size("+", Index("h"), 1),
    _size("-", Size("Lk"), 20),
)


def integers(reads: bool = False, sizes: bool = False) -> st.SearchStrategy[Expression]:
    """Random integer expressions over i, j, h, Lk and small literals; with `sizes`, divisors are
    expressions as often as literals."""
    leaves: list[st.SearchStrategy[Expression]] = [
        st.sampled_from([Index("i"), Index("j")]),
        st.sampled_from([Index("i"), Index("j"), Index("h"), Size("Lk")]),
        st.integers(-12, 12).map(Literal),
        st.just(Binary("-", Index("i"), Index("j"), INT)),
    ]
    if reads:
        leaves += [
            st.just(Read("limit", (Index("h"),), INT)),
            st.just(Read("doc", (Index("j"),), INT)),
        ]

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        positive: st.SearchStrategy[Expression] = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16]).map(
            Literal
        )
        if sizes:
            positive = st.one_of(positive, st.sampled_from(SIZES))
        return st.one_of(
            st.builds(lambda o, a, b: Binary(o, a, b, INT), st.sampled_from("+-"), inner, inner),
            st.builds(lambda a, b: Binary("*", a, b, INT), inner, st.integers(-3, 3).map(Literal)),
            st.builds(
                lambda o, a, b: Binary(o, a, b, INT), st.sampled_from(["//", "%"]), inner, positive
            ),
            st.builds(lambda a: Call("abs", (a,), INT), inner),
            st.builds(
                lambda f, a, b: Call(f, (a, b), INT), st.sampled_from(["min", "max"]), inner, inner
            ),
            st.builds(lambda a: Unary("-", a, INT), inner),
        )

    return st.recursive(st.one_of(leaves), extend, max_leaves=5)


def predicates(reads: bool = False, sizes: bool = False) -> st.SearchStrategy[Expression]:
    """Random masks: comparisons of integers under `and`, `or`, `not` and a conditional."""
    comparison = st.builds(
        lambda o, a, b: Binary(o, a, b, BOOL),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
        integers(reads, sizes),
        integers(reads, sizes),
    )
    constant = st.sampled_from([Literal(True), Literal(False)])
    leaves: list[st.SearchStrategy[Expression]] = [comparison, comparison, comparison, constant]
    if reads:
        leaves.append(st.just(Read("flag", (Index("j"),), BOOL)))
        leaves.append(st.just(Read("head_flag", (Index("h"),), BOOL)))

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        return st.one_of(
            st.builds(
                lambda o, a, b: Binary(o, a, b, BOOL), st.sampled_from(["and", "or"]), inner, inner
            ),
            st.builds(lambda a: Unary("not", a, BOOL), inner),
            st.builds(lambda c, a, b: Select(c, a, b, BOOL), inner, inner, inner),
        )

    return st.recursive(st.one_of(leaves), extend, max_leaves=4)
