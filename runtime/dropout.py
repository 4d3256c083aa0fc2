"""What a call asks for with `dropout` and `seed`."""

from __future__ import annotations

import torch
from torch import Tensor

from attndsl.diagnostics import AttnError, error
from attndsl.dropout import Dropout


def dropout_of(probability: object, seed: object) -> Dropout | None:
    """What the call drops; None where it drops nothing. Without a seed, one is drawn.

    Raises `AttnError` A079 for numbers that are no probability and no seed.
    """
    check_dropout(probability, seed)
    if not probability:
        return None
    assert isinstance(probability, int | float)
    number = drawn_seed() if seed is None else seed
    assert isinstance(number, int | Tensor)
    return Dropout(float(probability), int(number) & 2**64 - 1)


def drawn_seed() -> Tensor:
    """A seed by torch's default generator on the CPU."""
    return torch.randint(2**63 - 1, (), dtype=torch.int64)


def check_dropout(probability: object, seed: object) -> None:
    """Raises `AttnError` A079 for what is no probability and no seed. What a graph does not know
    yet passes."""
    if isinstance(probability, torch.SymFloat):
        return
    if probability is None:
        if seed is not None:
            raise _error("`seed` needs `dropout`", "say how much to drop: `dropout=0.1`")
        return
    if isinstance(probability, bool) or not isinstance(probability, int | float):
        raise _error(
            f"`dropout` must be a number, got `{type(probability).__name__}`",
            "it is the probability with which a pair is dropped",
        )
    if not 0 <= probability < 1:
        raise _error(
            f"`dropout` must be at least 0 and less than 1, got {probability}",
            "it is the probability with which a pair is dropped",
        )
    if seed is None or isinstance(seed, torch.SymInt):
        return
    if isinstance(seed, Tensor):
        if seed.dtype is not torch.int64 or seed.dim():
            shape = list(seed.shape)
            raise _error(
                f"`seed` must be one int64, got {seed.dtype} of shape {shape}",
                "`torch.tensor(1234)` is one",
            )
        return
    if type(seed) is not int:
        raise _error(
            f"`seed` must be an int, got `{type(seed).__name__}`",
            "without it, one is drawn as `torch.manual_seed` governs",
        )
    if not -(2**63) <= seed < 2**64:
        raise _error(f"`seed` must fit into 64 bits, got {seed}", "choose a smaller one")


def _error(message: str, help: str) -> AttnError:
    return error("A079", message, help=help)
