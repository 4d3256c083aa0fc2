"""A spec as an attention implementation of `transformers`.

`register` enters one or several kernels under a name. A layer of a model then says with each call
what it wants: by keywords (`sliding_window`, `softcap`, `s_aux` …) and by its mask. The first
kernel that honours all of it runs; if none does, the call is refused, with the name of what is not
honoured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from attndsl.runtime.integrations.choice import Chooser
from attndsl.runtime.integrations.keys import Keys, key_mask
from attndsl.runtime.integrations.requests import Source, fixed, request_of
from attndsl.runtime.kernel import Kernel

# Where the ready-made specs, and most that are written for a model, have their numbers from.
READS: Mapping[str, Source] = {
    "window": "sliding_window",
    "cap": "softcap",
    "sink": "s_aux",
    "chunk": "attention_chunk_size",
    "present": "padding",
    "first": "first_token",
    "last": "last_token",
    "doc": "documents",
}


def register(
    name: str,
    *kernels: Kernel,
    reads: Mapping[str, Source] | None = None,
    ignore: Iterable[str] = (),
    own_mask: bool = False,
) -> None:
    """Make `attn_implementation=name` run these kernels, whichever first honours a layer's call.

    `reads` says where a parameter or an input has its value from: a keyword that the model's layers
    pass (`"sliding_window"`, `"softcap"`, `"s_aux"`, `"position_bias"` …), one of `"padding"` (bool
    `[B, Lk]`, true for tokens), `"first_token"`, `"last_token"` (int `[B]`, positions),
    `"documents"` (int `[B, Lk]`) and `"attention_chunk_size"`, a function of the layer, or a value.
    Names that are in none of the kernels are an error, except for those of `READS`, which stand for
    themselves unless `reads` says otherwise. An input that `reads` leaves out reads the keyword of
    its own name. A kernel whose parameter reads a keyword that a layer does not pass is not for
    that layer.

    Whatever else a model asks for is refused (A100), unless `ignore` names it. A kernel's mask must
    be the one that the model asks for (A102); `own_mask` says that it replaces the model's on
    purpose, so that only padding still has to be honoured.

    Raises `AttnError` A101 for a name that no kernel has, and for a call without a kernel.
    """
    chooser = Chooser(name, kernels, reads or {}, READS, frozenset(ignore), own_mask)
    AttentionInterface.register(name, Implementation(kernels, chooser))
    AttentionMaskInterface.register(name, key_mask)


class Implementation:
    """The kernels of one name: called by every layer whose model uses it."""

    def __init__(self, kernels: tuple[Kernel, ...], chooser: Chooser) -> None:
        self._kernels, self._chooser = kernels, chooser

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | Keys | None,
        scaling: float | None = None,
        dropout: float | None = 0.0,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        """The signature that `transformers` calls: `[B, H, L, D]` in, `[B, Lq, H, Dv]` out."""
        request = request_of(module, query, key, attention_mask, keywords)
        keys = request.keys
        sources = self._chooser.sources
        number, parameters, filled, assumed = self._chooser.choose(
            request.name,
            tuple((name, fixed(one)) for name, one in request.asked.items()),
            tuple((name, request.fixed(one)) for name, one in sources.items()),
            None if keys is None else tuple(keys.pattern),
            (query.shape[1], key.shape[1]),
            torch.compiler.is_compiling(),
        )
        for what, complaint in assumed:
            assert keys is not None
            torch._assert_async(~keys.has(what), complaint)
        numbers = {name: request.value(sources[name]) for name in parameters}
        inputs = {name: _fitted(request.value(sources[name]), rank) for name, rank, _ in filled}
        length = key.shape[2]
        if keys is not None and keys.length < length:
            # The rest of a static cache is not written yet.
            for name, _, is_of_keys in filled:
                if is_of_keys and inputs[name].shape[-1] == length:
                    inputs[name] = inputs[name][..., : keys.length]
            key, value = key[:, :, : keys.length], value[:, :, : keys.length]
        output = self._kernels[number](
            query, key, value, scale=scaling, dropout=dropout or None, **numbers, **inputs
        )
        return output.transpose(1, 2).contiguous(), None


def _fitted(value: Any, rank: int) -> Any:
    """An input without leading dimensions of 1, over which `transformers` broadcasts and the spec
    not."""
    if isinstance(value, Tensor):
        while value.dim() > rank and value.shape[0] == 1:
            value = value[0]
    return value
