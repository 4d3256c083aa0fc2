"""bfloat16 tiles: on the processor's matrix unit (AMX), by dot products of pairs (VDPBF16PS), and
converted to float where a processor has neither."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cpp_calls import assert_close, assert_matches, attention_of, expected, operands

from attndsl.codegen.cpp import emit
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.planner import plan
from attndsl.runtime import cpp_compiler
from attndsl.runtime.cpp import OBJECT, built_directory
from attndsl.runtime.kernel import Kernel

CAUSAL = "attention causal { mask = causal }"
SPECS = {
    "full": "attention full {}",
    "causal": CAUSAL,
    "window": "attention window { mask = causal and i - j < 70 }",
    "dilated": "attention dilated { mask = abs(i - j) <= 60 and (i - j) % 3 == 0 }",
    "late": "attention late { mask = j > i + 50 }",
    "softcap": "attention capped { score = 20 * tanh(dot(q, k) * scale / 20)\n mask = causal }",
    "distance": "attention distance { score = dot(q, k) * scale - 0.4 * abs(i - j) }",
    "halves": """
        attention halves {
            score = (dot(q[0:32], k[32:64]) - 0.5 * dot(q[32:64], k[0:32])) * scale
            mask = causal
        }
    """,
    "one more": "attention one_more { mask = causal\n normalize = softmax1 }",
    "sigmoid": """
        attention sigmoid {
            score = dot(q, k) * scale - log(Lk)
            mask = causal
            normalize = sigmoid
        }
    """,
    "squares": "attention squares { mask = causal\n normalize = relu2(divide = sum) }",
}
# What LDTILECFG is encoded as.
_CONFIGURES_TILES = b"\xc4\xe2\x78\x49"
# VDPBF16PS between 512-bit registers: EVEX prefix (map 2, F3), opcode 52.
_DOT_PRODUCT = re.compile(rb"\x62[\x02-\xf2][\x06-\x7e][\x40-\x48]\x52[\xc0-\xff]", re.DOTALL)


@pytest.fixture(params=["matrix unit", "dot products", "float"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the products of a tile are made."""
    needed = {"matrix unit": "amx_bf16", "dot products": "avx512_bf16"}.get(request.param)
    if needed is not None and not _has(needed):
        pytest.skip(f"this processor has no {request.param} of bfloat16 numbers")
    _use(request.param, monkeypatch)
    return str(request.param)


def _has(feature: str) -> bool:
    if feature not in cpp_compiler.processor_features():
        return False
    return feature != "amx_bf16" or cpp_compiler._has_matrix_unit()


def _use(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile as for a processor whose best way this is."""
    without = {"dot products": ["amx-bf16"], "float": ["amx-bf16", "avx512bf16"]}.get(products, [])
    flags = (*cpp_compiler.FLAGS, *(f"-mno-{feature}" for feature in without))
    monkeypatch.setattr(cpp_compiler, "FLAGS", flags)


def bfloats(*shape: int, **more: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return operands(*shape, dtype=torch.bfloat16, **more)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("queries", "keys"), [(150, 150), (65, 257), (200, 33)])
def test_every_kind_of_kernel(products: str, name: str, queries: int, keys: int) -> None:
    assert_matches(SPECS[name], *bfloats(2, 4, 2, queries, keys, 64), tolerance=1e-2)


GRIDS = {
    "near": "attention near { axes y, x mask = neighborhood(5, 1) }",
    "sigmoid near": "attention near { axes y, x mask = neighborhood(5, 2)\n normalize = sigmoid }",
    "rows": "attention rows { axes y, x mask = abs(i.y - j.y) <= 3 }",
    "blocks": "attention blocks { axes y, x mask = i.y // 7 == j.y // 7 and i.x // 7 == j.x // 7 }",
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("queries", "grid"), [(17 * 23, (17, 23)), (60, (9, 40))])
def test_boxes_of_a_grid(products: str, name: str, queries: int, grid: tuple[int, int]) -> None:
    operands = bfloats(2, 4, 2, queries, math.prod(grid), 64, 32)
    assert_matches(GRIDS[name], *operands, grid=grid, tolerance=1e-2)


@pytest.mark.parametrize(("width", "value_width"), [(32, 32), (96, 160), (128, 64), (256, 256)])
def test_widths(products: str, width: int, value_width: int) -> None:
    assert_matches(CAUSAL, *bfloats(1, 2, 1, 140, 140, width, value_width), tolerance=1e-2)


def test_sums_are_of_weights_before_they_are_rounded(products: str) -> None:
    """The log-sum-exp is as precise as in float32."""
    attention = attention_of(CAUSAL)
    q, k, v = bfloats(1, 2, 2, 300, 300, 64)
    wanted = expected(attention, q, k, v, {})
    assert wanted.log_sum_exp is not None
    _, log_sum_exp = Kernel(attention)(q, k, v, return_lse=True)
    assert_close(log_sum_exp.double().numpy(), wanted.log_sum_exp, 3e-6)


def test_scores_that_grow_from_block_to_block(products: str) -> None:
    """What weights refer to has to move, by more than floats could hold at once."""
    spec = "attention growing { score = dot(q, k) * scale + 0.8 * j }"
    assert_matches(spec, *bfloats(1, 1, 1, 64, 700, 64), tolerance=1e-2)


@pytest.mark.parametrize("spec", ["causal", "dilated", "halves"])
def test_keys_that_lie_anywhere(products: str, spec: str) -> None:
    """Heads beside each other, packed projections, tokens along the last dimension."""
    packed = torch.randn(2, 150, 3, 4, 64).bfloat16()
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    turned = torch.randn(2, 4, 64, 150).bfloat16().transpose(-1, -2)
    for keys, values in ((k, v), (k, turned), (turned, v), (k[:, :1].expand_as(q), v)):
        assert_matches(SPECS[spec], q, keys, values, tolerance=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("spec", ["causal", "window", "sigmoid", "dilated"])
def test_hidden_numbers_never_leak(products: str, spec: str, bad: float) -> None:
    q, k, v = bfloats(1, 2, 2, 200, 200, 64)
    kernel = Kernel(attention_of(SPECS[spec]))
    clean = kernel(q, k, v)
    k[:, :, 170:], v[:, :, 170:] = bad, bad
    first = 110 if spec == "dilated" else 170
    spoiled = kernel(q, k, v)
    torch.testing.assert_close(spoiled[:, :, :first], clean[:, :, :first], rtol=2**-7, atol=2**-8)


def test_all_ways_agree() -> None:
    """They differ by the rounding of weights alone."""
    q, k, v = bfloats(1, 2, 2, 300, 300, 64)
    found = []
    for products in ("matrix unit", "dot products", "float"):
        with pytest.MonkeyPatch.context() as monkeypatch:
            _use(products, monkeypatch)
            found.append(Kernel(attention_of(CAUSAL))(q, k, v))
    torch.testing.assert_close(found[0], found[2], rtol=2**-7, atol=2**-8)
    torch.testing.assert_close(found[1], found[2], rtol=2**-7, atol=2**-8)


def test_the_best_unit_is_used(products: str) -> None:
    specialization = Specialization(DType.BFLOAT16, 64, 64)
    program = emit(plan(attention_of(CAUSAL)), specialization, Tile(64, 64))
    binary = (built_directory(program) / OBJECT).read_bytes()
    assert (_CONFIGURES_TILES in binary) == (products == "matrix unit")
    assert (_DOT_PRODUCT.search(binary) is not None) == (products == "dot products")


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def softmax_of(score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], window: int) -> Attend:
    """Plain softmax attention under a causal window, of scores `[…, Lq, Lk]`."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], 1) for one in (k, v))
        apart = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None] - torch.arange(
            k.shape[2]
        )
        hidden = (apart < 0) | (apart >= window)
        return score(q, k).masked_fill(hidden, -torch.inf).softmax(-1) @ v

    return attend


