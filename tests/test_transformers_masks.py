"""What a model asks for is honoured or refused: masks, padding, packed documents."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformer_families import LENGTH, close, inputs, models, padded
from transformers import masking_utils

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.evaluate import Environment, evaluate
from attndsl.integrations import transformers as attention
from attndsl.runtime.integrations.agreement import disagreement
from attndsl.runtime.integrations.keys import KeyMask, Keys, key_mask
from attndsl.runtime.integrations.masks import Pattern, describe

CAUSAL = masking_utils.causal_mask_function


def test_packed_documents():
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


def test_padding_by_a_table_of_tokens():
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


def test_a_spec_of_one_s_own_replaces_the_mask():
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
    ids=["causal", "all", "window", "band", "chunks"],
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


def test_a_mask_of_another_call_is_refused():
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


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("softcap", 5.0),
        ("s_aux", torch.zeros(4)),
        ("sliding_window", 2),
        ("position_bias", torch.zeros(1, 4, 3, 3)),
        ("head_mask", torch.ones(4)),
        ("output_attentions", True),
        ("cu_seq_lens_q", torch.tensor([0, 3])),
        ("cache", object()),
        ("invented_tomorrow", 1),
    ],
)
def test_whatever_is_passed_is_refused_by_name(keyword, value):
    """Unless it is ignored on purpose, or asks for nothing."""
    module = attndsl.parse("attention whole { mask = causal }")
    layer = torch.nn.Module()
    x = torch.randn(1, 4, 3, 16)
    attention.register("attndsl_strict", module.whole)
    attention.register("attndsl_lenient", module.whole, ignore=[keyword])
    interface = transformers.AttentionInterface()
    name = "attention weights" if keyword == "output_attentions" else f"`{keyword}"
    with pytest.raises(AttnError, match=f"A100.*{name}"):
        interface["attndsl_strict"](layer, x, x, x, None, **{keyword: value})
    wanted, _ = interface["attndsl_strict"](layer, x, x, x, None, **{keyword: None})
    found, _ = interface["attndsl_lenient"](layer, x, x, x, None, **{keyword: value})
    assert torch.equal(found, wanted)


def test_a_model_drops_pairs_as_a_call_does():
    """With what its layers pass; torch draws the seed."""
    module = attndsl.parse("attention whole { mask = causal }")
    x = torch.randn(1, 4, 20, 16)
    attention.register("attndsl_dropped", module.whole)
    layer = transformers.AttentionInterface()["attndsl_dropped"]
    torch.manual_seed(5)
    found, _ = layer(torch.nn.Module(), x, x, x, None, dropout=0.4)
    torch.manual_seed(5)
    assert torch.equal(found.transpose(1, 2), module.whole(x, x, x, dropout=0.4))
    none, _ = layer(torch.nn.Module(), x, x, x, None)
    assert not torch.allclose(found, none)


@given(
    st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4),
    st.integers(0, 6),
    st.integers(1, 9),
)
def test_padding_is_what_the_mask_says(rows, offset, length):
    """Positions count from key 0 of the call; keys past the end of the mask are padding."""
    tokens = torch.tensor(rows)
    shape = len(rows), 1, length
    keys = Keys(Pattern(causal=True), shape, tokens=tokens, offset=offset)
    for row, flags in enumerate(rows):
        present = (flags + [False] * 9)[offset : offset + length]
        assert keys.present[row].tolist() == present
        leading = next((n for n, flag in enumerate(flags) if flag), len(flags))
        assert keys.first[row] == leading - offset
        assert keys.last[row] == max((n for n, flag in enumerate(present) if flag), default=-1)
    seen = [
        [keys.first[row] <= j <= keys.last[row] for j in range(length)] for row in range(len(rows))
    ]
    holes = any(
        inside and not there
        for row, flags in zip(seen, keys.present.tolist(), strict=True)
        for inside, there in zip(row, flags, strict=True)
    )
    assert ("holes" in keys.padding) == holes
    assert ("left" in keys.padding) == any(bool(one > 0) for one in keys.first)
    assert bool(keys.padding) == (not bool(keys.present.all()))


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_windows_and_chunks_agree_where_they_are_equal(ours, theirs, chunks):
    mask = f"i // {ours} == j // {ours}" if chunks else f"i - j < {ours}"
    kernel = attndsl.parse(f"attention one {{ mask = causal and {mask} }}").one
    pattern = Pattern(causal=True, **{"chunk" if chunks else "window": theirs})
    found = disagreement(kernel.attention, pattern, {}, (1, 1))
    assert (found is None) == (ours == theirs)
