"""What a call chooses beside its tensors (`scale`, `offset`, `grid`, `return_lse`), checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch

from attndsl.attention import Attention, Softmax
from attndsl.diagnostics import error
from attndsl.runtime.words import kind_of


def offset_of(offset: Any, sizes: Mapping[str, int]) -> int:
    """The position of query row 0. Raises `AttnError` A079 for what is no int."""
    if offset is None:
        return sizes["Lk"] - sizes["Lq"]
    if not _is_int(offset):
        raise error(
            "A079",
            f"`offset` must be an int, the position of query row 0, got {kind_of(offset)}",
            help="without it, the last query sits at the last key: offset = Lk - Lq",
        )
    return cast(int, offset)


def scale_of(scale: Any, head_dim: int) -> float:
    """What the dot product is multiplied by. Raises `AttnError` A079 for what is no number."""
    if scale is None:
        return cast(float, 1.0 / head_dim**0.5)
    if isinstance(scale, torch.SymFloat):
        return cast(float, scale)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        came = scale if isinstance(scale, float) else kind_of(scale)
        raise error(
            "A079",
            f"`scale` must be a finite number, got {came}",
            help="without it, the scale is 1/sqrt(D)",
        )
    return float(scale)


def axis_sizes(attention: Attention, grid: object, key_length: int) -> dict[str, int]:
    """The lengths of the axes, as sizes. Raises `AttnError` A077 for what is no grid of them."""
    axes = attention.axes
    if not axes:
        if grid is not None:
            raise error(
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
        raise error(
            "A077",
            f"`{attention.name}` lays its tokens on the axes {listed} and needs the length of "
            f"each, got {came}",
            help=f"pass `grid=({listed})`; their product is the number of keys, {key_length}",
        )
    for axis, length in zip(axes, lengths, strict=True):
        if not _is_int(length) or length < 1:
            raise error("A077", f"the length of axis `{axis}` must be a positive int, {length!r}")
    if math.prod(lengths) != key_length:
        product = " × ".join(map(str, lengths))
        raise error(
            "A077",
            f"the grid {product} = {math.prod(lengths)} does not hold the {key_length} keys",
            help=f"the axes are {listed}, in this order, and the last varies fastest",
        )
    return {f"axis.{axis}": length for axis, length in zip(axes, lengths, strict=True)}


def check_axes(axes: tuple[str, ...], named: Iterable[object]) -> None:
    """Raises `AttnError` A077 where a grid names other axes than the spec."""
    if set(named) != set(axes):
        got = ", ".join(map(str, named))
        raise error("A077", f"`grid` needs the axes {', '.join(axes)}, got {got}")


def check_log_sum_exp(attention: Attention) -> None:
    """Raises `AttnError` A079 where there is none to return."""
    if not isinstance(attention.normalizer, Softmax):
        raise error(
            "A079",
            f"`{attention.name}` has no log-sum-exp: its normalisation is not a softmax",
            help="call it without `return_lse`",
        )


def _is_int(value: object) -> bool:
    """Whether it is an int, or a graph's symbol for one; a bool is none."""
    return type(value) is int or isinstance(value, torch.SymInt)
