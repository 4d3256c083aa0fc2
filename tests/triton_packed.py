"""Calls on packed sequences by Triton's kernels, interpreted: all sequences in one launch, or one
after the other, forward and backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import test_varlen
import torch
from naive import CASES, Case
from naive.case import Call as CaseCall
from naive.case import on
from torch import Tensor

from attndsl.attention import Attention, has_statistic
from attndsl.binding import bind
from attndsl.codegen import triton as emitter
from attndsl.codegen.program import Program, Specialization, Tile
from attndsl.module import load_text
from attndsl.planner.plan import Plan
from attndsl.runtime import compilation, packed_triton, targets
from attndsl.runtime.arguments import Call
from attndsl.runtime.backward import Backward, Backwards, backward_plan
from attndsl.runtime.compilation import plan_of, specialize
from attndsl.runtime.dropout import dropout_of
from attndsl.runtime.execution import CompiledExecution, block_tables
from attndsl.runtime.kernel import Kernel
from attndsl.runtime.options import Options
from attndsl.runtime.packed import Packed
from attndsl.runtime.packed_arguments import Place, check_packed, place_of
from attndsl.runtime.targets import Target
from attndsl.runtime.triton import InterpretedProgram
from attndsl.runtime.triton_backward import build
from attndsl.runtime.triton_source import load_module

TARGET = "cuda:90"
TILE = Tile(32, 16, 4, 1)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Queries and keys of the sequences of a case of the catalogue.
CASE_LENGTHS = ((19, 40), (7, 30), (45, 45), (1, 33))


class Counted(InterpretedProgram):
    """Counts launches of programs."""

    count = 0

    def launch(self, *arguments: Any) -> None:
        Counted.count += 1
        super().launch(*arguments)


def interpreted_backwards(attention: Attention) -> Backwards:
    """Backwards that are interpreted, all with one tile."""

    def find(call: Call, wanted: tuple[str, ...], log_sum_exp_gradient: bool) -> Backward:
        sizes, drops = call.sizes, call.dropout is not None
        made = backward_plan(attention, wanted, log_sum_exp_gradient, drops, by_side=True)
        assert emitter.is_packable(made) or not call.packed
        specialization = specialize(
            attention,
            *(sizes["D"], sizes["Dv"], call.dtype),
            dropout=drops,
            packed=call.packed,
        )
        backward = build(made, specialization, TARGET, TILE)
        stages = {
            number: dataclasses.replace(
                stage, launcher=Counted(stage.launcher.program, stage.launcher.module)
            )
            for number, stage in backward.stages.items()
        }
        return dataclasses.replace(backward, stages=stages)

    return Backwards(find)


@dataclass
class Results:
    """`launches`: how many programs were launched forward, and backward."""

    out: Tensor
    statistic: Tensor
    gradients: dict[str, Tensor] = field(default_factory=dict)
    launches: tuple[int, int] = (0, 0)


def run(
    attention: Attention,
    tensors: Mapping[str, Tensor | None],
    inputs: Mapping[str, Tensor],
    options: Options,
    of_results: tuple[Tensor | None, Tensor | None],
    *,
    packed: bool = True,
) -> Results:
    """`packed`: in one launch, which the plan has to allow. Gradients are of all floats; no
    statistic has one where `of_results` has none."""
    call, places = check_packed(attention, tensors, inputs, options)
    call = dataclasses.replace(call, dropout=dropout_of(options.dropout, options.seed))
    statistics, drops = has_statistic(attention.normalizer), call.dropout is not None
    plan = plan_of(attention, dropout=drops)
    assert emitter.is_packable(plan) or not packed
    specialization = specialize(
        attention,
        *(call.sizes["D"], call.sizes["Dv"], call.dtype),
        return_lse=statistics,
        dropout=drops,
        packed=packed,
    )
    program = emitter.emit(plan, specialization, TILE)
    tables = block_tables(plan.attend, program, plan.attention.axes)
    execution = CompiledExecution(plan, program, Counted(program, load_module(program)), tables)
    operation = Packed(
        attention,
        *(call, places, options, execution, interpreted_backwards(attention)),
        statistics=statistics,
    )
    arguments = {**tensors, **inputs}
    wanted = tuple(
        name for name, one in arguments.items() if one is not None and one.is_floating_point()
    )
    start = Counted.count
    results = operation.forward(arguments)
    middle = Counted.count
    gradients = operation.gradients(arguments, results, of_results, wanted)
    launches = middle - start, Counted.count - middle
    return Results(*results, dict(zip(wanted, gradients, strict=True)), launches)


@dataclass(frozen=True)
class Errors:
    """The largest differences by name, relative to the largest element where that is above 1."""

    largest: Mapping[str, float]
    launches: tuple[int, int]


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    found, expected = found.detach().double(), expected.detach().double()
    same = (found == expected) | (found.isnan() & expected.isnan())
    apart = torch.where(same, 0.0, (found - expected).abs()).nan_to_num(nan=torch.inf)
    finite = expected[expected.isfinite()].abs()
    scale = max(1.0, float(finite.max()) if finite.numel() else 0.0)
    return float(apart.max()) / scale if apart.numel() else 0.0


def differences(found: Results, expected: Results) -> dict[str, float]:
    assert found.gradients.keys() == expected.gradients.keys()
    return {
        "out": difference(found.out, expected.out),
        "log_sum_exp": difference(found.statistic, expected.statistic),
        **{
            name: difference(one, expected.gradients[name]) for name, one in found.gradients.items()
        },
    }


# Formulas of `test_varlen` ---------------------------------------------------------------------


def attention_of(name: str) -> Attention:
    return bind(load_text(test_varlen.SPEC).attentions[name])


def arguments_of(
    name: str, lengths: Sequence[int], keys: Sequence[int]
) -> tuple[list[Tensor], dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Operands, inputs, and the gradients of the results."""
    tensors = test_varlen.operands(lengths, keys)
    inputs = test_varlen.cases()[name][1](sum(lengths), sum(keys), len(lengths))
    count = sum(lengths)
    of_out = test_varlen.random(count, 4, 16, seed=7).detach()
    of_statistic = test_varlen.random(4, count, seed=7).detach()
    return tensors, inputs, (of_out, of_statistic)


