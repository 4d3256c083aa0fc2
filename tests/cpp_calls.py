"""Running specs on the cpp target and comparing them with the float64 reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from attndsl import reference
from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.module import load_text
from attndsl.runtime.kernel import Kernel

Array = np.ndarray[Any, Any]


def attention_of(text: str, **parameters: Any) -> Attention:
    """The one attention in a text, bound."""
    (attention,) = load_text(text).attentions.values()
    return bind(attention, **parameters)


def operands(
    batch: int,
    heads: int,
    key_heads: int,
    queries: int,
    keys: int,
    width: int = 32,
    value_width: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normally distributed q, k and v."""
    random = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(dtype)

    return (
        tensor(batch, heads, queries, width),
        tensor(batch, key_heads, keys, width),
        tensor(batch, key_heads, keys, value_width or width),
    )


def expected(
    attention: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None,
    inputs: Mapping[str, torch.Tensor],
    *,
    scale: float | None = None,
    offset: int | None = None,
    grid: tuple[int, ...] | None = None,
) -> reference.Result:
    """What the reference computes from the very numbers that the kernel gets."""
    axes = None if grid is None else dict(zip(attention.axes, grid, strict=True))
    arrays = [None if one is None else one.double().numpy() for one in (q, k, v)]
    numbers = {name: value.numpy() for name, value in inputs.items()}
    return reference.run(attention, *arrays, numbers, scale=scale, offset=offset, axes=axes)


def assert_matches(
    spec: str | Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None,
    *,
    tolerance: float = 3e-6,
    scale: float | None = None,
    offset: int | None = None,
    grid: tuple[int, ...] | None = None,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """Output and, for a softmax, log-sum-exp agree with the reference; gives the output."""
    from attndsl.attention import Softmax

    attention = attention_of(spec) if isinstance(spec, str) else spec
    wanted = expected(attention, q, k, v, inputs, scale=scale, offset=offset, grid=grid)
    kernel = Kernel(attention)
    softmax = isinstance(attention.normalizer, Softmax)
    result = kernel(q, k, v, scale=scale, offset=offset, grid=grid, return_lse=softmax, **inputs)
    out = result[0] if softmax else result
    assert_close(out.double().numpy(), wanted.output, tolerance)
    if softmax:
        assert wanted.log_sum_exp is not None
        assert_close(result[1].double().numpy(), wanted.log_sum_exp, tolerance)
    return out


def assert_close(found: Array, wanted: Array, tolerance: float) -> None:
    """Within `tolerance` of the greatest magnitude; infinities and NaN in the same places."""
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    largest = max(1.0, float(np.abs(wanted[finite]).max(initial=0.0)))
    assert np.abs(found[finite] - wanted[finite]).max(initial=0.0) <= tolerance * largest
