"""What `attndsl bench` hands to FlexAttention and SDPA computes what the spec says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attndsl import reference
from attndsl.binding import bind
from attndsl.cli import peers
from attndsl.module import load_text

SIZES = {"B": 2, "H": 4, "Hkv": 2, "Lq": 24, "Lk": 32, "D": 16, "Dv": 16, "offset": 8}

EXPRESSIBLE = {
    "causal": "mask = causal",
    "everything": "",
    "heads": "input slope: float[H]\nscore = dot(q, k) * scale - slope[h] * abs(i - j)",
    "softcap": "score = 20.0 * tanh(dot(k, q) * scale / 20.0)\nmask = causal",
    "documents": "input doc: int[B, Lk]\nmask = doc[b, i] == doc[b, j] and not i < j",
    "groups": "input wide: bool[Hkv]\nmask = causal and (wide[g] or i - j < 5)",
    "choice": "score = dot(q, k) * scale + (1.5 if i % 3 == 0 else float(j) / max(i, 1))",
    "grid": "axes y, x\nmask = max(abs(i.y - j.y), abs(i.x - j.x)) <= 1",
}
NOT_EXPRESSIBLE = {
    "sigmoid": "normalize = sigmoid",
    "sink": "input sink: float[H]\nnormalize = softmax(sink = sink[h])",
    "rope": "q = rotate_half(q)",
    "sum": "score = sum(q * k)",
    "slice": "score = dot(q[0:8], k[0:8])",
}


def attention(body: str) -> Any:
    (checked,) = load_text(f"attention a {{\n{body}\n}}").attentions.values()
    return bind(checked)


def tensors() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 24, 16), (2, 2, 32, 16), (2, 2, 32, 16))
    operands = [torch.randn(shape, generator=random) for shape in shapes]
    inputs = {
        "slope": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "doc": (torch.arange(32) // 7).expand(2, 32).int().contiguous(),
        "wide": torch.tensor([True, False]),
    }
    return operands, inputs


@pytest.mark.parametrize("body", EXPRESSIBLE.values(), ids=EXPRESSIBLE)
def test_flex_attention_is_told_the_same(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes half a minute and changes no meaning.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    spec = attention(body)
    (q, k, v), inputs = tensors()
    inputs = {one.name: inputs[one.name] for one in spec.inputs}
    lengths = {"y": 4, "x": 8} if spec.axes else {}
    sizes = SIZES | {f"axis.{name}": length for name, length in lengths.items()}
    run = peers.flex(spec, q, k, v, inputs, sizes, 0.3)
    assert run is not None
    arrays = {name: value.numpy() for name, value in inputs.items()}
    right = reference.run(spec, q, k, v, arrays, scale=0.3, axes=lengths).output
    np.testing.assert_allclose(run().numpy(), right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("body", NOT_EXPRESSIBLE.values(), ids=NOT_EXPRESSIBLE)
def test_what_flex_attention_cannot_say(body: str) -> None:
    (q, k, v), inputs = tensors()
    assert peers.flex(attention(body), q, k, v, inputs, SIZES, 0.25) is None
    assert peers.sdpa_masked(attention(body), q, k, v, inputs, SIZES) is None


@pytest.mark.parametrize("name", ["causal", "documents", "groups", "grid", "everything"])
def test_sdpa_is_given_the_mask(name: str) -> None:
    spec = attention(EXPRESSIBLE[name])
    (q, k, v), inputs = tensors()
    inputs = {one.name: inputs[one.name] for one in spec.inputs}
    lengths = {"y": 4, "x": 8} if spec.axes else {}
    sizes = SIZES | {f"axis.{axis}": length for axis, length in lengths.items()}
    run = peers.sdpa_masked(spec, q, k, v, inputs, sizes)
    assert run is not None
    arrays = {name: value.numpy() for name, value in inputs.items()}
    right = reference.run(spec, q, k, v, arrays, axes=lengths).output
    np.testing.assert_allclose(run().numpy(), right, rtol=0, atol=1e-5)
