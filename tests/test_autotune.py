"""Tuning: the fastest candidate is kept, found again, and damage to it does no harm."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.diagnostics import AttnError, error
from attndsl.runtime import autotune, compilation
from attndsl.runtime.arguments import check_call
from attndsl.runtime.autotune import CPU_TILES, best_tile, shape_class, tune
from attndsl.runtime.cache import default_cache
from attndsl.runtime.targets import Target

SPECIALIZATION = Specialization(DType.FLOAT32, 32, 32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def kernel() -> attndsl.Kernel:
    text = "attention window(width: int = 20 where width > 0) { mask = causal and i - j < width }"
    return attndsl.parse(text).window(width=16)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[Tile, float]], None]:
    """Replaces building and timing: candidates take the given seconds, the others do not fit."""

    def use(seconds: dict[Tile, float]) -> None:
        class Execution:
            def __init__(self, tile: Tile):
                self.tile = tile

            def run(self, *arguments: Any) -> Tile:
                return self.tile

        def build(attention: Any, specialization: Any, target: Any, tile: Tile) -> Execution:
            if tile not in seconds:
                raise error("A083", "it spills")
            return Execution(tile)

        monkeypatch.setattr(autotune, "compile_with_tile", build)
        monkeypatch.setattr(autotune, "timed", lambda run, call: seconds[run()])

    return use


def operands(rows: int = 70) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, rows, 32, generator=random) for _ in range(3)]


def kept(kernel: attndsl.Kernel, rows: int = 70) -> Tile | None:
    q, k, v = operands(rows)
    call = check_call(kernel.attention, {"q": q, "k": k, "v": v}, {})
    return best_tile(kernel.attention, SPECIALIZATION, Target("cpu"), call)


def test_the_fastest_is_kept_for_its_class_of_shapes(
    kernel: attndsl.Kernel, simulated: Callable[[dict[Tile, float]], None]
) -> None:
    simulated({CPU_TILES[0]: 3.0, CPU_TILES[1]: 1.0, CPU_TILES[2]: 2.0})
    told: list[tuple[int, int]] = []
    result = tune(kernel.attention, *operands(), {}, on_progress=lambda *news: told.append(news))
    assert result.best == CPU_TILES[1]
    assert [one.tile for one in result.measurements[:3]] == [CPU_TILES[n] for n in (1, 2, 0)]
    assert all(one.reason == "it spills" for one in result.measurements[3:])
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))
    assert len({total for _, total in told}) == 1
    assert kept(kernel) == CPU_TILES[1]
    assert kept(kernel, 128) == CPU_TILES[1]
    assert kept(kernel, 129) is None


def test_noise_does_not_displace_the_default(
    kernel: attndsl.Kernel, simulated: Callable[[dict[Tile, float]], None]
) -> None:
    simulated({CPU_TILES[0]: 1.01, CPU_TILES[1]: 1.0})
    assert tune(kernel.attention, *operands(), {}).best == CPU_TILES[0]
    simulated({CPU_TILES[0]: 1.1, CPU_TILES[1]: 1.0})
    assert tune(kernel.attention, *operands(), {}).best == CPU_TILES[1]


def test_nothing_fits(
    kernel: attndsl.Kernel, simulated: Callable[[dict[Tile, float]], None]
) -> None:
    simulated({})
    with pytest.raises(AttnError, match="it spills"):
        tune(kernel.attention, *operands(), {})
    assert kept(kernel) is None


@pytest.mark.parametrize(
    "text", ["", "{}", "null", '{"best": 7}', '{"best": {"block_m": -1, "block_n": "x"}}']
)
def test_what_cannot_be_read_is_no_result(
    kernel: attndsl.Kernel, simulated: Callable[[dict[Tile, float]], None], text: str
) -> None:
    simulated({CPU_TILES[1]: 1.0})
    tune(kernel.attention, *operands(), {})
    (entry,) = default_cache().entries()
    # A file that was changed, and one that was written so.
    (entry.path / autotune.FILE).write_text(text)
    assert kept(kernel) is None
    default_cache().replace(
        entry.kind, entry.key, lambda place: (place / autotune.FILE).write_text(text) and None
    )
    assert kept(kernel) is None
    tune(kernel.attention, *operands(), {})
    assert kept(kernel) == CPU_TILES[1]


def test_several_may_tune_at_once(
    kernel: attndsl.Kernel, simulated: Callable[[dict[Tile, float]], None]
) -> None:
    simulated({CPU_TILES[2]: 1.0})
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: tune(kernel.attention, *operands(), {}), range(8)):
            assert result.best == CPU_TILES[2]
    assert kept(kernel) == CPU_TILES[2]


def test_a_kernel_uses_what_was_found(
    kernel: attndsl.Kernel,
    simulated: Callable[[dict[Tile, float]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = attndsl.Kernel(kernel.attention)
    simulated({CPU_TILES[1]: 1.0})
    fresh(*operands())
    assert fresh.tune(*operands()).best == CPU_TILES[1]
    tiles: list[Tile | None] = []
    emit = compilation.emit

    def watching(attention: Any, specialization: Any, target: Any, tile: Tile | None) -> Any:
        tiles.append(tile)
        return emit(attention, specialization, target, tile)

    monkeypatch.setattr(compilation, "emit", watching)
    tuned = fresh(*operands())
    assert tiles == [CPU_TILES[1]]
    default = fresh(*(torch.cat([one, one, one], 2) for one in operands()))
    # Another class of shapes: the default, which was built above.
    assert tiles == [CPU_TILES[1]]
    assert default.shape[2] == 210
    torch.testing.assert_close(tuned, attndsl.Kernel(kernel.attention)(*operands()))


def test_classes_of_shapes() -> None:
    def of(**sizes: int) -> str:
        return shape_class({"B": 1, "H": 8, "Lq": 1000, "Lk": 1000} | sizes)

    assert of(Lq=513) == of(Lq=1024)
    assert of(Lq=1024) != of(Lq=1025)
    assert of(B=2, H=4) == of()
    assert of(H=16) != of()


def test_a_real_measurement(kernel: attndsl.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "CPU_TILES", CPU_TILES[:2])
    result = tune(kernel.attention, *operands(), {})
    assert {one.tile for one in result.measurements} == set(CPU_TILES[:2])
    assert all(one.seconds is not None and one.seconds > 0 for one in result.measurements)
    assert result.as_json()["best"]["block_m"] == result.best.block_m
