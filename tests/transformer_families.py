"""Tiny models of `transformers` with random weights, and how their specs are registered."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers

import attndsl
from attndsl.integrations import transformers as attention

WINDOW, LENGTH, PAD = 6, 17, 0
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "attention_dropout": 0.0,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}
ALTERNATING = ["sliding_attention", "full_attention"]


@dataclass(frozen=True)
class Family:
    """A model, the file of its specs, and the kernels of it in the order of registering."""

    model: str
    config: str
    options: dict[str, Any]
    spec: str
    kernels: tuple[str, ...]
    reads: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        torch.manual_seed(0)
        options = {name: one for name, one in (SIZES | self.options).items() if one is not None}
        config = getattr(transformers, self.config)(**options, attn_implementation="eager")
        model = getattr(transformers, self.model)(config).eval()
        for parameter in model.parameters():
            # Norms and sinks that all begin alike would hide mistakes.
            if parameter.dim() == 1:
                parameter.data += 0.3 * torch.randn_like(parameter)
        return model

    def register(self, name: str) -> None:
        module = attndsl.load(attention.SPECS / f"{self.spec}.attn")
        kernels = [module[one] for one in self.kernels]
        attention.register(name, *kernels, reads=self.reads)


FAMILIES = {
    "llama": Family("LlamaForCausalLM", "LlamaConfig", {}, "causal", ("causal",)),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        "Qwen3Config",
        {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": ALTERNATING},
        "windowed",
        ("local", "whole"),
    ),
    "mistral": Family(
        "MistralForCausalLM",
        "MistralConfig",
        {"sliding_window": WINDOW},
        "windowed",
        ("local",),
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
            "attn_logit_softcapping": 4.0,
            "query_pre_attn_scalar": 8,
        },
        "gemma2",
        ("local", "whole"),
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"sliding_window": WINDOW, "layer_types": ALTERNATING, "query_pre_attn_scalar": 8},
        "windowed",
        ("local", "whole"),
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            "sliding_window": WINDOW,
            "layer_types": ALTERNATING,
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
        },
        "gpt_oss",
        ("local", "whole"),
    ),
    "llama4": Family(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            "attention_chunk_size": WINDOW,
            "layer_types": ["chunked_attention", "full_attention"],
            "no_rope_layers": [1, 0],
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
        },
        "llama4",
        ("chunked", "whole"),
    ),
    "mpt": Family(
        "MptForCausalLM",
        "MptConfig",
        {"d_model": 64, "n_heads": 4, "n_layers": 2, "expansion_ratio": 1, "max_seq_len": 64},
        "alibi",
        ("alibi",),
    ),
    "bloom": Family(
        "BloomForCausalLM",
        "BloomConfig",
        {"hidden_size": 48, "n_head": 3, "n_layer": 2},
        "alibi",
        ("alibi",),
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 12,
            "decoder_start_token_id": PAD,
            "dropout_rate": 0.0,
        },
        "t5",
        ("encoder", "decoder", "cross"),
        reads={
            "buckets": lambda layer: layer.relative_attention_num_buckets,
            "furthest": lambda layer: layer.relative_attention_max_distance,
        },
    ),
}


OTHERS = {
    "deepseek_v3": Family(
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8},
            **{"qk_nope_head_dim": 8, "v_head_dim": 12, "num_key_value_heads": 4},
            **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
            "head_dim": None,
        },
        "causal",
        ("causal",),
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 64, "n_head": 4, "n_layer": 2},
        "causal",
        ("causal",),
    ),
    "modernbert": Family(
        "ModernBertModel",
        "ModernBertConfig",
        {"local_attention": 6, "global_attn_every_n_layers": 2, "head_dim": None},
        "",
        ("wide", "whole"),
    ),
}
BOTH_WAYS = """
attention wide(window: int where window > 0) {
    input first: int[B]
    input last:  int[B]
    mask = abs(i - j) <= window and first[b] <= j <= last[b]
}

attention whole {
    input first: int[B]
    input last:  int[B]
    mask = first[b] <= j <= last[b]
}
"""


def padded() -> torch.Tensor:
    """A row that is padded on the left, one on the right, and one that is not."""
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :5] = 0
    mask[1, -5:] = 0
    return mask


def inputs(family: str, mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(2, 90, (3, LENGTH))
    given = {"input_ids": ids if mask is None else ids.masked_fill(mask == 0, PAD)}
    if mask is not None:
        given["attention_mask"] = mask
    if family == "t5":
        given["decoder_input_ids"] = torch.randint(2, 90, (3, 9))
    return given


def run(
    model: Any, given: dict[str, torch.Tensor], tokens: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of real tokens, and gradients of a loss over them."""
    model.zero_grad()
    logits = model(**given, use_cache=False).logits[tokens]
    torch.manual_seed(2)
    (logits * torch.randn_like(logits)).mean().backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return logits.detach(), {name: one.clone() for name, one in gradients.items()}


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    scale = float(wanted.abs().max())
    return bool((found - wanted).abs().max() <= 2e-5 * max(scale, 1e-3))


@cache
def models(family: str) -> tuple[Any, Any]:
    """The eager model of a family, and a copy that uses the spec."""
    FAMILIES[family].register(f"attndsl_{family}")
    eager = FAMILIES[family].build()
    ours = copy.deepcopy(eager)
    attention.attach(ours, f"attndsl_{family}")
    return eager, ours
