"""The best tiles for a backward on this machine: found and kept as `autotune` does a forward's.

On a GPU every stage over pairs has a program with a tile of its own, on a CPU all share one. Each
is tried with its candidates while the others have their defaults, on the backward of the caller's
own tensors. What is found holds for the gradients that it was measured for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attndsl.attention import Attention, has_statistic
from attndsl.codegen.program import Specialization, Tile
from attndsl.records import dataclass
from attndsl.runtime import autotune
from attndsl.runtime.autotune import ROUNDS, TuningResult, described, shape_class
from attndsl.runtime.cache import key_of
from attndsl.runtime.compilation import compile_for, specialize
from attndsl.runtime.options import DEFAULTS, Options
from attndsl.runtime.targets import Target, device_target

if TYPE_CHECKING:
    import torch

    from attndsl.runtime.arguments import Call
    from attndsl.runtime.backward import Backward

# By the number of the stage on a GPU; number 0 for all of them on a CPU.
Tiles = tuple[tuple[int, Tile], ...]


@dataclass(frozen=True)
class Part:
    """A program whose tile can be chosen; the default comes first."""

    number: int
    name: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class BackwardTuning:
    """What was measured of each program, by its name; `gradients` are what they compute."""

    gradients: tuple[str, ...]
    parts: tuple[tuple[Part, TuningResult], ...]

    @property
    def best(self) -> Tiles:
        return tuple((part.number, result.best) for part, result in self.parts)

    def as_json(self) -> dict[str, Any]:
        return {
            "gradients": list(self.gradients),
            "parts": [
                {"number": part.number, "name": part.name, **result.as_json()}
                for part, result in self.parts
            ],
        }


def parts_of(
    attention: Attention, specialization: Specialization, target: Target, wanted: tuple[str, ...]
) -> list[Part]:
    """The programs of a backward that have a choice of tiles.

    Raises `AttnError` A082 where there is nothing to compute.
    """
    from attndsl.codegen import triton
    from attndsl.planner.plan import PairSums, written_buffers
    from attndsl.runtime.backward import backward_plan, check_depends

    on_gpu = target.language == "triton"
    plan = backward_plan(attention, wanted, False, specialization.dropout, by_side=on_gpu)
    check_depends(plan, wanted)
    if not on_gpu:
        return [Part(0, attention.name, autotune.CPU_TILES)]
    parts = []
    for number, stage in enumerate(plan.stages):
        if isinstance(stage, PairSums):
            tiles = triton.stage_tiles(stage, specialization, target.name)
            names = ", ".join(buffer.name for buffer in written_buffers(stage))
            parts.append(Part(number, names, tiles))
    return parts


def tune(
    attention: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None,
    inputs: Mapping[str, Any],
    options: Options = DEFAULTS,
    *,
    gradients: tuple[str, ...] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BackwardTuning:
    """Measure the candidates on the backward of one call of a bound attention, and keep the best.

    `gradients` are by default those of the tensors that require one, or else of all that may have
    one. `on_progress(done, total)` is told of every step. Raises `AttnError` for arguments that a
    call would refuse, A072 and A082 for gradients that there are not, and A090 where there is no
    C++ compiler.
    """
    import torch

    from attndsl.runtime.arguments import check_call

    call = check_call(attention, {"q": q, "k": k, "v": v}, inputs, options)
    target = device_target(call.device)
    if target.language == "cpp":
        from attndsl.runtime.cpp_compiler import find_compiler

        find_compiler()
    arguments = {"q": q, "k": k, "v": v, **inputs}
    wanted = _wanted(attention, arguments, gradients)
    sizes = call.sizes
    specialization = specialize(attention, sizes["D"], sizes["Dv"], call.dtype)
    parts = parts_of(attention, specialization, target, wanted)
    total = sum(len(part.tiles) + ROUNDS for part in parts)
    done = 0

    def advanced() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    with torch.no_grad():
        tensors = _forward(attention, call, specialization, target, arguments)
        asked = attention, specialization, target, wanted
        results = tuple((part, _measured(part, *asked, call, tensors, advanced)) for part in parts)
    found = BackwardTuning(wanted, results)
    autotune.keep(found.as_json(), _key(*asked, call))
    return found


def _wanted(
    attention: Attention, arguments: Mapping[str, Any], gradients: tuple[str, ...] | None
) -> tuple[str, ...]:
    from attndsl.runtime.backward import gradients_of

    if gradients is None:
        required = (n for n, one in arguments.items() if getattr(one, "requires_grad", False))
        gradients = tuple(required)
    given = gradients_of(attention, gradients)
    return tuple(name for name in given if arguments.get(name) is not None)


def _forward(
    attention: Attention,
    call: Call,
    specialization: Specialization,
    target: Target,
    arguments: Mapping[str, Any],
) -> dict[str, torch.Tensor]:
    """What a backward reads, with a gradient of the output drawn at random."""
    import torch

    from attndsl.runtime.backward import Backwards
    from attndsl.runtime.gradients import Differentiable

    writing = dataclasses.replace(specialization, log_sum_exp=has_statistic(attention.normalizer))
    execution = compile_for(attention, writing, target)

    def none(*of: Any) -> Backward:
        raise AssertionError("a forward has no backward")

    whole = Differentiable(attention, call, execution, Backwards(none))
    results = whole.forward(arguments)
    return whole.backward_arguments(arguments, results, (torch.randn_like(results[0]), None))


def _measured(
    part: Part,
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    call: Call,
    tensors: Mapping[str, torch.Tensor],
    advanced: Callable[[], None],
) -> TuningResult:
    def built(tile: Tile) -> Callable[[], object]:
        backward = build(attention, specialization, target, wanted, {part.number: tile})
        return lambda: backward.run(call, tensors)

    return autotune.measured(part.tiles, built, call, advanced)


def build(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    tiles: Mapping[int, Tile],
) -> Backward:
    """The backward with these tiles. Raises `AttnError` A083 where one of them does not fit."""
    from attndsl.diagnostics import error
    from attndsl.runtime.backward import backward_for
    from attndsl.runtime.triton_backward import TritonBackward

    made = backward_for(
        attention, specialization, target, wanted, log_sum_exp_gradient=False, tiles=tiles
    )
    if isinstance(made, TritonBackward):
        for number, tile in tiles.items():
            if made.stages[number].launcher.program.tile != tile:
                raise error("A083", "spills, or needs too much shared memory")
    return made


def best_tiles(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    call: Call,
    known: dict[Any, Tiles],
) -> Tiles:
    """The tiles that tuning has found for such calls, if it has been done. `known` is what was
    looked up before, to which this adds: a backward takes less time than a look at the disk."""
    place = call.device, specialization, wanted, shape_class(call.sizes)
    tiles = known.get(place)
    if tiles is None:
        stored = autotune.kept(lambda: _key(attention, specialization, target, wanted, call))
        tiles = known[place] = _read(stored)
    return tiles


def _read(stored: Mapping[str, Any]) -> Tiles:
    parts = stored.get("parts")
    found = []
    for part in parts if isinstance(parts, list) else []:
        tile = autotune.tile_of(part.get("best")) if isinstance(part, dict) else None
        if tile is None or type(part.get("number")) is not int:
            return ()
        found.append((part["number"], tile))
    return tuple(found)


def _key(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    call: Call,
) -> str:
    return key_of("backward", *sorted(wanted), *described(attention, specialization, target, call))
