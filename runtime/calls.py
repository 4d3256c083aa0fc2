"""Calls on tensors: checked once for each signature, then straight to what runs them.

Everything that depends on shapes, strides, dtypes and devices alone is worked out when a signature
is first seen; what is left for each call is allocation and the launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndsl.attention import Attention, has_statistic
from attndsl.diagnostics import error
from attndsl.runtime.arguments import Call, check_call
from attndsl.runtime.execution import Execution

if TYPE_CHECKING:
    from attndsl.runtime.gradients import Differentiable

_SIGNATURES_KEPT = 512


class Calls:
    """The calls of one bound attention. `execution_for(call, return_lse)` finds what runs one;
    without `has_backward` a tensor that requires a gradient is refused (A082)."""

    def __init__(
        self,
        attention: Attention,
        execution_for: Callable[[Call, bool], Execution],
        *,
        has_backward: bool = True,
    ) -> None:
        self._attention = attention
        self._execution_for = execution_for
        self._has_backward = has_backward
        self._prepared: dict[Any, tuple[Call, Execution]] = {}
        self._differentiable: dict[Any, Differentiable] = {}

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any,
        scale: float | None,
        offset: int | None,
        grid: Any,
        return_lse: bool,
        inputs: Mapping[str, Any],
    ) -> Any:
        """See `Kernel.__call__`."""
        signature = (
            *_signature(q),
            *_signature(k),
            *_signature(v),
            type(scale),
            scale,
            type(offset),
            offset,
            return_lse,
            grid if grid is None else _hashable(grid),
            *((name, *_signature(value)) for name, value in inputs.items()),
        )
        if torch.is_grad_enabled():
            arguments = {"q": q, "k": k, "v": v, **inputs}
            required = _requires_gradient(arguments)
            if required is not None and not self._has_backward:
                raise error(
                    "A082",
                    f"`{required}` requires a gradient, and an artifact runs forward only",
                    help="call it under `torch.no_grad()`, or call the spec's own kernel",
                )
            if required is not None:
                return self._with_gradients(
                    signature, arguments, inputs, scale, offset, grid, return_lse
                )
        try:
            prepared = self._prepared.get(signature)
        except TypeError:  # something that cannot be hashed, of which the checks will complain
            prepared = None
        if prepared is None:
            call = self._check({"q": q, "k": k, "v": v}, inputs, scale, offset, grid, return_lse)
            prepared = call, self._execution_for(call, return_lse)
            if len(self._prepared) >= _SIGNATURES_KEPT:
                self._prepared.clear()
            self._prepared[signature] = prepared
        call, execution = prepared
        out, log_sum_exp = execution.run(call, q, k, v, inputs)
        return (out, log_sum_exp) if return_lse else out

    def _check(
        self,
        operands: Mapping[str, Any],
        inputs: Mapping[str, Any],
        scale: float | None,
        offset: int | None,
        grid: Any,
        return_lse: bool,
    ) -> Call:
        return check_call(
            self._attention,
            operands,
            inputs,
            scale=scale,
            offset=offset,
            grid=grid,
            return_lse=return_lse,
        )

    def _with_gradients(
        self,
        signature: Any,
        arguments: Mapping[str, Any],
        inputs: Mapping[str, Any],
        scale: float | None,
        offset: int | None,
        grid: Any,
        return_lse: bool,
    ) -> Any:
        """The same, as one operation that torch differentiates."""
        try:
            known = self._differentiable.get(signature)
        except TypeError:
            known = None
        if known is None:
            # What serving needs not does not wait for it.
            from attndsl.runtime.gradients import Differentiable

            operands = {name: arguments[name] for name in ("q", "k", "v")}
            call = self._check(operands, inputs, scale, offset, grid, return_lse)
            statistics = has_statistic(self._attention.normalizer)
            execution = self._execution_for(call, statistics)
            known = Differentiable(self._attention, call, execution)
            if len(self._differentiable) >= _SIGNATURES_KEPT:
                self._differentiable.clear()
            self._differentiable[signature] = known
        out, log_sum_exp = known(arguments)
        return (out, log_sum_exp) if return_lse else out


def _requires_gradient(arguments: Mapping[str, Any]) -> str | None:
    """The first argument that requires a gradient."""
    for name, one in arguments.items():
        if isinstance(one, Tensor) and one.requires_grad:
            return name
    return None


def _signature(value: Any) -> tuple[Any, ...]:
    """What decides how a tensor is read, apart from where it lies."""
    try:
        return value.shape, value.stride(), value.dtype, value.device, value.is_neg()
    except (AttributeError, RuntimeError):  # no tensor, or none that lies in memory
        return type(value), value


def _hashable(grid: Any) -> Any:
    if isinstance(grid, Mapping):
        return tuple(grid.items())
    return tuple(grid) if isinstance(grid, list) else grid
