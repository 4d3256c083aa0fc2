"""Tile sizes and launch parameters to try, for a plan on a target.

The first candidate is the one that the compiled binaries of simple scores were seen to fit; those
that follow need ever fewer registers and less shared memory. The runtime takes the first that
compiles without a stack and within shared memory.
"""

from __future__ import annotations

from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.targets import GpuTarget, parse_target
from attndsl.expression import Expression, Scalar, walk
from attndsl.planner.plan import Plan

_NARROW = 64  # the widest vector that counts as narrow


def tiles(plan: Plan, specialization: Specialization, target: str) -> tuple[Tile, ...]:
    """Candidates, the default first. Raises `AttnError` A081 for an unknown target."""
    gpu = parse_target(target)
    stage = plan.attend
    if stage.vectors or _reads_vectors(stage.score) or specialization.dtype is DType.FLOAT32:
        return _SMALL[gpu.kind]
    widest = max(
        [integer(stage.value.size, specialization)]
        + [integer(dot.key.size, specialization) for dot in stage.dots]
    )
    if widest > 256:
        return _WIDE[gpu.kind]
    if widest > 128:
        return _BROAD[gpu.kind]
    table = _FORWARD_NARROW if widest <= _NARROW else _FORWARD_WIDE
    return tuple(dict.fromkeys((*table[_family(gpu)], *_SMALL[gpu.kind])))


def _reads_vectors(score: Expression) -> bool:
    """Whether the score does vector arithmetic pair by pair."""
    return any(not isinstance(node.type, Scalar) for node in walk(score))


def _family(gpu: GpuTarget) -> str:
    if gpu.kind == "hip":
        return "hip"
    if gpu.generation >= 100:
        return "cuda:100"
    return "cuda:90" if gpu.generation == 90 else "cuda:80"


_SMALL: dict[str, tuple[Tile, ...]] = {
    # Products of a whole group of warps, which cuda:90 has, take 64 rows.
    "cuda": (
        Tile(64, 32, 4, 2),
        Tile(64, 32, 8, 2),
        Tile(64, 16, 4, 2),
        Tile(32, 32, 4, 2),
        Tile(16, 32, 4, 1),
        Tile(16, 16, 4, 1),
    ),
    "hip": (Tile(64, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 16, 4, 1), Tile(16, 16, 4, 1)),
}

_FORWARD_NARROW: dict[str, tuple[Tile, ...]] = {
    "cuda:80": (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(64, 64, 8, 2)),
    "cuda:90": (Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    "cuda:100": (Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
    "hip": (Tile(128, 64, 4, 1), Tile(128, 32, 4, 1), Tile(64, 64, 4, 1)),
}

_FORWARD_WIDE: dict[str, tuple[Tile, ...]] = {
    "cuda:80": (Tile(128, 32, 8, 3), Tile(64, 64, 8, 2), Tile(64, 32, 4, 2)),
    "cuda:90": (Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(64, 64, 4, 2)),
    "cuda:100": (Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(64, 64, 4, 2)),
    "hip": (Tile(128, 32, 4, 1), Tile(64, 32, 4, 1)),
}

_BROAD: dict[str, tuple[Tile, ...]] = {
    "cuda": (Tile(64, 64, 8, 2), Tile(64, 32, 8, 2), Tile(64, 32, 8, 1), Tile(32, 32, 8, 1)),
    "hip": (Tile(64, 32, 4, 1), Tile(64, 32, 8, 1), Tile(32, 32, 4, 1), Tile(16, 16, 4, 1)),
}

_WIDE: dict[str, tuple[Tile, ...]] = {
    "cuda": (Tile(64, 32, 8, 1), Tile(32, 32, 8, 1), Tile(16, 32, 8, 1), Tile(16, 16, 8, 1)),
    "hip": (Tile(32, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 4, 1)),
}
