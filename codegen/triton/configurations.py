"""Tile sizes and launch parameters to try, for a plan on a target.

The first candidate is the one that the compiled binaries of simple scores were seen to fit; those
that follow need ever fewer registers and less shared memory. The runtime takes the first that
compiles without a stack and within shared memory.
"""

from __future__ import annotations

from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.targets import GpuTarget, parse_target
from attndsl.expression import Binary, Call, Expression, Read, Scalar, Select, index_names, walk
from attndsl.planner.plan import Plan

_NARROW = 64  # the widest vector that counts as narrow
_LARGE = 2048  # pairs of a tile for each warp: what only simple scores leave registers for
_MUCH_WORK = 8


def tiles(plan: Plan, specialization: Specialization, target: str) -> tuple[Tile, ...]:
    """Candidates, the default first. Raises `AttnError` A081 for an unknown target."""
    gpu = parse_target(target)
    stage = plan.attend
    if specialization.dtype is DType.FLOAT32 and gpu.kind == "cuda":
        return _SINGLE_PRECISION
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
    candidates = tuple(dict.fromkeys((*table[_family(gpu)], *_SMALL[gpu.kind])))
    if _work(stage.score) + _work(stage.mask) >= _MUCH_WORK:
        return tuple(one for one in candidates if one.block_m * one.block_n < _LARGE * one.warps)
    return candidates


def _work(expression: Expression) -> int:
    """Roughly how many registers' worth of arithmetic there is for every pair."""
    return sum(_weight(node) for node in set(walk(expression)) if _is_over_pairs(node))


def _is_over_pairs(node: Expression) -> bool:
    names = index_names(node)
    return "j" in names and not names.isdisjoint({"i", "row"})


def _weight(node: Expression) -> int:
    match node:
        case Read() | Binary(operator="**"):
            return 4
        case Call(function="sin" | "cos" | "log" | "log2" | "erf" | "softplus"):
            return 4
        case Binary(operator="//" | "%"):
            return 3
        case Call() | Select() | Binary(operator="<" | "<=" | ">" | ">=" | "==" | "!="):
            return 1
    return 0


def _reads_vectors(score: Expression) -> bool:
    """Whether the score does vector arithmetic pair by pair."""
    return any(not isinstance(node.type, Scalar) for node in walk(score))


def _family(gpu: GpuTarget) -> str:
    if gpu.kind == "hip":
        return "hip"
    if gpu.generation >= 100:
        return "cuda:100"
    return "cuda:90" if gpu.generation == 90 else "cuda:80"


# NVIDIA's tensor cores have no single precision, so operands lie in registers.
_SINGLE_PRECISION = (
    Tile(64, 32, 8, 2),
    Tile(32, 32, 8, 2),
    Tile(32, 16, 8, 2),
    Tile(16, 32, 4, 1),
    Tile(16, 16, 4, 1),
)

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
