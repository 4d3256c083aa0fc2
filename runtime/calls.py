"""Calls on tensors: checked once for each signature, then straight to what runs them.

Everything that depends on shapes, strides, dtypes and devices alone is worked out when a signature
is first seen; what is left for each call is allocation and the launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attndsl.attention import Attention
from attndsl.runtime.arguments import Call, check_call
from attndsl.runtime.execution import Execution

_SIGNATURES_KEPT = 512


class Calls:
    """The calls of one bound attention. `execution_for(call, return_lse)` finds what runs one."""

    def __init__(
        self, attention: Attention, execution_for: Callable[[Call, bool], Execution]
    ) -> None:
        self._attention = attention
        self._execution_for = execution_for
        self._prepared: dict[Any, tuple[Call, Execution]] = {}

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
        try:
            prepared = self._prepared.get(signature)
        except TypeError:  # something that cannot be hashed, of which the checks will complain
            prepared = None
        if prepared is None:
            call = check_call(
                self._attention,
                {"q": q, "k": k, "v": v},
                inputs,
                scale=scale,
                offset=offset,
                grid=grid,
                return_lse=return_lse,
            )
            prepared = call, self._execution_for(call, return_lse)
            if len(self._prepared) >= _SIGNATURES_KEPT:
                self._prepared.clear()
            self._prepared[signature] = prepared
        call, execution = prepared
        out, log_sum_exp = execution.run(call, q, k, v, inputs)
        return (out, log_sum_exp) if return_lse else out


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
