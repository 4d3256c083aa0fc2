"""The best tile for a spec on this machine: candidates, measured on the call that matters.

Candidates come from the target's emitter; one whose binary spills or does not fit is left out. The
others are measured interleaved on the caller's own tensors, so the block map is the real one. What
is found is kept on disk by spec, target, device, dtype and class of shapes, and used by every later
call of that class. Without it, the emitter's first candidate is used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndsl.attention import Attention
from attndsl.codegen.program import Specialization, Tile
from attndsl.diagnostics import AttnError
from attndsl.records import dataclass
from attndsl.runtime.cache import default_cache, key_of
from attndsl.runtime.compilation import compile_with_tile, plan_of, specialize
from attndsl.runtime.options import DEFAULTS, Options
from attndsl.runtime.targets import Target, device_target

if TYPE_CHECKING:
    import torch

    from attndsl.runtime.arguments import Call

KIND, FILE = "tune", "best.json"
CPU_TILES = (
    Tile(64, 64),
    Tile(32, 32),
    Tile(32, 64),
    Tile(64, 32),
    Tile(64, 128),
    Tile(128, 64),
    Tile(96, 96),
)
# Enough that the median is steady, and that tuning ends.
ROUNDS, _SECONDS_PER_TILE = 25, 0.5
_NOISE = 1.02


@dataclass(frozen=True)
class Measurement:
    """A candidate's median time of a call; `reason` says why it was not measured."""

    tile: Tile
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class TuningResult:
    """What was measured, fastest first, and what was kept."""

    best: Tile
    measurements: tuple[Measurement, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "best": asdict(self.best),
            "measurements": [asdict(one) for one in self.measurements],
        }


def candidates(attention: Attention, specialization: Specialization, target: Target) -> list[Tile]:
    """The tiles that could suit, the default first."""
    if target.language == "cpp":
        return list(CPU_TILES)
    from attndsl.codegen.triton import tiles

    return list(
        tiles(plan_of(attention, dropout=specialization.dropout), specialization, target.name)
    )


