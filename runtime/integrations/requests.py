"""What one call of a layer of `transformers` asks for, by its keywords and by its mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from attndsl.diagnostics import error
from attndsl.runtime.integrations.keys import KeyMask, Keys
from attndsl.runtime.integrations.masks import Pattern

Source = str | Tensor | bool | int | float | Callable[[torch.nn.Module], Any]

# Keywords that say nothing of what attention computes. (Positions are in q and k already; where
# sequences are packed, the mask says so.)
_NEUTRAL = frozenset(
    {
        *("cache_position", "is_causal", "num_items_in_batch", "output_hidden_states"),
        *("output_router_logits", "past_key_values", "position_embeddings", "position_ids"),
        *("return_dict", "use_cache"),
    }
)


class Given(Enum):
    """What stands for a value, where a kernel is chosen: the choice is a constant of a graph."""

    TENSOR = "a tensor"
    OTHER = "an object"


class Request:
    """`asked` holds what must be honoured, by name; `keys` is None where the mask is not one of
    ours."""

    def __init__(
        self, layer: torch.nn.Module, device: torch.device, asked: dict[str, Any], keys: Keys | None
    ) -> None:
        self.layer, self.device, self.asked, self.keys = layer, device, asked, keys
        self.name = type(layer).__name__

    def value(self, source: Source) -> Any:
        """What a source is worth in this call, or None."""
        if callable(source) and not isinstance(source, Tensor):
            return source(self.layer)
        if not isinstance(source, str):
            return source
        keys = self.keys
        if keys is not None:
            match source:
                case "padding":
                    return keys.present.to(self.device)
                case "first_token":
                    return keys.first.to(self.device)
                case "last_token":
                    return keys.last.to(self.device)
                case "documents" if keys.document is None:
                    return torch.zeros_like(keys.present, dtype=torch.int32, device=self.device)
        return self.asked.get(source)

    def fixed(self, source: Source) -> Any:
        """`fixed` of that value; what depends on the mask alone is not made for it."""
        of_keys = isinstance(source, str) and source in (
            "padding",
            "first_token",
            "last_token",
            "documents",
        )
        return Given.TENSOR if of_keys and self.keys is not None else fixed(self.value(source))


def request_of(
    layer: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | Keys | None,
    keywords: Mapping[str, Any],
) -> Request:
    """Raises `AttnError` A102 where a keyword and the mask say different things."""
    shape = query.shape[0], query.shape[2], key.shape[2]
    asked = {
        name: value
        for name, value in keywords.items()
        if name not in _NEUTRAL and not _is_off(value)
    }
    if getattr(getattr(layer, "config", None), "output_attentions", False):
        asked["output_attentions"] = True
    if attention_mask is not None and not isinstance(attention_mask, KeyMask | Keys):
        return Request(layer, key.device, asked | {"attention_mask": attention_mask}, None)
    if attention_mask is None:
        # No mask was made: `transformers` then goes by this flag, as it does for SDPA.
        causal = keywords.get("is_causal")
        causal = getattr(layer, "is_causal", True) if causal is None else causal
        pattern = Pattern(causal=bool(causal))
        return Request(layer, key.device, asked, Keys(pattern, shape, device=key.device))
    keys = attention_mask if isinstance(attention_mask, Keys) else attention_mask.keys
    if keys.shape != shape:
        raise error(
            "A102",
            f"`{type(layer).__name__}` has scores [B, Lq, Lk] = {list(shape)}, and its mask "
            f"was made for {list(keys.shape)}",
        )
    window, passed = keys.pattern.window, asked.get("sliding_window")
    # A window to both sides is a distance in the mask, and counts the query in the keyword.
    counted = window if keys.pattern.causal or window is None else window + 1
    if passed is not None and passed not in (window, counted):
        raise error(
            "A102",
            f"`{type(layer).__name__}` passes `sliding_window = {passed}`, and its mask is "
            f"{keys.pattern}",
        )
    of_mask = {
        "sliding_window": window,
        "attention_chunk_size": keys.pattern.chunk,
        "documents": None if keys.document is None else keys.document.to(key.device),
        "padding": keys.padding or None,
    }
    asked |= {name: value for name, value in of_mask.items() if value is not None}
    return Request(layer, key.device, asked, keys)


def _is_off(value: object) -> bool:
    """Whether a keyword asks for nothing."""
    if isinstance(value, Tensor):
        return value.numel() == 0
    return value is None or value is False or (type(value) is float and value == 0.0)


def fixed(value: Any) -> Any:
    """A value as a choice of kernels sees it: numbers and words, and what stands for the rest."""
    if isinstance(value, Tensor):
        return Given.TENSOR
    plain = value is None or isinstance(value, bool | int | float | str | frozenset)
    return value if plain else Given.OTHER
