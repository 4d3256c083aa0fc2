"""Records are the standard library's frozen dataclasses in all that anyone can see."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, field
from functools import cached_property
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attndsl.records import dataclass

DECORATORS = {"standard": dataclasses.dataclass(frozen=True), "ours": dataclass(frozen=True)}


class Base:
    place: int | None = field(default=None, compare=False, repr=False, kw_only=True)


class Leaf(Base):
    """One with a default, one without, one that is made anew, and one that is given."""

    value: int
    words: tuple[str, ...] = ()
    kept: dict[str, int] = field(default_factory=dict, compare=False)
    made: list[int] = field(default_factory=list, init=False, compare=False, repr=False)
    kind: str = field(default="leaf", init=False, compare=False)

    @cached_property
    def double(self) -> int:
        return 2 * self.value


class Same(Base):
    value: float

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return 7

    def __repr__(self) -> str:
        return "same"


class Empty:
    pass


def made(decorate: Any) -> tuple[Any, Any, Any]:
    def again(cls: type, *bases: type) -> Any:
        body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        return decorate(type(cls.__name__, bases, body))

    base = again(Base)
    return again(Leaf, base), again(Same, base), again(Empty)


STANDARD, OURS = (made(DECORATORS[name]) for name in ("standard", "ours"))

values = st.fixed_dictionaries(
    {"value": st.integers(0, 2)},
    optional={
        "words": st.lists(st.sampled_from("ab")).map(tuple),
        "kept": st.dictionaries(st.just("k"), st.integers(0, 1)),
        "place": st.integers(0, 1),
    },
)


@given(values, values)
def test_equal_where_the_standard_ones_are(first: dict[str, Any], second: dict[str, Any]) -> None:
    (a, b), (c, d) = ((cls[0](**first), cls[0](**second)) for cls in (STANDARD, OURS))
    assert (a == b) == (c == d)
    assert repr(a) == repr(c)
    assert hash(a) == hash(c)
    assert dataclasses.asdict(a) == dataclasses.asdict(c)


@pytest.mark.parametrize("number", range(3))
def test_the_same_fields_and_arguments(number: int) -> None:
    standard, ours = STANDARD[number], OURS[number]
    assert standard.__match_args__ == ours.__match_args__
    assert [f.name for f in dataclasses.fields(standard)] == [
        f.name for f in dataclasses.fields(ours)
    ]
    kinds = [
        [(p.name, p.kind) for p in inspect.signature(cls).parameters.values()]
        for cls in (standard, ours)
    ]
    assert kinds[0] == kinds[1]


def test_what_is_given_and_what_is_made() -> None:
    leaf = OURS[0](3, place=5)
    assert (leaf.value, leaf.words, leaf.place, leaf.kind, leaf.kept) == (3, (), 5, "leaf", {})
    assert leaf.kept is not OURS[0](3).kept
    assert leaf.made == []
    assert leaf.double == 6
    changed = dataclasses.replace(leaf, value=4)
    assert (changed.value, changed.place) == (4, 5)
    assert copy.deepcopy(leaf) == leaf
    for wrong in ({}, {"value": 1, "made": []}, {"value": 1, "other": 2}):
        with pytest.raises(TypeError):
            OURS[0](**wrong)
    with pytest.raises(TypeError):
        OURS[0](1, (), {}, 2)  # by name only


def test_what_a_class_defines_itself_stays() -> None:
    same = OURS[1]
    assert same(1.0) == same(2.0)
    assert hash(same(1.0)) == 7
    assert repr(same(1.0)) == "same"


def test_nothing_changes() -> None:
    leaf = OURS[0](3)
    for name in ("value", "kind", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(leaf, name, 1)
    with pytest.raises(FrozenInstanceError):
        del leaf.value
    assert leaf.value == 3


def test_without_equality_by_value() -> None:
    plain = dataclass(frozen=True, eq=False)(type("Plain", (), {"__annotations__": {"a": "int"}}))
    assert plain(1) != plain(1)
    assert len({plain(1), plain(1)}) == 2


def test_classes_of_other_kinds_differ() -> None:
    assert OURS[0](1) != STANDARD[0](1)
    assert OURS[2]() == OURS[2]()
    assert hash(OURS[2]()) == hash(())


def test_records_of_this_package_can_be_pickled() -> None:
    from attndsl.expression import INT, Binary, Index

    total = Binary("+", Index("i"), Index("j"), INT)
    assert pickle.loads(pickle.dumps(total)) == total


def test_a_class_that_changes_is_no_record() -> None:
    with pytest.raises(TypeError, match=r"dataclasses\.dataclass"):
        dataclass(frozen=False)
