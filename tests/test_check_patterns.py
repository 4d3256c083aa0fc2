"""Patterns over all axes, with one argument for all of them or one for each."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.grids import natten_window

from attndsl import syntax
from attndsl.attention import Attention
from attndsl.evaluate import Environment, evaluate
from attndsl.parsing import parse
from attndsl.printing import text
from attndsl.source import Source
from tests.faults import assert_fault, faults
from tests.unjudged import unjudged

AXES = ("time", "y", "x")


def attention(mask: str, axes: tuple[str, ...] = AXES, parameters: str = "") -> Attention:
    declared = f"axes {', '.join(axes)}" if axes else ""
    return unjudged(f"attention a{parameters} {{ {declared} mask = {mask} }}")


def visible(attention: Attention, grid: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The mask over all pairs of a grid."""
    length = prod(grid)
    positions = np.arange(length)
    sizes = {"Lk": length, "Lq": length, "offset": 0}
    sizes |= {f"axis.{axis}": size for axis, size in zip(attention.axes, grid, strict=True)}
    environment = Environment(
        indices={"i": positions[:, None], "j": positions[None, :]},
        sizes=sizes,
        axes=attention.axes,
    )
    return np.broadcast_to(evaluate(attention.mask, environment), (length, length))


axis_arguments = st.fixed_dictionaries(
    {
        "window": st.integers(1, 3),
        "dilation": st.integers(1, 2),
        "stride": st.integers(1, 3),
        "causal": st.booleans(),
    }
).filter(lambda one: one["stride"] <= one["window"])


@given(
    st.lists(axis_arguments, min_size=1, max_size=3),
    st.sampled_from([(6, 7, 8), (7, 6, 6)]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_each_axis_has_its_own_neighborhood(
    arguments: list[dict[str, Any]], sizes: tuple[int, ...], by_name: bool
) -> None:
    grid, axes = sizes[: len(arguments)], AXES[: len(arguments)]
    written = []
    for name in ("window", "dilation", "stride", "causal"):
        values = ", ".join(str(one[name]) for one in arguments)
        values += "," if len(arguments) == 1 else ""
        written.append(f"{name} = ({values})" if by_name else f"({values})")
    found = visible(attention(f"neighborhood({', '.join(written)})", axes), grid)
    for query in range(prod(grid)):
        keys = np.ones(1, bool)
        for place, size, one in zip(np.unravel_index(query, grid), grid, arguments, strict=True):
            along = np.zeros(size, bool)
            along[natten_window(int(place), size, **one)] = True
            keys = np.logical_and.outer(keys, along).ravel()
        assert (found[query] == keys).all(), f"query {query}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(3, 5, 5)", "(3, 5, 5,)"),
        ("(3, 3, 3)", "3"),
        ("window = (3, 5, 5), causal = (False, False, False)", "(3, 5, 5)"),
        ("(3, 5, 5), causal = True", "(3, 5, 5), 1, 1, (True, True, True)"),
        ("causal = (True, False, False), window = 5", "(5, 5, 5), causal = (True, False, False)"),
        ("(t, 2 * w, w + 1), stride = (1, w, t)", "((t), w * 2, (w + 1)), 1, (1, w, t)"),
    ],
)
def test_the_same_written_in_two_ways(one: str, other: str) -> None:
    first, second = (
        attention(f"neighborhood({arguments})", parameters="(t: int = 3, w: int = 5)").mask
        for arguments in (one, other)
    )
    assert text(first).replace("w * 2", "2 * w") == text(second).replace("w * 2", "2 * w")


def test_along_the_sequence_there_is_one_axis() -> None:
    assert attention("neighborhood((5,))", ()).mask == attention("neighborhood(5)", ()).mask


