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
    Call,
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
from attndsl.planner.block_map import BlockInterval, Kind, Product, Ranges, Table
from attndsl.planner.lower import EVERYTHING, lower
from attndsl.planner.passes.take_grids import take_grids
from attndsl.planner.plan import Attend, Grid, Plan, Prepare, Source
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
LOCAL = Size("local.axis.y")
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


GRID_SPEC = "attention it {\naxes y, x\nmask = (i.y - j.y) % 2 == 0 and abs(i.x - j.x) < 3\n}"


def over_grid() -> Plan:
    (attention,) = load_text(GRID_SPEC).attentions.values()
    return take_grids(lower(bind(attention)))


def axis(place: int, **changes: object) -> Callable[[Plan], Plan]:
    def change(given: Plan) -> Plan:
        assert given.attend.grid is not None
        axes = list(given.attend.grid.axes)
        axes[place] = dataclasses.replace(axes[place], **changes)
        return attend(grid=Grid(tuple(axes)))(given)

    return change


def window(**changes: object) -> Callable[[Plan], Plan]:
    def change(given: Plan) -> Plan:
        assert isinstance(given.attend.block_map, Product)
        first, *rest = given.attend.block_map.windows
        changed = dataclasses.replace(first, **changes)
        return attend(block_map=Product((changed, *rest)))(given)

    return change


BROKEN_GRIDS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "no windows": (attend(block_map=Ranges(())), "a stage over a grid has windows"),
    "no grid": (attend(grid=None), "windows are along the axes of a grid"),
    "both": (attend(residue=Literal(2)), "residue classes or a grid"),
    "missing window": (attend(block_map=Product(())), "every axis has a window"),
    "other axes": (axis(0, name="z"), "a grid has the axes of the spec"),
    "one class": (axis(0, modulus=Literal(1)), "an axis with classes has several"),
    "float modulus": (axis(0, modulus=Literal(2.0)), "expected int"),
    "modulus by head": (axis(1, modulus=Index("h")), "index `h`"),
    "rolled classes": (axis(0, shift=Literal(3)), "a rolled axis has no classes"),
    "phase": (axis(1, phase=3, period=2), "groups begin within a period"),
    "class of another axis": (
        attend(mask=Binary("<", Index("residue.x"), Literal(3), BOOL)),
        "index `residue.x`",
    ),
    "local size elsewhere": (
        attend(grid=None, block_map=EVERYTHING, score=Call("float", (LOCAL,), FLOAT)),
        "size `local.axis.y`",
    ),
    "window by key": (window(first=Index("j")), "index `j`"),
    "window by block": (window(last=Size("BLOCK_N")), "size `BLOCK_N`"),
    "window type": (window(full_first=Literal(0.5)), "expected int"),
}


CIRCLE = "attention it {\naxes y, x\nmask = (i.y - j.y) ** 2 + (i.x - j.x) ** 2 < 20\n}"


def conditions(**changes: object) -> Callable[[Plan], Plan]:
    def change(given: Plan) -> Plan:
        block_map = given.attend.block_map
        assert isinstance(block_map, Product)
        assert block_map.conditions is not None
        changed = dataclasses.replace(block_map.conditions, **changes)
        return attend(block_map=dataclasses.replace(block_map, conditions=changed))(given)

    return change


def full_window(given: Plan) -> Plan:
    assert isinstance(given.attend.block_map, Product)
    block_map = given.attend.block_map
    first, *rest = block_map.windows
    windows = dataclasses.replace(first, full_first=Literal(1)), *rest
    return attend(block_map=dataclasses.replace(block_map, windows=windows))(given)


BROKEN_CONDITIONS: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "type": (conditions(some=Literal(1)), "expected bool"),
    "by key": (conditions(every=Binary("<", Index("j"), Literal(1), BOOL)), "index `j`"),
    "of one axis": (conditions(some=Binary("<", Index("i_first"), Literal(1), BOOL)), "`i_first`"),
    "another axis": (
        conditions(some=Binary("<", Index("j_last.z"), Literal(1), BOOL)),
        "index `j_last.z`",
    ),
    "classes": (axis(0, modulus=Literal(2)), "taken as they are"),
    "full windows": (full_window, "a condition says what is full"),
}


@pytest.mark.parametrize("name", BROKEN_CONDITIONS)
def test_broken_conditions_are_refused(name: str) -> None:
    (attention,) = load_text(CIRCLE).attentions.values()
    made = take_grids(lower(bind(attention)))
    change, rule = BROKEN_CONDITIONS[name]
    verify(made)
    with pytest.raises(InternalError) as caught:
        verify(change(made))
    assert rule in str(caught.value)


@pytest.mark.parametrize("name", BROKEN_GRIDS)
def test_broken_grid_is_refused(name: str) -> None:
    change, rule = BROKEN_GRIDS[name]
    verify(over_grid())
    with pytest.raises(InternalError) as caught:
        verify(change(over_grid()))
    assert rule in str(caught.value)


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
