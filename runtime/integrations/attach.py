"""Setting a model's attention implementation, also where `transformers` has no hook for it.

MPT and Bloom compute their attention in their own modules; T5 makes its bias for every pair of
positions before it calls an implementation. `attach` gives these modules classes of ours, with the
same parameters under the same names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.mpt.modeling_mpt import MptAttention
from transformers.models.t5.modeling_t5 import T5Attention

from attndsl.diagnostics import error
from attndsl.runtime.layer.initial import alibi_slopes


def attach(model: Any, name: str) -> None:
    """Make a model of `transformers` use the implementation of this name, wherever it can.

    It is `model.set_attn_implementation(name)`, and more for these families: MPT and Bloom layers
    pass the keyword `slopes`, float `[H]`, of their ALiBi; self-attention of T5 passes its table as
    `position_bias`, float `[buckets, H]`, in place of a bias for every pair, and cross-attention
    passes none. They run as before once their implementation is `eager` again, T5 excepted: its
    table suits only a spec.

    Raises `AttnError` A103 for a name that was not registered, and for a model whose layers do not
    ask for an implementation.
    """
    if name not in ALL_ATTENTION_FUNCTIONS:
        raise error("A103", f"no attention is registered as `{name}`", help="call `register` first")
    layers = [(one, _REPLACEMENTS.get(type(one), type(one))) for one in model.modules()]
    if any(issubclass(replacement, _Alibi) for _, replacement in layers):
        model.config._attn_implementation = name
    else:
        model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise error(
            "A103",
            f"the layers of `{type(model).__name__}` do not ask for an attention implementation",
            help="its attention is written into its own modules, and `transformers` has no hook",
        )
    for layer, replacement in layers:
        layer.__class__ = replacement
        if isinstance(layer, _Alibi):
            layer.config = model.config


class _Alibi(nn.Module):
    """What MPT and Bloom share: `[B, L, H · D]` heads side by side, and the call."""

    config: Any
    is_causal = True

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, **asked: Any) -> Tensor:
        """`[B, H, L, D]` in, `[B, Lq, H · D]` out."""
        interface = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        output, _ = interface(self, query, key, value, mask, **asked)
        return torch.flatten(output, 2)

    @property
    def is_eager(self) -> bool:
        return bool(self.config._attn_implementation == "eager")


class MptByImplementation(_Alibi, MptAttention):
    """MPT's attention through `AttentionInterface`."""

    def forward(
        self,
        hidden_states: Tensor,
        position_bias: Tensor,
        past_key_values: Any = None,
        attention_mask: Any = None,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        if self.is_eager:
            result: tuple[Tensor, None] = super().forward(
                hidden_states, position_bias, past_key_values, attention_mask, **keywords
            )
            return result
        fused = self.Wqkv(hidden_states)
        if self.clip_qkv:
            fused = fused.clamp(-self.clip_qkv, self.clip_qkv)
        query, key, value = (
            part.unflatten(2, (self.n_heads, self.head_dim)).transpose(1, 2)
            for part in fused.chunk(3, dim=2)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        output = self.attend(
            query,
            key,
            value,
            attention_mask,
            scaling=self.softmax_scale,
            dropout=self.attn_dropout_p if self.training else 0.0,
            # The bias of a key grows by the slope from one position to the next.
            slopes=position_bias[:, 0, -1] - position_bias[:, 0, -2],
        )
        return self.out_proj(output), None


class BloomByImplementation(_Alibi, BloomAttention):
    """Bloom's attention through `AttentionInterface`."""

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: Any,
        layer_past: Any = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        if self.is_eager:
            known = hidden_states, residual, alibi, attention_mask, layer_past
            result: tuple[Tensor, None] = super().forward(
                *known, use_cache, output_attentions, **keywords
            )
            return result
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        output = self.attend(
            query,
            key,
            value,
            attention_mask,
            scaling=self.inv_norm_factor,
            dropout=self.attention_dropout.p if self.training else 0.0,
            output_attentions=output_attentions,
            slopes=alibi_slopes(self.num_heads).to(query.device),
        )
        output = nn.functional.dropout(self.dense(output), self.hidden_dropout, self.training)
        return residual + output, None


class T5ByTable(T5Attention):
    """T5's attention, whose bias stays the table that it is."""

    def compute_bias(self, *_: Any, **__: Any) -> Tensor:
        """Float `[buckets, H]`; the model hands it on from its first layer to the others."""
        table: Tensor = self.relative_attention_bias.weight
        return table

    def forward(self, hidden_states: Tensor, *rest: Any, **keywords: Any) -> Any:
        if not self.has_relative_attention_bias and keywords.get("position_bias") is None:
            # Without a bias of its own, the model would make zeros for every pair.
            keywords["position_bias"] = hidden_states.new_zeros(0)
        return super().forward(hidden_states, *rest, **keywords)


_REPLACEMENTS: dict[type, type] = {
    MptAttention: MptByImplementation,
    BloomAttention: BloomByImplementation,
    T5Attention: T5ByTable,
}