def product(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return q @ k.transpose(-1, -2) / 8


def halves(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    first, second = q[..., :32] @ k[..., 32:].mT, q[..., 32:] @ k[..., :32].mT
    return (first - 0.5 * second) / 8


NAIVE = {
    "causal": softmax_of(product, 1000),
    "window": softmax_of(product, 70),
    "softcap": softmax_of(lambda q, k: 20 * torch.tanh(product(q, k) / 20), 1000),
    "halves": softmax_of(halves, 1000),
}


def gradients(
    attend: Attend, tensors: Sequence[torch.Tensor], out_gradient: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    leaves = [one.detach().to(dtype).requires_grad_() for one in tensors]
    return torch.autograd.grad(attend(*leaves), leaves, out_gradient.to(dtype))


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize(("queries", "keys"), [(150, 150), (65, 257), (600, 600)])
def test_gradients(products: str, name: str, queries: int, keys: int) -> None:
    tensors = bfloats(2, 4, 2, queries, keys, 64)
    out_gradient = torch.randn(2, 4, queries, 64).bfloat16()
    found = gradients(Kernel(attention_of(SPECS[name])), tensors, out_gradient, torch.bfloat16)
    wanted = gradients(NAIVE[name], tensors, out_gradient, torch.float64)
    for gradient, exact in zip(found, wanted, strict=True):
        assert (gradient - exact).abs().max() <= 1e-2 * exact.abs().max()


@pytest.mark.parametrize("width", [64, 128])
def test_gradients_are_as_precise_as_those_of_pytorch(products: str, width: int) -> None:
    """At most twice the error of its own backward in bfloat16."""
    tensors = bfloats(1, 4, 4, 500, 500, width)
    out_gradient = torch.randn(1, 4, 500, width).bfloat16()

    def theirs(*operands: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*operands, is_causal=True)

    exact = gradients(theirs, tensors, out_gradient, torch.float64)
    kernel = Kernel(attention_of(CAUSAL))
    ours = gradients(kernel, tensors, out_gradient, torch.bfloat16)
    allowed = gradients(theirs, tensors, out_gradient, torch.bfloat16)
    for own, their, one in zip(ours, allowed, exact, strict=True):
        assert (own - one).norm() <= 2 * (their - one).norm()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hidden_numbers_never_leak_into_gradients(products: str, bad: float) -> None:
    tensors = bfloats(1, 2, 2, 200, 200, 64)
    out_gradient = torch.randn(1, 2, 200, 64).bfloat16()
    kernel = Kernel(attention_of(CAUSAL))
    clean = gradients(kernel, tensors, out_gradient, torch.bfloat16)
    for one in (*tensors, out_gradient):
        one[:, :, 170:] = bad  # what later tokens hold is seen by none of the earlier queries
    out_gradient[:, :, 170:] = 0
    of_q, _, _ = gradients(kernel, tensors, out_gradient, torch.bfloat16)
    torch.testing.assert_close(of_q[:, :, :170], clean[0][:, :, :170], rtol=2**-6, atol=2**-7)
