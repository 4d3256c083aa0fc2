"""Compiling ahead of time and launching: what the two agree on, and what they refuse."""

from __future__ import annotations

import os

import pytest
import torch
from triton_interpreted import Interpreter

from attndsl.codegen import triton as emitter
from attndsl.codegen.program import ArgumentKind, DType, Program, Specialization, Tile
from attndsl.diagnostics import AttnError
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.plan import Plan
from attndsl.runtime import triton_compile
from attndsl.runtime.triton import Values, aligned_copy, grid_of, is_aligned
from attndsl.runtime.triton_compile import choose, compile_ahead, promises, warps_and_stages
from attndsl.runtime.triton_resources import amdgcn, matrix_loops
from attndsl.runtime.triton_source import load_module

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton cannot compile where it interprets", allow_module_level=True)

SPEC = """attention biased {
    input bias: float[H, Lq, Lk]
    input kept: bool[Lk]
    score = dot(q, k) * scale + bias[h, row, j]
    mask  = kept[j] or i >= j
}"""
ROPE = """attention turned {
    q = rope(q, i)
    k = rope(k, j)
    mask = causal
}"""


def plan_of(text: str) -> Plan:
    (attention,) = load_text(text).attentions.values()
    return plan(attention)


def program_of(text: str, dim: int = 64, tile: Tile | None = None) -> Program:
    return emitter.emit(plan_of(text), Specialization(DType.FLOAT16, dim, dim, True), tile)


def test_a_program_that_spills_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no candidate fits, the user reads what the last one needed."""
    monkeypatch.setattr(triton_compile.emitter, "tiles", lambda *_: (Tile(128, 128, 4, 1),))
    specialization = Specialization(DType.BFLOAT16, 128, 128)
    with pytest.raises(AttnError, match=r"A083.*does not fit cuda:80 at head dimension 128") as got:
        choose(plan_of("attention a { mask = causal }"), specialization, "cuda:80")
    assert "bytes of shared memory" in str(got.value)


def test_an_interpreting_process_cannot_compile() -> None:
    worker = Interpreter()
    try:
        with pytest.raises(AssertionError, match=r"A096[\s\S]*unset TRITON_INTERPRET"):
            worker.call(triton_compile.require_compiler)
    finally:
        worker.close()


def test_unknown_target_is_refused() -> None:
    with pytest.raises(AttnError, match="A081"):
        compile_ahead(program_of(SPEC), "cuda:12")


def test_only_the_kernel_over_pairs_takes_the_tile() -> None:
    program = program_of(ROPE, tile=Tile(64, 32, 8, 3))
    assert [warps_and_stages(program, entry) for entry in program.entries] == [
        (4, 1),
        (4, 1),
        (8, 3),
    ]


def test_one_text_is_one_module() -> None:
    program = program_of(ROPE)
    module = load_module(program)
    assert load_module(program) is module
    assert all(hasattr(module, entry.function) for entry in program.entries)


def test_promises_cover_what_is_read_and_not_what_others_write() -> None:
    found = promises(program_of(SPEC))
    assert found == {"q": 8, "k": 8, "v": 8, "out": 8, "bias": 4, "kept": 1}
    assert set(promises(program_of(ROPE))) == {"q", "k", "v", "out"}


def arguments(program: Program, **tensors: torch.Tensor) -> tuple[Values, dict[str, int]]:
    q = torch.zeros(1, 2, 24, 64, dtype=torch.float16)
    given = {
        "q": q,
        "k": q.clone(),
        "v": q.clone(),
        "out": q.clone(),
        "log_sum_exp": torch.zeros(1, 2, 24),
        "bias": torch.zeros(2, 24, 24),
        "kept": torch.zeros(24, dtype=torch.bool),
        **tensors,
    }
    sizes = {"B": 1, "H": 2, "Hkv": 2, "Lq": 24, "Lk": 24, "D": 64, "Dv": 64, "offset": 0}
    return Values(given, sizes, 0.125, None), sizes


def values_of(program: Program, values: Values, kind: ArgumentKind, name: str) -> list[object]:
    chosen = [one for one in program.entries[-1].arguments if (one.kind, one.name) == (kind, name)]
    return [values.of(one) for one in chosen]


def test_values_follow_the_signature() -> None:
    program = program_of(SPEC)
    values, sizes = arguments(program)
    assert values_of(program, values, ArgumentKind.STRIDE, "q") == [
        0,  # a batch of one: its stride is never used
        1536,
        64,
    ]
    assert values_of(program, values, ArgumentKind.SIZE, "Lk") == [24]
    (kept,) = values_of(program, values, ArgumentKind.TENSOR, "kept")
    assert isinstance(kept, torch.Tensor)
    assert kept.dtype is torch.uint8
    (entry,) = program.entries
    assert grid_of(entry, sizes) == (2, 1, 1)


def test_tensors_that_break_a_promise_are_copied() -> None:
    program = program_of(SPEC)
    storage = torch.randn(2 * 24 * 25 + 3)
    bias = storage[3:].view(2, 24, 25)[..., :24]
    narrow = torch.randn(1, 2, 24, 72)[..., 3:67].half()
    values, _ = arguments(program, bias=bias, k=narrow)
    values.align(program)
    (copied,) = values_of(program, values, ArgumentKind.TENSOR, "bias")
    assert isinstance(copied, torch.Tensor)
    assert torch.equal(copied, bias)
    assert is_aligned(copied, 4)
    assert all(stride % 4 == 0 for stride in copied.stride()[:-1])


def test_a_misaligned_output_is_written_back() -> None:
    program = program_of(SPEC)
    out = torch.zeros(1, 2, 24, 65, dtype=torch.float16)[..., :64]
    values, _ = arguments(program, out=out)
    values.align(program)
    (target,) = values_of(program, values, ArgumentKind.TENSOR, "out")
    assert isinstance(target, torch.Tensor)
    target.fill_(3.0)
    assert not out.any()
    values.copy_back(out)
    assert bool((out == 3.0).all())


@pytest.mark.parametrize("shape", [(3, 20), (2, 3, 5), (7,), ()])
def test_aligned_copies_hold_the_same(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    copy = aligned_copy(tensor, 8)
    assert torch.equal(copy, tensor)
    assert is_aligned(copy, 8)


def test_loops_are_found_in_a_listing() -> None:
    """The innermost loops that multiply matrices: not the outer one, not one that only adds."""
    text = """
.LBB0_1:
\tv_add_f32_e32 v0, v1, v2
.LBB0_2:
\tv_mfma_f32_32x32x8_bf16_1k a[0:15], v[0:1], v[2:3], a[0:15]
\ts_cbranch_scc1 .LBB0_2
\ts_cbranch_scc0 .LBB0_1
.LBB0_3:
\tv_add_f32_e32 v0, v1, v2
\ts_cbranch_scc1 .LBB0_3
"""
    (loop,) = matrix_loops(amdgcn(text))
    assert len(loop) == 2
    assert loop[0].startswith("v_mfma")