def test_each_value_is_pointed_at() -> None:
    spec = "attention a {{ axes y, x mask = neighborhood({}) }}"
    assert_fault(spec.format("(3, «1.5»)"), "A024")
    assert_fault(spec.format("(3, «wide»)"), "A012")
    assert_fault(spec.format("(3, «(5, 7)»)"), "A026")
    assert_fault(spec.format("«(3,)»"), "A026", "one value for each axis")
    two = faults(spec.format("(1, 2, 3), causal = ()"))
    assert [(one.code, one.message) for one in two] == [
        ("A026", "`window` has 3 values for 2 axes"),
        ("A026", "`causal` has no values for 2 axes"),
    ]
    both = faults(spec.format("(one, two)"))
    assert [one.message for one in both] == ["unknown name `one`", "unknown name `two`"]
    shared = faults(spec.format("window = wide"))
    assert [one.message for one in shared] == ["unknown name `wide`"]


@pytest.mark.parametrize(
    "spec",
    [
        "attention a { mask = «(causal, causal)» }",
        "attention a { score = «(1.0, 2.0)» }",
        "attention a { score = dot(q, k) * «()» }",
        "attention a { score = -«(1, 2)» }",
        "attention a { mask = «(1, 2)» < j }",
        "attention a { mask = causal if «(causal, causal)» else causal }",
        "attention a { score = max(«(1, 2)») * scale }",
        "attention a { score = q[«(1, 2)»] }",
        "attention a { score = q[0:«(1, 2)»] * scale }",
        "attention a { score = «(1, 2)»[0] }",
        "attention a { input u: float[«(H, D)»] score = u[h] * scale }",
        "attention a { let x = «(1, 2)» score = x }",
        "attention a { q = «(q, q)» }",
        "attention a { mask = sliding(window = «(1, 2)») }",
        "def f(x) = neighborhood(x) attention a { axes y, x mask = f(«(1, 2)») }",
        "def f = «(1, 2)» attention a { axes y, x mask = neighborhood(f) }",
        "attention a { normalize = softmax(sink = «(1.0, 2.0)») }",
        "attention a { normalize = weight(«(score, score)») }",
        "attention a(w: int = «(1, 2)») { mask = i - j < w }",
        "attention a(w: int = 1 where «(1, 2)») { mask = causal and i - j < w }",
    ],
)
def test_a_tuple_is_no_value(spec: str) -> None:
    assert_fault(spec, "A026")


@pytest.mark.parametrize(
    "spec",
    [
        "attention a { normalize = (softmax, softmax) }",
        "attention a { branch x = (pooled(4), 2) output = x }",
        "attention a { route blocks of (1, 2) { affinity = dot(q, mean(k)) keep = top(3) } }",
        "attention a { route blocks of 64 { affinity = dot(q, mean(k)) keep = (top(3), 2) } }",
        "attention a { state S: [(D, D), Dv] { read = dot(S, q) } }",
    ],
)
def test_a_tuple_is_no_construct(spec: str) -> None:
    assert faults(spec)


@pytest.mark.parametrize(
    ("written", "count"), [("()", 0), ("(1,)", 1), ("(1, 2)", 2), ("(1, (2), 3 + 4,)", 3)]
)
def test_tuples_are_parsed(written: str, count: int) -> None:
    source = Source(f"def f = g({written}, x = {written})")
    body = parse(source).definitions[0].body
    assert isinstance(body, syntax.Call)
    for argument in body.arguments:
        assert isinstance(argument.value, syntax.Tuple)
        assert len(argument.value.items) == count
        assert argument.value.span.text == written


def test_parentheses_alone_make_no_tuple() -> None:
    body = parse(Source("def f = g((1))")).definitions[0].body
    assert isinstance(body, syntax.Call)
    assert isinstance(body.arguments[0].value, syntax.Number)


@pytest.mark.parametrize("written", ["(,)", "(1,,)", "(,1)", "(1 2)", "(a = 1,)", "(1, 2"])
def test_what_is_no_tuple(written: str) -> None:
    (found,) = faults(f"attention a {{ mask = neighborhood({written}) }}")
    assert found.code in ("A001", "A003", "A004")
