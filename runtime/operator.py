"""Kernels as operators of torch: `attndsl::attend` and `attndsl::attend_backward`.

There is one operator for all specs. Its first argument is the spec itself, in the language, with
its parameters bound and its definitions written out. So a graph says what it computes; another
process that runs it (a program from `torch.export`, compiled code from a cache) needs nothing but
`import attndsl.runtime.operator`; and what comes from a file goes through the checker, as any spec
does. The inputs come as one list, in the order in which the spec declares them.

    attend(spec, q, k, v, inputs, cu_seqlens, cu_seqlens_k, scale, offset, grid, dropout, seed)
        -> (out, statistic)
    attend_backward(spec, q, k, v, inputs, cu_seqlens, cu_seqlens_k, scale, offset, grid,
                    out, statistic, of_out, of_statistic, needed, dropout, seed)
        -> gradients of what is needed of q, k, v and the inputs

The statistic is float32: the log-sum-exp of every row, or what its weights were divided by; empty
where the normalisation has neither. The seed of dropout is a tensor, one int64, that the caller has
drawn: so both operators drop the same pairs. Fake tensors are checked as tensors are (A07x), with
sizes that may be symbols. The numbers come from `Calls`, as in a plain call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils import _pytree

from attndsl.attention import has_statistic
from attndsl.runtime.arguments import check_call
from attndsl.runtime.gradients import (
    attend,
    has_log_sum_exp,
    has_tangent,
    levels_below,
    refuse_forward_mode,
    refuse_twice,
)
from attndsl.runtime.kernel import Kernel
from attndsl.runtime.operator_arguments import Arguments
from attndsl.runtime.packed_arguments import check_packed

# Kernels of this process by their specs, so that a graph made here runs what its author tuned.
_KERNELS: WeakValueDictionary[str, Kernel] = WeakValueDictionary()


def spec_of(kernel: Kernel) -> str:
    """The spec by which the operator knows a bound kernel.

    Raises `AttnError` A080 where the spec has what no target compiles yet.
    """
    _KERNELS.setdefault(kernel.spec, kernel)
    return kernel.spec


def kernel_of(spec: str) -> Kernel:
    """The kernel of a spec with one attention. Raises `AttnError` for what is wrong in it."""
    return _KERNELS.get(spec) or _parsed(spec)


@lru_cache(maxsize=256)
def _parsed(spec: str) -> Kernel:
    from attndsl.runtime.modules import load_text

    (attention,) = load_text(spec, "<operator>").attentions
    return Kernel(attention).bind()


_library: Any = torch.library.Library("attndsl", "FRAGMENT")  # type: ignore[no-untyped-call]
_RESULTS = "Tensor out, Tensor statistic, Tensor? of_out, Tensor? of_statistic, bool[] needed"
_library.define(
    f"attend({Arguments.schema()}) -> (Tensor, Tensor)", tags=torch.Tag.pt2_compliant_tag
)
_library.define(
    f"attend_backward({_RESULTS}, {Arguments.schema()}) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)
_attend = torch.ops.attndsl.attend.default
_attend_backward = torch.ops.attndsl.attend_backward.default


def _named(kernel: Kernel, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    declared = kernel.attention.inputs
    return {one.name: tensor for one, tensor in zip(declared, inputs, strict=True)}


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    given = Arguments(*arguments)
    kernel = kernel_of(given.spec)
    named = _named(kernel, given.inputs)
    return kernel.calls.forward(given.q, given.k, given.v, given.options, named)


def _fake_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    given = Arguments(*arguments)
    kernel = kernel_of(given.spec)
    attention = kernel.attention
    has_one = has_statistic(attention.normalizer)
    operands, options, named = given.operands, given.options, _named(kernel, given.inputs)
    if options.is_packed:
        sizes = check_packed(attention, operands, named, options)[0].sizes
        rows = sizes["H"], sizes["Lq"]
        out = given.q.new_empty((sizes["Lq"], sizes["H"], sizes["Dv"]))
        return out, out.new_empty(rows if has_one else (0,), dtype=torch.float32)
    sizes = check_call(attention, operands, named, options).sizes
    every_row = sizes["B"], sizes["H"], sizes["Lq"]
    out = given.q.new_empty((*every_row, sizes["Dv"]))
    return out, out.new_empty(every_row if has_one else (0,), dtype=torch.float32)


def _backward(
    out: Tensor,
    statistic: Tensor,
    of_out: Tensor | None,
    of_statistic: Tensor | None,
    needed: Sequence[bool],
    *arguments: Any,
) -> list[Tensor]:
    given = Arguments(*arguments)
    kernel = kernel_of(given.spec)
    named = _named(kernel, given.inputs)
    operation = kernel.calls.differentiable(given.q, given.k, given.v, given.options, named)
    tensors = {**given.operands, **named}
    wanted = tuple(name for name, need in zip(tensors, needed, strict=True) if need)
    return operation.gradients(tensors, (out, statistic), (of_out, of_statistic), wanted)


def _fake_backward(
    out: Tensor,
    statistic: Tensor,
    of_out: Tensor | None,
    of_statistic: Tensor | None,
    needed: Sequence[bool],
    *arguments: Any,
) -> list[Tensor]:
    return [
        one.new_empty(one.shape)
        for one, need in zip(Arguments(*arguments).tensors, needed, strict=True)
        if need and one is not None
    ]


class _ByOperator:
    """A call of the operator, for autograd: forward below it, backward by the other operator."""

    def __init__(self, keys: Any, given: Arguments, inputs: tuple[str, ...]) -> None:
        self._keys, self._given, self._inputs = keys, given, inputs

    @property
    def has_log_sum_exp(self) -> bool:
        return has_log_sum_exp(kernel_of(self._given.spec).attention)

    def forward(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        with levels_below():
            result: tuple[Tensor, Tensor] = _below_autograd(
                _attend, self._keys, *self._given.with_tensors(arguments, self._inputs)
            )
        return result

    def backward(
        self,
        arguments: Mapping[str, Any],
        results: tuple[Tensor, Tensor],
        gradients: tuple[Tensor | None, Tensor | None],
        wanted: tuple[str, ...],
    ) -> list[Tensor]:
        needed = [name in wanted for name in ("q", "k", "v", *self._inputs)]
        found: list[Tensor] = _attend_backward(
            *results, *gradients, needed, *self._given.with_tensors(arguments, self._inputs)
        )
        return found


def _below_autograd(operator: Any, keys: Any, *arguments: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)


def _recorded_forward(keys: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
    given = Arguments(*arguments)
    if has_tangent(given.tensors):
        refuse_forward_mode()
    if not _requires_gradient(given.tensors):
        result: tuple[Tensor, Tensor] = _below_autograd(_attend, keys, *given)
        return result
    named = _named(kernel_of(given.spec), given.inputs)
    return attend(_ByOperator(keys, given, tuple(named)), {**given.operands, **named})


def _recorded_backward(keys: Any, *arguments: Any) -> Sequence[Tensor]:
    found: list[Tensor] = _below_autograd(_attend_backward, keys, *arguments)
    tensors = [one for one in _pytree.tree_leaves(arguments) if isinstance(one, Tensor)]
    if has_tangent(tensors):
        refuse_forward_mode()
    return list(refuse_twice(found, tensors)) if _requires_gradient(tensors) else found


def _requires_gradient(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in tensors)


def _cast(device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The operator under autocast: q, k and v in the dtype that the user chose, as in SDPA."""
    key = getattr(torch._C.DispatchKey, "Autocast" + torch._C._dispatch_key_for_device(device))
    below = torch._C.DispatchKeySet(key)

    def lowered(one: Any) -> Any:
        # Autocast leaves doubles alone, which attention refuses by name.
        if one is None or not one.is_floating_point() or one.dtype is torch.float64:
            return one
        return one.to(torch.get_autocast_dtype(device))

    def cast(*arguments: Any) -> tuple[Tensor, Tensor]:
        given = Arguments(*arguments)
        given = given._replace(q=lowered(given.q), k=lowered(given.k), v=lowered(given.v))
        with torch._C._ExcludeDispatchKeyGuard(below):
            result: tuple[Tensor, Tensor] = _attend(*given)
        return result

    return cast


