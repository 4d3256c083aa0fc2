"""Models of `transformers` compute through a registered spec what they compute with `eager`.

Configurations are tiny and weights random; logits, gradients of all parameters and generation are
compared, for batches that are padded on the left, on the right and not at all.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import masking_utils

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.evaluate import Environment, evaluate
from attndsl.integrations import transformers as attention
from attndsl.runtime.integrations.agreement import disagreement
from attndsl.runtime.integrations.masks import KeyMask, Pattern, describe, key_mask

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
CAUSAL = masking_utils.causal_mask_function
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


@pytest.fixture(scope="module")
def models() -> Callable[[str], tuple[Any, Any]]:
    """The eager model of a family, and a copy that uses the spec."""
    known: dict[str, tuple[Any, Any]] = {}

    def build(family: str) -> tuple[Any, Any]:
        if family not in known:
            FAMILIES[family].register(f"attndsl_{family}")
            eager = FAMILIES[family].build()
            ours = copy.deepcopy(eager)
            attention.attach(ours, f"attndsl_{family}")
            known[family] = eager, ours
        return known[family]

    return build


@pytest.mark.parametrize("padding", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients(family, padding, models):
    eager, ours = models(family)
    mask = padded() if padding else None
    given = inputs(family, mask)
    tokens = padded().bool() if padding else torch.ones(3, LENGTH, dtype=torch.bool)
    if family == "t5":
        tokens = torch.ones(3, 9, dtype=torch.bool)
    wanted, gradients = run(eager, given, tokens)
    found, our_gradients = run(ours, given, tokens)
    assert close(found, wanted)
    assert our_gradients.keys() == gradients.keys()
    wrong = [name for name, one in gradients.items() if not close(our_gradients[name], one)]
    assert wrong == []


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation(family, cache, models):
    """Greedy: the same tokens, from logits that agree; prompts longer than the window."""
    eager, ours = models(family)
    # A prompt that is padded on the right has nothing to go on from.
    given = {name: one[[0, 2]] for name, one in inputs(family, padded()).items()}
    given.pop("decoder_input_ids", None)
    options = {
        "max_new_tokens": 9,
        "do_sample": False,
        "cache_implementation": cache,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    wanted = eager.generate(**given, **options)
    found = ours.generate(**given, **options)
    assert torch.equal(found.sequences, wanted.sequences)
    assert len(found.logits) == 9
    for ours_at, theirs_at in zip(found.logits, wanted.logits, strict=True):
        assert close(ours_at, theirs_at)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "t5"])
def test_a_prompt_in_parts(family, models):
    """Several tokens meet a cache that is longer than the window."""
    eager, ours = models(family)
    given = {name: one[[0, 2]] for name, one in inputs(family, padded()).items()}
    ids, mask = given["input_ids"], given["attention_mask"]
    logits = []
    for model in (eager, ours):
        cache = transformers.DynamicCache(config=model.config)
        with torch.no_grad():
            for first, last in ((0, 9), (9, 13), (13, 17)):
                out = model(
                    ids[:, first:last], attention_mask=mask[:, :last], past_key_values=cache
                )
        logits.append(out.logits)
    assert close(logits[1], logits[0])


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


@pytest.mark.parametrize("family", OTHERS)
def test_values_of_another_size_and_encoders(family):
    eager = OTHERS[family].build()
    module = attndsl.load(attention.SPECS / "causal.attn")
    module = attndsl.parse(BOTH_WAYS) if family == "modernbert" else module
    attention.register(f"attndsl_{family}", *(module[one] for one in OTHERS[family].kernels))
    ours = copy.deepcopy(eager)
    ours.set_attn_implementation(f"attndsl_{family}")
    given, tokens = inputs(family, padded()), padded().bool()
    with torch.no_grad():
        wanted, found = (model(**given)[0][tokens] for model in (eager, ours))
    assert close(found, wanted)


class Shapes(TorchDispatchMode):
    """Collects the shapes of all tensors that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor):
                self.made.add(tuple(one.shape))
        return result


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_size_of_all_pairs_is_made(family, models):
    eager, ours = models(family)
    given = inputs(family, padded())
    queries = 9 if family == "t5" else LENGTH

    def pairs(model: Any) -> list[tuple[int, ...]]:
        with Shapes() as shapes:
            model(**given, use_cache=False).logits.sum().backward()
        lengths = {(queries, queries), (queries, LENGTH), (LENGTH, LENGTH)}
        return [one for one in shapes.made if one[-2:] in lengths]

    assert pairs(eager)
    assert pairs(ours) == []


def test_layers_that_run_again_in_the_backward(models):
    """Gradient checkpointing hands the mask on as it is."""
    eager, _ = models("gpt_oss")
    given = inputs("gpt_oss", padded())
    wanted = run(eager, given, padded().bool())
    ours = copy.deepcopy(eager).train()
    ours.set_attn_implementation("attndsl_gpt_oss")
    ours.activation_checkpointing_enable()
    found = run(ours, given, padded().bool())
    assert close(found[0], wanted[0])
    assert all(close(found[1][name], one) for name, one in wanted[1].items())


