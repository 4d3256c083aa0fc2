"""Models of `transformers` in one graph: `torch.compile(fullgraph=True)`, `torch.export`.

Logits and gradients are those of the `eager` implementation, which is not compiled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformer_families import FAMILIES, LENGTH, close, inputs, models, padded, run
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

import attndsl
from attndsl.integrations import transformers as attention

PACKED = """
attention whole { mask = causal }
attention packed {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}
attention table {
    input present: bool[B, Lk]
    mask = causal and present[b, j]
}
"""
EVERY_TOKEN = torch.ones(3, LENGTH, dtype=torch.bool)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: Any, **options: Any) -> tuple[Any, CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, fullgraph=True, backend=counter, **options), counter


def llama_with(name: str, *kernels: str) -> tuple[Any, Any]:
    """The eager model, and one with kernels of `PACKED`."""
    eager, _ = models("llama")
    ours = copy.deepcopy(eager)
    module = attndsl.parse(PACKED)
    attention.register(name, *(module[one] for one in kernels))
    ours.set_attn_implementation(name)
    return eager, ours


@pytest.mark.parametrize(
    "family",
    ["llama", "mistral"]
    + [
        pytest.param(one, marks=pytest.mark.slow)
        for one in FAMILIES
        if one not in ("llama", "mistral")
    ],
)
@pytest.mark.parametrize("padding", [False, True], ids=["whole", "padded"])
def test_one_graph(family, padding):
    eager, ours = models(family)
    mask = padded() if padding else None
    given = inputs(family, mask)
    tokens = padded().bool() if padding else EVERY_TOKEN
    if family == "t5":
        tokens = torch.ones(3, 9, dtype=torch.bool)
    wanted, gradients = run(eager, given, tokens)
    model, counter = compiled(ours)
    model.zero_grad = ours.zero_grad
    found, our_gradients = run(model, given, tokens)
    assert counter.frame_count == 1
    assert close(found, wanted)
    names = {name.removeprefix("_orig_mod."): one for name, one in our_gradients.items()}
    assert names.keys() == gradients.keys()
    assert [name for name, one in gradients.items() if not close(names[name], one)] == []


@pytest.mark.parametrize("family", ["llama", pytest.param("mistral", marks=pytest.mark.slow)])
def test_with_a_cache_of_any_length(family):
    """A call without options makes one. Lengths alone recompile nothing, once two were seen."""
    eager, ours = models(family)
    model, _ = compiled(ours, dynamic=True)
    for length in (LENGTH, 9, 12, 7):
        whole = inputs(family, padded())
        given = {name: one[:, -length:].contiguous() for name, one in whole.items()}
        tokens = given["attention_mask"].bool()
        is_known = length in (12, 7)
        with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=is_known):
            found = model(**given).logits[tokens]
            assert close(found, eager(**given).logits[tokens])


def test_holes_are_found_by_the_graph():
    """Of which the spec's first and last token say nothing."""
    _, ours = models("llama")
    model, counter = compiled(ours)
    given = inputs("llama", padded())
    model(**given)
    given["attention_mask"] = given["attention_mask"].clone()
    given["attention_mask"][2, 7] = 0
    with pytest.raises(RuntimeError, match=r"A100.*padded \(holes\)"):
        model(**given)
    assert counter.frame_count == 1


def test_padding_is_found_by_the_graph():
    eager, ours = llama_with("compiled_whole", "whole")
    model, counter = compiled(ours)
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    given = inputs("llama", mask)
    with torch.no_grad():
        assert close(model(**given).logits, eager(**given).logits)
        for side in (slice(0, 2), slice(-2, None)):
            given["attention_mask"] = mask.clone()
            given["attention_mask"][0, side] = 0
            with pytest.raises(RuntimeError, match=r"A100.*the batch is padded"):
                model(**given)
    assert counter.frame_count == 1


def test_padding_by_a_table_is_always_right():
    """The kernel that honours everything is chosen, though another comes first."""
    eager, ours = llama_with("compiled_table", "whole", "table")
    model, counter = compiled(ours)
    mask = padded()
    mask[2, 7] = 0
    for present in (mask, padded(), torch.ones_like(mask)):
        given = inputs("llama", present)
        with torch.no_grad():
            wanted = eager(**given).logits[present.bool()]
            assert close(model(**given).logits[present.bool()], wanted)
    assert counter.frame_count == 1


@pytest.mark.parametrize("kernels", [("whole",), ("whole", "packed")], ids=str)
def test_packed_documents(kernels):
    eager, ours = llama_with(f"compiled_{len(kernels)}", *kernels)
    model, counter = compiled(ours)
    ids = inputs("llama", None)["input_ids"]
    whole = torch.arange(LENGTH).expand(3, -1)
    packed = torch.cat([torch.arange(6), torch.arange(LENGTH - 6)]).expand(3, -1)
    with torch.no_grad():
        for positions in (whole, packed):
            given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
            if positions is packed and len(kernels) == 1:
                with pytest.raises(RuntimeError, match=r"A100.*`documents`"):
                    model(**given)
                continue
            assert close(model(**given).logits, eager(**given).logits)
    assert counter.frame_count == 1


def test_what_is_not_honoured_is_said_while_the_graph_is_made():
    _, ours = models("gemma2")
    ours = copy.deepcopy(ours)
    attention.register("compiled_plain", attndsl.parse(PACKED).whole)
    ours.set_attn_implementation("compiled_plain")
    with pytest.raises(Exception, match=r"A100.*`softcap"):
        compiled(ours)[0](**inputs("gemma2", None))


def test_a_mask_that_nobody_understood_is_refused_in_a_graph():
    models("llama")
    layer, x = torch.nn.Module(), torch.randn(1, 4, 3, 16)

    def called(x: torch.Tensor) -> Any:
        shift = x.sum()

        def strange(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return key <= query + shift

        mask = AttentionMaskInterface()["attndsl_llama"](
            batch_size=1, q_length=3, kv_length=3, mask_function=strange
        )
        return AttentionInterface()["attndsl_llama"](layer, x, x, x, mask)[0]

    for function in (called, compiled(called)[0]):
        with pytest.raises(Exception, match=r"A102.*not understood.*`test_"):
            function(x)


def test_export():
    """A program for batches of one length, padded or not."""
    eager, ours = models("llama")
    given = inputs("llama", padded())

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = ours

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids, attention_mask, use_cache=False).logits
            return logits

    tokens = padded().bool()
    with torch.no_grad():
        wanted = eager(**given).logits[tokens]
        for strict in (True, False):
            program = torch.export.export(Logits(), (), given, strict=strict)
            assert close(program.module()(**given)[tokens], wanted)