def _one_by_one(operator: Any) -> Callable[..., Any]:
    """The operator under `torch.vmap`: on every slice in turn."""

    def batched(info: Any, dimensions: Any, *arguments: Any) -> Any:
        leaves, tree = _pytree.tree_flatten(arguments)
        places = _pytree.tree_leaves(dimensions, is_leaf=lambda one: one is None)
        results = [
            operator(
                *_pytree.tree_unflatten(
                    [
                        leaf if place is None else leaf.select(place, number)
                        for leaf, place in zip(leaves, places, strict=True)
                    ],
                    tree,
                )
            )
            for number in range(info.batch_size)
        ]
        return _pytree.tree_map(lambda *one: torch.stack(one), *results), _pytree.tree_map(
            lambda _: 0, results[0]
        )

    return batched


_library.impl("attend", _forward, "CompositeExplicitAutograd")
_library.impl("attend_backward", _backward, "CompositeExplicitAutograd")
_library.impl("attend", _recorded_forward, "Autograd", with_keyset=True)
_library.impl("attend_backward", _recorded_backward, "Autograd", with_keyset=True)
_library.impl("attend", _cast("cpu"), "AutocastCPU")
_library.impl("attend", _cast("cuda"), "AutocastCUDA")
torch.library.register_fake("attndsl::attend", _fake_forward, lib=_library)
torch.library.register_fake("attndsl::attend_backward", _fake_backward, lib=_library)
torch.library.register_vmap("attndsl::attend", _one_by_one(_attend), lib=_library)
torch.library.register_vmap("attndsl::attend_backward", _one_by_one(_attend_backward), lib=_library)
