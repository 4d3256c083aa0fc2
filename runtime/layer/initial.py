"""How learned inputs begin.

A name that papers agree on says more than a formula: `slope` is ALiBi's, `log_decay` RetNet's. What
has no such name begins by its part in the formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from attndsl.attention import Attention, Softmax
from attndsl.expression import Expression, Matrix, Read, Vector, walk

# A tensor or a number to begin with, or a function of the shape.
Initial = Tensor | float | Callable[[tuple[int, ...]], Tensor | float]


def alibi_slopes(heads: int) -> Tensor:
    """ALiBi's slopes, float32 `[heads]`: 2^(-8/n), 2^(-16/n), … for a power of two n of heads.

    For other numbers of heads, the slopes of the power of two below, and every second one of twice
    as many heads. Press et al., "Train Short, Test Long", 2021, section 3 and the code beside it.
    """
    below = 1 << (heads.bit_length() - 1)
    slopes = _geometric(below)
    return torch.cat([slopes, _geometric(2 * below)[::2][: heads - below]])


def _geometric(heads: int) -> Tensor:
    exponents = torch.arange(1, heads + 1, dtype=torch.float64) * (-8 / heads)
    return torch.exp2(exponents).to(torch.float32)


def retention_decays(heads: int) -> Tensor:
    """RetNet's logarithms of decays, float32 `[heads]`: log(1 - 2^(-5-h)).

    Sun et al., "Retentive Network", 2023, section 2.2.
    """
    exponents = -5 - torch.arange(heads, dtype=torch.float64)
    return torch.log1p(-torch.exp2(exponents)).to(torch.float32)


def initial_value(attention: Attention, name: str, shape: tuple[int, ...]) -> Tensor:
    """How the float input `name` of a bound attention begins, float32 of this shape.

    `slope` and `slopes` of one dimension are ALiBi's, `log_decay` RetNet's, `log_scale` is log(10)
    (Swin V2), `temperature` 1. What makes a sink is 0. Vectors and matrices are uniform within
    ±1/√(their last dimension), as in `nn.Linear`; anything else, tables of biases for instance, is
    normal with a deviation of 0.02.
    """
    match name, len(shape):
        case "slope" | "slopes", 1:
            return alibi_slopes(shape[0])
        case "log_decay", 1:
            return retention_decays(shape[0])
        case "log_scale", _:
            return torch.full(shape, math.log(10.0))
        case "temperature", _:
            return torch.ones(shape)
    normalizer = attention.normalizer
    if isinstance(normalizer, Softmax):
        parts = [one for one in (normalizer.sink, normalizer.sink_value) if one is not None]
        if any(_reads(part, name) for part in parts):
            return torch.zeros(shape)
    value = torch.empty(shape)
    if _is_vector(attention, name):
        bound = 1 / math.sqrt(shape[-1])
        return torch.nn.init.uniform_(value, -bound, bound)
    return torch.nn.init.normal_(value, std=0.02)


def _reads(expression: Expression, name: str) -> bool:
    return any(isinstance(node, Read) and node.name == name for node in walk(expression))


def _is_vector(attention: Attention, name: str) -> bool:
    """Whether some of its trailing dimensions are left unindexed anywhere."""
    found = False

    def look(expression: Expression) -> Expression:
        nonlocal found
        for node in walk(expression):
            if isinstance(node, Read) and node.name == name:
                found = found or isinstance(node.type, Vector | Matrix)
        return expression

    attention.map_expressions(look)
    return found
