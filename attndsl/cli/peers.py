"""The same attention by PyTorch's own means, where they can express it: for `attndsl bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attndsl.attention import Attention, Softmax
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    FLOAT,
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Operand,
    Read,
    Scalar,
    Scale,
    Select,
    Size,
    Unary,
    children,
    index_names,
)

if TYPE_CHECKING:
    from torch import Tensor

_TORCH_NAMES = {"min": "minimum", "max": "maximum", "softplus": "nn.functional.softplus"}
_OPERATORS = {"and": "&", "or": "|"}
_LARGEST_MASK = 1 << 28  # pairs of a dense mask


def sdpa_causal(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    """`scaled_dot_product_attention` with its causal mask: the yardstick that everyone knows."""
    from torch.nn.functional import scaled_dot_product_attention

    grouped = q.shape[1] != k.shape[1]
    return lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def sdpa_masked(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
) -> Callable[[], Tensor] | None:
    """`scaled_dot_product_attention` with a dense mask, or None where the score is another."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from attndsl.runtime.torch_evaluate import Environment, evaluate

    plain = _is_plain_softmax(attention) and _is_scaled_dot(attention.score)
    pairs = sizes["B"] * sizes["H"] * sizes["Lq"] * sizes["Lk"]
    if not plain or pairs > _LARGEST_MASK:
        return None
    grouped = q.shape[1] != k.shape[1]
    indices = {
        name: torch.arange(length, device=q.device).reshape(shape)
        for name, length, shape in (
            ("b", sizes["B"], (-1, 1, 1, 1)),
            ("h", sizes["H"], (1, -1, 1, 1)),
            ("row", sizes["Lq"], (1, 1, -1, 1)),
            ("j", sizes["Lk"], (1, 1, 1, -1)),
        )
    }
    indices["g"] = indices["h"] // (sizes["H"] // sizes["Hkv"])
    indices["i"] = indices["row"] + sizes["offset"]
    environment = Environment(q.device, indices, sizes, attention.axes, inputs=inputs)
    mask = evaluate(attention.mask, environment)
    mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    mask = mask.expand(-1, -1, sizes["Lq"], sizes["Lk"])
    return lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def flex(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    scale: float,
) -> Callable[[], Tensor] | None:
    """Compiled FlexAttention, or None where it cannot say the same.

    Its functions are written from the spec's own formulas; the block mask is made beforehand, as
    its documentation advises.
    """
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not _is_plain_softmax(attention):
        return None
    # With a scale of 1 the score that FlexAttention hands over is the dot product itself.
    writer = _Writer(attention, sizes, scale)
    score, mask = writer.write(attention.score), writer.write(attention.mask)
    if score is None or mask is None:
        return None
    namespace: dict[str, Any] = {"torch": torch, **{f"_{n}": t for n, t in inputs.items()}}
    group = sizes["H"] // sizes["Hkv"]
    head = f"    i, g = row + {sizes['offset']}, h // {group}\n"
    exec(f"def mask_mod(b, h, row, j):\n{head}    return (j >= 0) & {mask}\n", namespace)
    exec(f"def score_mod(score, b, h, row, j):\n{head}    return {score}\n", namespace)
    batches = sizes["B"] if _varies(attention.mask, "b") else None
    heads = sizes["H"] if _varies(attention.mask, "hg") else None
    block_mask = create_block_mask(
        namespace["mask_mod"], batches, heads, sizes["Lq"], sizes["Lk"], device=str(q.device)
    )
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped = q.shape[1] != k.shape[1]
    return lambda: compiled(
        q,
        k,
        v,
        score_mod=namespace["score_mod"],
        block_mask=block_mask,
        scale=1.0,
        enable_gqa=grouped,
    )


def _is_plain_softmax(attention: Attention) -> bool:
    return attention.normalizer == Softmax() and not attention.prepared and not attention.scans


def _is_dot(expression: Expression) -> bool:
    match expression:
        case Call("dot", (Operand(a), Operand(b))):
            return {a, b} == {"q", "k"}
    return False


def _is_scaled_dot(expression: Expression) -> bool:
    match expression:
        case Binary("*", left, right):
            return (_is_dot(left) and right == Scale()) or (_is_dot(right) and left == Scale())
    return False


def _varies(expression: Expression, names: str) -> bool:
    return not index_names(expression).isdisjoint(names)


class _Writer:
    """Formulas as Python over torch tensors; None for what FlexAttention has no word for."""

    def __init__(self, attention: Attention, sizes: Mapping[str, int], scale: float):
        self._attention, self._sizes, self._scale = attention, sizes, scale

    def write(self, expression: Expression) -> str | None:
        return self._text(expression) if _is_expressible(expression) else None

    def _text(self, node: Expression) -> str:
        if _is_dot(node):
            return "score"
        match node:
            case Literal(value=value):
                return repr(value)
            case Index(name=name):
                return name
            case Coordinate(position=position, axis=axis):
                return self._coordinate(position, axis)
            case Size(name=name):
                return str(self._sizes[name])
            case Scale():
                return repr(self._scale)
            case Read(name=name, indices=indices):
                return f"_{name}[{', '.join(map(self._text, indices)) or '...'}]"
            case Unary(operator=operator, operand=operand):
                return f"({'~' if operator == 'not' else '-'}{self._text(operand)})"
            case Binary(operator=operator, left=left, right=right):
                sign = _OPERATORS.get(operator, operator)
                return f"({self._text(left)} {sign} {self._text(right)})"
            case Select(condition=condition, then=then, otherwise=otherwise):
                parts = ", ".join(map(self._text, (condition, then, otherwise)))
                return f"torch.where({parts})"
            case Call(function="float" | "int", arguments=(argument,)):
                return f"(1{'.0' if node.type == FLOAT else ''} * {self._text(argument)})"
            case Call(function=function, arguments=arguments):
                texts = [self._text(argument) for argument in arguments]
                if function in ("min", "max"):
                    texts = [f"torch.as_tensor({text})" for text in texts]
                joined = texts[0]
                for text in texts[1:]:
                    joined = f"torch.{_TORCH_NAMES.get(function, function)}({joined}, {text})"
                if len(texts) > 1:
                    return joined
                return f"torch.{_TORCH_NAMES.get(function, function)}(torch.as_tensor({joined}))"
        raise InternalError(f"no torch spelling for {type(node).__name__}")

    def _coordinate(self, position: str, axis: str) -> str:
        axes = self._attention.axes
        stride = 1
        for name in axes[axes.index(axis) + 1 :]:
            stride *= self._sizes[f"axis.{name}"]
        steps = f"({position} // {stride})"
        return steps if axis == axes[0] else f"({steps} % {self._sizes[f'axis.{axis}']})"


def _is_expressible(expression: Expression) -> bool:
    """Whether all vectors in it are the operands of plain products of `q` and `k`."""
    if _is_dot(expression):
        return True
    return isinstance(expression.type, Scalar) and all(map(_is_expressible, children(expression)))
