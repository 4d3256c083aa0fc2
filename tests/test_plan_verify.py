"""The verifier finds every kind of broken plan, and passes every plan that is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from attndsl.attention import Elementwise, Softmax
from attndsl.binding import bind
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    TRUE,
    Binary,
    DotResult,
    Index,
    Literal,
    Operand,
    Parameter,
    Read,
    ScoreValue,
    Size,
    Vector,
)
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.block_map import BlockInterval, Kind, Ranges, Table
from attndsl.planner.lower import lower
from attndsl.planner.plan import Attend, Plan, Prepare, Source
from attndsl.planner.verify import verify

SPEC = """
attention it {
    input f: float[B, H, Lk]
    input slope: float[H]
    let c = cumsum(f)
    k = relu(k)
    score = dot(q, k) * slope[h] + c[b, h, j]
    mask = causal
}
"""


def made() -> Plan:
    (attention,) = load_text(SPEC).attentions.values()
    return plan(bind(attention))


def attend(**changes: object) -> Callable[[Plan], Plan]:
    def change(given: Plan) -> Plan:
        stage = dataclasses.replace(given.attend, **changes)
        return dataclasses.replace(given, stages=(*given.stages[:-1], stage))

    return change


def stages(change: Callable[[tuple], tuple]) -> Callable[[Plan], Plan]:
    return lambda given: dataclasses.replace(given, stages=change(given.stages))


def prepare(**changes: object) -> Callable[[Plan], Plan]:
    return stages(
        lambda old: tuple(
            dataclasses.replace(one, **changes) if isinstance(one, Prepare) else one for one in old
        )
    )


def interval(**changes: object) -> Callable[[Plan], Plan]:
    plain = BlockInterval(Literal(0), Literal(1), Kind.PARTIAL)
    return attend(block_map=Ranges((dataclasses.replace(plain, **changes),)))


Q = Operand("q", Vector(Size("D")))
BROKEN: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "no pairs": (stages(lambda old: old[:-1]), "there is a stage over pairs"),
    "pairs first": (stages(lambda old: (old[-1], *old[:-1])), "comes last"),
    "read before": (stages(lambda old: old[1:]), "`c` is computed before it is read"),
    "no buffer": (
        stages(lambda old: tuple(one for one in old if not isinstance(one, Prepare))),
        "`k_prepared` is a vector of the key side",
    ),
    "twice": (stages(lambda old: (old[0], old[0], *old[1:])), "name of buffer `c` is taken"),
    "side": (prepare(side="middle"), "a side is"),
    "wrong side": (prepare(side="query"), "vector `k` can be read here"),
    "wrong rank": (prepare(element=Literal(1.0)), "shape for each token"),
    "score type": (attend(score=TRUE), "expected float"),
    "mask type": (attend(mask=Literal(1.0)), "expected bool"),
    "no such dot": (attend(score=DotResult(3)), "matrix product 3 exists"),
    "no such operand": (
        attend(
            score=Read("slope", (Index("h"),), FLOAT),
            vectors=(),
            mask=TRUE,
            value=Source("q", Literal(0), Size("D")),
        ),
        "`q` is a vector of the key side",
    ),
    "parameter": (attend(score=Parameter("cap", FLOAT)), "parameter `cap` has a value"),
    "size": (attend(mask=Binary("<", Index("j"), Size("BLOCK_M"), BOOL)), "size `BLOCK_M`"),
    "index": (attend(mask=Binary("<", Index("t"), Index("j"), BOOL)), "index `t`"),
    "mixed types": (attend(score=Binary("+", Literal(1), Literal(1.0), FLOAT)), "of its types"),
    "indices": (attend(score=Read("slope", (), FLOAT)), "a place for each index"),
    "element": (
        attend(mask=Binary("<", Read("slope", (Index("h"),), INT), Literal(1), BOOL)),
        "read as what it holds",
    ),
    "score value": (attend(score=ScoreValue()), "only a weight sees the score"),
    "sink by key": (
        attend(normalizer=Softmax(Read("c", (Index("b"), Index("h"), Index("j")), FLOAT))),
        "index `j`",
    ),
    "sink value": (attend(normalizer=Softmax(Literal(0.0), Q)), "read, not computed"),
    "divisor by key": (
        attend(
            normalizer=Elementwise(
                ScoreValue(), Read("c", (Index("b"), Index("h"), Index("j")), FLOAT)
            )
        ),
        "index `j`",
    ),
    "bound type": (interval(first=Literal(0.0)), "expected int"),
    "bound index": (interval(last=Index("j")), "index `j`"),
    "guard type": (interval(guard=Literal(1)), "expected bool"),
    "step": (interval(step=0), "a step is positive"),
    "empty": (interval(kind=Kind.EMPTY), "only blocks that are visited"),
    "table of nothing": (attend(block_map=Table(frozenset(), ("doc",))), "built from inputs"),
    "table per row": (attend(block_map=Table(frozenset("i"), ())), "varies with heads"),
    "residue": (attend(residue=Size("Lk")), "a literal above 1"),
    "row in a class": (
        attend(residue=Literal(2), mask=Binary("<", Index("row"), Literal(3), BOOL)),
        "index `row`",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plan_is_refused(name: str) -> None:
    change, rule = BROKEN[name]
    with pytest.raises(InternalError) as caught:
        verify(change(made()))
    assert rule in str(caught.value)


def test_a_made_plan_passes() -> None:
    verify(made())
    assert isinstance(made().stages[-1], Attend)


def test_unbound_attention_is_our_bug() -> None:
    (attention,) = load_text("attention it(n: int = 3) {\nmask = j < n\n}").attentions.values()
    with pytest.raises(InternalError):
        lower(attention)
