"""What a call passes, checked against what the spec declares, before any kernel runs.

Every complaint names the argument, what was expected (as the spec says it, and in numbers), and
what came.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from attndsl.attention import Attention, InputDeclaration, Softmax
from attndsl.codegen.program import DType
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.dropout import Dropout
from attndsl.evaluate import evaluate_size
from attndsl.expression import BOOL, INT, Expression, Operand, Scalar, Size, Vector, walk
from attndsl.printing import text
from attndsl.records import dataclass
from attndsl.runtime.dropout import check_dropout
from attndsl.runtime.options import DEFAULTS, Options
from attndsl.runtime.slices import check_slices
from attndsl.source import Span

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: DType.FLOAT32,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
}
TORCH_DTYPES = {dtype: torch_dtype for torch_dtype, dtype in DTYPES.items()}

# What kernels read each element type as.
BUFFER_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int32": torch.int32,
}
ELEMENT_DTYPES = {Scalar.BOOL: torch.bool, Scalar.INT: torch.int32, Scalar.FLOAT: torch.float32}

_OPERAND_SHAPES = {
    "q": ("B", "H", "Lq", "D"),
    "k": ("B", "Hkv", "Lk", "D"),
    "v": ("B", "Hkv", "Lk", "Dv"),
}
_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)
_GREATEST_POSITION = 2**31 - 1


@dataclass(frozen=True)
class Call:
    """A checked call. `sizes` holds every run-time size; `conversions` the inputs whose dtype is
    not what kernels read. `dropout` is what it drops, for a plan that drops pairs."""

    dtype: DType
    device: torch.device
    sizes: Mapping[str, int]
    scale: float
    conversions: tuple[tuple[str, torch.dtype], ...]
    dropout: Dropout | None = None

    @property
    def launch_sizes(self) -> Mapping[str, int]:
        """All that a kernel takes as sizes."""
        return self.sizes if self.dropout is None else {**self.sizes, **self.dropout.sizes}


def check_call(
    attention: Attention,
    operands: Mapping[str, object],
    inputs: Mapping[str, object],
    options: Options = DEFAULTS,
) -> Call:
    """Check one call of a bound attention. Raises `AttnError` A070 to A079.

    Sizes may be symbols, of a graph that is being made.
    """
    check_names(attention, inputs)
    tensors = _operand_tensors(attention, operands)
    _check_ranks(tensors)
    dtype = _check_dtypes(tensors)
    _check_devices(tensors["q"].device, tensors)
    sizes = _operand_sizes(attention, tensors)
    sizes["offset"] = _offset(options.offset, sizes)
    sizes |= _axis_sizes(attention, options.grid, sizes["Lk"])
    for name, size in sizes.items():
        if abs(size) > _GREATEST_POSITION:
            raise _error("A079", f"`{name}` is {size}, but positions are 32-bit integers")
    if options.return_lse:
        check_log_sum_exp(attention)
    check_dropout(options.dropout, options.seed)
    check_slices(attention, sizes)
    conversions = _check_inputs(attention, inputs, sizes, tensors["q"].device)
    return Call(
        dtype=dtype,
        device=tensors["q"].device,
        sizes=sizes,
        scale=_scale(options.scale, sizes["D"]),
        conversions=conversions,
    )


def converted(inputs: Mapping[str, Any], call: Call) -> dict[str, Tensor]:
    """The inputs as kernels read them. Raises `AttnError` A079 for integers past 32 bits."""
    result = dict(inputs)
    for name, dtype in call.conversions:
        value = result[name]
        if not isinstance(value, Tensor):
            result[name] = torch.tensor(value, dtype=dtype, device=call.device)
            continue
        narrow = value.to(dtype)
        if value.dtype == torch.int64 and not torch.equal(narrow.to(torch.int64), value):
            wide = value[narrow.to(torch.int64) != value].flatten()[0].item()
            raise _error("A079", f"`{name}` holds {wide}, which does not fit into 32 bits")
        result[name] = narrow
    return result


def needs_value(attention: Attention) -> bool:
    """Whether the caller's `v` is read; a spec may make its values from `k` alone."""
    for name, prepared in attention.prepared:
        if name == "v":
            return any(isinstance(node, Operand) and node.name == "v" for node in walk(prepared))
    return True


