"""The same attention by PyTorch's own means, where they can express it: for `attndsl bench`."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attndsl.attention import Attention, Softmax
from attndsl.diagnostics import InternalError
from attndsl.expression import (
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

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "and": operator.and_,
    "or": operator.or_,
}
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

    Its functions are composed from the spec's own formulas; the block mask is made beforehand, as
    its documentation advises.
    """
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if not _is_plain_softmax(attention):
        return None
    if not (_is_expressible(attention.score) and _is_expressible(attention.mask)):
        return None
    formulas = _Formulas(attention, inputs, sizes, scale)
    score, mask = formulas.build(attention.score), formulas.build(attention.mask)
    offset, group = sizes["offset"], sizes["H"] // sizes["Hkv"]

    def mask_mod(b: Tensor, h: Tensor, row: Tensor, j: Tensor) -> Any:
        found = mask({"b": b, "h": h, "row": row, "j": j, "i": row + offset, "g": h // group})
        # A mask that does not depend on the pair has to become a tensor.
        return (j >= 0) & found

    # With a scale of 1 the score that FlexAttention hands over is the dot product itself.
    def score_mod(dot: Tensor, b: Tensor, h: Tensor, row: Tensor, j: Tensor) -> Any:
        indices = {"b": b, "h": h, "row": row, "j": j, "i": row + offset, "g": h // group}
        return score({**indices, "dot": dot})

    batches = sizes["B"] if _varies(attention.mask, "b") else None
    heads = sizes["H"] if _varies(attention.mask, "hg") else None
    block_mask = create_block_mask(
        mask_mod, batches, heads, sizes["Lq"], sizes["Lk"], device=str(q.device)
    )
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped = q.shape[1] != k.shape[1]
    return lambda: compiled(
        q,
        k,
        v,
        score_mod=score_mod,
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


_Formula = Callable[[Mapping[str, Any]], Any]


class _Formulas:
    """Expressions as functions from index values to torch tensors, one closure a node.

    Closures are what `torch.compile` follows; no text of the spec becomes code.
    """

    def __init__(
        self,
        attention: Attention,
        inputs: Mapping[str, Tensor],
        sizes: Mapping[str, int],
        scale: float,
    ):
        self._axes, self._inputs = attention.axes, inputs
        self._sizes, self._scale = sizes, scale

    def build(self, node: Expression) -> _Formula:
        import torch

        if _is_dot(node):
            return lambda at: at["dot"]
        match node:
            case Literal(value=value):
                return lambda at: value
            case Index(name=name):
                return lambda at: at[name]
            case Coordinate(position=position, axis=axis):
                return self._coordinate(position, axis)
            case Size(name=name):
                size = self._sizes[name]
                return lambda at: size
            case Scale():
                scale = self._scale
                return lambda at: scale
            case Read(name=name, indices=indices):
                tensor, places = self._inputs[name], [self.build(index) for index in indices]
                return lambda at: tensor[tuple(place(at) for place in places)]
        operands = [self.build(child) for child in children(node)]
        match node:
            case Unary(operator="not"):
                return lambda at: torch.logical_not(torch.as_tensor(operands[0](at)))
            case Unary():
                return lambda at: -operands[0](at)
            case Binary(operator=sign):
                apply = _OPERATORS[sign]
                return lambda at: apply(operands[0](at), operands[1](at))
            case Select():
                return lambda at: torch.where(*(operand(at) for operand in operands))
            case Call(function="float"):
                return lambda at: 1.0 * operands[0](at)
            case Call(function="int"):
                return lambda at: 1 * operands[0](at)
            case Call(function=name):
                function = _function(name)
                if len(operands) == 1:
                    return lambda at: function(torch.as_tensor(operands[0](at)))
                return lambda at: functools.reduce(
                    function, [torch.as_tensor(operand(at)) for operand in operands]
                )
        raise InternalError(f"no torch spelling for {type(node).__name__}")

    def _coordinate(self, position: str, axis: str) -> _Formula:
        place = self._axes.index(axis)
        stride = math.prod(self._sizes[f"axis.{name}"] for name in self._axes[place + 1 :])
        length = self._sizes[f"axis.{axis}"]
        if place == 0:
            return lambda at: at[position] // stride
        return lambda at: at[position] // stride % length


def _function(name: str) -> Callable[..., Any]:
    import torch

    spelled: dict[str, Callable[..., Any]] = {
        "min": torch.minimum,
        "max": torch.maximum,
        "softplus": torch.nn.functional.softplus,
    }
    return spelled.get(name) or getattr(torch, name)


def _is_expressible(expression: Expression) -> bool:
    """Whether all vectors in it are the operands of plain products of `q` and `k`."""
    if _is_dot(expression):
        return True
    return isinstance(expression.type, Scalar) and all(map(_is_expressible, children(expression)))
