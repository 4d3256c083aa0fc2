"""What lowering makes of scores: which products, which per-token work, what stays pair-wise."""

from __future__ import annotations

import pytest

from attndsl.attention import Softmax
from attndsl.binding import bind
from attndsl.diagnostics import AttnError
from attndsl.expression import Literal, Size
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.plan import Plan, Prepare, Scan, Source
from attndsl.planner.text import source_text
from attndsl.printing import text


def planned(body: str) -> Plan:
    (attention,) = load_text(f"attention it {{\n{body}\n}}").attentions.values()
    return plan(bind(attention))


def dots(made: Plan) -> list[str]:
    return [f"{source_text(dot.query)} · {source_text(dot.key)}" for dot in made.attend.dots]


def prepared(made: Plan) -> dict[str, str]:
    return {
        stage.buffer.name: text(stage.element)
        for stage in made.stages
        if isinstance(stage, Prepare)
    }


@pytest.mark.parametrize(
    ("score", "products", "elements", "rest"),
    [
        pytest.param("dot(q, k) * scale", ["q · k"], [], "dot#0 * scale", id="plain"),
        pytest.param("dot(k, q)", ["q · k"], [], "dot#0", id="either order"),
        pytest.param(
            "dot(q, k) + tanh(dot(q, k))", ["q · k"], [], "dot#0 + tanh(dot#0)", id="shared"
        ),
        pytest.param("dot(q * scale, k)", ["q · k"], [], "dot#0 * scale", id="scalar pulled out"),
        pytest.param("dot(-q, k / 2.0)", ["q · k"], [], "dot#0 * -0.5", id="sign and quotient"),
        pytest.param("dot(q[0:8], k[8:16])", ["q[0:8] · k[8:8 + 8]"], [], "dot#0", id="slices"),
        pytest.param(
            "dot(q, k) / (norm(q) * norm(k))",
            ["q · k"],
            ["norm(q)", "norm(k)"],
            "dot#0 / (q_scalar[b, h, row] * k_scalar[b, g, j])",
            id="scalars per token",
        ),
        pytest.param(
            "dot(q / norm(q), k)",
            ["q · k"],
            ["1.0 / norm(q)"],
            "dot#0 * q_scalar[b, h, row]",
            id="heavy scalar pulled out of a plain vector",
        ),
        pytest.param(
            "dot(relu(q) * 3.0, relu(k))",
            ["q_prepared · k_prepared"],
            ["relu(q)", "relu(k)"],
            "dot#0 * 3.0",
            id="features",
        ),
        pytest.param(
            "dot(relu(q) / norm(q), k)",
            ["q_prepared · k"],
            ["relu(q) / norm(q)"],
            "dot#0",
            id="a token's own scalar stays where the token is prepared anyway",
        ),
        pytest.param(
            "sum(q) - sum(k)",
            [],
            ["sum(q)", "sum(k)"],
            "q_scalar[b, h, row] - k_scalar[b, g, j]",
            id="reductions",
        ),
    ],
)
def test_score(score: str, products: list[str], elements: list[str], rest: str) -> None:
    made = planned(f"score = {score}")
    assert dots(made) == products
    assert list(prepared(made).values()) == elements
    assert text(made.attend.score) == rest


def test_vector_added_to_a_query_is_prepared_once() -> None:
    made = planned("input u: float[H, D]\nscore = dot(q + u[h], k) * scale")
    assert dots(made) == ["q_prepared · k"]
    assert prepared(made) == {"q_prepared": "q + u[h]"}


def test_product_of_both_sides_becomes_a_matrix_product() -> None:
    made = planned("input w: float[H, D]\nscore = dot(w[h], q * k)")
    assert dots(made) == ["q_prepared · k"]
    assert prepared(made) == {"q_prepared": "q * w[h]"}


def test_dot_distributes_over_a_sum_that_mixes_sides() -> None:
    made = planned("input w: float[H, D]\nscore = dot(w[h], q + k)")
    assert dots(made) == []
    assert prepared(made) == {"q_scalar": "sum(q * w[h])", "k_scalar": "sum(k * w[h])"}
    assert text(made.attend.score) == "q_scalar[b, h, row] + k_scalar[b, h, j]"


def test_key_side_work_that_depends_on_the_query_head_has_query_heads() -> None:
    made = planned("input w: float[H, D]\nscore = dot(q, w[h] * relu(k))")
    (stage,) = (stage for stage in made.stages if isinstance(stage, Prepare))
    assert stage.head_index == "h"
    assert stage.buffer.dimensions[1] == Size("H")


def test_what_does_not_separate_stays_pairwise() -> None:
    made = planned("input r: float[H, 2 * Lk, D]\nscore = dot(q, k) + dot(q, r[h, i - j + Lk])")
    assert dots(made) == ["q · k"]
    assert prepared(made) == {}
    assert text(made.attend.score) == "dot#0 + dot(q, r[h, i + Lk - j])"
    assert made.attend.vectors == (("q", Source("q", Literal(0), Size("D"))),)


def test_linear_map_of_both_sides_is_applied_per_side() -> None:
    made = planned(
        "input first: float[8, 2 * D]\ninput second: float[8]\n"
        "score = dot(second, relu(dot(first, concat(q, k))))"
    )
    assert len(prepared(made)) == 2
    assert text(made.attend.score) == (
        "dot(second, relu(q_prepared[b, h, row] + k_prepared[b, g, j]))"
    )


def test_prepared_operands_are_what_is_scored() -> None:
    made = planned("q = relu(q)\nk = relu(k)\nscore = dot(q, k) + dot(q, q)")
    assert dots(made) == ["q_prepared · k_prepared"]
    assert prepared(made) == {
        "q_prepared": "relu(q)",
        "k_prepared": "relu(k)",
        "q_scalar": "dot(relu(q), relu(q))",
    }


def test_value_made_of_keys_is_a_view_of_them() -> None:
    made = planned("v = k[0:8]")
    assert made.attend.value == Source("k", Literal(0), Literal(8))
    assert prepared(made) == {}


def test_names_of_buffers_avoid_inputs() -> None:
    made = planned("input q_prepared: float[D]\nscore = dot(q + q_prepared, k)")
    assert list(prepared(made)) == ["q_prepared_2"]


def test_sink_with_a_dot_is_prepared() -> None:
    made = planned("input s: float[H, D]\nnormalize = softmax(sink = dot(q, s[h]))")
    assert isinstance(made.attend.normalizer, Softmax)
    assert made.attend.normalizer.sink is not None
    assert text(made.attend.normalizer.sink) == "q_scalar[b, h, row]"


def test_scans_come_before_what_reads_them() -> None:
    made = planned(
        "input f: float[B, H, Lk]\nlet c = cumsum(f)\nscore = dot(q * exp(c[b, h, i]) + q, k)"
    )
    assert isinstance(made.stages[0], Scan)
    assert made.stages[0].indices == ("b", "h")
    assert isinstance(made.stages[1], Prepare)


@pytest.mark.parametrize(
    ("body", "construct"),
    [
        (
            "normalize = grouped_softmax(group = j // 64, own = i // 64, gate = j % 64 == 63)",
            "grouped_softmax",
        ),
        (
            "mask = causal\nroute blocks of 64 {\naffinity = dot(q, mean(k))\nkeep = top(3)\n"
            "always = n == i // 64\nnever = n > i // 64\n}",
            "route",
        ),
    ],
)
def test_constructs_of_later_are_named(body: str, construct: str) -> None:
    with pytest.raises(AttnError) as caught:
        planned(body)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "A080"
    assert f"`{construct}`" in diagnostic.message
    assert diagnostic.span is not None
