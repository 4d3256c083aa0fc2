"""Types: bools, ints, floats, vectors and matrices, and where they may meet."""

from __future__ import annotations

import pytest

from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Element,
    Expression,
    Index,
    Literal,
    Read,
    Size,
    Slice,
    Vector,
)
from attndsl.module import load_text
from attndsl.printing import text
from tests.faults import assert_fault

INPUTS = """input slope: float[H] input doc: int[B, Lk] input u: float[H, D]
    input short: float[H, 32] input m: float[D, 16] input flag: bool[Lk] input bias: float"""


def score(written: str) -> Expression:
    spec = f"attention a(w: int = 3, c: float = 2.0) {{ {INPUTS} score = {written} }}"
    return load_text(spec).attentions["a"].score


def mask(written: str) -> Expression:
    return load_text(f"attention a {{ {INPUTS} mask = {written} }}").attentions["a"].mask


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("i - j", "float(i - j)"),
        ("slope[h] * (i - j)", "slope[h] * float(i - j)"),
        ("1 / 2", "float(1) / float(2)"),
        ("i / 2 + 1", "float(i) / float(2) + float(1)"),
        ("w + c", "float(w) + c"),
        ("2 ** w", "float(2) ** float(w)"),
        ("float(i ** 2)", "float(i ** 2)"),
        ("log(Lk)", "log(float(Lk))"),
        ("max(i, 2)", "float(max(i, 2))"),
        ("max(i, 2.0)", "max(float(i), 2.0)"),
        ("abs(i - j) * 1.0", "float(abs(i - j)) * 1.0"),
        ("1 if causal else 0.5", "float(1) if j <= i else 0.5"),
        ("cdiv(Lk, 64) * 1.0", "float((Lk + (64 - 1)) // 64) * 1.0"),
        ("floor(slope[h]) * 1.0", "float(floor(slope[h])) * 1.0"),
        ("int(flag[j]) * 1.0", "float(int(flag[j])) * 1.0"),
        ("bias + 1.0", "bias + 1.0"),
        ("dot(q, k + 1)", "dot(q, k + float(1))"),
        ("dot(2 * q, k)", "dot(float(2) * q, k)"),
        ("sum(dot(m, short[h][0:16]))", "sum(dot(m, short[h][0:16]))"),
        ("dot(q[0:32], short[h])", "dot(q[0:32], short[h])"),
        ("dot(q[:32], k[D - 32:])", "dot(q[0:32], k[D - 32:D])"),
        ("dot(concat(q, k), concat(k, q))", "dot(concat(q, k), concat(k, q))"),
        ("q[3] + u[h][2] + u[h, 1]", "q[3] + u[h, 2] + u[h, 1]"),
        ("sum(u[h, 4:8])", "sum(u[h][4:8])"),
        ("size(q) * 1.0", "float(D) * 1.0"),
        ("norm(arange(D // 2))", "norm(arange(D // 2))"),
    ],
)
def test_conversions_and_shapes(written, printed):
    found = score(written)
    assert text(found) == printed
    assert found.type is FLOAT


def test_types_of_nodes():
    sliced = score("dot(q[4:8], k[0:4])")
    assert isinstance(sliced, Call)
    left = sliced.arguments[0]
    assert isinstance(left, Slice)
    assert left.type == Vector(Literal(4))
    assert isinstance(score("q[3]"), Element)
    assert score("u[h][3]") == Read("u", (Index("h"), Literal(3)), FLOAT)
    assert Literal(1) != Literal(1.0)


def test_sizes_that_add_up_are_the_whole():
    joined = score("dot(concat(q[0:32], q[32:D]), k)")
    assert isinstance(joined, Call)
    assert joined.arguments[0].type == Vector(Size("D"))


def test_comparison_chains_are_conjunctions():
    found = mask("0 <= i - j < 3")
    assert isinstance(found, Binary)
    assert (found.operator, found.type) == ("and", BOOL)
    assert text(found) == "0 <= i - j and i - j < 3"


def test_bools_of_inputs_are_masks():
    assert mask("flag[j]").type is BOOL
    assert mask("doc[b, i] == 3").type is BOOL