def errors_of_formula(
    name: str, lengths: Sequence[int], keys: Sequence[int], dtype: str, packed: bool
) -> Errors:
    """Compared with what torch computes of the formula on each sequence alone."""
    scores, _, sides = test_varlen.cases()[name]
    tensors, inputs, (of_out, of_statistic) = arguments_of(name, lengths, keys)
    tensors = [one.detach().to(DTYPES[dtype]).float().requires_grad_() for one in tensors]
    ends = test_varlen.bounds(lengths), test_varlen.bounds(keys)
    weights = name == "flash_sigmoid"
    out, statistic = test_varlen.one_by_one(scores, tensors, ends, inputs, sides, weights=weights)
    has_lse = name not in ("weighted", "flash_sigmoid")
    of_statistic = torch.where(statistic.isinf(), 0.0, of_statistic)
    expected_of = [of_out, of_statistic] if has_lse else [of_out]
    named = dict(zip(("q", "k", "v"), tensors, strict=True))
    floats = {key: one for key, one in {**named, **inputs}.items() if one.requires_grad}
    gradients = torch.autograd.grad(
        [out, statistic][: len(expected_of)], list(floats.values()), expected_of
    )
    expected = Results(out, statistic, dict(zip(floats, gradients, strict=True)))
    found = run(
        attention_of(name),
        {key: one.detach().to(DTYPES[dtype]) for key, one in named.items()},
        {key: one.detach() for key, one in inputs.items()},
        Options(cu_seqlens=ends[0], cu_seqlens_k=None if lengths == keys else ends[1]),
        (of_out.to(DTYPES[dtype]), of_statistic if has_lse else None),
        packed=packed,
    )
    if not has_lse:
        found.statistic = expected.statistic
    return Errors(differences(found, expected), found.launches)


def packed_and_one_by_one(
    name: str, lengths: Sequence[int], keys: Sequence[int], options: Mapping[str, Any]
) -> tuple[Results, Results]:
    """The same call in one launch, and sequence by sequence."""
    tensors, inputs, (of_out, of_statistic) = arguments_of(name, lengths, keys)
    ends = test_varlen.bounds(lengths), test_varlen.bounds(keys)
    if name in ("weighted", "flash_sigmoid"):
        of_statistic = None
    arguments = (
        attention_of(name),
        {key: one.detach() for key, one in zip(("q", "k", "v"), tensors, strict=True)},
        {key: one.detach() for key, one in inputs.items()},
        Options(cu_seqlens=ends[0], cu_seqlens_k=ends[1], **options),
        (of_out, of_statistic),
    )
    first, second = (run(*arguments, packed=packed) for packed in (True, False))
    return first, second


def with_little_room(
    name: str, lengths: Sequence[int], room: int, options: Mapping[str, Any]
) -> tuple[Results, Results]:
    """As `packed_and_one_by_one`, with `room` bytes for parts of sums."""
    before = packed_triton.MOST_PARTS
    packed_triton.MOST_PARTS = room
    try:
        return packed_and_one_by_one(name, lengths, lengths, options)
    finally:
        packed_triton.MOST_PARTS = before


