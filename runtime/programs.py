"""Plans and programs that were emitted before, so that a cached kernel starts without a compiler.

Emitting takes little, but importing the emitter and the planner's passes takes as long as all else
together. What is stored is good for this very version of attndsl.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from attndsl.attention import Attention
from attndsl.codegen.program import Program, Specialization, Tile
from attndsl.diagnostics import AttnError
from attndsl.planner.plan import Plan
from attndsl.runtime.cache import default_cache, key_of
from attndsl.runtime.serialize import decode, encode
from attndsl.runtime.targets import Target
from attndsl.runtime.version import version

KIND, FILE = "program", "program.json"


def program_of(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    tile: Tile | None,
    emit: Callable[[Attention, Specialization, Target, Tile | None], tuple[Plan, Program]],
) -> tuple[Plan, Program]:
    """The plan and the program, from the cache or from `emit`, which then fills it.

    Raises what `emit` raises.
    """
    key = _key(attention, specialization, target, repr(tile))
    return _kept(key, lambda: emit(attention, specialization, target, tile))


def backward_program_of(
    attention: Attention,
    specialization: Specialization,
    target: Target,
    wanted: tuple[str, ...],
    log_sum_exp_gradient: bool,
    tile: Tile | None,
    emit: Callable[[], tuple[Plan, Program]],
) -> tuple[Plan, Program]:
    """The same for a backward, and the gradients that it computes."""
    backward = ("backward", *wanted, repr(log_sum_exp_gradient), repr(tile))
    return _kept(_key(attention, specialization, target, *backward), emit)


def _key(attention: Attention, specialization: Specialization, target: Target, *rest: str) -> str:
    meaning = json.dumps(encode(attention, spans=False))
    return key_of(version(), meaning, repr(specialization), target.name, *rest)


def _kept(key: str, emit: Callable[[], tuple[Plan, Program]]) -> tuple[Plan, Program]:
    cache = default_cache()
    directory = cache.find(KIND, key)
    if directory is not None:
        known = _read(directory / FILE)
        if known is not None:
            return known
    plan, program = emit()
    text = json.dumps({"plan": encode(plan), "program": encode(program)})
    cache.replace(KIND, key, lambda directory: _write(directory / FILE, text))
    return plan, program


def _read(path: Path) -> tuple[Plan, Program] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return decode(stored["plan"], Plan), decode(stored["program"], Program)
    except (OSError, ValueError, KeyError, TypeError, AttnError, RecursionError):
        return None


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