def test_prepared_vectors_have_their_own_size():
    spec = """attention a {
        q = concat(q, q[0:4])
        k = k[0:68]
        score = dot(q[0:68], k)
    }"""
    prepared = dict(load_text(spec).attentions["a"].prepared)
    assert text(prepared["q"].type.size) == "D + 4"
    assert prepared["k"].type == Vector(Literal(68))


@pytest.mark.parametrize(
    ("statement", "code", "help"),
    [
        ("mask = «i - j»", "A021", "compare"),
        ("mask = «1.0»", "A021", "score"),
        ("score = «q»", "A022", "dot(q, k)"),
        ("score = «causal»", "A022", "mask"),
        ("mask = «i» and causal", "A020", "compare"),
        ("mask = not «i»", "A020", None),
        ("score = 1.0 + «causal»", "A020", "float(…)"),
        ("mask = «causal < True»", "A020", None),
        ("mask = «q» < 1", "A019", None),
        ("score = 1.0 if «i» else 2.0", "A020", None),
        ("score = «1.0 if causal else causal»", "A020", "same type"),
        ("score = «softcap(1.0)»", "A023", "softcap(x, cap)"),
        ("score = «exp(1.0, 2.0)»", "A023", None),
        ("score = «softcap(1.0, 2.0, 3.0)»", "A023", None),
        ("score = «max(1.0)»", "A023", "amax"),
        ("score = «exp»", "A023", "exp(…)"),
        ("mask = «softcap»", "A023", "softcap(x, cap)"),
        ("score = exp(«causal»)", "A024", None),
        ("score = softmax(«1.0»)", "A024", "normalize"),
        ("score = sum(«1.0»)", "A024", None),
        ("score = dot(«1.0», q)", "A024", "`*`"),
        ("score = dot(q, «m»)", "A024", "first"),
        ("score = int(«1.5»)", "A024", "floor"),
        ("score = slope[«1.5»]", "A024", "floor"),
        ("score = «dot(q[0:4], k[0:5])»", "A025", "slice"),
        ("score = «dot(q, v)»", "A025", None),
        ("score = dot(«q[0:4] + k[0:5]», k[0:4])", "A025", None),
        ("score = dot(q + «m», k)", "A020", "dot(matrix, vector)"),
        ("score = «slope[h]»[0]", "A027", None),
        ("score = «scale»[0]", "A027", None),
        ("q = «3.0»", "A024", None),
        ("score = arange(«i»)[0]", "A034", None),
        ("score = q[«i»]", "A034", None),
        ("score = sum(short[h][0:«40»])", "A035", None),
        ("score = sum(q[«-4»:])", "A035", "D - 4"),
        ("score = sum(«q[4:4]»)", "A035", None),
    ],
)
def test_type_faults(statement, code, help):
    assert_fault(f"attention a {{ {INPUTS} {statement} }}", code, help)


@pytest.mark.parametrize(
    ("parameters", "code", "help"),
    [
        ("w: int = «3.0»", "A024", "float"),
        ("w: bool = «1»", "A024", None),
        ("w: «integer»", "A028", "`int`"),
        ("w: «float[H]»", "A028", "input w"),
        ("«w»", "A028", "w: int"),
        ("w: float = «1 / 0»", "A029", None),
        ("w: int = «10 ** 10 ** 10»", "A029", None),
        ("w: int = 3 where «w»", "A024", None),
        ("w: int = 3 where w < «Lk»", "A029", "call"),
        ("w: int = «3» where w > 5", "A063", None),
    ],
)
def test_parameter_faults(parameters, code, help):
    assert_fault(f"attention a({parameters}) {{ score = 1.0 }}", code, help)


def test_defaults_are_constants_of_their_type():
    spec = "attention a(w: float = 1, x = 2 * 3 - 1, y = -0.5, z = True, u = 1 if 2 > 1 else 3) {}"
    values = {p.name: (p.type, p.default) for p in load_text(spec).attentions["a"].parameters}
    assert values == {
        "w": (FLOAT, 1.0),
        "x": (INT, 5),
        "y": (FLOAT, -0.5),
        "z": (BOOL, True),
        "u": (INT, 1),
    }
