"""A call by way of the operator `attndsl::attend`: under `torch.compile`, `torch.export`, autocast,
`torch.func`, with fake tensors and with subclasses.

What depends on the spec alone is worked out while a graph is made and is a constant of it: dynamo
reads no further into attndsl than this file.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndsl.runtime.dropout import check_dropout, drawn_seed
from attndsl.runtime.graph_constants import constant_of_graph
from attndsl.runtime.operator_arguments import Arguments
from attndsl.runtime.options import Options

if TYPE_CHECKING:
    from attndsl.runtime.kernel import Kernel


def attend(
    kernel: Kernel, q: Any, k: Any, v: Any, options: Options, named: Mapping[str, Any]
) -> Any:
    """See `Kernel.__call__`."""
    for name, one in {"q": q, "k": k, "v": v, **named}.items():
        if isinstance(one, Tensor) and one.is_nested:
            from attndsl.runtime import nested

            if name != "q" and not q.is_nested:
                nested.refuse(name)
            return nested.attend(kernel.call, q, k, v, options, named)
    identity = kernel.identity
    parameters = {name: _constant(named[name]) for name in _parameters(identity) if name in named}
    names = tuple(name for name in named if name not in parameters)
    spec = _spec(identity, names, options.return_lse, **parameters)
    inputs = [_tensor(named[name], dtype, q) for name, dtype in _inputs(identity)]
    grid = options.grid
    if isinstance(grid, Mapping):
        grid = tuple(grid[axis] for axis in _axes(identity, tuple(grid)))
    if not torch.compiler.is_compiling():
        check_dropout(options.dropout, options.seed)
    arguments = Arguments(
        *(spec, q, k, v, inputs),
        cu_seqlens=options.cu_seqlens,
        cu_seqlens_k=options.cu_seqlens_k,
        scale=options.scale,
        offset=options.offset,
        grid=grid,
        dropout=options.dropout,
        seed=_seed(options.seed) if options.dropout else None,
    )
    out, log_sum_exp = torch.ops.attndsl.attend(*arguments)
    return (out, log_sum_exp) if options.return_lse else out


def _seed(seed: Any) -> Tensor:
    """A tensor, so that no graph is for one seed alone."""
    if seed is None:
        return drawn_seed()
    if isinstance(seed, Tensor):
        return seed
    return torch.full((), seed - 2**64 if seed >= 2**63 else seed, dtype=torch.int64)


def _constant(value: Any) -> Any:
    """A parameter is a constant of the graph; an int that changes dynamo would take for a size."""
    return operator.index(value) if type(value) is int else value


def _tensor(value: Any, dtype: torch.dtype, like: Tensor) -> Any:
    """An input, where a plain number stands for a tensor without dimensions."""
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=dtype, device=like.device)


@constant_of_graph
def _parameters(identity: str) -> tuple[str, ...]:
    return tuple(one.name for one in _kernel(identity).attention.parameters)


@constant_of_graph
def _inputs(identity: str) -> tuple[tuple[str, torch.dtype], ...]:
    """The inputs in the order in which the operator takes them."""
    from attndsl.runtime.inputs import ELEMENT_DTYPES

    declared = _kernel(identity).attention.inputs
    return tuple((one.name, ELEMENT_DTYPES[one.element]) for one in declared)


@constant_of_graph
def _axes(identity: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """The axes in the order of the spec. Raises `AttnError` A077 where others are named."""
    from attndsl.runtime.choices import check_axes

    axes = _kernel(identity).attention.axes
    check_axes(axes, named)
    return axes


@constant_of_graph
def _spec(identity: str, names: tuple[str, ...], return_lse: bool, **parameters: Any) -> str:
    """The spec with its parameters bound. Raises `AttnError` for what does not depend on tensors:
    A06x for parameters, A071 and A072 for inputs, A079 for a log-sum-exp that there is not."""
    from attndsl.runtime.choices import check_log_sum_exp
    from attndsl.runtime.inputs import check_names
    from attndsl.runtime.operator import spec_of

    kernel = _kernel(identity).bind(**parameters)
    check_names(kernel.attention, names)
    if return_lse:
        check_log_sum_exp(kernel.attention)
    return spec_of(kernel)


def _kernel(identity: str) -> Kernel:
    from attndsl.runtime.kernel import kernel_called

    return kernel_called(identity)
