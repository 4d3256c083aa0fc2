"""A kernel as an operator of torch: its contract, autocast, modes, checkpoints.

Numbers are compared with `scaled_dot_product_attention` or with the same formula in torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_cases import (
    alibi_in_torch,
    attend,
    attend_backward,
    calls,
    close,
    operands,
    parsed,
    sdpa,
)
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.runtime import operator

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    return parsed()


KINDS = ["plain", "per head", "integers", "grid", "scalar", "no statistic", "sum"]


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(module: attndsl.Module, kind: str) -> None:
    torch.library.opcheck(attend, calls(module, True)[kind])


def test_opcheck_without_gradients(module: attndsl.Module) -> None:
    torch.library.opcheck(attend, calls(module, False)["per head"])


@pytest.mark.parametrize("of_statistic", [False, True])
def test_opcheck_of_the_backward(module: attndsl.Module, of_statistic: bool) -> None:
    call = calls(module, False)["per head"]
    out, statistic = attend(*call)
    gradients = torch.randn_like(out), torch.randn_like(statistic) if of_statistic else None
    needed = [True, False, True, True]
    torch.library.opcheck(attend_backward, (out, statistic, *gradients, needed, *call))


def test_the_operator_computes_what_the_kernel_does(module: attndsl.Module) -> None:
    slope = torch.rand(4)
    out, log_sum_exp = module.alibi(*operands(), slope=slope, return_lse=True)
    by_operator = attend(module.alibi.spec, *operands(), [slope], *[None] * 5)
    assert torch.equal(out, by_operator[0])
    assert torch.equal(log_sum_exp, by_operator[1])
    close(out, alibi_in_torch(*operands(), slope))


def test_the_operator_takes_any_spec_that_is_text(module: attndsl.Module) -> None:
    text = "attention mine { mask = causal }"
    close(attend(text, *operands(), [], *[None] * 5)[0], sdpa(*operands()))
    assert operator.kernel_of(text) is operator.kernel_of(text)
    for wrong, code in (("attention a { mask = casual }", "A012"), ("nonsense", "A00")):
        with pytest.raises(AttnError, match=code):
            attend(wrong, *operands(), [], *[None] * 5)


def test_a_kernel_s_spec_is_its_key(module: attndsl.Module) -> None:
    kernel = module.window(width=1013)  # no other kernel of that spec is alive
    assert operator.kernel_of(operator.spec_of(kernel)) is kernel
    assert "< 1013" in kernel.spec
    with pytest.raises(AttnError, match="A080"):
        _ = module.routed.spec


def test_two_inputs_of_one_gradient_get_memory_of_their_own(module: attndsl.Module) -> None:
    first, second = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
    out = module.added(*operands(), first=first, second=second)
    of_first, of_second = torch.autograd.grad(out.sin().sum(), (first, second))
    close(of_first, of_second)
    assert of_first.data_ptr() != of_second.data_ptr()


# Autocast and modes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_sdpa(module: attndsl.Module, dtype: torch.dtype) -> None:
    results = []
    for function in (module.causal_softmax, sdpa):
        given = operands(grad=True)
        with torch.autocast("cpu", dtype):
            out = function(*given)
        assert out.dtype is dtype
        gradients = torch.autograd.grad(out.float().sin().sum(), given)
        assert all(one.dtype is torch.float32 for one in gradients)
        results.append((out, *gradients))
    close(*results, rtol=2e-2, atol=2e-2)


def test_autocast_mixes_and_leaves_the_rest_alone(module: attndsl.Module) -> None:
    q, k, v = operands()
    slope = torch.rand(4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, log_sum_exp = module.alibi(q, k.bfloat16(), v.half(), slope=slope, return_lse=True)
        assert out.dtype is torch.bfloat16
        assert log_sum_exp.dtype is torch.float32
        (gradient,) = torch.autograd.grad(out.sum(), slope)
        assert gradient.dtype is torch.float32
        with pytest.raises(AttnError, match="A074"):
            module.causal_softmax(q.double(), k.double(), v.double())
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(module.causal_softmax(q, k, v), module.causal_softmax(q, k, v))
            assert module.causal_softmax(q, k, v).dtype is torch.float32


def test_modes_without_gradients(module: attndsl.Module) -> None:
    with torch.no_grad():
        assert not module.causal_softmax(*operands(grad=True)).requires_grad
    with torch.inference_mode():
        assert module.causal_softmax(*operands(grad=True)).is_inference()


@pytest.mark.parametrize("layout", ["length first", "expanded", "spread", "turned"])
def test_gradients_of_tensors_of_any_strides(module: attndsl.Module, layout: str) -> None:
    def arranged(one: Tensor) -> Tensor:
        match layout:
            case "length first":
                return one.transpose(1, 2).contiguous().transpose(1, 2)
            case "expanded":
                return one[:1, :1].expand(2, 4, -1, -1)
            case "spread":
                return torch.stack([one, one], -1)[..., 0]
        return one.transpose(2, 3).contiguous().transpose(2, 3)

    results = []
    for function in (module.causal_softmax, sdpa):
        leaves = operands(grad=True)
        given = [arranged(one) for one in leaves]
        assert not given[0].is_contiguous()
        out = function(*given)
        # A sum's gradient is one number, expanded.
        results.append((out, torch.autograd.grad(out.sum(), leaves)))
    close(*results)


# Checkpoints


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(module: attndsl.Module, reentrant: bool) -> None:
    def layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return module.causal_softmax(q.tanh(), k, v)

    results = []
    for run in (layer, lambda *given: checkpoint(layer, *given, use_reentrant=reentrant)):
        given = operands(grad=True)
        run(*given).sin().sum().backward()
        results.append([one.grad for one in given])
    close(*results)


def test_selective_checkpoints_see_the_operator(module: attndsl.Module) -> None:
    seen = []

    def policy(context: Any, called: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
        seen.append(called)
        kept = called is attend
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    given = operands(grad=True)
    out = checkpoint(
        lambda *tensors: module.causal_softmax(*tensors).sin(),
        *given,
        use_reentrant=False,
        context_fn=lambda: create_selective_checkpoint_contexts(policy),
    )
    found = torch.autograd.grad(out.sum(), given)
    again = operands(grad=True)
    close(found, torch.autograd.grad(sdpa(*again).sin().sum(), again))
    assert attend in seen


def test_binding_needs_no_torch() -> None:
    script = """
import sys, attndsl
module = attndsl.parse("attention a(width: int = 3) { mask = abs(i - j) <= width }")
assert module.a(width=4).spec
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
