"""Values of expressions, one construct at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attndsl.diagnostics import InternalError
from attndsl.evaluate import Environment, evaluate, evaluate_size
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
    ScoreValue,
    Select,
    Size,
    Slice,
    Unary,
    Vector,
)
from attndsl.functions import FUNCTIONS

QUERY, KEY = Index("i"), Index("j")
FOUR = Vector(Literal(4))
X = Operand("q", FOUR)
X_VALUE = np.array([1.0, -2.0, 3.0, 0.5])


def pairs(rows: int = 3, keys: int = 4, **rest: object) -> Environment:
    i = np.arange(rows).reshape(1, 1, -1, 1)
    j = np.arange(keys).reshape(1, 1, 1, -1)
    return Environment(indices={"i": i, "j": j}, operands={"q": X_VALUE}, **rest)  # type: ignore[arg-type]


def integer(operator: str, left: int, right: int) -> int:
    return int(evaluate(Binary(operator, Literal(left), Literal(right), INT), Environment()))


@pytest.mark.parametrize("left", [-7, -1, 0, 1, 7])
@pytest.mark.parametrize("right", [-3, -1, 2, 5])
def test_integers_floor_as_python_does(left: int, right: int) -> None:
    assert integer("//", left, right) == left // right
    assert integer("%", left, right) == left % right


def test_values_broadcast_to_the_grid() -> None:
    value = evaluate(Binary("-", QUERY, KEY, INT), pairs())
    assert value.dtype == np.int64
    np.testing.assert_array_equal(value[0, 0], np.arange(3)[:, None] - np.arange(4)[None, :])


def test_division_by_zero_does_not_warn() -> None:
    with np.errstate(all="raise"):
        value = evaluate(Binary("/", Literal(1.0), Literal(0.0), FLOAT), Environment())
    assert np.isinf(value)


EXPECTED = {
    "abs": (X, np.abs(X_VALUE)),
    "exp": (X, np.exp(X_VALUE)),
    "exp2": (X, [2, 0.25, 8, math.sqrt(2)]),
    "tanh": (X, np.tanh(X_VALUE)),
    "sigmoid": (X, 1 / (1 + np.exp(-X_VALUE))),
    "softplus": (X, np.log(1 + np.exp(X_VALUE))),
    "relu": (X, [1, 0, 3, 0.5]),
    "sign": (X, [1, -1, 1, 1]),
    "erf": (X, [math.erf(x) for x in X_VALUE]),
    "sin": (X, np.sin(X_VALUE)),
    "cos": (X, np.cos(X_VALUE)),
    "log": (Literal(math.e), 1.0),
    "log2": (Literal(8.0), 3.0),
    "sqrt": (Literal(9.0), 3.0),
    "rsqrt": (Literal(4.0), 0.5),
    "floor": (Literal(-0.5), -1),
    "float": (Literal(3), 3.0),
    "int": (Literal(True), 1),
    "sum": (X, 2.5),
    "mean": (X, 0.625),
    "amax": (X, 3.0),
    "norm": (X, math.sqrt(14.25)),
    "softmax": (X, np.exp(X_VALUE) / np.exp(X_VALUE).sum()),
    "rotate_half": (X, [-3, -0.5, 1, -2]),
    "rotate_pairs": (X, [2, 1, -0.5, 3]),
    "arange": (Literal(4), [0, 1, 2, 3]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_function_of_one_argument(name: str) -> None:
    argument, expected = EXPECTED[name]
    value = evaluate(Call(name, (argument,), FLOAT), pairs())
    np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_every_function_has_a_value() -> None:
    assert set(EXPECTED) | {"min", "max", "dot", "concat"} == set(FUNCTIONS)


@pytest.mark.parametrize("x", [-800.0, 800.0])
def test_sigmoid_and_softplus_do_not_overflow(x: float) -> None:
    sigmoid, softplus = (
        evaluate(Call(name, (Literal(x),), FLOAT), Environment())
        for name in ("sigmoid", "softplus")
    )
    assert sigmoid == (1.0 if x > 0 else 0.0)
    assert softplus == max(x, 0.0)


def test_least_and_greatest_of_several() -> None:
    arguments: tuple[Expression, ...] = (Literal(3), Literal(-1), Literal(2))
    assert evaluate(Call("min", arguments, INT), Environment()) == -1
    assert evaluate(Call("max", arguments, INT), Environment()) == 3


def test_scalar_meets_vector() -> None:
    value = evaluate(Binary("*", X, Call("float", (QUERY,), FLOAT), FOUR), pairs())
    assert value.shape == (1, 1, 3, 1, 4)
    np.testing.assert_array_equal(value[0, 0, 2, 0], 2 * X_VALUE)


def test_select_between_vectors_by_a_scalar() -> None:
    condition = Binary("==", QUERY, Literal(1), BOOL)
    value = evaluate(Select(condition, X, Unary("-", X, FOUR), FOUR), pairs())
    np.testing.assert_array_equal(value[0, 0, :, 0], [-X_VALUE, X_VALUE, -X_VALUE])


def test_concat_slice_and_element() -> None:
    double = Call("concat", (X, X), Vector(Literal(8)))
    part = Slice(double, Literal(3), Literal(5), Vector(Literal(2)))
    np.testing.assert_array_equal(evaluate(part, pairs()), [0.5, 1.0])
    assert evaluate(Element(part, Literal(1)), pairs()) == 1.0


def test_matrix_times_vector() -> None:
    weights = np.arange(8.0).reshape(2, 4)
    matrix = Read("w", (), Matrix(Literal(2), Literal(4)))
    value = evaluate(Call("dot", (matrix, X), Vector(Literal(2))), pairs(inputs={"w": weights}))
    np.testing.assert_allclose(value, weights @ X_VALUE)


def test_dot_of_queries_and_keys_is_a_matrix_product() -> None:
    random = np.random.default_rng(0)
    q, k = random.normal(size=(2, 1, 3, 1, 4)), random.normal(size=(2, 1, 1, 5, 4))
    expression = Call("dot", (X, Operand("k", FOUR)), FLOAT)
    value = evaluate(expression, Environment(operands={"q": q, "k": k}))
    np.testing.assert_allclose(value, (q * k).sum(axis=-1))


def test_dot_of_vectors_that_are_read_for_every_pair() -> None:
    table = np.random.default_rng(0).normal(size=(7, 4))
    away = Binary("+", Binary("-", QUERY, KEY, INT), Literal(3), INT)
    value = evaluate(Call("dot", (X, Read("r", (away,), FOUR)), FLOAT), pairs(inputs={"r": table}))
    expected = [[table[i - j + 3] @ X_VALUE for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(value[0, 0], expected)


def test_reads_have_the_type_that_the_spec_gives_them() -> None:
    inputs = {"n": np.array([3], np.int32), "f": np.array([2.5], np.float32)}
    environment = Environment(inputs=inputs)
    assert evaluate(Read("n", (Literal(0),), INT), environment).dtype == np.int64
    assert evaluate(Read("f", (Literal(0),), FLOAT), environment).dtype == np.float64


def test_clamped_reads_take_the_nearest_element() -> None:
    index = Binary("-", KEY, Literal(1), INT)
    environment = pairs(inputs={"a": np.array([10.0, 20.0])}, clamp=True)
    value = evaluate(Read("a", (index,), FLOAT), environment)
    np.testing.assert_array_equal(value[0, 0, 0], [10, 10, 20, 20])


def test_clamped_read_of_an_empty_input() -> None:
    environment = pairs(inputs={"a": np.zeros(0)}, clamp=True)
    assert np.all(evaluate(Read("a", (KEY,), FLOAT), environment) == 0)


def test_coordinates_of_three_axes() -> None:
    sizes = {"axis.t": 2, "axis.y": 3, "axis.x": 4}
    environment = Environment(
        indices={"i": np.arange(24)}, sizes=sizes, axes=("t", "y", "x"), clamp=True
    )
    found = [evaluate(Coordinate("i", axis), environment) for axis in ("t", "y", "x")]
    np.testing.assert_array_equal(found, np.unravel_index(np.arange(24), (2, 3, 4)))


def test_shared_nodes_are_evaluated_once() -> None:
    # Doubled forty times: a tree of 2**40 leaves, but only forty nodes.
    node: Expression = Literal(1.0)
    for _ in range(40):
        node = Binary("+", node, node, FLOAT)
    assert evaluate(node, Environment()) == 2.0**40


def test_sizes() -> None:
    half = Binary("//", Size("Lk"), Literal(2), INT)
    assert evaluate_size(half, {"Lk": 7}) == 3


@pytest.mark.parametrize("expression", [Parameter("w", INT), ScoreValue()])
def test_what_has_no_value_here_is_our_bug(expression: Expression) -> None:
    with pytest.raises(InternalError):
        evaluate(expression, Environment())
