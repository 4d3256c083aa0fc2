"""Calls on tensors: checked once for each signature, then straight to what runs them.

Everything that depends on shapes, strides, dtypes and devices alone is worked out when a signature
is first seen; what is left for each call is allocation and the launch.

A plain tensor under no transformation of torch's goes that short way, with or without a gradient.
Whatever else torch can do with a call (autocast, `torch.func`, fake tensors, tracing, tensor
subclasses) goes through the operator `attndsl::attend`, which comes back here for the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attndsl.attention import Attention, has_statistic
from attndsl.dropout import Dropout
from attndsl.runtime.arguments import Call, check_call
from attndsl.runtime.execution import Execution
from attndsl.runtime.options import DEFAULTS, Options

if TYPE_CHECKING:
    from attndsl.runtime.backward import Backwards
    from attndsl.runtime.gradients import Differentiable
    from attndsl.runtime.packed import Packed

_SIGNATURES_KEPT = 512
_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_DEFAULT_KEY = DEFAULTS.key()
# Each of them takes as long as reading one attribute.
_is_any_autocast_enabled = torch._C._is_any_autocast_enabled
_count_dispatch_modes = torch._C._len_torch_dispatch_stack
_innermost_transform = torch._C._functorch.peek_interpreter_stack

# A whole call by way of `attndsl::attend`: of q, k, v, options and inputs.
Operator = Callable[[Any, Any, Any, Options, Mapping[str, Any]], Any]


class Calls:
    """The calls of one bound attention. `execution_for(call, statistics)` finds what runs one,
    `backwards` what differentiates it.

    `operator` takes the calls that need torch's dispatcher. Without one, all are taken for calls on
    plain tensors. `check_gradient(name)` refuses an argument that requires a gradient and has none.
    """

    def __init__(
        self,
        attention: Attention,
        execution_for: Callable[[Call, bool], Execution],
        backwards: Backwards,
        *,
        operator: Operator | None = None,
        check_gradient: Callable[[str], None] | None = None,
    ) -> None:
        self._attention = attention
        self._execution_for = execution_for
        self._backwards = backwards
        self._operator = operator
        self._check_gradient = check_gradient
        self._prepared: dict[Any, tuple[Call, Execution]] = {}
        self._differentiable: dict[Any, Differentiable] = {}

    def __call__(self, q: Any, k: Any, v: Any, options: Options, inputs: Mapping[str, Any]) -> Any:
        """See `Kernel.__call__`."""
        if (
            _is_any_autocast_enabled()
            or _count_dispatch_modes()
            or forward_ad._current_level >= 0
            or _innermost_transform() is not None
        ) and self._operator is not None:
            return self._by_operator(q, k, v, options, inputs)
        if options.cu_seqlens is not None or options.cu_seqlens_k is not None:
            return self._on_packed(q, k, v, options, inputs)
        if torch.is_grad_enabled():
            required = _requiring_gradients(q, k, v, inputs)
            if required:
                return self._with_gradients(required, q, k, v, options, inputs)
        signature = self._signature(q, k, v, options, inputs)
        dropout = _dropout(options)
        try:
            prepared = self._prepared.get(signature)
        except TypeError:  # something that cannot be hashed, of which the checks will complain
            prepared = None
        if prepared is None:
            if self._operator is not None and _has_subclass(q, k, v, inputs):
                return self._by_operator(q, k, v, options, inputs)
            prepared = self._check(q, k, v, options, inputs, options.return_lse, dropout)
            if len(self._prepared) >= _SIGNATURES_KEPT:
                self._prepared.clear()
            self._prepared[signature] = prepared
        call, execution = prepared
        out, log_sum_exp = execution.run(_dropping(call, dropout), q, k, v, inputs)
        return (out, log_sum_exp) if options.return_lse else out

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor | None, options: Options, inputs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The output, and the statistic of its rows (empty where the normalisation has none), of
        plain tensors, whatever requires a gradient."""
        return self.differentiable(q, k, v, options, inputs).forward(
            {"q": q, "k": k, "v": v, **inputs}
        )

    def differentiable(
        self, q: Any, k: Any, v: Any, options: Options, inputs: Mapping[str, Any]
    ) -> Differentiable | Packed:
        """What computes calls of this signature, forward and backward, dropping the same pairs."""
        if options.is_packed:
            statistics = has_statistic(self._attention.normalizer)
            return self._packed(q, k, v, options, inputs, statistics)
        signature, dropout = self._signature(q, k, v, options, inputs), _dropout(options)
        try:
            known = self._differentiable.get(signature)
        except TypeError:
            known = None
        if known is None:
            # What serving needs not does not wait for it.
            from attndsl.runtime.gradients import Differentiable

            statistics = has_statistic(self._attention.normalizer)
            call, execution = self._check(q, k, v, options, inputs, statistics, dropout)
            known = Differentiable(self._attention, call, execution, self._backwards)
            if len(self._differentiable) >= _SIGNATURES_KEPT:
                self._differentiable.clear()
            self._differentiable[signature] = known
        return known.dropping(dropout)

    def _packed(
        self,
        q: Any,
        k: Any,
        v: Any,
        options: Options,
        inputs: Mapping[str, Any],
        statistics: bool,
    ) -> Packed:
        """Lengths hardly come twice, so that nothing is kept for them."""
        from attndsl.runtime.packed import Packed
        from attndsl.runtime.packed_arguments import check_packed

        call, places = check_packed(self._attention, {"q": q, "k": k, "v": v}, inputs, options)
        call = _dropping(call, _dropout(options))
        execution = self._execution_for(call, statistics)
        kept = self._backwards
        return Packed(
            self._attention, call, places, options, execution, kept, statistics=statistics
        )

    def _on_packed(
        self, q: Any, k: Any, v: Any, options: Options, inputs: Mapping[str, Any]
    ) -> Any:
        if self._operator is not None and _has_subclass(q, k, v, inputs):
            return self._by_operator(q, k, v, options, inputs)
        arguments = {"q": q, "k": k, "v": v, **inputs}
        required = _requiring_gradients(q, k, v, inputs) if torch.is_grad_enabled() else ()
        if not required:
            packed = self._packed(q, k, v, options, inputs, options.return_lse)
            out, log_sum_exp = packed.forward(arguments)
        else:
            self._check_gradients(required)
            from attndsl.runtime.gradients import attend

            out, log_sum_exp = attend(self.differentiable(q, k, v, options, inputs), arguments)
        return (out, log_sum_exp) if options.return_lse else out

    def _check_gradients(self, required: tuple[str, ...]) -> None:
        if self._check_gradient is not None:
            for name in required:
                self._check_gradient(name)

    def _signature(
        self, q: Any, k: Any, v: Any, options: Options, inputs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        return (
            *_signature(q),
            *_signature(k),
            *_signature(v),
            _DEFAULT_KEY if options == DEFAULTS else options.key(),
            *((name, *_signature(value)) for name, value in inputs.items()),
        )

    def _check(
        self,
        q: Any,
        k: Any,
        v: Any,
        options: Options,
        inputs: Mapping[str, Any],
        statistics: bool,
        dropout: Dropout | None,
    ) -> tuple[Call, Execution]:
        call = check_call(self._attention, {"q": q, "k": k, "v": v}, inputs, options)
        call = _dropping(call, dropout)
        return call, self._execution_for(call, statistics)

    def _with_gradients(
        self,
        required: tuple[str, ...],
        q: Any,
        k: Any,
        v: Any,
        options: Options,
        inputs: Mapping[str, Any],
    ) -> Any:
        """The same, as one operation that torch differentiates."""
        self._check_gradients(required)
        if self._operator is not None and _has_subclass(q, k, v, inputs):
            return self._by_operator(q, k, v, options, inputs)
        from attndsl.runtime.gradients import attend

        operation = self.differentiable(q, k, v, options, inputs)
        out, log_sum_exp = attend(operation, {"q": q, "k": k, "v": v, **inputs})
        return (out, log_sum_exp) if options.return_lse else out

    def _by_operator(
        self, q: Any, k: Any, v: Any, options: Options, inputs: Mapping[str, Any]
    ) -> Any:
        assert self._operator is not None
        return self._operator(q, k, v, options, inputs)


def _dropout(options: Options) -> Dropout | None:
    """What a call drops; a seed is drawn where it brings none."""
    if options.dropout is None and options.seed is None:
        return None
    from attndsl.runtime.dropout import dropout_of

    return dropout_of(options.dropout, options.seed)


def _dropping(call: Call, dropout: Dropout | None) -> Call:
    """The call, which others of its signature share, with what this one drops."""
    return call if dropout is None else dataclasses.replace(call, dropout=dropout)


def _requiring_gradients(q: Any, k: Any, v: Any, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that require a gradient."""
    named = ("q", q), ("k", k), ("v", v), *inputs.items()
    return tuple(name for name, one in named if getattr(one, "requires_grad", False))


def _has_subclass(q: Any, k: Any, v: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether an argument is a tensor that only torch's dispatcher knows how to read."""
    return any(
        isinstance(one, Tensor) and type(one) not in _PLAIN for one in (q, k, v, *inputs.values())
    )


def _signature(value: Any) -> tuple[Any, ...]:
    """What decides how a tensor is read, apart from where it lies."""
    try:
        kind = type(value)
        return kind, value.shape, value.stride(), value.dtype, value.device, value.is_neg()
    except (AttributeError, RuntimeError):  # no tensor, or none that lies in memory
        return type(value), value
