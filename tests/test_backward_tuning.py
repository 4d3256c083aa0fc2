"""Tuning of backwards: each program has the tile that is fastest for it, found again and used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.cli import main
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton import stage_tiles
from attndsl.diagnostics import AttnError, error
from attndsl.runtime import autotune, backward_tuning
from attndsl.runtime.autotune import CPU_TILES
from attndsl.runtime.backward_tuning import Part, parts_of, tune
from attndsl.runtime.cache import default_cache
from attndsl.runtime.targets import Target

SPEC = """attention alibi(width: int = 20 where width > 0) {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask  = causal and i - j < width
}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def kernel() -> attndsl.Kernel:
    return attndsl.parse(SPEC).alibi(width=16)


def arguments(rows: int = 70) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, rows, 32, generator=random) for _ in range(3)]
    return {**dict(zip("qkv", tensors, strict=True)), "slope": torch.rand(2, generator=random)}


def tuned(kernel: attndsl.Kernel, **more: Any) -> backward_tuning.BackwardTuning:
    given = arguments()
    operands = [given.pop(name) for name in "qkv"]
    return tune(kernel.attention, *operands, given, **more)


Simulate = Callable[[Mapping[tuple[int, Tile], float], list[Part]], None]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Replaces building and timing: of these parts, tiles take the given seconds, and those without
    do not fit."""

    def use(seconds: Mapping[tuple[int, Tile], float], parts: list[Part]) -> None:
        class Backward:
            def __init__(self, tiles: Mapping[int, Tile]) -> None:
                ((self.number, self.tile),) = tiles.items()

            def run(self, call: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[int, Tile]:
                assert {"out", "out.gradient", "log_sum_exp", "slope"} <= tensors.keys()
                return self.number, self.tile

        def build(*asked: Any) -> Backward:
            made = Backward(asked[-1])
            if (made.number, made.tile) not in seconds:
                raise error("A083", "it spills")
            return made

        monkeypatch.setattr(backward_tuning, "parts_of", lambda *asked: parts)
        monkeypatch.setattr(backward_tuning, "build", build)
        monkeypatch.setattr(autotune, "timed", lambda run, call: seconds[run()])

    return use


A, B, C = Tile(64, 64), Tile(32, 64), Tile(64, 32, 8, 1)


def test_each_program_has_its_own(kernel: attndsl.Kernel, simulated: Simulate) -> None:
    parts = [Part(2, "q_sum", (A, B, C)), Part(3, "k_sum, v_sum", (B, C))]
    simulated({(2, A): 3.0, (2, B): 1.0, (3, B): 1.01, (3, C): 1.0}, parts)
    told: list[tuple[int, int]] = []
    result = tuned(kernel, on_progress=lambda *news: told.append(news))
    assert result.gradients == ("q", "k", "v", "slope")
    # Where the default is as fast but for noise, it stays.
    assert result.best == ((2, B), (3, B))
    ((_, first), (_, second)) = result.parts
    assert [one.tile for one in first.measurements] == [B, A, C]
    assert first.measurements[2].reason == "it spills"
    assert [one.tile for one in second.measurements] == [C, B]
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))
    assert len({total for _, total in told}) == 1


def test_nothing_fits(kernel: attndsl.Kernel, simulated: Simulate) -> None:
    simulated({(2, A): 1.0}, [Part(2, "q_sum", (A, B)), Part(3, "k_sum", (B, C))])
    with pytest.raises(AttnError, match="it spills"):
        tuned(kernel)
    assert list(default_cache().entries()) == [] or all(
        entry.kind != autotune.KIND for entry in default_cache().entries()
    )


@pytest.mark.parametrize(
    ("required", "expected"),
    [((), ("q", "k", "v", "slope")), (("v", "q"), ("q", "v")), (("slope",), ("slope",))],
)
def test_what_requires_a_gradient_is_tuned_for(
    kernel: attndsl.Kernel,
    simulated: Simulate,
    required: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    simulated({(0, A): 1.0}, [Part(0, "all", (A,))])
    given = arguments()
    for name in required:
        given[name].requires_grad_()
    assert kernel.tune_backward(**given).gradients == expected


def gradients(kernel: attndsl.Kernel, wanted: str, rows: int = 70) -> list[torch.Tensor]:
    given = arguments(rows)
    leaves = [given[name].requires_grad_() for name in wanted.split()]
    return list(torch.autograd.grad(kernel(**given).sin().sum(), leaves))


@pytest.fixture
def tiles_used(monkeypatch: pytest.MonkeyPatch) -> list[Tile | None]:
    """Those that backwards are emitted with from here on."""
    from attndsl.codegen import cpp

    used: list[Tile | None] = []
    emit = cpp.emit

    def watching(plan: Any, specialization: Any, tile: Tile | None = None) -> Any:
        if plan.gradients:
            used.append(tile)
        return emit(plan, specialization, tile)

    monkeypatch.setattr(cpp, "emit", watching)
    return used


def test_a_kernel_uses_what_was_found(
    kernel: attndsl.Kernel, simulated: Simulate, tiles_used: list[Tile | None]
) -> None:
    fresh = attndsl.Kernel(kernel.attention)
    before = gradients(fresh, "q k v slope")
    assert tiles_used == [None]
    simulated({(0, A): 3.0, (0, CPU_TILES[1]): 1.0}, [Part(0, "all", (A, CPU_TILES[1]))])
    assert fresh.tune_backward(**arguments()).best == ((0, CPU_TILES[1]),)
    after = gradients(fresh, "q k v slope")
    assert tiles_used == [None, CPU_TILES[1]]
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(one, other)
    # So does another kernel of this meaning; not for other gradients, nor another class of shapes.
    other_kernel = attndsl.Kernel(kernel.attention)
    gradients(other_kernel, "q k v slope", rows=100)
    assert tiles_used == [None, CPU_TILES[1]]
    gradients(other_kernel, "q k")
    assert tiles_used == [None, CPU_TILES[1], None]
    gradients(other_kernel, "q k v slope", rows=140)  # the default, which the cache has
    assert len(other_kernel._backwards) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"parts": 7}', '{"parts": [7]}', '{"parts": [{"number": 0, "best": {}}]}'],
)
def test_what_cannot_be_read_is_no_result(
    kernel: attndsl.Kernel, simulated: Simulate, tiles_used: list[Tile | None], text: str
) -> None:
    simulated({(0, CPU_TILES[1]): 1.0}, [Part(0, "all", (CPU_TILES[1],))])
    tuned(kernel)
    (entry,) = (one for one in default_cache().entries() if one.kind == autotune.KIND)
    default_cache().replace(
        entry.kind, entry.key, lambda place: (place / autotune.FILE).write_text(text) and None
    )
    gradients(attndsl.Kernel(kernel.attention), "q k v slope")
    assert tiles_used == [None]


def test_programs_that_have_a_choice(kernel: attndsl.Kernel) -> None:
    specialization = Specialization(DType.BFLOAT16, 64, 64)
    wanted = ("q", "k", "v", "slope")
    assert parts_of(kernel.attention, specialization, Target("cpu"), wanted) == [
        Part(0, "alibi", CPU_TILES)
    ]
    for target in ("cuda:90", "hip:gfx942"):
        parts = parts_of(kernel.attention, specialization, Target(target), wanted)
        assert [part.name for part in parts] == ["slope_sum, q_sum", "v_sum_by_head, k_sum_by_head"]
        assert all(len(part.tiles) > 1 for part in parts)
    from attndsl.runtime.backward import backward_plan

    plan = backward_plan(kernel.attention, wanted, False, False, by_side=True)
    parts = parts_of(kernel.attention, specialization, Target("cuda:80"), wanted)
    for part in parts:
        stage = plan.stages[part.number]
        assert part.tiles == stage_tiles(stage, specialization, "cuda:80")


def test_gradients_that_there_are_not(kernel: attndsl.Kernel) -> None:
    with pytest.raises(AttnError, match="A072"):
        tuned(kernel, gradients=("width",))


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real measurement, of two tiles."""
    monkeypatch.setattr(autotune, "CPU_TILES", CPU_TILES[:2])
    path = tmp_path / "spec.attn"
    path.write_text(SPEC)
    command = ["tune", str(path), "--shape", "1,2,70,32", "--direction", "backward"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gradients"] == ["q", "k", "v", "slope"]
    (part,) = found["parts"]
    assert {one["tile"]["block_m"] for one in part["measurements"]} == {32, 64}
    assert all(one["seconds"] > 0 for one in part["measurements"])
    assert main([*command, "--gradient", "q"]) == 0
    shown = capsys.readouterr().out
    assert "the backward, of q\n" in shown
    assert shown.count("kept") == 1
    for wrong in (["--direction", "both"], ["--direction", "forward", "--gradient", "q"]):
        assert main([*command[:4], *wrong]) == 2
