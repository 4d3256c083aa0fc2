"""A call as one differentiable operation of torch.

There is one derivative. Second derivatives and forward-mode ones are refused (A086).
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from attndsl.attention import Attention, Softmax, has_statistic
from attndsl.codegen.program import Specialization
from attndsl.diagnostics import error
from attndsl.dropout import Dropout
from attndsl.runtime.arguments import Call, converted
from attndsl.runtime.backward import Backward, backward_for
from attndsl.runtime.execution import Execution
from attndsl.runtime.targets import device_target


class Operation(Protocol):
    """What `attend` makes differentiable.

    `arguments` are those of the call, by name; one that is None was not passed. `forward` gives the
    output and the statistic of its rows, empty where the normalisation has none; `backward` the
    gradients of what is `wanted`, in its shape and dtype.
    """

    @property
    def has_log_sum_exp(self) -> bool:
        """Whether the statistic has a gradient."""

    def forward(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]: ...

    def backward(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> Sequence[Tensor]: ...


def attend(operation: Operation, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """`operation.forward`, recorded by autograd."""
    tensors = {name: one for name, one in arguments.items() if isinstance(one, Tensor)}
    rest = {name: one for name, one in arguments.items() if name not in tensors}
    result: tuple[Tensor, Tensor] = _apply(
        _Attend, operation, rest, tuple(tensors), *tensors.values()
    )
    return result


def has_log_sum_exp(attention: Attention) -> bool:
    """Whether the statistic of its rows is one that a caller may see, and differentiate."""
    return isinstance(attention.normalizer, Softmax)


def has_tangent(tensors: Sequence[Any]) -> bool:
    """Whether forward-mode differentiation follows one of them."""
    unpack: Any = forward_ad.unpack_dual
    return any(unpack(one).tangent is not None for one in tensors if isinstance(one, Tensor))


def refuse_twice(gradients: Sequence[Tensor], sources: Sequence[Any]) -> Sequence[Tensor]:
    """The gradients, which depend on the sources in a way that cannot be differentiated (A086)."""
    tensors = [one for one in sources if isinstance(one, Tensor)]
    found: Sequence[Tensor] = _apply(_Once, len(gradients), *gradients, *tensors)
    return found


def refuse_forward_mode() -> NoReturn:
    raise error(
        "A086",
        "attention has no forward-mode derivative",
        help="use reverse mode: `torch.func.vjp`, `torch.func.grad` or `torch.autograd.grad`",
    )


def _apply(function: Any, *arguments: Any) -> Any:
    """Record a function in the innermost level of autograd.

    Under `torch.func` each level comes here in turn, from the operator; `Function.apply` would
    begin with the outermost again.
    """
    if not torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    from torch._functorch import autograd_function as levels

    with levels.enable_single_level_autograd_function():  # type: ignore[attr-defined]
        return function.apply(*arguments)


def levels_below() -> AbstractContextManager[None]:
    """For the forward of a function, which records nothing: under `torch.func` there are levels of
    autograd below this one, which record for themselves."""
    if torch._C._are_functorch_transforms_active():
        return torch.enable_grad()
    return nullcontext()


# What computes the gradients of such names, and whether the log-sum-exp has one, for a dtype, head
# dimensions and a device.
Backwards = dict[Any, Backward]


def as_arguments(tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> list[Tensor]:
    """The gradient of each tensor in its dtype, contiguous and apart from the others; zeros where
    there is none, as the output does not depend on it."""
    made: list[Tensor] = []
    for name, tensor in tensors.items():
        gradient = gradients.get(name)
        if gradient is None:
            made.append(torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device))
            continue
        gradient = gradient.to(tensor.dtype).contiguous()
        # Two inputs that the score adds up have one gradient: each gets memory of its own.
        shared = any(gradient.data_ptr() == other.data_ptr() for other in made)
        made.append(gradient.clone() if shared else gradient)
    return made


class Once(ABC):
    """What is differentiated once: `gradients` are below autograd."""

    def backward(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> Sequence[Tensor]:
        with torch.no_grad():
            found = self.gradients(arguments, results, gradients, wanted)
        if torch.is_grad_enabled():  # under `create_graph`
            return refuse_twice(found, (*arguments.values(), *gradients))
        return found

    @abstractmethod
    def gradients(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> list[Tensor]:
        """Of what is wanted, in its order and in the dtypes of the arguments."""


class Differentiable(Once):
    """Calls of one signature, forward and backward. `execution` writes the rows' statistics;
    `backwards` are those known of the attention, to which this adds."""

    def __init__(
        self, attention: Attention, call: Call, execution: Execution, backwards: Backwards
    ) -> None:
        self._attention, self._call, self._execution = attention, call, execution
        self._backwards = backwards

    def dropping(self, dropout: Dropout | None) -> Differentiable:
        """The same for what one call drops."""
        if dropout is None:
            return self
        other = copy.copy(self)
        other._call = dataclasses.replace(self._call, dropout=dropout)
        return other

    @property
    def has_log_sum_exp(self) -> bool:
        return has_log_sum_exp(self._attention)

    def forward(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        inputs = {name: one for name, one in arguments.items() if name not in ("q", "k", "v")}
        q, k, v = arguments["q"], arguments["k"], arguments.get("v")
        out, statistic = self._execution.run(self._call, q, k, v, inputs)
        if statistic is None:
            statistic = out.new_empty(0, dtype=torch.float32)
        return out, statistic

    def gradients(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> list[Tensor]:
        """See `Once`."""
        found = self._float_gradients(arguments, results, gradients, wanted)
        return as_arguments({name: arguments[name] for name in wanted}, found)

    def _float_gradients(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """Float32 gradients, by name; none for what the output does not depend on."""
        if not results[0].numel():
            return {}
        tensors = self.backward_arguments(arguments, results, gradients)
        return self.backward_of(wanted, gradients[1] is not None).run(self._call, tensors)

    def backward_arguments(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
    ) -> dict[str, Tensor]:
        """What `Backward.run` takes."""
        out, statistic = results
        of_out, of_statistic = gradients
        operands = {name: arguments[name] for name in ("q", "k", "v") if name in arguments}
        inputs = {name: one for name, one in arguments.items() if name not in operands}
        tensors = {
            **{name: one for name, one in operands.items() if one is not None},
            **converted(inputs, self._call),
            "out": out,
            "out.gradient": torch.zeros_like(out) if of_out is None else _with_dense_rows(of_out),
        }
        normalizer = self._attention.normalizer
        if has_statistic(normalizer):
            name = "log_sum_exp" if isinstance(normalizer, Softmax) else "weights.sum"
            tensors[name] = statistic
        if of_statistic is not None:
            tensors["log_sum_exp.gradient"] = of_statistic.float().contiguous()
        return tensors

    def backward_of(self, wanted: tuple[str, ...], log_sum_exp_gradient: bool) -> Backward:
        """What computes these gradients; made when it is first asked for."""
        call, sizes = self._call, self._call.sizes
        specialization = Specialization(
            *(call.dtype, sizes["D"], sizes["Dv"]),
            dropout=call.dropout is not None,
            packed=call.packed,
        )
        key = specialization, call.device, wanted, log_sum_exp_gradient
        known = self._backwards.get(key)
        if known is None:
            known = backward_for(
                self._attention,
                specialization,
                device_target(call.device),
                wanted,
                log_sum_exp_gradient=log_sum_exp_gradient,
            )
            self._backwards[key] = known
        return known


def _with_dense_rows(tensor: Tensor) -> Tensor:
    """A gradient may be one number, expanded; kernels read a vector element after element."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Attend(_SingleLevelFunction):
    @staticmethod
    def forward(
        ctx: Any,
        operation: Operation,
        rest: Mapping[str, Any],
        names: tuple[str, ...],
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out, statistic = operation.forward({**rest, **dict(zip(names, tensors, strict=True))})
        ctx.operation, ctx.rest, ctx.names = operation, rest, names
        ctx.save_for_backward(*tensors, out, statistic)
        ctx.set_materialize_grads(False)
        if not operation.has_log_sum_exp:
            ctx.mark_non_differentiable(statistic)
        return out, statistic

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, out, statistic = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        wanted = tuple(name for name, need in zip(ctx.names, needed, strict=True) if need)
        arguments = {**ctx.rest, **dict(zip(ctx.names, tensors, strict=True))}
        of_out, of_statistic = gradients
        if of_out is None and of_statistic is None:
            return (None,) * (3 + len(tensors))
        found = ctx.operation.backward(arguments, (out, statistic), (of_out, of_statistic), wanted)
        by_name = dict(zip(wanted, found, strict=True))
        return None, None, None, *(by_name.get(name) for name in ctx.names)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        refuse_forward_mode()


class _Once(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        with levels_below(), torch._C._AutoDispatchBelowAutograd():
            return tuple(one.view_as(one) for one in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise error(
            "A086",
            "attention has no second derivative",
            help="differentiate once: `create_graph` helps only what does not come back through it",
        )
