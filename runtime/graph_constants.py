"""Functions that are called while a graph is made, and whose results are constants of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_of_graph(function: Function) -> Function:
    """Of constants, for a constant: both numbers, words and plain tuples. Outside of a graph it is
    a function like any other."""
    marked: Function = torch.compiler.assume_constant_result(function)  # type: ignore[no-untyped-call]
    return marked
