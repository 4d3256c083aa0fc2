"""What a spec declares as `input`, checked against what a call passes by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from attndsl.attention import Attention, InputDeclaration
from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.evaluate import evaluate_size
from attndsl.expression import BOOL, INT, Expression, Scalar, Size, walk
from attndsl.printing import text
from attndsl.runtime.operands import check_dense
from attndsl.runtime.words import array_help, dtype_name, kind_of, shape_of

ELEMENT_DTYPES = {Scalar.BOOL: torch.bool, Scalar.INT: torch.int32, Scalar.FLOAT: torch.float32}

_INTEGERS = (torch.int32, torch.int64, torch.int16, torch.int8, torch.uint8)
_GREATEST = 2**31 - 1

# What other libraries' attention takes, and where it is here.
_ELSEWHERE = {
    **dict.fromkeys(("is_causal", "causal"), "the spec says which keys are seen: `mask = causal`"),
    **dict.fromkeys(
        ("attn_mask", "attention_mask", "key_padding_mask", "mask"),
        "the spec says which keys are seen, by an input such as `input present: bool[B, Lk]` and "
        "`mask = present[b, j]`",
    ),
    **dict.fromkeys(("attn_bias", "bias"), "the spec adds it to the score, from an `input`"),
    **dict.fromkeys(("dropout_p", "p_dropout"), "its name is `dropout`"),
    **dict.fromkeys(("softmax_scale", "sm_scale", "scaling"), "its name is `scale`"),
    "enable_gqa": "`k` and `v` with fewer heads than `q` need no option",
    "window_size": "the spec says it, by a parameter: `mask = causal and i - j < window`",
    "alibi_slopes": "the spec says it: `score = dot(q, k) * scale - slope[h] * (i - j)`",
}


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
            advice = _ELSEWHERE.get(name) or f"its inputs: {takes}"
            advice = f"did you mean `{near[0]}`?" if near else advice
            problems.append(
                Diagnostic("A072", f"`{attention.name}` has no input `{name}`", None, "", advice)
            )
    if problems:
        raise AttnError(problems)


def check_inputs(
    attention: Attention,
    inputs: Mapping[str, object],
    sizes: Mapping[str, int],
    device: torch.device,
) -> tuple[tuple[str, torch.dtype], ...]:
    """The inputs whose dtype is not what kernels read, and what they read.

    Raises `AttnError` A070, A073, A074, A075 or A079.
    """
    conversions = []
    for declaration in attention.inputs:
        name, value = declaration.name, inputs[declaration.name]
        dtype = ELEMENT_DTYPES[declaration.element]
        if not isinstance(value, Tensor):
            _check_number(declaration, value)
            conversions.append((name, dtype))
            continue
        check_dense(name, value)
        shape = [evaluate_size(dimension, sizes) for dimension in declaration.dimensions]
        if list(value.shape) != shape:
            numbers = f" = {declaration.element}{shape}" if declaration.dimensions else ""
            raise error(
                "A073",
                f"`{name}` is {declared(declaration)}{numbers}, got {shape_of(value)}",
                declaration.span,
                label="declared here",
                help=_sizes_help(declaration.dimensions, sizes),
            )
        _check_input_dtype(declaration, value)
        if value.device != device:
            raise error(
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
        raise error(
            "A070",
            f"`{declaration.name}` must be a torch tensor, {declared(declaration)}, "
            f"got {kind_of(value)}",
            declaration.span,
            label="declared here",
            help=array_help(value),
        )
    if declaration.element is INT and isinstance(value, int) and abs(value) > _GREATEST:
        raise error("A079", f"`{declaration.name}` is {value}, which does not fit into 32 bits")


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
        raise error(
            "A074",
            f"`{declaration.name}` is {declared(declaration)}, got {dtype_name(value.dtype)}",
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
