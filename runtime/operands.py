"""`q`, `k` and `v` of a call, checked against each other and against what the spec reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attndsl.attention import Attention
from attndsl.codegen.program import DType
from attndsl.diagnostics import error
from attndsl.evaluate import evaluate_size
from attndsl.expression import Operand, Vector, walk
from attndsl.runtime.words import array_help, dtype_name, joined, kind_of, shape_of

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: DType.FLOAT32,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
}
TORCH_DTYPES = {dtype: torch_dtype for torch_dtype, dtype in DTYPES.items()}

_SHAPES = {
    "q": ("B", "H", "Lq", "D"),
    "k": ("B", "Hkv", "Lk", "D"),
    "v": ("B", "Hkv", "Lk", "Dv"),
}


def operand_tensors(attention: Attention, operands: Mapping[str, object]) -> dict[str, Tensor]:
    """`q`, `k` and, where it is read, `v`. Raises `AttnError` A070 for what is no dense tensor."""
    tensors = {}
    for name in ("q", "k", "v"):
        value = operands.get(name)
        if value is None and name == "v" and not needs_value(attention):
            continue
        if not isinstance(value, Tensor):
            came = "nothing" if value is None else f"{kind_of(value)}"
            shape = ", ".join(_SHAPES[name])
            raise error(
                "A070",
                f"`{name}` must be a torch tensor [{shape}], got {came}",
                help=array_help(value),
            )
        check_dense(name, value)
        tensors[name] = value
    return tensors


def needs_value(attention: Attention) -> bool:
    """Whether the caller's `v` is read; a spec may make its values from `k` alone."""
    for name, prepared in attention.prepared:
        if name == "v":
            return any(isinstance(node, Operand) and node.name == "v" for node in walk(prepared))
    return True


def check_dense(name: str, tensor: Tensor) -> None:
    """Kernels read memory: sparse layouts and negations that torch has put off are none."""
    if tensor.is_nested:
        jagged = tensor.layout is torch.jagged
        raise error(
            "A070",
            f"`{name}` is a nested tensor, and `q` is none"
            if jagged
            else f"`{name}` is a nested tensor of layout strided",
            help="nest all of `q`, `k` and `v`" if jagged else "make it with `layout=torch.jagged`",
        )
    if tensor.layout is not torch.strided:
        raise error(
            "A070",
            f"`{name}` must be a dense tensor, got {str(tensor.layout).removeprefix('torch.')}",
            help=f"make it one: `{name}.to_dense()`",
        )
    if tensor.is_neg():
        raise error(
            "A070",
            f"`{name}` is a view whose negation has been put off",
            help=f"carry it out: `{name}.resolve_neg()`",
        )


def check_ranks(tensors: Mapping[str, Tensor]) -> None:
    """Raises `AttnError` A073."""
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise error(
                "A073",
                f"`{name}` must have 4 dimensions, [{', '.join(_SHAPES[name])}], "
                f"got {shape_of(tensor)}",
                help="add the missing ones with `unsqueeze`" if tensor.dim() < 4 else None,
            )


def check_dtypes(tensors: Mapping[str, Tensor]) -> DType:
    """The one dtype of all. Raises `AttnError` A074."""
    found = {name: tensor.dtype for name, tensor in tensors.items()}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"`{name}` {dtype_name(dtype)}" for name, dtype in found.items())
        raise error(
            "A074", f"{joined(found)} must have one dtype, got {listed}", help="cast with `.to`"
        )
    dtype = found["q"]
    if dtype not in DTYPES:
        raise error(
            "A074",
            f"{joined(found)} must be float32, float16 or bfloat16, got {dtype_name(dtype)}",
            help="cast them: `q.float()`",
        )
    return DTYPES[dtype]


def check_devices(device: torch.device, tensors: Mapping[str, Tensor]) -> None:
    """Raises `AttnError` A075."""
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise error(
                "A075",
                f"`{name}` is on `{tensor.device}`, but `q` is on `{device}`",
                help=f"move it: `{name}.to(q.device)`",
            )


def operand_sizes(attention: Attention, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """B, H, Hkv, Lq, Lk, D, Dv; `v` must agree with `k`, and `k` with `q`.

    Raises `AttnError` A073 or A076.
    """
    query, key = tensors["q"], tensors["k"]
    batch, heads, query_length, head_dim = query.shape
    key_heads, key_length = key.shape[1:3]
    _expect(key, "k", 0, batch, "B", "q")
    _expect(key, "k", 3, head_dim, "D", "q")
    sizes = {
        "B": batch,
        "H": heads,
        "Hkv": key_heads,
        "Lq": query_length,
        "Lk": key_length,
        "D": head_dim,
    }
    if "v" in tensors:
        value = tensors["v"]
        for axis, name in enumerate(("B", "Hkv", "Lk")):
            _expect(value, "v", axis, sizes[name], name, "k")
        sizes["Dv"] = value.shape[3]
    for name, prepared in attention.prepared:
        if name == "v" and isinstance(prepared.type, Vector):
            # What the caller gives as `v`, if anything, is not what is weighted.
            sizes["Dv"] = evaluate_size(prepared.type.size, sizes)
    for name in ("D", "Dv"):
        if sizes[name] == 0:
            raise error("A073", f"the head dimension `{name}` is 0")
    if heads != key_heads and (key_heads == 0 or heads % key_heads):
        raise error(
            "A076",
            f"H must be a multiple of Hkv: `q` has {heads} heads, `k` has {key_heads}",
            help=_layout_help(key)
            if key_heads > heads
            else "each head of `k` and `v` serves H // Hkv heads of `q`",
        )
    return sizes


def _expect(tensor: Tensor, name: str, axis: int, size: int, symbol: str, like: str) -> None:
    if tensor.shape[axis] != size:
        shape = _SHAPES[name]
        raise error(
            "A073",
            f"`{name}` is [{', '.join(shape)}] with {symbol} = {size} as in `{like}`, "
            f"got {shape_of(tensor)}",
            help=_layout_help(tensor),
        )


def _layout_help(tensor: Tensor) -> str:
    return f"dimension order is batch, heads, length, head dimension; these are {shape_of(tensor)}"
