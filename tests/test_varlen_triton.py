"""Packed sequences by Triton's kernels, all in one launch, under its interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import CASES
from test_triton_backward import TOLERANCES
from test_varlen import KEYS, LENGTHS, cases
from triton_interpreted import Interpreter
from triton_packed import (
    Results,
    errors_by_kernel,
    errors_of_case,
    errors_of_formula,
    packed_and_one_by_one,
    with_little_room,
)

from attndsl.codegen.program import DType, Specialization
from attndsl.codegen.triton import emit, emit_stage, is_packable, stage_tiles
from attndsl.planner.block_map import BlockTable
from attndsl.planner.pipeline import plan, plan_backward
from attndsl.planner.plan import Fold
from attndsl.runtime.compilation import launches_at_once
from attndsl.runtime.packed_arguments import place_of
from attndsl.runtime.packed_tables import joined
from attndsl.runtime.targets import Target

LONGER = tuple(max(pair) for pair in zip(LENGTHS, KEYS, strict=True))
# Without queries, without keys, without both.
GAPS = (5, 0, 33, 4, 0), (9, 7, 33, 0, 0)
# What differs most; the others are slow.
QUICK = ("causal_softmax", "tokens", "forgetting", "own_bias", "documents")


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def slow_unless(is_quick: bool) -> Any:
    return () if is_quick else pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=slow_unless(name in QUICK)) for name in cases()]
)
def test_each_sequence_is_attended_to_alone(interpreter: Interpreter, name: str) -> None:
    keys = LENGTHS if name in ("documents", "weighted", "placed") else LONGER
    found = interpreter.call(errors_of_formula, name, LENGTHS, keys, "fp32", True)
    assert max(found.largest.values()) <= TOLERANCES["fp32"], found.largest
    assert found.launches[0] == 1, "one for all sequences"
    assert found.launches[1] < 2 * len(LENGTHS)


@pytest.mark.parametrize(
    "name", ["causal_softmax", pytest.param("bucketed", marks=pytest.mark.slow)]
)
def test_one_after_the_other(interpreter: Interpreter, name: str) -> None:
    """As plans run that have no kernels for all sequences. Heads have rows of their own."""
    found = interpreter.call(errors_of_formula, name, LENGTHS, LENGTHS, "fp32", False)
    assert max(found.largest.values()) <= TOLERANCES["fp32"], found.largest
    assert found.launches[0] == len(LENGTHS)


@pytest.mark.parametrize("name", ["causal_softmax", "forgetting"])
def test_kernels_choose_one_launch_on_a_gpu(interpreter: Interpreter, name: str) -> None:
    found = interpreter.call(errors_by_kernel, name, LENGTHS)
    assert max(found.largest.values()) <= TOLERANCES["fp32"], found.largest
    assert found.launches[0] == 1


def test_half_precision(interpreter: Interpreter) -> None:
    found = interpreter.call(errors_of_formula, "alibi", LENGTHS, LENGTHS, "fp16", True)
    assert max(found.largest.values()) <= 8 * TOLERANCES["fp16"], found.largest


def same(found: Results, expected: Results, *, but: str = "") -> None:
    """Bit for bit, but for the gradient of one input, which is added up in another order."""
    assert torch.equal(found.out, expected.out)
    assert torch.equal(found.statistic, expected.statistic)
    for name, one in found.gradients.items():
        if name == but:
            torch.testing.assert_close(one, expected.gradients[name], rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(one, expected.gradients[name]), name


@pytest.mark.parametrize("name", ["causal_softmax", "documents"])
def test_sequences_without_queries_or_keys(interpreter: Interpreter, name: str) -> None:
    found, expected = interpreter.call(packed_and_one_by_one, name, *GAPS, {})
    same(found, expected)
    assert not found.out[-4:].any()
    assert not found.gradients["k"][9:16].any()


@pytest.mark.parametrize("name", ["causal_softmax", pytest.param("full", marks=pytest.mark.slow)])
def test_dropout_is_that_of_each_sequence(interpreter: Interpreter, name: str) -> None:
    options = {"dropout": 0.4, "seed": 2**40 + 3}
    found, expected = interpreter.call(packed_and_one_by_one, name, *GAPS, options)
    same(found, expected)
    plain, _ = interpreter.call(packed_and_one_by_one, name, *GAPS, {})
    assert not torch.equal(found.out, plain.out)


def test_the_offset_of_a_call_is_every_sequences(interpreter: Interpreter) -> None:
    found, expected = interpreter.call(
        packed_and_one_by_one, "alibi", LENGTHS, LONGER, {"offset": 2}
    )
    same(found, expected, but="slope")


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        pytest.param("bucketed", 0.3, marks=pytest.mark.slow),
        pytest.param("own_bias", None, marks=pytest.mark.slow),
    ],
)
def test_parts_of_sums_have_little_room(
    interpreter: Interpreter, name: str, dropout: float | None
) -> None:
    """As many sequences at a time as there is room for: here one."""
    options = {} if dropout is None else {"dropout": dropout, "seed": 1}
    found, expected = interpreter.call(with_little_room, name, LENGTHS, 1, options)
    same(found, expected, but="bias")
    roomy, _ = interpreter.call(packed_and_one_by_one, name, LENGTHS, LENGTHS, options)
    same(roomy, expected, but="bias")
    assert found.launches[1] == roomy.launches[1] + len(LENGTHS) - 1


def packs(name: str) -> bool:
    attention = next(case for case in CASES if case.name == name).load()
    try:
        places = [place_of(one.dimensions) for one in attention.inputs]
    except ValueError:
        return False
    return not attention.axes and len(places) == len(attention.inputs)


@pytest.mark.parametrize("name", [case.name for case in CASES if packs(case.name)])
def test_examples_run_in_one_launch(name: str) -> None:
    """Whatever can be packed at all."""
    attention = next(case for case in CASES if case.name == name).load()
    assert is_packable(plan(attention))
    assert is_packable(plan_backward(attention, by_side=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [case.name for case in CASES if packs(case.name)])
def test_every_example(interpreter: Interpreter, name: str) -> None:
    found = interpreter.call(errors_of_case, name)
    assert max(found.largest.values()) <= TOLERANCES["fp32"], found.largest
    assert found.launches[0] == 1


def test_what_cannot_be_launched_at_once() -> None:
    named = {case.name: case.load() for case in CASES}
    assert launches_at_once(named["causal"], Target("cuda:90"), dropout=False)
    assert launches_at_once(named["documents"], Target("hip:gfx942"), dropout=True)
    assert not launches_at_once(named["causal"], Target("cpu"), dropout=False)
    assert not launches_at_once(named["neighborhood2d"], Target("cuda:90"), dropout=False)
    assert not is_packable(plan_backward(named["pair_bias"], by_side=True))


def test_other_kernels_know_nothing_of_sequences() -> None:
    attention = next(case for case in CASES if case.name == "causal").load()
    backward = plan_backward(attention, by_side=True)
    for packed in (False, True):
        specialization = Specialization(DType.BFLOAT16, 64, 64, True, packed=packed)
        texts = [emit(plan(attention), specialization).text]
        for number, stage in enumerate(backward.stages):
            if not isinstance(stage, Fold):
                tile = stage_tiles(stage, specialization, "cuda:90")[0]
                texts.append(emit_stage(backward, number, specialization, tile).text)
        assert all(("sequence" in text) == packed for text in texts)


counts = st.lists(st.integers(0, 3), max_size=6)


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 3), counts, counts), min_size=1))
def test_lists_lie_one_after_another(
    given_tables: list[tuple[int, int, list[int], list[int]]],
) -> None:
    """Each head's tiles have the blocks that they have in its sequence's own table."""
    tables, number = [], 0
    for maps, tiles, *listed in given_tables:
        arrays = []
        for counted in listed:
            lengths = np.resize(np.array([*counted, 1]), maps * tiles)
            arrays.append(np.cumsum([0, *lengths]).astype(np.int32))
            arrays.append(np.arange(number, number + lengths.sum(), dtype=np.int32))
            number += 100
        index = np.array([0, maps - 1, 0], np.int32)
        tables.append(BlockTable(tiles, index, *arrays))
    whole = joined(tables)
    for sequence, table in enumerate(tables):
        for head, tile in np.ndindex(3, table.query_blocks):
            own = table.map_index[head] * table.query_blocks + tile
            line = whole.map_index[3 * sequence + head] + tile
            for kind in ("partial", "full"):
                found, expected = (
                    getattr(one, f"{kind}_blocks")[
                        slice(*getattr(one, f"{kind}_offsets")[at : at + 2])
                    ].tolist()
                    for one, at in ((whole, line), (table, own))
                )
                assert found == expected
