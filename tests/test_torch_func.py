"""A kernel under `torch.func`, and the derivatives that there are not (A086)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from operator_cases import (
    Block,
    alibi_in_torch,
    attend,
    attend_backward,
    calls,
    close,
    operands,
    parsed,
    sdpa,
    tokens,
)
from torch import Tensor

import attndsl
from attndsl.diagnostics import AttnError


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    return parsed()


def test_vmap(module: attndsl.Module) -> None:
    q, k, v = (torch.stack([one, one.flip(2), one.sin()]) for one in operands())
    close(
        torch.vmap(module.causal_softmax)(q, k, v),
        torch.stack([sdpa(*one) for one in zip(q, k, v, strict=True)]),
    )
    mixed = torch.vmap(module.causal_softmax, in_dims=(1, None, None))
    close(mixed(q.movedim(0, 1), k[0], v[0]), torch.stack([sdpa(one, k[0], v[0]) for one in q]))
    slopes, given = torch.rand(3, 4), operands()
    out, log_sum_exp = torch.vmap(lambda slope: module.alibi(*given, slope=slope, return_lse=True))(
        slopes
    )
    close(out, torch.stack([alibi_in_torch(*operands(), slope) for slope in slopes]))
    assert log_sum_exp.shape == (3, 2, 4, 30)


def test_grad_vjp_and_per_sample_gradients(module: attndsl.Module) -> None:
    def loss(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *tensors: function(*tensors).sin().sum()

    stacked = [torch.stack([one, one.cos()]) for one in operands()]
    for transformed in (
        lambda function: torch.func.grad(loss(function), argnums=(0, 1, 2))(*operands()),
        lambda function: torch.func.vjp(function, *operands())[1](torch.ones(2, 4, 30, 16)),
        lambda function: torch.vmap(torch.func.grad(loss(function)))(*stacked),
    ):
        close(transformed(module.causal_softmax), transformed(sdpa))


def test_functional_call(module: attndsl.Module) -> None:
    block = Block(module)
    x = tokens(12)
    named = {name: one.detach().clone() for name, one in block.named_parameters()}
    found = torch.func.grad(lambda named: torch.func.functional_call(block, named, (x,)).sum())(
        named
    )
    expected = torch.autograd.grad(block(x).sum(), list(block.parameters()))
    close(list(found.values()), list(expected))


def test_levels_of_autograd_stay_apart(module: attndsl.Module) -> None:
    """A tensor that autograd follows outside of a transformation keeps its gradient."""
    results = []
    for function in (module.causal_softmax, sdpa):
        q, k, v = operands(grad=True)
        out = torch.vmap(lambda q, k=k, v=v, call=function: call(q, k, v))(
            torch.stack([q, q.sin()])
        )
        results.append(torch.autograd.grad(out.sin().sum(), (q, k, v)))
    close(*results)


# What there is not


def second_by_autograd(module: attndsl.Module) -> None:
    given = operands(grad=True)
    out, log_sum_exp = module.causal_softmax(*given, return_lse=True)
    total = out.sin().sum() + log_sum_exp.sum()
    (gradient,) = torch.autograd.grad(total, given[:1], create_graph=True)
    assert gradient.requires_grad  # which is fine as long as nobody follows it
    gradient.sum().backward()


def second_by_func(module: attndsl.Module) -> None:
    q, k, v = operands()
    inner = torch.func.grad(lambda q: module.causal_softmax(q, k, v).sin().sum())
    torch.func.grad(lambda q: inner(q).sum())(q)


def second_of_both(module: attndsl.Module) -> None:
    q, k, v = operands()
    q.requires_grad_()
    gradient = torch.func.grad(lambda k: module.causal_softmax(q, k, v).sin().sum())(k)
    gradient.sum().backward()


def second_of_the_operator(module: attndsl.Module) -> None:
    call = calls(module, True)["plain"]
    results = attend(*call)
    gradients = torch.ones_like(results[0]), None
    found = attend_backward(*results, *gradients, [True, True, True], *call)
    found[0].sum().backward()


def forward_of_duals(module: attndsl.Module, grad: bool = False) -> None:
    with torch.autograd.forward_ad.dual_level():
        q, k, v = operands(grad=grad)
        module.causal_softmax(torch.autograd.forward_ad.make_dual(q, torch.ones_like(q)), k, v)


def forward_of_duals_with_gradients(module: attndsl.Module) -> None:
    forward_of_duals(module, True)


def forward_by_func(module: attndsl.Module) -> None:
    q, k, v = operands()
    torch.func.jvp(lambda q: module.causal_softmax(q, k, v), (q,), (q,))


@pytest.mark.parametrize(
    "called",
    [
        second_by_autograd,
        second_by_func,
        second_of_both,
        second_of_the_operator,
        forward_of_duals,
        forward_of_duals_with_gradients,
        forward_by_func,
    ],
)
def test_derivatives_that_there_are_not(
    module: attndsl.Module, called: Callable[[attndsl.Module], None]
) -> None:
    with pytest.raises(AttnError, match="A086"):
        called(module)
