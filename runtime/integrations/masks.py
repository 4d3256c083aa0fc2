"""What `transformers` wants of a mask, read from the mask function that it hands over.

A model's mask comes as a composition of small functions (`causal_mask_function`, an overlay for
the window, …). `describe` reads the composition as a `Pattern`; one that it does not know is
refused, so that nothing is computed with a mask that nobody understood.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from attndsl.diagnostics import AttnError, Diagnostic


class Pattern(NamedTuple):
    """Which pairs of positions see each other, padding apart.

    `window`: the last so many keys (with `causal`), or at most so far away. `chunk`: keys of the
    same chunk, counted from the first token. `documents`: keys of the same document.
    """

    causal: bool = False
    window: int | None = None
    chunk: int | None = None
    documents: bool = False

    def __str__(self) -> str:
        parts = ["causal" if self.causal else "bidirectional"]
        parts += [f"sliding_window = {self.window}"] if self.window is not None else []
        parts += [f"attention_chunk_size = {self.chunk}"] if self.chunk is not None else []
        parts += ["documents"] if self.documents else []
        return ", ".join(parts)


def describe(function: Callable[..., Any]) -> tuple[Pattern, Tensor | None]:
    """The pattern of a mask function and, where sequences are packed, int `[B, L]` documents.

    Raises `AttnError` A102 for a function that is none of `transformers`' own.
    """
    found: dict[str, Any] = {}
    _collect(function, found)
    document = found.pop("document", None)
    return Pattern(**found, documents=document is not None), document


def _collect(function: Callable[..., Any], found: dict[str, Any]) -> None:
    name = getattr(function, "__qualname__", repr(function)).partition(".<locals>")[0]
    held = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    match name:
        case "causal_mask_function":
            found["causal"] = True
        case "bidirectional_mask_function":
            pass
        case "sliding_window_overlay" | "sliding_window_bidirectional_overlay":
            found["window"] = int(held["sliding_window"])
        case "chunked_overlay":
            found["chunk"] = int(held["chunk_size"])
        case "packed_sequence_mask_function":
            found["document"] = held["packed_sequence_mask"]
        case "remap_positions_for_packed_sequence":
            # Inside of a document, distances are what they were.
            _collect(held["mask_function"], found)
        case "and_masks":
            for part in held["mask_functions"]:
                _collect(part, found)
        case _:
            raise AttnError([unknown(f"`{name}`")])


def unknown(what: str) -> Diagnostic:
    """Of a mask that no spec is compared with."""
    return Diagnostic(
        "A102",
        f"the model asks for a mask that is not understood: {what}",
        help="known are causal and bidirectional masks, sliding windows, chunks, packed documents "
        "and padding",
    )