def check_log_sum_exp(attention: Attention) -> None:
    """Raises `AttnError` A079 where there is none to return."""
    if not isinstance(attention.normalizer, Softmax):
        raise _error(
            "A079",
            f"`{attention.name}` has no log-sum-exp: its normalisation is not a softmax",
            help="call it without `return_lse`",
        )


def check_axes(axes: tuple[str, ...], named: Iterable[object]) -> None:
    """Raises `AttnError` A077 where a grid names other axes than the spec."""
    if set(named) != set(axes):
        got = ", ".join(map(str, named))
        raise _error("A077", f"`grid` needs the axes {', '.join(axes)}, got {got}")


def check_names(attention: Attention, inputs: Iterable[str]) -> None:
    """Raises `AttnError` A071 for an input that is missing, A072 for one that is not declared."""
    known = [declaration.name for declaration in attention.inputs]
    problems: list[Diagnostic] = []
    for declaration in attention.inputs:
        if declaration.name not in inputs:
            problems.append(
                Diagnostic(
                    "A071",
                    f"`{attention.name}` needs the input `{declaration.name}`",
                    declaration.span,
                    "declared here",
                    f"pass a tensor by name: `{declaration.name}=…`, {declared(declaration)}",
                )
            )
    for name in inputs:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            takes = ", ".join(f"`{one}`" for one in known) or "none"
            advice = f"did you mean `{near[0]}`?" if near else f"its inputs: {takes}"
            problems.append(
                Diagnostic("A072", f"`{attention.name}` has no input `{name}`", None, "", advice)
            )
    if problems:
        raise AttnError(problems)


def _operand_tensors(attention: Attention, operands: Mapping[str, object]) -> dict[str, Tensor]:
    tensors = {}
    for name in ("q", "k", "v"):
        value = operands.get(name)
        if value is None and name == "v" and not needs_value(attention):
            continue
        if not isinstance(value, Tensor):
            came = "nothing" if value is None else f"{_kind(value)}"
            shape = ", ".join(_OPERAND_SHAPES[name])
            raise _error(
                "A070",
                f"`{name}` must be a torch tensor [{shape}], got {came}",
                help=_array_help(value),
            )
        _check_dense(name, value)
        tensors[name] = value
    return tensors


def _check_dense(name: str, tensor: Tensor) -> None:
    """Kernels read memory: sparse layouts and negations that torch has put off are none."""
    if tensor.is_nested:
        jagged = tensor.layout is torch.jagged
        raise _error(
            "A070",
            f"`{name}` is a nested tensor, and `q` is none"
            if jagged
            else f"`{name}` is a nested tensor of layout strided",
            help="nest all of `q`, `k` and `v`" if jagged else "make it with `layout=torch.jagged`",
        )
    if tensor.layout is not torch.strided:
        raise _error(
            "A070",
            f"`{name}` must be a dense tensor, got {str(tensor.layout).removeprefix('torch.')}",
            help=f"make it one: `{name}.to_dense()`",
        )
    if tensor.is_neg():
        raise _error(
            "A070",
            f"`{name}` is a view whose negation has been put off",
            help=f"carry it out: `{name}.resolve_neg()`",
        )


def _check_ranks(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise _error(
                "A073",
                f"`{name}` must have 4 dimensions, [{', '.join(_OPERAND_SHAPES[name])}], "
                f"got {_shape(tensor)}",
                help="add the missing ones with `unsqueeze`" if tensor.dim() < 4 else None,
            )


def _check_dtypes(tensors: Mapping[str, Tensor]) -> DType:
    found = {name: tensor.dtype for name, tensor in tensors.items()}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"`{name}` {_short(dtype)}" for name, dtype in found.items())
        raise _error(
            "A074", f"{_names(found)} must have one dtype, got {listed}", help="cast with `.to`"
        )
    dtype = found["q"]
    if dtype not in DTYPES:
        raise _error(
            "A074",
            f"{_names(found)} must be float32, float16 or bfloat16, got {_short(dtype)}",
            help="cast them: `q.float()`",
        )
    return DTYPES[dtype]


