"""A call as one differentiable operation of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attndsl.attention import Attention, Softmax, has_statistic
from attndsl.codegen.program import Specialization
from attndsl.runtime.arguments import Call, converted
from attndsl.runtime.backward import Backward, backward_for
from attndsl.runtime.execution import Execution
from attndsl.runtime.targets import device_target


class Differentiable:
    """Calls of one signature, forward and backward. `execution` writes the rows' statistics."""

    def __init__(self, attention: Attention, call: Call, execution: Execution) -> None:
        self._attention, self._call, self._execution = attention, call, execution
        self._backwards: dict[tuple[tuple[str, ...], bool], Backward] = {}

    def __call__(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The output and the statistics of its rows. `arguments` are those of the call, by name;
        one that is None was not passed."""
        tensors = {name: one for name, one in arguments.items() if isinstance(one, Tensor)}
        rest = {name: one for name, one in arguments.items() if name not in tensors}
        result: tuple[Tensor, Tensor] = _Operation.apply(  # type: ignore[no-untyped-call]
            self, rest, tuple(tensors), *tensors.values()
        )
        return result

    def forward(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        inputs = {name: one for name, one in arguments.items() if name not in ("q", "k", "v")}
        q, k, v = arguments["q"], arguments["k"], arguments.get("v")
        out, statistic = self._execution.run(self._call, q, k, v, inputs)
        if statistic is None:
            statistic = out.new_zeros(0, dtype=torch.float32)
        return out, statistic

    def backward(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """Float32 gradients of what is wanted, by name."""
        out, statistic = results
        of_out, of_statistic = gradients
        if not out.numel():
            return {}
        operands = {name: arguments[name] for name in ("q", "k", "v") if name in arguments}
        inputs = {name: one for name, one in arguments.items() if name not in operands}
        tensors = {
            **{name: one for name, one in operands.items() if one is not None},
            **converted(inputs, self._call),
            "out": out,
            "out.gradient": torch.zeros_like(out) if of_out is None else of_out.contiguous(),
        }
        normalizer = self._attention.normalizer
        if has_statistic(normalizer):
            name = "log_sum_exp" if isinstance(normalizer, Softmax) else "weights.sum"
            tensors[name] = statistic
        if of_statistic is not None:
            tensors["log_sum_exp.gradient"] = of_statistic.float().contiguous()
        return self._backward(wanted, of_statistic is not None).run(self._call, tensors)

    def _backward(self, wanted: tuple[str, ...], log_sum_exp_gradient: bool) -> Backward:
        key = wanted, log_sum_exp_gradient
        known = self._backwards.get(key)
        if known is None:
            sizes = self._call.sizes
            known = backward_for(
                self._attention,
                Specialization(self._call.dtype, sizes["D"], sizes["Dv"]),
                device_target(self._call.device),
                wanted,
                log_sum_exp_gradient=log_sum_exp_gradient,
            )
            self._backwards[key] = known
        return known


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        operation: Differentiable,
        rest: Mapping[str, Any],
        names: tuple[str, ...],
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out, statistic = operation.forward({**rest, **dict(zip(names, tensors, strict=True))})
        ctx.operation, ctx.rest, ctx.names = operation, rest, names
        ctx.save_for_backward(*tensors, out, statistic)
        ctx.set_materialize_grads(False)
        if not isinstance(operation._attention.normalizer, Softmax):
            ctx.mark_non_differentiable(statistic)
        return out, statistic

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, out, statistic = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]
        wanted = tuple(name for name, need in zip(ctx.names, needed, strict=True) if need)
        arguments = {**ctx.rest, **dict(zip(ctx.names, tensors, strict=True))}
        of_out, of_statistic = gradients
        if of_out is None and of_statistic is None:
            return (None,) * (3 + len(tensors))
        found = ctx.operation.backward(arguments, (out, statistic), (of_out, of_statistic), wanted)
        result: list[Tensor | None] = [None, None, None]
        for name, tensor, need in zip(ctx.names, tensors, needed, strict=True):
            gradient = found.get(name)
            if not need:
                result.append(None)
            elif gradient is None:
                result.append(torch.zeros_like(tensor))
            else:
                result.append(gradient.to(tensor.dtype))
        return tuple(result)
