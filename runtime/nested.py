"""Nested tensors of jagged layout: sequences that torch has packed.

`q`, `k` and `v` are `[B, H, j, D]`, as `scaled_dot_product_attention` takes them: the transpose of
`[B, j, H, D]`, which holds `[T, H, D]` and where its sequences begin. So does the output. An input
with tokens is nested likewise, `[B, H, j]` or `[B, j]`, and the log-sum-exp is `[B, H, j]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from attndsl.diagnostics import error
from attndsl.runtime.options import Options

# A call on q, k, v, options and inputs.
Call = Callable[[Any, Any, Any, Options, dict[str, Any]], Any]


def attend(call: Call, q: Any, k: Any, v: Any, options: Options, named: Mapping[str, Any]) -> Any:
    """`call` on what the nested tensors hold, and its results nested as `q` is.

    Raises `AttnError` A070, A073 and A088 for what is not nested alike.
    """
    if options.is_packed:
        raise error(
            "A079",
            "nested tensors know where their sequences begin",
            help="call it without `cu_seqlens`",
        )
    operands = {"q": q, "k": k, "v": v}
    packed = {name: _tokens_first(name, one) for name, one in operands.items()}
    keys = None if k.shape[2] == q.shape[2] else k.offsets()
    if v is not None and v.shape[2] != k.shape[2]:
        raise error(
            "A073",
            "`k` and `v` are nested with sequences of their own",
            help="make one with the other's offsets: `nested_tensor_from_jagged(…, k.offsets())`",
        )
    inputs = {name: _values(name, one, q, k) for name, one in named.items()}
    bounds = options._replace(cu_seqlens=q.offsets(), cu_seqlens_k=keys)
    result = call(packed["q"], packed["k"], packed["v"], bounds, inputs)
    if options.return_lse:
        out, log_sum_exp = result
        return _nested(out, q), _nested(log_sum_exp.transpose(0, 1), q)
    return _nested(result, q)


def _tokens_first(name: str, tensor: Any) -> Any:
    """`[T, H, D]` of `[B, H, j, D]`."""
    if tensor is None:
        return None
    _check_nested(name, tensor)
    if tensor.dim() != 4 or tensor._ragged_idx != 2:
        raise error(
            "A073",
            f"`{name}` is nested as [B, {'H' if name == 'q' else 'Hkv'}, j, D], with sequences in "
            f"dimension 2, got {tensor.dim()} dimensions, and sequences in {tensor._ragged_idx}",
            help=f"transpose [B, j, H, D]: `{name}.transpose(1, 2)`",
        )
    values: Tensor = tensor.transpose(1, 2).values()
    return values


def _values(name: str, value: Any, q: Any, k: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_nested:
        return value
    _check_nested(name, value)
    nested: Any = value
    length = nested.shape[nested._ragged_idx]
    if length != q.shape[2] and length != k.shape[2]:
        raise error(
            "A073",
            f"`{name}` is nested with sequences of its own",
            help=f"make `{name}` with the offsets of `q` or `k`",
        )
    return nested.values()


def refuse(name: str) -> NoReturn:
    """For a nested tensor beside a `q` that is none."""
    raise error(
        "A070",
        f"`{name}` is a nested tensor, and `q` is none",
        help="nest all of `q`, `k` and `v`",
    )


def _check_nested(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_nested:
        raise error(
            "A070",
            f"`q` is a nested tensor, and `{name}` is none",
            help="nest all of `q`, `k` and `v`",
        )
    if tensor.layout is not torch.jagged:
        raise error(
            "A070",
            f"`{name}` is a nested tensor of layout strided",
            help="make it with `layout=torch.jagged`",
        )
    nested: Any = tensor
    if nested.lengths() is not None:
        raise error(
            "A088",
            f"the sequences of `{name}` have holes between them",
            help=f"close them: `{name}.contiguous()`",
        )


def _nested(values: Tensor, like: Any) -> Tensor:
    """`[B, H, j, …]` of `[T, H, …]`."""
    nested: Tensor = torch.nested.nested_tensor_from_jagged(values, like.offsets())
    return nested.transpose(1, 2)
