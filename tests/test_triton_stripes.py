"""Triton kernels over keys in stripes, under the interpreter."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

import pytest
from stripe_cases import FEW, MASKS, NORMALIZERS, READS, spec
from triton_calls import Spoiled
from triton_interpreted import Interpreter

from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton import emit
from attndsl.module import load_text
from attndsl.planner import plan

EVERY = slice(None)
BAD = (math.nan, math.inf, -math.inf)
LENGTHS = [(70, 70), (33, 141), (60, 44), (1, 141), (5, 2), (20, 13)]
# Whole stripes in a block of 16 keys and not, and a stripe that begins before key 0.
SPOILED = [
    "causal and j % 16 >= 12",
    "causal and j % 16 >= 13",
    "j % 40 < 3",
    "causal and (j + 3) % 20 < 4 and i - j < 70",
]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    worker = Interpreter()
    yield worker
    worker.close()


def sizes(rows: int, keys: int, **others: Any) -> dict[str, Any]:
    given = {"batch": 2, "heads": 4, "key_heads": 2, "queries": rows, "keys": keys}
    return {**given, **others}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("rows", "keys"), LENGTHS)
def test_lengths_that_are_no_multiples(
    interpreter: Interpreter, mask: str, rows: int, keys: int
) -> None:
    """Of a tile, of a period; with keys after the last stripe, and with no stripe at all."""
    call = sizes(rows, keys)
    interpreter.compare_text(spec(f"mask = {mask}"), "fp32", **call).check("fp32")


@pytest.mark.parametrize("mask", FEW)
@pytest.mark.parametrize("offset", [-60, -7, 30, 400])
def test_queries_outside_of_the_keys(interpreter: Interpreter, mask: str, offset: int) -> None:
    call = sizes(50, 120, offset=offset)
    interpreter.compare_text(spec(f"mask = {mask}"), "fp32", **call).check("fp32")


@pytest.mark.parametrize("mask", FEW)
@pytest.mark.parametrize(("width", "value_width"), [(33, 7), (24, 80)])
def test_half_precision_and_any_head_dimension(
    interpreter: Interpreter, mask: str, width: int, value_width: int
) -> None:
    call = sizes(50, 120, width=width, value_width=value_width)
    interpreter.compare_text(spec(f"mask = {mask}"), "fp16", **call).check("fp16")


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("mask", FEW)
def test_reads(interpreter: Interpreter, name: str, mask: str) -> None:
    text = spec(READS[name], f"mask = {mask}")
    interpreter.compare_text(text, "fp32", **sizes(50, 120)).check("fp32")


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("mask", FEW)
def test_normalisers(interpreter: Interpreter, name: str, mask: str) -> None:
    text = spec(NORMALIZERS[name], f"mask = {mask}")
    interpreter.compare_text(text, "fp32", **sizes(50, 120)).check("fp32")


@pytest.mark.parametrize("mask", SPOILED)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_hidden_values_do_not_leak(interpreter: Interpreter, mask: str, dtype: str) -> None:
    """NaN and infinities in some values, in stripes and between them: only the queries that see
    them have them."""
    spoiled = [
        Spoiled("v", (EVERY, EVERY, key, slice(first, None, 4)), value)
        for key in (0, 1, 15, 33, 34, 47, 61, 119)
        for first, value in enumerate(BAD)
    ]
    call = sizes(120, 120, batch=1)
    interpreter.compare_text(spec(f"mask = {mask}"), dtype, spoiled, **call).check(dtype)


@pytest.mark.parametrize("mask", SPOILED)
@pytest.mark.parametrize("value", BAD)
def test_hidden_keys_do_not_leak(interpreter: Interpreter, mask: str, value: float) -> None:
    spoiled = [
        Spoiled("k", (EVERY, EVERY, key, slice(1, None, 3)), value) for key in (0, 15, 34, 61, 118)
    ]
    call = sizes(120, 120, batch=1)
    interpreter.compare_text(spec(f"mask = {mask}"), "fp32", spoiled, **call).check("fp32")


def test_keys_that_are_far_apart(interpreter: Interpreter) -> None:
    """Their distances take 64 bits."""
    call = sizes(9, 100_000, batch=1, heads=1, key_heads=1)
    text = spec("mask = j % 9000 == 71 and j < 95000")
    interpreter.compare_text(text, "fp32", **call).check("fp32")
    assert ".to(tl.int64)[:, None] * k_row" in source(text, 16)


def source(text: str, keys: int) -> str:
    (attention,) = load_text(text).attentions.values()
    specialization = Specialization(DType.FLOAT16, 64, 64, log_sum_exp=True)
    return emit(plan(attention), specialization, Tile(64, keys, 4, 2), "cuda:80").text


@pytest.mark.parametrize(("summary", "is_even"), [(8, True), (5, False), (16, True), (24, False)])
def test_whole_stripes_are_spread_once(summary: int, is_even: bool) -> None:
    """No division of key numbers in the loops over their blocks, where none is needed."""
    text = source(spec(f"mask = causal and j % 128 >= 128 - {summary}"), 64)
    loops = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.For) and ast.unparse(node.target) == "key_block"
    ]
    pipelined = [loop for loop in loops if "num_stages=1" not in ast.unparse(loop.iter)]
    assert len(pipelined) == 2
    divided = [
        "key_number" in ast.unparse(node)
        for loop in pipelined
        for node in ast.walk(loop)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.FloorDiv, ast.Mod))
    ]
    assert any(divided) != is_even