def errors_by_kernel(name: str, lengths: Sequence[int]) -> Errors:
    """As `errors_of_formula`, of a kernel as users call it, for which CPU tensors are a GPU's."""
    target = Target(TARGET)

    def interpreted(
        attention: Attention, specialization: Specialization, target: Target, tile: Tile | None
    ) -> tuple[Plan, Program, Counted]:
        plan = plan_of(attention, dropout=specialization.dropout)
        program = emitter.emit(plan, specialization, tile or TILE, target.name)
        return plan, program, Counted(program, load_module(program))

    tensors, inputs, of_results = arguments_of(name, lengths, lengths)
    scores, _, sides = test_varlen.cases()[name]
    ends = test_varlen.bounds(lengths)
    expected = test_varlen.one_by_one(scores, tensors, (ends, ends), inputs, sides)
    named = dict(zip(("q", "k", "v"), tensors, strict=True))
    floats = {key: one for key, one in {**named, **inputs}.items() if one.requires_grad}
    start = Counted.count
    with (
        mock.patch.object(targets, "device_target", return_value=target),
        mock.patch.object(compilation, "_built", interpreted),
    ):
        kernel = Kernel(attention_of(name))
        results = kernel(*tensors, cu_seqlens=ends, return_lse=True, **inputs)
        launches = Counted.count - start
        found = torch.autograd.grad(results, list(floats.values()), of_results)
    wanted = torch.autograd.grad(expected, list(floats.values()), of_results)
    largest = differences(
        Results(*results, dict(zip(floats, found, strict=True))),
        Results(*expected, dict(zip(floats, wanted, strict=True))),
    )
    return Errors(largest, (launches, 0))


# The catalogue ---------------------------------------------------------------------------------


def errors_of_case(name: str) -> Errors:
    """A case of the catalogue on sequences of `CASE_LENGTHS`, against its naive implementation."""
    case: Case = next(one for one in CASES if one.name == name)
    attention = case.load()
    places = {one.name: place_of(one.dimensions) for one in attention.inputs}
    calls = calls_of(case, places)
    packed: dict[str, Any] = {
        operand: None
        if getattr(calls[0], operand) is None
        else np.concatenate([getattr(one, operand)[0].swapaxes(0, 1) for one in calls])
        for operand in ("q", "k", "v")
    }
    inputs = {
        key: _joined([one.inputs[key] for one in calls], place) for key, place in places.items()
    }
    random = np.random.default_rng(3)
    width = case.naive(calls[0]).shape[-1]
    of_outs = [random.normal(size=(*one.q.shape[:3], width)) for one in calls]
    outs = [case.naive(one) for one in calls]
    gradients: dict[str, Any] = {}
    by_call = [case.gradients(*pair) for pair in zip(calls, of_outs, strict=True)]
    for key in by_call[0]:
        every = [one[key] for one in by_call]
        if key in packed:
            gradients[key] = np.concatenate([one[0].swapaxes(0, 1) for one in every])
        elif places[key] is None:
            gradients[key] = np.sum(every, axis=0)
        else:
            gradients[key] = _joined(every, places[key])

    def single(array: Any) -> Tensor:
        tensor = torch.from_numpy(np.asarray(array))
        return tensor.float() if tensor.is_floating_point() else tensor

    def tokens_first(arrays: Sequence[Any]) -> Tensor:
        return single(np.concatenate([one[0].swapaxes(0, 1) for one in arrays]))

    ends = [test_varlen.bounds([pair[side] for pair in CASE_LENGTHS]) for side in (0, 1)]
    found = run(
        attention,
        {key: None if one is None else single(one) for key, one in packed.items()},
        {key: single(one) for key, one in inputs.items()},
        Options(scale=calls[0].scale, cu_seqlens=ends[0], cu_seqlens_k=ends[1]),
        (tokens_first(of_outs), None),
    )
    expected = Results(
        tokens_first(outs),
        found.statistic,
        {key: single(gradients[key]) for key in found.gradients},
    )
    return Errors(differences(found, expected), found.launches)


def calls_of(case: Case, places: Mapping[str, Place | None]) -> list[CaseCall]:
    """One for each sequence; what sequences share is that of the first."""
    shape = on(case.shapes[0], batch=2)
    calls = [
        case.call(on(shape, queries=queries, keys=keys), seed)
        for seed, (queries, keys) in enumerate(CASE_LENGTHS)
    ]
    shared = {name: calls[0].inputs[name] for name, place in places.items() if place is None}
    # Of a batch the last: of the first there may be nothing to see.
    return [
        dataclasses.replace(
            one,
            q=one.q[1:],
            k=one.k[1:],
            v=None if one.v is None else one.v[1:],
            inputs={**{name: array[1:] for name, array in one.inputs.items()}, **shared},
            scale=calls[0].scale,
            shape=on(one.shape, batch=1),
        )
        for one in calls
    ]


def _joined(arrays: Sequence[Any], place: Place | None) -> Any:
    """What sequences have of an input, packed."""
    if place is None:
        return arrays[0]
    if place.length is None:
        return np.concatenate(arrays)
    return np.concatenate([one[0] for one in arrays], axis=place.axis - 1)
