"""How complaints about a call name what came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def kind_of(value: object) -> str:
    """The type of a value: `` `numpy.ndarray` ``."""
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"`{module}{kind.__qualname__}`"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shape_of(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def joined(names: Iterable[str]) -> str:
    """`` `q`, `k` and `v` ``."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}"


def array_help(value: object) -> str | None:
    """How an array becomes a tensor; None for what is no array."""
    if type(value).__module__.partition(".")[0] == "numpy":
        return "make it one with `torch.from_numpy`"
    return "make it one with `torch.tensor`" if isinstance(value, Sequence) else None
