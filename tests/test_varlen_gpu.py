"""Packed sequences on a GPU, against what torch computes of the formulas on each alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from test_varlen import KEYS, LENGTHS, SPEC, bounds, cases, nested, one_by_one, operands, random
from torch import Tensor

import attndsl
from attndsl.runtime.triton import GpuProgram

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
LONGER = [max(pair) for pair in zip(LENGTHS, KEYS, strict=True)]
MANY = [1 + 37 * number % 300 for number in range(64)]
TOLERANCES = {torch.float32: 2e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    return attndsl.parse(SPEC)


def arguments(
    name: str, lengths: Sequence[int], keys: Sequence[int], dtype: torch.dtype, dim: int
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Any]]:
    """Operands and inputs on a CPU, and the options of the call."""
    tensors = [
        one.detach().to(dtype).float().requires_grad_() for one in operands(lengths, keys, dim=dim)
    ]
    inputs = cases()[name][1](sum(lengths), sum(keys), len(lengths))
    options: dict[str, Any] = {"cu_seqlens": bounds(lengths).cuda()}
    if lengths != keys:
        options["cu_seqlens_k"] = bounds(keys).cuda()
    return tensors, inputs, options


def on_gpu(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    there = tensor.detach().cuda()
    if not there.is_floating_point():
        return there
    return there.to(dtype).requires_grad_()


def run(
    kernel: attndsl.Kernel,
    tensors: Sequence[Tensor],
    inputs: dict[str, Tensor],
    options: dict[str, Any],
    dtype: torch.dtype,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The output, the gradients, and that of the output."""
    there = [on_gpu(one, dtype) for one in tensors]
    named = {name: on_gpu(one, torch.float32) for name, one in inputs.items()}
    out = kernel(*there, **named, **options)
    of_out = random(*out.shape, seed=7).detach().to(dtype)
    floats = [one for one in (*there, *named.values()) if one.requires_grad]
    return out, torch.autograd.grad(out, floats, of_out.cuda()), of_out.float()


@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("lengths", [LENGTHS, MANY], ids=["few", "many"])
@pytest.mark.parametrize("name", cases())
def test_each_sequence_is_attended_to_alone(
    module: attndsl.Module, name: str, lengths: Sequence[int], dtype: torch.dtype, dim: int
) -> None:
    if name == "placed" and dim != 16:
        pytest.skip("its table is for 16 elements")
    keys = LONGER if lengths is LENGTHS and name in ("alibi", "tokens", "rotary") else lengths
    tensors, inputs, options = arguments(name, lengths, keys, dtype, dim)
    out, gradients, of_out = run(module[name], tensors, inputs, options, dtype)
    scores, _, sides = cases()[name]
    expected, _ = one_by_one(
        *(scores, tensors, (bounds(lengths), bounds(keys)), inputs, sides),
        weights=name == "flash_sigmoid",
    )
    floats = [one for one in (*tensors, *inputs.values()) if one.requires_grad]
    wanted = torch.autograd.grad(expected, floats, of_out)
    for found, right in zip((out, *gradients), (expected, *wanted), strict=True):
        scale = max(1.0, float(right.detach().abs().max()))
        error = float((found.detach().cpu().float() - right.detach()).abs().max()) / scale
        assert error <= TOLERANCES[dtype], error


@pytest.mark.parametrize("name", ["causal_softmax", "bucketed", "documents"])
def test_two_runs_agree_bit_for_bit(module: attndsl.Module, name: str) -> None:
    dtype = torch.bfloat16
    given = arguments(name, MANY, MANY, dtype, 64)
    first, second = (run(module[name], *given, dtype) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[1], second[1]))


def test_dropout_is_that_of_a_batch(module: attndsl.Module) -> None:
    """Of sequences of one length, which a batch can hold."""
    lengths = [40] * 6
    dtype = torch.float32
    tensors, inputs, options = arguments("alibi", lengths, lengths, dtype, 16)
    drops = {"dropout": 0.3, "seed": 11}
    out, gradients, of_out = run(module.alibi, tensors, inputs, {**options, **drops}, dtype)
    batch = [
        one.detach().unflatten(0, (6, 40)).transpose(1, 2).contiguous().cuda().requires_grad_()
        for one in tensors
    ]
    slope = on_gpu(inputs["slope"], dtype)
    whole = module.alibi(*batch, slope=slope, **drops)
    close(out, whole.transpose(1, 2).flatten(0, 1), rtol=1e-5, atol=1e-5)
    of_whole = of_out.unflatten(0, (6, 40)).transpose(1, 2).cuda()
    wanted = torch.autograd.grad(whole, [*batch, slope], of_whole)
    for found, right in zip(gradients, wanted, strict=True):
        same = right.transpose(1, 2).flatten(0, 1) if right.dim() == 4 else right
        close(found, same, rtol=2e-4, atol=2e-4)


def test_there_is_one_launch_for_all(
    module: attndsl.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    launch = GpuProgram.launch

    def counting(program: GpuProgram, *given: Any) -> None:
        counted.append(program)
        launch(program, *given)

    monkeypatch.setattr(GpuProgram, "launch", counting)
    tensors, inputs, options = arguments("alibi", MANY, MANY, torch.float16, 64)
    with torch.no_grad():
        module.alibi(
            *(on_gpu(one, torch.float16) for one in tensors),
            slope=on_gpu(inputs["slope"], torch.float32),
            **options,
        )
    assert len(counted) == 1
    counted.clear()
    run(module.alibi, tensors, inputs, options, torch.float16)
    assert len(counted) < 8


def test_nested_tensors(module: attndsl.Module) -> None:
    tensors, inputs, options = arguments("alibi", LENGTHS, LENGTHS, torch.float32, 16)
    there = [on_gpu(one, torch.float32) for one in tensors]
    slope = on_gpu(inputs["slope"], torch.float32)
    packed = module.alibi(*there, slope=slope, **options)
    offsets = options["cu_seqlens"].long()
    found = module.alibi(*(nested(one, offsets) for one in there), slope=slope)
    assert torch.equal(found.transpose(1, 2).values(), packed)
