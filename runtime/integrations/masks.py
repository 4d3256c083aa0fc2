"""What `transformers` wants of a mask, read from the mask function that it hands over.

A model's mask comes as a composition of small functions (`causal_mask_function`, an overlay for
the window, …). `describe` reads the composition as a `Pattern`; one that it does not know is
refused, so that nothing is computed with a mask that nobody understood. A `KeyMask` then carries
the pattern, and which keys are padding, through the model to its attention layers. Nothing of size
Lq × Lk is ever made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attndsl.diagnostics import error
from attndsl.records import dataclass


@dataclass(frozen=True)
class Pattern:
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


class Keys:
    """The keys of a call, as the model's mask describes them.

    `shape` is that of the scores, `[B, Lq, N]`, where N counts keys of a cache that are not written
    yet; `length` of them are. `tokens` says which are tokens and which padding: bool, a row for
    each of the batch, or None where all are; key 0 of the call is number `offset` of a row.
    `document` is int `[B, Lk]`, or None.
    """

    def __init__(
        self,
        pattern: Pattern,
        shape: tuple[int, int, int],
        *,
        length: int | None = None,
        tokens: Tensor | None = None,
        offset: int = 0,
        document: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pattern, self.shape, self.document = pattern, shape, document
        self._batch, self._length = shape[0], shape[2] if length is None else length
        self._tokens, self._offset, self._device = tokens, offset, device

    @cached_property
    def present(self) -> Tensor:
        """Bool `[B, Lk]`."""
        if self._tokens is None:
            everything = torch.ones((), dtype=torch.bool, device=self._device)
            return everything.expand(self._batch, self._length)
        here = self._tokens[:, self._offset : self._offset + self._length]
        return torch.nn.functional.pad(here, (0, self._length - here.shape[1]))

    @cached_property
    def first(self) -> Tensor:
        """The position of each row's first token, int32 `[B]`: negative where it is gone from the
        cache."""
        if self._tokens is None:
            return torch.zeros(self._batch, dtype=torch.int32, device=self._device)
        leading = (self._tokens.cumsum(-1) == 0).sum(-1)
        return (leading - self._offset).to(torch.int32)

    @cached_property
    def last(self) -> Tensor:
        """The position of each row's last token, int32 `[B]`."""
        positions = torch.arange(self._length, dtype=torch.int32, device=self._device)
        return torch.where(self.present, positions, -1).amax(-1).to(torch.int32)

    @cached_property
    def padding(self) -> frozenset[str]:
        """Where there is padding: any of `left`, `right` and `holes`."""
        if self._tokens is None or bool(self.present.all()):
            return frozenset()
        positions = torch.arange(self._length, device=self._device)
        first, last = self.first[:, None], self.last[:, None]
        found = {
            "left": (first > 0).any(),
            "right": (last < self._length - 1).any(),
            "holes": (~self.present & (positions > first) & (positions < last)).any(),
        }
        return frozenset(name for name, there in found.items() if bool(there))


_COPIES = frozenset(
    {
        *(Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.bool, Tensor.clone, Tensor.detach),
        *(Tensor.contiguous, torch.clone, torch.detach),
    }
)


class KeyMask(Tensor):
    """The attention mask that travels through a model: bool `[B, 1, 1, Lk]`, true for tokens, with
    `keys`. Lk counts the keys that are written: the rest of a static cache is cut off."""

    keys: Keys

    @staticmethod
    def of(keys: Keys) -> KeyMask:
        mask = keys.present[:, None, None, :].as_subclass(KeyMask)
        mask.keys = keys
        return mask

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Iterable[type],
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """A copy, on another device for instance, means the same; anything else is a plain tensor
        that means nothing here."""
        result = super().__torch_function__(function, types, arguments, keywords or {})  # type: ignore[no-untyped-call]
        if not isinstance(result, KeyMask) or "keys" in result.__dict__:
            return result
        source = arguments[0] if arguments else None
        with torch._C.DisableTorchFunctionSubclass():
            copied = function in _COPIES and result.dtype == torch.bool
            if not copied or not isinstance(source, KeyMask):
                return result.as_subclass(Tensor)
        result.keys = source.keys
        return result


def key_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **_: Any,
) -> KeyMask:
    """What `AttentionMaskInterface` calls. Raises `AttnError` A102 for a mask of an unknown form.

    Of what is left over, `local_size` repeats the window, and the others say how a dense mask would
    be made.
    """
    pattern, document = describe(mask_function)
    written = int(q_offset) + q_length - kv_offset
    # Keys behind the last query are a static cache's that no token has filled yet.
    length = min(kv_length, written) if pattern.causal else kv_length
    tokens = None if attention_mask is None else attention_mask.bool()
    keys = Keys(
        pattern,
        (batch_size, q_length, kv_length),
        length=length,
        tokens=tokens,
        offset=kv_offset,
        document=document,
        device=device,
    )
    return KeyMask.of(keys)


def describe(function: Callable[..., Any]) -> tuple[Pattern, Tensor | None]:
    """The pattern of a mask function and, where sequences are packed, int `[B, L]` documents.

    Raises `AttnError` A102 for a function that is none of `transformers`' own.
    """
    found: dict[str, Any] = {}
    _collect(function, found)
    document = found.pop("document", None)
    pattern = Pattern(**found, documents=document is not None)
    if pattern.documents and pattern.chunk is not None:
        # Chunks are then counted from each document's first token.
        raise _unknown("chunks inside of packed documents")
    return pattern, document


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
            raise _unknown(f"`{name}`")


def _unknown(what: str) -> Exception:
    return error(
        "A102",
        f"the model asks for a mask that is not understood: {what}",
        help="known are causal and bidirectional masks, sliding windows, chunks, packed documents "
        "and padding",
    )
