"""The algebra of the Triton emitter keeps values; its text is well formed."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attndsl.codegen.program import DType, Specialization
from attndsl.codegen.triton.arrange import KEY_LANE, KEY_START, arrange, linear_in, times
from attndsl.codegen.triton.configurations import tiles
from attndsl.codegen.triton.emit import emit
from attndsl.codegen.triton.names import Names
from attndsl.codegen.triton.scalarize import element
from attndsl.codegen.triton.spelling import is_non_negative
from attndsl.codegen.triton.targets import parse_target
from attndsl.codegen.triton.tokens import chunks
from attndsl.codegen.triton.wrapping import wrapped
from attndsl.diagnostics import AttnError
from attndsl.evaluate import Environment, evaluate
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    DotResult,
    Expression,
    Index,
    Literal,
    Matrix,
    Read,
    Scale,
    Select,
    Unary,
    Vector,
    children,
)
from attndsl.module import load_text
from attndsl.planner import plan

ROWS, KEYS, START = 5, 7, 32
EXTREMES = st.sampled_from(["min", "max"])
BOUNDED = st.sampled_from(["tanh", "sigmoid"])
QUERY, KEY, HEAD = Index("i"), Index("j"), Index("h")
CAUSAL = Binary("<=", KEY, QUERY, BOOL)


def environment() -> Environment:
    lanes = np.arange(KEYS)
    return Environment(
        indices={
            "i": np.arange(ROWS).reshape(-1, 1) * 3 + 30,
            "j": (START + lanes).reshape(1, -1),
            "h": np.array([[2]]),
            "key_start": np.array([[START]]),
            "key_lane": lanes.reshape(1, -1),
        },
        scale=-0.3,
        dots={0: np.sin(np.arange(ROWS * KEYS)).reshape(ROWS, KEYS)},
    )


def axes_of(expression: Expression) -> str:
    leaves = {QUERY: "m", KEY: "n", KEY_LANE: "n", DotResult(0): "mn"}
    if expression in leaves:
        return leaves[expression]
    present = {axis for child in children(expression) for axis in axes_of(child)}
    return "".join(axis for axis in "mn" if axis in present)


def integers() -> st.SearchStrategy[Expression]:
    leaves = st.sampled_from([QUERY, KEY, HEAD]) | st.integers(-9, 9).map(Literal)

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        return st.one_of(
            st.builds(lambda o, x, y: Binary(o, x, y, INT), st.sampled_from("+-*"), inner, inner),
            st.builds(lambda x: Unary("-", x, INT), inner),
            st.builds(lambda x: Call("abs", (x,), INT), inner),
            st.builds(
                lambda f, x, y: Call(f, (x, y), INT), st.sampled_from(["min", "max"]), inner, inner
            ),
        )

    return st.recursive(leaves, extend, max_leaves=8)


def floats() -> st.SearchStrategy[Expression]:
    leaves = st.one_of(
        st.sampled_from([DotResult(0), Scale()]),
        st.sampled_from([-2.0, 0.5, 1.0, 3.0]).map(Literal),
        integers().map(lambda x: Call("float", (x,), FLOAT)),
    )

    def extend(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
        return st.one_of(
            st.builds(lambda o, x, y: Binary(o, x, y, FLOAT), st.sampled_from("+-*"), inner, inner),
            st.builds(lambda x: Binary("/", x, Literal(4.0), FLOAT), inner),
            st.builds(lambda x: Unary("-", x, FLOAT), inner),
            st.builds(
                lambda f, x: Call(f, (x,), FLOAT), st.sampled_from(["tanh", "sigmoid"]), inner
            ),
            st.builds(
                lambda x, y: Select(Binary("<=", QUERY, KEY, BOOL), x, y, FLOAT), inner, inner
            ),
        )

    return st.recursive(leaves, extend, max_leaves=10)


@given(floats(), st.sampled_from([1.0, -1.5, 1.4426950408889634]))
def test_arranging_and_scaling_keep_the_value(expression: Expression, factor: float) -> None:
    arranged = times(arrange(expression, axes_of), factor, axes_of)
    expected = evaluate(expression, environment()) * factor
    actual = evaluate(arranged, environment())
    size = np.abs(np.broadcast_to(expected, (ROWS, KEYS))).max() + 1e6
    np.testing.assert_allclose(
        np.broadcast_to(actual, (ROWS, KEYS)),
        np.broadcast_to(expected, (ROWS, KEYS)),
        rtol=1e-9,
        atol=1e-12 * size,
    )


@given(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), integers(), integers())
def test_arranged_comparisons_are_exact(operator: str, left: Expression, right: Expression) -> None:
    comparison = Binary(operator, left, right, BOOL)
    actual = evaluate(arrange(comparison, axes_of), environment())
    expected = evaluate(comparison, environment())
    shape = (ROWS, KEYS)
    assert (np.broadcast_to(actual, shape) == np.broadcast_to(expected, shape)).all()


@given(
    st.sampled_from(["==", "!="]),
    integers(),
    st.sampled_from([-7, -4, 1, 3, 4, 8]),
    st.integers(0, 3),
)
def test_arranged_congruences_are_exact(
    operator: str, difference: Expression, modulus: int, residue: int
) -> None:
    remainder = Binary("%", difference, Literal(modulus), INT)
    comparison = Binary(operator, remainder, Literal(residue), BOOL)
    actual = evaluate(arrange(comparison, axes_of), environment())
    expected = evaluate(comparison, environment())
    shape = (ROWS, KEYS)
    assert (np.broadcast_to(actual, shape) == np.broadcast_to(expected, shape)).all()


def test_a_congruence_divides_once_a_row_and_once_a_key() -> None:
    remainder = Binary("%", Binary("-", QUERY, KEY, INT), Literal(12), INT)
    arranged = arrange(Binary("==", remainder, Literal(0), BOOL), axes_of)
    assert isinstance(arranged, Binary)
    assert {axes_of(arranged.left), axes_of(arranged.right)} == {"m", "n"}


@given(integers())
def test_what_is_called_non_negative_is(expression: Expression) -> None:
    if is_non_negative(expression):
        assert evaluate(expression, environment()).min() >= 0


def test_a_window_compares_rows_with_lanes() -> None:
    """`i - j < 256` leaves one comparison a pair: nothing is added on both axes."""
    window = Binary("<", Binary("-", QUERY, KEY, INT), Literal(256), BOOL)
    arranged = arrange(window, axes_of)
    assert isinstance(arranged, Binary)
    assert {axes_of(arranged.left), axes_of(arranged.right)} == {"m", "n"}


def test_distances_become_floats_on_one_axis_each() -> None:
    distance = Call("float", (Binary("-", QUERY, KEY, INT),), FLOAT)
    arranged = arrange(distance, axes_of)
    i_part = Call("float", (Binary("-", QUERY, KEY_START, INT),), FLOAT)
    assert arranged == Binary("-", i_part, Call("float", (KEY_LANE,), FLOAT), FLOAT)


def test_a_factor_reaches_the_scalars() -> None:
    score = Binary("*", DotResult(0), Scale(), FLOAT)
    scaled = times(score, 2.0, axes_of)
    assert scaled == Binary("*", Binary("*", Scale(), Literal(2.0), FLOAT), DotResult(0), FLOAT)
    product = linear_in(scaled, DotResult(0))
    assert product is not None
    assert (product.coefficient, product.factors) == (2.0, (Scale(),))


VECTOR = Read("x", (), Vector(Literal(6)))
SMALL = Read("y", (), Vector(Literal(2)))


@pytest.mark.parametrize(
    "vector",
    [
        VECTOR,
        Call("rotate_half", (VECTOR,), VECTOR.type),
        Call("rotate_pairs", (VECTOR,), VECTOR.type),
        Call("softmax", (VECTOR,), VECTOR.type),
        Call("concat", (VECTOR, SMALL, VECTOR), Vector(Literal(14))),
        Call("arange", (Literal(6),), VECTOR.type),
        Binary("*", VECTOR, Literal(2.0), VECTOR.type),
        Call("dot", (Read("m", (), Matrix(Literal(6), Literal(2))), SMALL), VECTOR.type),
    ],
    ids=lambda vector: getattr(vector, "function", type(vector).__name__),
)
def test_elements_are_those_of_the_vector(vector: Expression) -> None:
    random = np.random.default_rng(0)
    inputs = {
        "x": random.normal(size=6),
        "y": random.normal(size=2),
        "m": random.normal(size=(6, 2)),
    }
    if isinstance(vector, Call) and vector.function == "dot":
        from attndsl.expression import Matrix

        matrix = Read("m", (), Matrix(Literal(6), Literal(2)))
        vector = Call("dot", (matrix, SMALL), VECTOR.type)
    whole = evaluate(vector, Environment(inputs=inputs))
    for number in range(whole.shape[-1]):
        one = element(vector, Literal(number))
        value = evaluate(one, Environment(inputs=inputs, clamp=True))
        assert value == pytest.approx(whole[..., number])


@given(st.integers(0, 64), st.integers(1, 600))
def test_chunks_cover_the_vector(start: int, size: int) -> None:
    parts = chunks(start, size)
    covered = [one for part in parts for one in range(part.start, part.start + part.used)]
    assert covered == list(range(start, start + size))
    assert all(part.width >= 16 and part.width & (part.width - 1) == 0 for part in parts)
    assert all(part.used == part.width for part in parts[:-1])


@given(st.lists(st.text(max_size=8), max_size=8))
def test_identifiers_are_valid_and_distinct(wanted: list[str]) -> None:
    names = Names(frozenset({"taken"}))
    given_names = [names.fresh(one) for one in [*wanted, "taken", "tl", "if", "1"]]
    assert all(name.isidentifier() and name.isascii() for name in given_names)
    assert len({*given_names, "taken", "tl", "if"}) == len(given_names) + 3


@given(floats())
def test_wrapped_lines_parse_to_the_same(expression: Expression) -> None:
    line = f"some_rather_long_name = {_python(expression)}"
    lines = wrapped(line, 60)
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(line))


def _python(expression: Expression) -> str:
    parts = [_python(child) for child in children(expression)]
    match expression:
        case Binary(operator=operator):
            return f"({parts[0]} {operator} {parts[1]})"
        case Call(function=function):
            return f"function_{function}({', '.join(parts)})"
        case Unary():
            return f"-{parts[0]}"
        case Select():
            return f"tl.where({', '.join(parts)})"
        case Literal(value=value):
            return repr(value)
    return f"{type(expression).__name__.lower()}[:, None]"


@pytest.mark.parametrize("text", ["cuda:7", "cuda:70", "cuda", "hip:90", "cuda:90;", "gpu", ""])
def test_unknown_targets_are_refused(text: str) -> None:
    with pytest.raises(AttnError, match="A081"):
        parse_target(text)


def test_hostile_names_stay_names() -> None:
    """Names of the spec that mean something in a kernel get other identifiers."""
    spec = """
    attention tl(BLOCK_M: int = 3) {
        input program: float[H]
        input queries: float[H]
        input float32: int[Lk]
        score = dot(q, k) * scale + program[h] * queries[h]
        mask = float32[j] < BLOCK_M and i >= j
    }
    """
    from attndsl.binding import bind

    made = plan(bind(load_text(spec).attentions["tl"]))
    specialization = Specialization(DType.FLOAT16, 64, 64)
    program = emit(made, specialization)
    identifiers = [argument.identifier for argument in program.entries[-1].arguments]
    assert len(set(identifiers)) == len(identifiers)
    assert program.entries[-1].function not in ("tl", "triton")
    assert "BLOCK_M = tl.constexpr(" in program.text
    tree = ast.parse(program.text)
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)][-1] == (
        program.entries[-1].function
    )


def test_candidates_end_with_small_tiles() -> None:
    made = plan(load_text("attention full { mask = True }").attentions["full"])
    for target in ("cuda:80", "cuda:86", "cuda:90", "cuda:100", "hip:gfx942"):
        for dim in (64, 128, 192, 576):
            found = tiles(made, Specialization(DType.BFLOAT16, dim, dim), target)
            areas = [tile.block_m * tile.block_n for tile in found]
            assert areas[-1] == min(areas)
            assert len(set(found)) == len(found)


def test_lines_of_emitted_source_fit() -> None:
    spec = "attention window(w: int = 99) { mask = causal and i - j < w\nscore = tanh(dot(q, k)) }"
    from attndsl.binding import bind

    made = plan(bind(load_text(spec).attentions["window"]))
    text = emit(made, Specialization(DType.FLOAT16, 64, 64, True)).text
    assert max(map(len, text.splitlines())) <= 100
    assert "    Lq,\n" in text, "lengths are run-time arguments"
