"""C++ kernels over keys in stripes: lengths, dtypes, reads, normalisers, and what lies between."""

from __future__ import annotations

import math

import pytest
import torch
from cpp_calls import assert_matches, attention_of, expected, operands
from naive.case import EXAMPLES
from stripe_cases import FEW, MASKS, NORMALIZERS, READS, spec

from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.codegen.cpp.emitter import emit
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.expression import Scalar
from attndsl.module import load_file
from attndsl.planner.pipeline import plan
from attndsl.runtime.kernel import Kernel

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
LENGTHS = [(150, 150), (70, 333), (200, 90), (1, 333), (3, 100), (5, 2), (40, 13)]


def fixed(block: int, summary: int) -> Attention:
    attention = load_file(EXAMPLES / "fixed.attn").attentions["fixed"]
    return bind(attention, block=block, summary=summary)


def inputs_of(
    attention: Attention, batch: int, heads: int, rows: int, keys: int
) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    sizes = {"B": batch, "H": heads, "Lq": rows, "Lk": keys, "D": 32, "Dv": 32}
    inputs = {}
    for one in attention.inputs:
        shape = [sizes[size.name] for size in one.dimensions]
        values = torch.randn(shape, generator=random)
        inputs[one.name] = values > 0 if one.element is Scalar.BOOL else values
    return inputs


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("rows", "keys"), LENGTHS)
def test_lengths_that_are_no_multiples(mask: str, rows: int, keys: int) -> None:
    """Of a tile, of a period; with keys after the last stripe, and with no stripe at all."""
    text = spec(f"mask = {mask}")
    assert any(stage.stripes is not None for stage in plan(attention_of(text)).attends)
    assert_matches(text, *operands(2, 4, 2, rows, keys))


@pytest.mark.parametrize("mask", FEW)
@pytest.mark.parametrize("offset", [-60, -7, 30, 400])
@pytest.mark.parametrize("rows", [2, 90])
def test_queries_outside_of_the_keys(mask: str, offset: int, rows: int) -> None:
    assert_matches(spec(f"mask = {mask}"), *operands(1, 2, 1, rows, 170), offset=offset)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("width", "value_width"), [(64, 64), (33, 7), (64, 32)])
@pytest.mark.parametrize(("rows", "keys"), [(130, 130), (70, 301), (2, 301)])
@pytest.mark.parametrize(("block", "summary"), [(32, 4), (20, 3), (128, 8)])
def test_the_fixed_pattern_against_torch(
    dtype: torch.dtype,
    width: int,
    value_width: int,
    rows: int,
    keys: int,
    block: int,
    summary: int,
) -> None:
    q, k, v = operands(2, 4, 2, rows, keys, width, value_width, dtype)
    i, j = torch.arange(rows)[:, None] + keys - rows, torch.arange(keys)
    mask = (j <= i) & ((i // block == j // block) | (j % block >= block - summary))
    keys_of, values_of = (one.repeat_interleave(2, dim=1).double() for one in (k, v))
    score = q.double() @ keys_of.transpose(-1, -2) * width**-0.5
    wanted = score.masked_fill(~mask, -math.inf).softmax(-1) @ values_of
    found = Kernel(fixed(block, summary))(q, k, v)
    assert (found.double() - wanted).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("mask", FEW)
@pytest.mark.parametrize("rows", [100, 3])
def test_reads(name: str, mask: str, rows: int) -> None:
    attention = attention_of(spec(READS[name], f"mask = {mask}"))
    inputs = inputs_of(attention, 2, 4, rows, 171)
    # Angles of up to 171 are rounded to 1e-5.
    tolerance = 3e-5 if "rope" in READS[name] else 1e-5
    assert_matches(attention, *operands(2, 4, 2, rows, 171), tolerance=tolerance, **inputs)


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("mask", FEW)
@pytest.mark.parametrize("rows", [100, 3])
def test_normalisers(name: str, mask: str, rows: int) -> None:
    attention = attention_of(spec(NORMALIZERS[name], f"mask = {mask}"))
    inputs = inputs_of(attention, 2, 4, rows, 171)
    assert_matches(attention, *operands(2, 4, 2, rows, 171), tolerance=1e-5, **inputs)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [150, 3])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_lies_between_the_stripes_does_not_leak(
    dtype: torch.dtype, rows: int, number: float
) -> None:
    q, k, v = operands(1, 4, 2, rows, 150, 64, dtype=dtype)
    attention = attention_of(spec("mask = causal and j % 16 >= 13"))
    wanted = expected(attention, q, k, v, {})
    between = torch.arange(150) % 16 < 13
    k[..., between, :] = number
    v[..., between, :] = number
    found = Kernel(attention)(q, k, v)
    assert (found.double() - torch.from_numpy(wanted.output)).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_a_few_queries_see_reaches_these_alone(dtype: torch.dtype, number: float) -> None:
    q, k, v = operands(1, 2, 1, 150, 150, 64, dtype=dtype)
    kernel = Kernel(attention_of(spec("mask = causal and j % 16 >= 13")))
    clean = kernel(q, k, v)
    k[..., 79, :] = number
    v[..., 79, :] = number
    found = kernel(q, k, v)
    seen = torch.arange(150) >= 79
    assert (found - clean)[..., ~seen, :].abs().max() <= TOLERANCE[dtype]
    assert not found[..., seen, :].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_before_heads(dtype: torch.dtype) -> None:
    """Tensors `[B, L, H, D]`, as a model's projections give them."""
    q, k, v = operands(2, 4, 2, 200, 200, 64, dtype=dtype)
    turned = (one.transpose(1, 2).contiguous().transpose(1, 2) for one in (q, k, v))
    kernel = Kernel(fixed(32, 4))
    assert torch.equal(kernel(*turned), kernel(q, k, v))


def test_every_tile_gives_the_same_program_but_for_its_sizes() -> None:
    made = plan(fixed(128, 8))
    specialization = Specialization(DType.FLOAT32, 64, 64, log_sum_exp=True)
    texts = [emit(made, specialization, Tile(m, n)).text for m, n in ((64, 64), (32, 32))]
    assert all("Stripes<128, 8, 120>" in text for text in texts)
    assert texts[0].splitlines()[20:] == texts[1].splitlines()[20:]