@pytest.mark.parametrize("family", ["mpt", "bloom"])
def test_attached_models_still_run_eagerly(family, models):
    eager, ours = models(family)
    again = copy.deepcopy(ours)
    attention.attach(again, f"attndsl_{family}")  # once more changes nothing
    assert again.config._attn_implementation == f"attndsl_{family}"
    assert again.state_dict().keys() == eager.state_dict().keys()
    again.config._attn_implementation = "eager"
    given = inputs(family, padded())
    tokens = padded().bool()
    with torch.no_grad():
        assert torch.equal(again(**given).logits[tokens], eager(**given).logits[tokens])


@pytest.mark.slow
def test_a_bias_for_every_pair(models):
    """T5 as it is: its bias is an input of the spec, and the gradient reaches the table."""
    eager, _ = models("t5")
    ours = copy.deepcopy(eager)
    spec = """
    attention NAME {
        input position_bias: float[H, Lq, Lk]
        input first: int[B]
        input last:  int[B]
        score = dot(q, k) * scale + position_bias[h, row, j]
        mask  = MASKfirst[b] <= j <= last[b]
    }
    """
    names = {"encoder": "", "decoder": "causal and "}
    module = attndsl.parse(
        "".join(spec.replace("NAME", one).replace("MASK", mask) for one, mask in names.items())
    )
    attention.register("attndsl_pairs", module.encoder, module.decoder)
    ours.set_attn_implementation("attndsl_pairs")
    given, tokens = inputs("t5", padded()), torch.ones(3, 9, dtype=torch.bool)
    wanted, found = run(eager, given, tokens), run(ours, given, tokens)
    assert close(found[0], wanted[0])
    assert all(close(found[1][name], one) for name, one in wanted[1].items())
    del given["decoder_input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    assert torch.equal(ours.generate(**given, **options), eager.generate(**given, **options))


@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gemma2", "gpt_oss"))],
)
def test_low_precision_is_as_good_as_eager(family, models):
    """bfloat16 is as far from float32 as the eager implementation's, within a factor of two."""
    eager, ours = models(family)
    given, tokens = inputs(family, padded()), padded().bool()
    with torch.no_grad():
        wanted = eager(**given).logits[tokens]
        errors = [
            (copy.deepcopy(one).bfloat16()(**given).logits[tokens].float() - wanted).square().mean()
            for one in (eager, ours)
        ]
    assert 0 < errors[1] <= 4 * errors[0]


def test_beams(models):
    """Beam search moves rows of the cache about."""
    eager, ours = models("qwen3")
    given = {name: one[[0, 2]] for name, one in inputs("qwen3", padded()).items()}
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    assert torch.equal(ours.generate(**given, **options), eager.generate(**given, **options))


def test_packed_documents(models):
    """Positions that begin anew separate documents, for a spec that reads `documents`."""
    eager, _ = models("llama")
    ours = copy.deepcopy(eager)
    module = attndsl.parse(
        """
        attention packed {
            input doc: int[B, Lk]
            mask = causal and doc[b, i] == doc[b, j]
        }
        attention whole { mask = causal }
        """
    )
    ids = inputs("llama", None)["input_ids"]
    positions = torch.cat([torch.arange(6), torch.arange(LENGTH - 6)]).expand(3, -1)
    attention.register("attndsl_whole", module.whole)
    ours.set_attn_implementation("attndsl_whole")
    with pytest.raises(AttnError, match=r"A100.*`documents`"):
        ours(ids, position_ids=positions, use_cache=False)
    # One kernel without documents, and one for when there are some.
    attention.register("attndsl_packed", module.whole, module.packed)
    ours.set_attn_implementation("attndsl_packed")
    for options in ({"position_ids": positions}, {}):
        with torch.no_grad():
            wanted = eager(ids, **options, use_cache=False).logits
            assert close(ours(ids, **options, use_cache=False).logits, wanted)


def test_padding_by_a_table_of_tokens(models):
    """Holes in the padding are beyond a first and a last token."""
    eager, ours = models("llama")
    table = copy.deepcopy(eager)
    module = attndsl.parse(
        "attention table { input present: bool[B, Lk] mask = causal and present[b, j] }"
    )
    attention.register("attndsl_table", module.table)
    table.set_attn_implementation("attndsl_table")
    mask = padded()
    mask[2, 7] = 0
    given = inputs("llama", mask)
    with torch.no_grad():
        wanted = eager(**given).logits[mask.bool()]
        assert close(table(**given).logits[mask.bool()], wanted)
    with pytest.raises(AttnError, match="holes"):
        ours(**given)


