"""The keys of a call, as a model's mask describes them, on their way through the model.

What `transformers` takes for the attention mask is a `KeyMask`: it carries the pattern, and which
keys are padding, to the attention layers. Nothing of size Lq × Lk is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.integrations.masks import Pattern, describe

# Where padding may be, by what is then true of a row's keys.
PADDING = ("left", "right", "holes")


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
        self.length = shape[2] if length is None else length
        self._batch = shape[0]
        self._tokens, self._offset, self._device = tokens, offset, device
        # Made once for all layers. (Graphs know no `cached_property`: it takes a lock.)
        self._made: dict[str, Any] = {}

    def to(self, *_: Any, **__: Any) -> Keys:
        """In a graph, what a model does with its mask: a copy of another dtype means the same."""
        return self

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def present(self) -> Tensor:
        """Bool `[B, Lk]`."""
        present: Tensor = self._once("present", self._find_present)
        return present

    def _find_present(self) -> Tensor:
        if self._tokens is None:
            everything = torch.ones((), dtype=torch.bool, device=self._device)
            return everything.expand(self._batch, self.length)
        here = self._tokens[:, self._offset : self._offset + self.length]
        return torch.nn.functional.pad(here, (0, self.length - here.shape[1]))

    @property
    def first(self) -> Tensor:
        """The position of each row's first token, int32 `[B]`: negative where it is gone from the
        cache."""
        first: Tensor = self._once("first", self._find_first)
        return first

    def _find_first(self) -> Tensor:
        if self._tokens is None:
            return torch.zeros(self._batch, dtype=torch.int32, device=self._device)
        leading = (self._tokens.cumsum(-1) == 0).sum(-1)
        return (leading - self._offset).to(torch.int32)

    @property
    def last(self) -> Tensor:
        """The position of each row's last token, int32 `[B]`."""
        last: Tensor = self._once("last", self._find_last)
        return last

    def _find_last(self) -> Tensor:
        positions = torch.arange(self.length, dtype=torch.int32, device=self._device)
        return torch.where(self.present, positions, -1).amax(-1).to(torch.int32)

    @property
    def padding(self) -> frozenset[str]:
        """Where there is padding: any of `PADDING`. A graph that is being made knows no numbers,
        and takes all for possible."""
        padding: frozenset[str] = self._once("padding", self._find_padding)
        return padding

    def _find_padding(self) -> frozenset[str]:
        if self._tokens is None:
            return frozenset()
        if torch.compiler.is_compiling():
            return frozenset(PADDING)
        if bool(self.present.all()):
            return frozenset()
        return frozenset(one for one in PADDING if bool(self.has(one)))

    def has(self, what: str) -> Tensor:
        """Whether there is such padding, or several `documents`: a bool."""
        match what:
            case "left":
                return (self.first > 0).any()
            case "right":
                return (self.last < self.length - 1).any()
            case "holes":
                positions = torch.arange(self.length, device=self._device)
                inside = (positions > self.first[:, None]) & (positions < self.last[:, None])
                return (~self.present & inside).any()
        assert self.document is not None
        return (self.document != self.document[:, :1]).any()


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
) -> KeyMask | Keys:
    """What `AttentionMaskInterface` calls. Raises `AttnError` A102 for a mask of an unknown form.

    In a graph the keys travel by themselves.

    Of what is left over, `local_size` repeats the window, and the others say how a dense mask would
    be made.
    """
    if torch.compiler.is_dynamo_compiling():
        from attndsl.runtime.integrations.masks_in_graphs import describe_in_graph

        arguments, document = describe_in_graph(mask_function)
        pattern = Pattern(*arguments)
    else:
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
    return keys if torch.compiler.is_compiling() else KeyMask.of(keys)
