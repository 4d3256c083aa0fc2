"""What a call may not be, and what it is told: the name, what was expected, and what came."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.codegen.program import DType
from attndsl.diagnostics import AttnError
from attndsl.module import load_text
from attndsl.runtime.arguments import Call, check_call, converted
from attndsl.runtime.options import Options

ALIBI = """attention alibi {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask = causal
}"""
DOCUMENTS = """attention documents {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}"""
LAYOUT = """attention sparse(block: int = 64) {
    input layout: bool[H, Lq // block, Lk // block]
    mask = layout[h, i // block, j // block]
}"""
SCALAR = """attention bent {
    input gain: float
    input shift: int
    input flip: bool
    score = dot(q, k) * scale * gain
    mask = i - j < shift or flip
}"""
GRID = """attention near {
    axes y, x
    mask = abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1
}"""
LINE = """attention line {
    axes x
    mask = abs(i.x - j.x) <= 1
}"""
LATENT = """attention latent {
    v = k[0:16]
    mask = causal
}"""
SIGMOID = """attention flash_sigmoid {
    mask = causal
    normalize = sigmoid
}"""


def attention(text: str) -> Attention:
    (checked,) = load_text(text).attentions.values()
    return bind(checked)


def operands(
    heads: int = 8, key_heads: int = 8, rows: int = 96, keys: int = 128, **options: Any
) -> dict[str, Any]:
    return {
        "q": torch.zeros(2, heads, rows, 32, **options),
        "k": torch.zeros(2, key_heads, keys, 32, **options),
        "v": torch.zeros(2, key_heads, keys, 32, **options),
    }


def check(text: str, given: dict[str, Any] | None = None, **named: Any) -> Call:
    options = {name: named.pop(name) for name in ("scale", "offset", "grid") if name in named}
    lse = bool(named.pop("return_lse", False))
    return check_call(
        attention(text), given or operands(), named, Options(return_lse=lse, **options)
    )


def refusal(text: str, given: dict[str, Any] | None = None, **named: Any) -> tuple[str, str, str]:
    """Code, message and help of the only diagnostic."""
    with pytest.raises(AttnError) as caught:
        check(text, given, **named)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code, diagnostic.message, diagnostic.help or ""


def test_sizes_of_a_call() -> None:
    call = check(ALIBI, operands(8, 2), slope=torch.ones(8))
    assert call.dtype is DType.FLOAT32
    assert call.sizes == {
        **{"B": 2, "H": 8, "Hkv": 2, "Lq": 96, "Lk": 128, "D": 32, "Dv": 32},
        "offset": 32,
    }
    assert call.scale == pytest.approx(32**-0.5)
    assert call.conversions == ()
    assert check(ALIBI, slope=torch.ones(8), offset=-5, scale=2).sizes["offset"] == -5


def test_a_value_made_of_keys_need_not_be_passed() -> None:
    given = operands()
    del given["v"]
    assert check(LATENT, given).sizes["Dv"] == 16
    assert check(LATENT, operands()).sizes["Dv"] == 16
    assert refusal(ALIBI, given, slope=torch.ones(8))[0] == "A070"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "got nothing"),
        (np.zeros((2, 8, 96, 32)), "got `numpy.ndarray`"),
        ([1, 2], "got `list`"),
        (1024, "got `int`"),
    ],
)
def test_operands_must_be_tensors(value: Any, words: str) -> None:
    code, message, _ = refusal(SIGMOID, operands() | {"q": value})
    assert code == "A070"
    assert message.startswith("`q` must be a torch tensor [B, H, Lq, D]")
    assert words in message


def test_tensors_must_lie_in_memory() -> None:
    sparse = operands()["q"].to_sparse()
    code, message, help = refusal(SIGMOID, operands() | {"q": sparse})
    assert (code, message) == ("A070", "`q` must be a dense tensor, got sparse_coo")
    assert "to_dense" in help
    negated = torch.zeros(2, 8, 96, 32, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    code, _, help = refusal(SIGMOID, operands() | {"q": negated})
    assert code == "A070"
    assert "resolve_neg" in help
    assert refusal(ALIBI, slope=torch.ones(8).to_sparse())[0] == "A070"


def test_a_missing_and_an_unexpected_input_are_both_reported() -> None:
    with pytest.raises(AttnError) as caught:
        check(ALIBI, slopes=torch.ones(8))
    missing, unexpected = caught.value.diagnostics
    assert (missing.code, unexpected.code) == ("A071", "A072")
    assert missing.message == "`alibi` needs the input `slope`"
    assert missing.span is not None
    assert "float[H]" in (missing.help or "")
    assert unexpected.message == "`alibi` has no input `slopes`"
    assert unexpected.help == "did you mean `slope`?"


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_operands_have_four_dimensions(name: str) -> None:
    code, message, _ = refusal(SIGMOID, operands() | {name: torch.zeros(8, 96, 32)})
    assert code == "A073"
    assert message.startswith(f"`{name}` must have 4 dimensions")
    assert message.endswith("got [8, 96, 32]")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("k", (3, 8, 128, 32), "B = 2 as in `q`"),
        ("k", (2, 8, 128, 64), "D = 32 as in `q`"),
        ("v", (1, 8, 128, 32), "B = 2 as in `k`"),
        ("v", (2, 4, 128, 32), "Hkv = 8 as in `k`"),
        ("v", (2, 8, 127, 32), "Lk = 128 as in `k`"),
    ],
)
def test_operands_agree_in_shape(name: str, shape: tuple[int, ...], words: str) -> None:
    code, message, _ = refusal(SIGMOID, operands() | {name: torch.zeros(shape)})
    assert code == "A073"
    assert words in message
    assert message.endswith(f"got {list(shape)}")


def test_a_head_dimension_of_nothing() -> None:
    given = {name: torch.zeros(1, 1, 4, 0) for name in "qkv"}
    assert refusal(SIGMOID, given)[:2] == ("A073", "the head dimension `D` is 0")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("score = dot(q[0:48], k[0:48])", "`q[0:48]` is [0:48] of a vector of 32 elements"),
        ("score = dot(q[D - 40:D], k[D - 40:D])", "is [-8:32] of a vector of 32"),
        ("score = dot(q, k) * q[32]", "`q[32]` is [32] of a vector of 32 elements"),
        ("v = k[16:64]", "`k[16:64]` is [16:64] of a vector of 32 elements"),
        ("q = rotate_half(q[0:5])", "takes vectors of even size, and this one has 5"),
    ],
)
def test_slices_lie_in_their_vectors(body: str, words: str) -> None:
    code, message, _ = refusal(f"attention sliced {{ {body} }}")
    assert code == "A073"
    assert words in message


def test_heads_must_group() -> None:
    code, message, _ = refusal(SIGMOID, operands(8, 3))
    assert (code, message) == (
        "A076",
        "H must be a multiple of Hkv: `q` has 8 heads, `k` has 3",
    )
    assert refusal(SIGMOID, operands(8, 0))[0] == "A076"


def test_operands_have_one_dtype_that_kernels_know() -> None:
    code, message, _ = refusal(SIGMOID, operands() | {"v": torch.zeros(2, 8, 128, 32).half()})
    assert code == "A074"
    assert message == (
        "`q`, `k` and `v` must have one dtype, got `q` float32, `k` float32, `v` float16"
    )
    code, message, help = refusal(SIGMOID, operands(dtype=torch.float64))
    assert code == "A074"
    assert message.endswith("got float64")
    assert "q.float()" in help


def test_tensors_lie_on_one_device() -> None:
    elsewhere = torch.zeros(2, 8, 128, 32, device="meta")
    code, message, help = refusal(SIGMOID, operands() | {"k": elsewhere})
    assert (code, message) == ("A075", "`k` is on `meta`, but `q` is on `cpu`")
    assert help == "move it: `k.to(q.device)`"
    code, message, _ = refusal(ALIBI, slope=torch.ones(8, device="meta"))
    assert (code, message) == ("A075", "`slope` is on `meta`, but `q` is on `cpu`")


@pytest.mark.parametrize(
    ("text", "name", "value", "message"),
    [
        (ALIBI, "slope", torch.ones(4), "`slope` is float[H] = float[8], got [4]"),
        (ALIBI, "slope", torch.ones(8, 1), "`slope` is float[H] = float[8], got [8, 1]"),
        (ALIBI, "slope", torch.tensor(1.0), "`slope` is float[H] = float[8], got []"),
        (
            LAYOUT,
            "layout",
            torch.ones(8, 1, 1, dtype=torch.bool),
            "`layout` is bool[H, Lq // 64, Lk // 64] = bool[8, 1, 2], got [8, 1, 1]",
        ),
    ],
)
def test_shapes_of_inputs(text: str, name: str, value: torch.Tensor, message: str) -> None:
    code, said, help = refusal(text, **{name: value})
    assert (code, said) == ("A073", message)
    assert "H = 8" in help


@pytest.mark.parametrize(
    ("text", "name", "value", "message"),
    [
        (ALIBI, "slope", torch.ones(8, dtype=torch.int32), "`slope` is float[H], got int32"),
        (DOCUMENTS, "doc", torch.ones(2, 128), "`doc` is int[B, Lk], got float32"),
        (
            LAYOUT,
            "layout",
            torch.ones(8, 1, 2, dtype=torch.uint8),
            "`layout` is bool[H, Lq // 64, Lk // 64], got uint8",
        ),
    ],
)
def test_dtypes_of_inputs(text: str, name: str, value: torch.Tensor, message: str) -> None:
    code, said, _ = refusal(text, **{name: value})
    assert (code, said) == ("A074", message)


def test_inputs_are_converted_to_what_kernels_read() -> None:
    doc = torch.arange(128).expand(2, 128)
    call = check(DOCUMENTS, doc=doc)
    assert call.conversions == (("doc", torch.int32),)
    assert converted({"doc": doc}, call)["doc"].dtype is torch.int32
    slope = torch.ones(8, dtype=torch.float64)
    call = check(ALIBI, slope=slope)
    assert converted({"slope": slope}, call)["slope"].dtype is torch.float32


def test_integers_past_32_bits_are_refused() -> None:
    doc = torch.zeros(2, 128, dtype=torch.int64)
    doc[1, 5] = 2**32 + 1
    call = check(DOCUMENTS, doc=doc)
    with pytest.raises(AttnError, match="`doc` holds 4294967297"):
        converted({"doc": doc}, call)


def test_inputs_without_dimensions_may_be_numbers() -> None:
    given = {"gain": 2, "shift": 3, "flip": True}
    values = converted(given, check(SCALAR, **given))
    assert {name: (value.item(), value.dtype) for name, value in values.items()} == {
        "gain": (2.0, torch.float32),
        "shift": (3, torch.int32),
        "flip": (True, torch.bool),
    }
    for wrong in ({"gain": True}, {"shift": 1.5}, {"shift": True}, {"flip": 1}, {"gain": "2"}):
        assert refusal(SCALAR, **(given | wrong))[0] == "A070"
    assert refusal(SCALAR, **(given | {"shift": 2**40}))[0] == "A079"
    assert refusal(ALIBI, slope=1.0)[0] == "A070"


def test_grids() -> None:
    assert check(GRID, grid=(8, 16)).sizes["axis.y"] == 8
    assert check(GRID, grid=[8, 16]).sizes["axis.x"] == 16
    assert check(GRID, grid={"x": 16, "y": 8}).sizes["axis.y"] == 8
    assert check(LINE).sizes["axis.x"] == 128


@pytest.mark.parametrize(
    ("text", "grid", "words"),
    [
        (GRID, None, "needs the length of each, got nothing"),
        (GRID, (8,), "got (8,)"),
        (GRID, 128, "got 128"),
        (GRID, (8, 8), "the grid 8 × 8 = 64 does not hold the 128 keys"),
        (GRID, (-8, -16), "must be a positive int"),
        (GRID, (8, 16.0), "must be a positive int"),
        (GRID, {"y": 8, "z": 16}, "`grid` needs the axes y, x, got y, z"),
        (SIGMOID, (8, 16), "takes no `grid`"),
    ],
)
def test_grids_that_do_not_fit(text: str, grid: Any, words: str) -> None:
    code, message, _ = refusal(text, grid=grid)
    assert code == "A077"
    assert words in message


@pytest.mark.parametrize(
    "options",
    [
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"scale": "1"},
        {"scale": True},
        {"offset": 1.0},
        {"offset": True},
        {"offset": 2**31},
        {"return_lse": True},
    ],
)
def test_numbers_that_a_call_cannot_use(options: dict[str, Any]) -> None:
    assert refusal(SIGMOID, **options)[0] == "A079"