def _check_devices(device: torch.device, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise _error(
                "A075",
                f"`{name}` is on `{tensor.device}`, but `q` is on `{device}`",
                help=f"move it: `{name}.to(q.device)`",
            )


def _operand_sizes(attention: Attention, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """B, H, Hkv, Lq, Lk, D, Dv; `v` must agree with `k`, and `k` with `q`."""
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
            raise _error("A073", f"the head dimension `{name}` is 0")
    if heads != key_heads and (key_heads == 0 or heads % key_heads):
        raise _error(
            "A076",
            f"H must be a multiple of Hkv: `q` has {heads} heads, `k` has {key_heads}",
            help=_layout_help(key)
            if key_heads > heads
            else "each head of `k` and `v` serves H // Hkv heads of `q`",
        )
    return sizes


def _expect(tensor: Tensor, name: str, axis: int, size: int, symbol: str, like: str) -> None:
    if tensor.shape[axis] != size:
        shape = _OPERAND_SHAPES[name]
        raise _error(
            "A073",
            f"`{name}` is [{', '.join(shape)}] with {symbol} = {size} as in `{like}`, "
            f"got {_shape(tensor)}",
            help=_layout_help(tensor),
        )


def _layout_help(tensor: Tensor) -> str:
    return f"dimension order is batch, heads, length, head dimension; these are {_shape(tensor)}"


def _offset(offset: Any, sizes: Mapping[str, int]) -> int:
    if offset is None:
        return sizes["Lk"] - sizes["Lq"]
    if not _is_int(offset):
        raise _error(
            "A079",
            f"`offset` must be an int, the position of query row 0, got {_kind(offset)}",
            help="without it, the last query sits at the last key: offset = Lk - Lq",
        )
    return cast(int, offset)


def _is_int(value: object) -> bool:
    """Whether it is an int, or a graph's symbol for one; a bool is none."""
    return type(value) is int or isinstance(value, torch.SymInt)


def _scale(scale: Any, head_dim: int) -> float:
    if scale is None:
        return cast(float, 1.0 / head_dim**0.5)
    if isinstance(scale, torch.SymFloat):
        return cast(float, scale)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        came = scale if isinstance(scale, float) else _kind(scale)
        raise _error(
            "A079",
            f"`scale` must be a finite number, got {came}",
            help="without it, the scale is 1/sqrt(D)",
        )
    return float(scale)


def _axis_sizes(attention: Attention, grid: object, key_length: int) -> dict[str, int]:
    axes = attention.axes
    if not axes:
        if grid is not None:
            raise _error(
                "A077", f"`{attention.name}` has no axes, so it takes no `grid`", attention.span
            )
        return {}
    if grid is None and len(axes) == 1:
        grid = (key_length,)
    listed = ", ".join(axes)
    lengths = grid
    if isinstance(grid, Mapping):
        check_axes(axes, grid)
        lengths = tuple(grid[axis] for axis in axes)
    if not isinstance(lengths, tuple | list) or len(lengths) != len(axes):
        came = "nothing" if grid is None else repr(grid)
        raise _error(
            "A077",
            f"`{attention.name}` lays its tokens on the axes {listed} and needs the length of "
            f"each, got {came}",
            help=f"pass `grid=({listed})`; their product is the number of keys, {key_length}",
        )
    for axis, length in zip(axes, lengths, strict=True):
        if not _is_int(length) or length < 1:
            raise _error("A077", f"the length of axis `{axis}` must be a positive int, {length!r}")
    if math.prod(lengths) != key_length:
        product = " × ".join(map(str, lengths))
        raise _error(
            "A077",
            f"the grid {product} = {math.prod(lengths)} does not hold the {key_length} keys",
            help=f"the axes are {listed}, in this order, and the last varies fastest",
        )
    return {f"axis.{axis}": length for axis, length in zip(axes, lengths, strict=True)}


def _check_inputs(
    attention: Attention,
    inputs: Mapping[str, object],
    sizes: Mapping[str, int],
    device: torch.device,
) -> tuple[tuple[str, torch.dtype], ...]:
    conversions = []
    for declaration in attention.inputs:
        name, value = declaration.name, inputs[declaration.name]
        dtype = ELEMENT_DTYPES[declaration.element]
        if not isinstance(value, Tensor):
            _check_number(declaration, value)
            conversions.append((name, dtype))
            continue
        _check_dense(name, value)
        shape = [evaluate_size(dimension, sizes) for dimension in declaration.dimensions]
        if list(value.shape) != shape:
            numbers = f" = {declaration.element}{shape}" if declaration.dimensions else ""
            raise _error(
                "A073",
                f"`{name}` is {declared(declaration)}{numbers}, got {_shape(value)}",
                declaration.span,
                label="declared here",
                help=_sizes_help(declaration.dimensions, sizes),
            )
        _check_input_dtype(declaration, value)
        if value.device != device:
            raise _error(
                "A075",
                f"`{name}` is on `{value.device}`, but `q` is on `{device}`",
                declaration.span,
                label="declared here",
                help=f"move it: `{name}.to(q.device)`",
            )
        if value.dtype != dtype:
            conversions.append((name, dtype))
    return tuple(conversions)


def _check_number(declaration: InputDeclaration, value: object) -> None:
    """An input without dimensions may be a plain number; anything else must be a tensor."""
    accepted: dict[Scalar, tuple[type, ...]] = {
        BOOL: (bool,),
        INT: (int,),
        Scalar.FLOAT: (int, float),
    }
    fits = isinstance(value, accepted[declaration.element]) and (
        declaration.element is BOOL or not isinstance(value, bool)
    )
    if declaration.dimensions or not fits:
        raise _error(
            "A070",
            f"`{declaration.name}` must be a torch tensor, {declared(declaration)}, "
            f"got {_kind(value)}",
            declaration.span,
            label="declared here",
            help=_array_help(value),
        )
    if declaration.element is INT and isinstance(value, int) and abs(value) > _GREATEST_POSITION:
        raise _error("A079", f"`{declaration.name}` is {value}, which does not fit into 32 bits")


def _check_input_dtype(declaration: InputDeclaration, value: Tensor) -> None:
    fits: Callable[[torch.dtype], bool]
    match declaration.element:
        case Scalar.BOOL:
            fits, cast = (lambda dtype: dtype is torch.bool), "bool()"
        case Scalar.INT:
            fits, cast = (lambda dtype: dtype in _INTEGERS), "int()"
        case Scalar.FLOAT:
            fits, cast = (lambda dtype: dtype.is_floating_point), "float()"
    if not fits(value.dtype):
        raise _error(
            "A074",
            f"`{declaration.name}` is {declared(declaration)}, got {_short(value.dtype)}",
            declaration.span,
            label="declared here",
            help=f"cast it: `{declaration.name}.{cast}`",
        )


def _sizes_help(dimensions: Iterable[Expression], sizes: Mapping[str, int]) -> str | None:
    used: dict[str, int] = {}
    for dimension in dimensions:
        for node in walk(dimension):
            if isinstance(node, Size):
                used[node.name] = sizes[node.name]
    if not used:
        return None
    return "in this call, " + ", ".join(f"{name} = {size}" for name, size in used.items())


def declared(declaration: InputDeclaration) -> str:
    """As the spec says it: `float[H, Lk]`."""
    if not declaration.dimensions:
        return str(declaration.element)
    return f"{declaration.element}[{', '.join(map(text, declaration.dimensions))}]"


def _array_help(value: object) -> str | None:
    if type(value).__module__.partition(".")[0] == "numpy":
        return "make it one with `torch.from_numpy`"
    return "make it one with `torch.tensor`" if isinstance(value, Sequence) else None


def _kind(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"`{module}{kind.__qualname__}`"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _names(names: Iterable[str]) -> str:
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}"


def _error(
    code: str, message: str, span: Span | None = None, *, label: str = "", help: str | None = None
) -> AttnError:
    return AttnError(Diagnostic(code, message, span, label if span is not None else "", help))
