"""Derived formulas against PyTorch's autograd of the same expression, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attndsl import evaluate as in_numpy
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Element,
    Expression,
    Literal,
    Matrix,
    Read,
    Scalar,
    Select,
    Slice,
    Type,
    Unary,
    Vector,
)
from attndsl.functions import FUNCTIONS, Shape
from attndsl.planner.derivative import adjoints
from attndsl.runtime import torch_evaluate as in_torch

WIDTH = 4
VECTOR = Vector(Literal(WIDTH))
SQUARE = Matrix(Literal(WIDTH), Literal(WIDTH))
A, B = (Read(name, (), FLOAT) for name in "ab")
X, Y = (Read(name, (), VECTOR) for name in "xy")
W = Read("w", (), SQUARE)
LEAVES = (A, B, X, Y, W)
POSITIVE = Binary("+", Call("exp", (A,), FLOAT), Literal(0.5), FLOAT)


def point(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    shapes = {"a": (), "b": (), "x": (WIDTH,), "y": (WIDTH,), "w": (WIDTH, WIDTH)}
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


def derived(
    output: Expression, values: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    found = adjoints(output, Literal(1.0), lambda node: node in LEAVES)
    environment = in_numpy.Environment(inputs=values)
    gradients = {name: np.zeros_like(value) for name, value in values.items()}
    for leaf, adjoint in found.items():
        assert isinstance(leaf, Read)
        gradients[leaf.name] = np.broadcast_to(
            in_numpy.evaluate(adjoint, environment), values[leaf.name].shape
        )
    return gradients


def by_autograd(
    output: Expression, values: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    tensors = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in values.items()
    }
    environment = in_torch.Environment(torch.device("cpu"), inputs=tensors, precision=torch.float64)
    result = in_torch.evaluate(output, environment)
    if not result.requires_grad:
        return {name: np.zeros_like(value) for name, value in values.items()}
    result.backward()
    return {
        name: np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        for name, tensor in tensors.items()
    }


def agree(output: Expression, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    found, expected = derived(output, values), by_autograd(output, values)
    for name in values:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9)


ONE_ARGUMENT = [
    name
    for name, function in FUNCTIONS.items()
    if function.arity == 1 and function.shape == Shape.ELEMENTWISE and name not in ("int", "float")
]


@pytest.mark.parametrize("name", ONE_ARGUMENT)
@pytest.mark.parametrize("seed", range(3))
def test_a_function_of_a_float(name: str, seed: int) -> None:
    argument: Expression = POSITIVE if name in ("log", "log2", "sqrt", "rsqrt") else A
    call: Expression = Call(name, (argument,), INT if name == "floor" else FLOAT)
    if name == "floor":
        call = Call("float", (call,), FLOAT)
    agree(Binary("*", call, B, FLOAT), point(seed))


@pytest.mark.parametrize("name", sorted(set(ONE_ARGUMENT) - {"floor"}))
def test_a_function_of_a_vector(name: str) -> None:
    argument: Expression = X
    if name in ("log", "log2", "sqrt", "rsqrt"):
        argument = Binary("+", Call("exp", (X,), VECTOR), Literal(0.5), VECTOR)
    agree(Call("dot", (Call(name, (argument,), VECTOR), Y), FLOAT), point(1))


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "norm"])
def test_a_reduction(name: str) -> None:
    agree(Binary("*", Call(name, (Binary("*", X, Y, VECTOR),), FLOAT), A, FLOAT), point(2))


@pytest.mark.parametrize("name", ["softmax", "rotate_half", "rotate_pairs"])
def test_a_map_of_vectors(name: str) -> None:
    agree(Call("dot", (Call(name, (X,), VECTOR), Y), FLOAT), point(3))
    agree(Call("sum", (Call(name, (Binary("*", A, X, VECTOR),), VECTOR),), FLOAT), point(4))


def test_parts_of_vectors() -> None:
    front = Slice(X, Literal(0), Literal(3), Vector(Literal(3)))
    joined = Call("concat", (front, Slice(Y, Literal(2), Literal(3), Vector(Literal(1)))), VECTOR)
    agree(Call("dot", (joined, Y), FLOAT), point(5))
    agree(Call("sum", (joined,), FLOAT), point(5))
    agree(Binary("*", Element(X, Literal(2)), Element(Y, Literal(0)), FLOAT), point(6))


def test_matrices() -> None:
    mapped = Call("dot", (W, X), VECTOR)
    agree(Call("dot", (Y, Call("relu", (mapped,), VECTOR)), FLOAT), point(7))
    agree(Call("sum", (mapped,), FLOAT), point(7))
    agree(Call("norm", (Call("dot", (Y, W), VECTOR),), FLOAT), point(8))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, -1.5, 0.5])
def test_a_power(exponent: float) -> None:
    agree(Binary("**", POSITIVE, Literal(exponent), FLOAT), point(9))
    agree(Binary("**", POSITIVE, Binary("*", B, Literal(exponent), FLOAT), FLOAT), point(9))
    agree(Binary("**", A, Literal(2.0), FLOAT), {**point(9), "a": np.zeros(())})


def ties() -> list[tuple[str, Expression]]:
    zero = Binary("-", A, A, FLOAT)
    vectors = Binary("-", X, X, VECTOR)
    scaled = Binary("*", B, X, VECTOR)
    extremum = [Call(name, (A, Binary("*", A, B, FLOAT)), FLOAT) for name in ("min", "max")]
    return [
        ("abs", Call("abs", (zero,), FLOAT)),
        ("relu", Call("relu", (Binary("*", zero, B, FLOAT),), FLOAT)),
        ("norm", Call("norm", (vectors,), FLOAT)),
        ("amax", Call("amax", (Binary("*", A, vectors, VECTOR),), FLOAT)),
        ("min", extremum[0]),
        ("max", extremum[1]),
        (
            "max of vectors",
            Call("sum", (Call("max", (X, scaled), VECTOR),), FLOAT),
        ),
        ("relu of a vector", Call("sum", (Call("relu", (vectors,), VECTOR),), FLOAT)),
    ]


@pytest.mark.parametrize("output", [one for _, one in ties()], ids=[name for name, _ in ties()])
def test_pytorch_s_convention_where_there_is_no_derivative(output: Expression) -> None:
    agree(output, {**point(10), "b": np.ones(())})


def test_what_is_not_selected_has_no_derivative() -> None:
    """Where autograd gives NaN: 0 times an infinite slope."""
    is_positive = Binary(">", A, Literal(0.0), BOOL)
    output = Select(is_positive, Call("log", (A,), FLOAT), Literal(0.0), FLOAT)
    below = derived(output, {**point(0), "a": np.zeros(())})
    assert below["a"] == 0
    above = derived(output, {**point(0), "a": np.asarray(4.0)})
    assert above["a"] == 0.25


def test_a_remainder_keeps_its_slope() -> None:
    agree(Binary("%", A, POSITIVE, FLOAT), point(11))
    agree(Binary("%", A, Literal(0.25), FLOAT), point(12))


EXTREMA = st.sampled_from(["min", "max"])
SUMS = st.sampled_from("+-*")


def floats() -> st.SearchStrategy[Expression]:
    """Expressions in which nothing overflows soon."""
    leaves = st.sampled_from([A, B]) | st.sampled_from([0.5, -2.0, 1.0]).map(Literal)
    maps = st.sampled_from(["tanh", "sigmoid", "sin", "abs", "relu", "softplus"])
    reductions = st.sampled_from(["sum", "mean", "amax", "norm"])

    def divide(left: Expression, right: Expression) -> Expression:
        return Binary("/", left, Call("sigmoid", (right,), FLOAT), FLOAT)

    def choose(value: Expression, left: Expression, right: Expression) -> Expression:
        return Select(Binary("<", value, Literal(0.25), BOOL), left, right, FLOAT)

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        vectors = vectors_of(inner)
        return st.one_of(
            st.builds(lambda o, x, y: Binary(o, x, y, FLOAT), SUMS, inner, inner),
            st.builds(lambda f, x: Call(f, (x,), FLOAT), maps, inner),
            st.builds(divide, inner, inner),
            st.builds(lambda x: Unary("-", x, FLOAT), inner),
            st.builds(lambda f, x, y: Call(f, (x, y, A), FLOAT), EXTREMA, inner, inner),
            st.builds(choose, inner, inner, inner),
            st.builds(lambda x, y: Call("dot", (x, y), FLOAT), vectors, vectors),
            st.builds(lambda f, x: Call(f, (x,), FLOAT), reductions, vectors),
            st.builds(lambda x: Element(x, Literal(1)), vectors),
        )

    return st.recursive(leaves, extend, max_leaves=12)


def vectors_of(scalars: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    maps = st.sampled_from(["tanh", "relu", "abs", "softmax", "rotate_half", "rotate_pairs", "cos"])

    def choose(value: Expression, left: Expression, right: Expression) -> Expression:
        return Select(Binary(">", value, Literal(0.5), BOOL), left, right, VECTOR)

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        either = inner | scalars
        return st.one_of(
            st.builds(lambda o, x, y: Binary(o, x, y, VECTOR), SUMS, inner, either),
            st.builds(lambda o, x, y: Binary(o, x, y, VECTOR), SUMS, scalars, inner),
            st.builds(lambda f, x: Call(f, (x,), VECTOR), maps, inner),
            st.builds(lambda x: Call("dot", (W, x), VECTOR), inner),
            st.builds(lambda f, x, y: Call(f, (x, y), VECTOR), EXTREMA, inner, either),
            st.builds(choose, scalars, inner, either),
        )

    return st.recursive(st.sampled_from([X, Y]), extend, max_leaves=4)


def is_tame(output: Expression, values: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    """Whether the output is moderate, so that a comparison of gradients says something."""
    value = in_numpy.evaluate(output, in_numpy.Environment(inputs=values))
    return bool(np.isfinite(value) and abs(value) < 1e6)


@given(floats(), st.integers(0, 5))
def test_random_expressions(output: Expression, seed: int) -> None:
    values = point(seed)
    found, expected = derived(output, values), by_autograd(output, values)
    for name in values:
        if not is_tame(output, values) or not np.isfinite(expected[name]).all():
            continue
        scale = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(found[name] / scale, expected[name] / scale, atol=1e-9)


def test_types_of_adjoints() -> None:
    """A float, or the leaf's own type."""
    output = Call("dot", (Y, Call("tanh", (Call("dot", (W, X), VECTOR),), VECTOR)), FLOAT)
    found = adjoints(output, Literal(1.0), lambda node: node in LEAVES)
    types: dict[Expression, Type] = {leaf: adjoint.type for leaf, adjoint in found.items()}
    assert types == {X: VECTOR, Y: VECTOR, W: SQUARE}
    assert all(isinstance(one, (Scalar, Vector, Matrix)) for one in types.values())