def test_a_spec_of_one_s_own_replaces_the_mask(models):
    """`own_mask` runs another attention in a model, here a sigmoid with a window."""
    eager, _ = models("llama")
    ours = copy.deepcopy(eager)
    module = attndsl.parse(
        """
        attention near(reach: int = 4 where reach > 0) {
            mask = causal and i - j < reach
            normalize = sigmoid
        }
        """
    )
    attention.register("attndsl_near", module.near, own_mask=True)
    ours.set_attn_implementation("attndsl_near")

    def near(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
        positions = torch.arange(query.shape[2])
        distance = positions[:, None] - positions
        weights = torch.sigmoid(query @ key.transpose(2, 3) * scaling)
        weights = weights * ((distance >= 0) & (distance < 4))
        return (weights @ value).transpose(1, 2), None

    transformers.AttentionInterface.register("near", near)
    dense = copy.deepcopy(eager)
    dense.set_attn_implementation("near")
    ids = inputs("llama", None)["input_ids"]
    with torch.no_grad():
        assert close(ours(ids).logits, dense(ids).logits)


@pytest.mark.parametrize(
    "mask",
    [
        "causal",
        "causal and i - j < 7",
        "causal and i - j <= 7 and i - j != 3",
        "i - j < 8",
        "abs(i - j) < 8",
        "causal and i // 8 == j // 8",
        "causal and i - j < 8 and i < 1000000",
        "causal and i - j < 8 and (h > 0 or j > 2 or i == j)",
    ],
)
def test_a_mask_that_is_nearly_the_model_s(mask):
    """All but one of these differ from a causal window of 8 somewhere."""
    kernel = attndsl.parse(f"attention near {{ mask = {mask} }}").near
    found = disagreement(kernel.attention, Pattern(causal=True, window=8), {}, (2, 1))
    assert (found is None) == ("1000000" in mask)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (Pattern(causal=True), masking_utils.causal_mask_function),
        (Pattern(), masking_utils.bidirectional_mask_function),
        (
            Pattern(causal=True, window=5),
            masking_utils.sliding_window_causal_mask_function(5),
        ),
        (Pattern(window=5), masking_utils.sliding_window_bidirectional_mask_function(5)),
        (
            Pattern(causal=True, chunk=5),
            masking_utils.chunked_causal_mask_function(5, torch.zeros(1, dtype=torch.int64)),
        ),
    ],
    ids=str,
)
def test_mask_functions_are_read(pattern, wanted):
    assert describe(wanted) == (pattern, None)
    masks = {
        Pattern(causal=True): "causal",
        Pattern(): "True",
        Pattern(causal=True, window=5): "causal and i - j < 5",
        Pattern(window=5): "abs(i - j) <= 5",
        Pattern(causal=True, chunk=5): "causal and i // 5 == j // 5",
    }
    # What the pattern is taken for is what the function computes.
    kernel = attndsl.parse(f"attention same {{ mask = {masks[pattern]} }}").same
    assert disagreement(kernel.attention, pattern, {}, (1, 1)) is None
    positions = torch.arange(23)
    seen = wanted(0, 0, positions[:, None], positions[None])
    grid = {"i": positions[:, None].numpy(), "j": positions[None].numpy()}
    ours = evaluate(kernel.attention.mask, Environment(indices=grid))
    assert (ours == seen.numpy()).all()


def test_key_masks_survive_copies_alone():
    mask = key_mask(
        batch_size=2, q_length=3, kv_length=5, q_offset=2, mask_function=CAUSAL, attention_mask=None
    )
    assert mask.shape == (2, 1, 1, 5)
    for same in (mask.to("cpu", copy=True), mask.bool(), mask.clone(), copy.copy(mask)):
        assert isinstance(same, KeyMask)
        assert same.keys is mask.keys
    for other in (mask[:1], ~mask, mask.float(), mask.expand(2, 1, 3, 5)):
        assert not isinstance(other, KeyMask)


def test_a_mask_of_another_call_is_refused(models):
    _, ours = models("llama")
    layer = ours.model.layers[0].self_attn
    implementation = transformers.AttentionInterface()["attndsl_llama"]
    mask = key_mask(batch_size=2, q_length=3, kv_length=5, q_offset=2, mask_function=CAUSAL)
    query, key = torch.randn(2, 4, 3, 16), torch.randn(2, 2, 5, 16)
    implementation(layer, query, key, key, mask)
    for wrong in ((query[:, :, :2], key), (query, key[:, :, :4]), (query[:1], key[:1])):
        with pytest.raises(AttnError, match="A102"):
            implementation(layer, wrong[0], wrong[1], wrong[1], mask)


def test_a_static_cache_is_cut_to_what_is_written():
    tokens = torch.ones(2, 6, dtype=torch.bool)
    tokens[0, :2] = False
    mask = key_mask(
        batch_size=2,
        q_length=1,
        kv_length=16,
        q_offset=torch.tensor(5),
        mask_function=CAUSAL,
        attention_mask=tokens,
    )
    assert mask.shape == (2, 1, 1, 6)
    assert mask.keys.first.tolist() == [2, 0]
    assert mask.keys.last.tolist() == [5, 5]
    assert mask.keys.padding == {"left"}


def test_the_ready_made_specs_are_tested():
    files = {path.stem for path in attention.SPECS.glob("*.attn")}
    for one in files:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(attndsl.load(attention.SPECS / f"{one}.attn"))
    assert files == {family.spec for family in FAMILIES.values()}
