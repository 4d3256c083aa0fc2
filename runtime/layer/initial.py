"""How learned inputs begin."""

from __future__ import annotations

import torch
from torch import Tensor


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
