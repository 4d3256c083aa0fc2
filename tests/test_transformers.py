"""Models of `transformers` compute through a registered spec what they compute with `eager`.

Configurations are tiny and weights random; logits, gradients of all parameters and generation are
compared, for batches that are padded on the left, on the right and not at all.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_families import (
    BOTH_WAYS,
    FAMILIES,
    LENGTH,
    OTHERS,
    close,
    inputs,
    models,
    padded,
    run,
)

import attndsl
from attndsl.integrations import transformers as attention


@pytest.mark.parametrize("padding", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients(family, padding):
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
def test_generation(family, cache):
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
def test_a_prompt_in_parts(family):
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
def test_nothing_of_the_size_of_all_pairs_is_made(family):
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


def test_layers_that_run_again_in_the_backward():
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
def test_attached_models_still_run_eagerly(family):
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
def test_a_bias_for_every_pair():
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


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_low_precision_is_as_good_as_eager(family):
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


def test_beams():
    """Beam search moves rows of the cache about."""
    eager, ours = models("qwen3")
    given = {name: one[[0, 2]] for name, one in inputs("qwen3", padded()).items()}
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    assert torch.equal(ours.generate(**given, **options), eager.generate(**given, **options))


def test_the_ready_made_specs_are_tested():
    files = {path.stem for path in attention.SPECS.glob("*.attn")}
    for one in files:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(attndsl.load(attention.SPECS / f"{one}.attn"))
    assert files == {family.spec for family in FAMILIES.values()}