def tune(
    attention: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None,
    inputs: Mapping[str, Any],
    options: Options = DEFAULTS,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TuningResult:
    """Measure the candidates on one call of a bound attention, and keep the best.

    `on_progress(done, total)` is told of every step: a candidate built, or a round timed. Raises
    `AttnError` for arguments that a call would refuse, and where no candidate can run.
    """
    import torch

    from attndsl.runtime.arguments import check_call

    call = check_call(attention, {"q": q, "k": k, "v": v}, inputs, options)
    target = device_target(call.device)
    specialization = specialize(attention, call.sizes["D"], call.sizes["Dv"], call.dtype)
    tiles = candidates(attention, specialization, target)
    steps, done = len(tiles) + ROUNDS, 0

    def advanced() -> None:
        nonlocal done
        done += 1
        on_progress(done, steps)

    def built(tile: Tile) -> Callable[[], object]:
        execution = compile_with_tile(attention, specialization, target, tile)
        return lambda: execution.run(call, q, k, v, inputs)

    with torch.no_grad():
        result = measured(tiles, built, call, advanced)
    keep(result.as_json(), _key(attention, specialization, target, call))
    return result


def measured(
    tiles: Sequence[Tile],
    build: Callable[[Tile], Callable[[], object]],
    call: Call,
    advanced: Callable[[], None],
) -> TuningResult:
    """Time what `build` makes of every tile, of which the first is the default.

    A tile that it raises `AttnError` for counts as one that cannot run; the last such error is
    raised where there is no other. `advanced` is told of every candidate and of every round.
    """
    measurements: dict[Tile, Measurement] = {}
    runs: dict[Tile, Callable[[], float]] = {}

    def timer(run: Callable[[], object]) -> Callable[[], float]:
        return lambda: timed(run, call)

    problem: AttnError | None = None
    for tile in tiles:
        try:
            run = timer(build(tile))
            run()
        except AttnError as fault:
            problem = fault
            measurements[tile] = Measurement(tile, None, fault.diagnostics[0].message)
        else:
            runs[tile] = run
        advanced()
    from statistics import median

    for tile, seconds in interleaved(runs, advanced).items():
        measurements[tile] = Measurement(tile, median(seconds))
    if not runs:
        assert problem is not None
        raise problem
    ranked = sorted(measurements.values(), key=lambda one: (one.seconds is None, one.seconds or 0))
    return TuningResult(chosen(ranked, tiles[0]), tuple(ranked))


def best_tile(
    attention: Attention, specialization: Specialization, target: Target, call: Call
) -> Tile | None:
    """The tile that tuning has found for such calls, if it has been done."""
    return tile_of(kept(lambda: _key(attention, specialization, target, call)).get("best"))


def shape_class(sizes: Mapping[str, int]) -> str:
    """Shapes between which the best tile hardly differs: by powers of two of the lengths, and of
    the number of heads in the batch."""
    heads = sizes["B"] * sizes["H"]
    return " ".join(f"{(size - 1).bit_length()}" for size in (sizes["Lq"], sizes["Lk"], heads))


def chosen(ranked: list[Measurement], default: Tile) -> Tile:
    """The fastest, or the default where that is as fast but for noise."""
    fastest = ranked[0]
    for one in ranked:
        if one.tile == default and one.seconds is not None and fastest.seconds is not None:
            return default if one.seconds <= _NOISE * fastest.seconds else fastest.tile
    return fastest.tile


def interleaved(
    runs: Mapping[Tile, Callable[[], float]], on_round: Callable[[], None]
) -> dict[Tile, list[float]]:
    """Times of every run, in rounds, so that all meet the machine in the same moods."""
    times: dict[Tile, list[float]] = {tile: [] for tile in runs}
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(ROUNDS):
        for tile, run in runs.items():
            if spent[tile] < _SECONDS_PER_TILE or len(times[tile]) < 3:
                times[tile].append(run())
                spent[tile] += times[tile][-1]
        on_round()
    return times


def timed(run: Callable[[], object], call: Call) -> float:
    if call.device.type == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    import torch

    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _key(attention: Attention, specialization: Specialization, target: Target, call: Call) -> str:
    # Whether the log-sum-exp is written makes no difference to which tile is best.
    return key_of(*described(attention, specialization, target, call))


def described(
    attention: Attention, specialization: Specialization, target: Target, call: Call
) -> tuple[str, ...]:
    """What a best tile depends on."""
    from attndsl.runtime.serialize import encode

    kind = f"{specialization.dtype} {specialization.head_dim} {specialization.value_dim}"
    meaning = json.dumps(encode(attention, spans=False))
    return meaning, target.name, device_name(call.device), kind, shape_class(call.sizes)


@lru_cache
def device_name(device: torch.device) -> str:
    if device.type == "cpu":
        import torch

        from attndsl.runtime.cpp_compiler import processor_features

        return f"{processor_features()} {torch.get_num_threads()} threads"
    import torch

    return str(torch.cuda.get_device_name(device))


def keep(found: Mapping[str, Any], key: str) -> None:
    """Write what was found, to be read by `read`."""

    def write(directory: Path) -> None:
        (directory / FILE).write_text(json.dumps(found, indent=1), encoding="utf-8")

    default_cache().replace(KIND, key, write)


def kept(key: Callable[[], str]) -> Mapping[str, Any]:
    """What was kept under a key; empty where there is nothing, or nothing that can be read."""
    cache = default_cache()
    if not (cache.root / KIND).is_dir():
        return {}
    directory = cache.find(KIND, key())
    try:
        found = {} if directory is None else json.loads((directory / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def tile_of(stored: Any) -> Tile | None:
    """The tile that was kept; None for one that another version wrote otherwise."""
    try:
        numbers = [stored[name] for name in ("block_m", "block_n", "warps", "stages")]
    except (KeyError, TypeError):
        return None
    if all(type(number) is int and 0 < number <= 1024 for number in numbers):
        return Tile(*numbers)
    return None
