"""Tile sizes and launch parameters to try for the stages of a backward.

The first candidates are those that binaries of simple scores were seen to fit; what follows needs
ever fewer registers and less shared memory. Of a tile of keys, `block_m` are the keys.
"""

from __future__ import annotations

from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton.configurations import family_of
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.targets import parse_target
from attndsl.expression import Scalar, walk
from attndsl.planner.pairs import pair_expressions
from attndsl.planner.plan import PairSums, Stage, is_transposed

_NARROW = 64
_ANY = Tile(64, 32, 4, 1)


def stage_tiles(stage: Stage, specialization: Specialization, target: str) -> tuple[Tile, ...]:
    """Candidates, the default first. Raises `AttnError` A081 for an unknown target."""
    gpu = parse_target(target)
    if not isinstance(stage, PairSums):
        return (_ANY,)  # takes tokens by another number
    if specialization.dtype is DType.FLOAT32 and gpu.kind == "cuda":
        return _SINGLE_PRECISION
    small = _SMALL[gpu.kind]
    widths = [integer(dot.key.size, specialization) for dot in stage.dots]
    for one in stage.sums:
        widths += [integer(size, specialization) for size in one.buffer.dimensions[3:]]
    widest = max(widths, default=0)
    if _has_vectors(stage) or specialization.dtype is DType.FLOAT32 or widest > 2 * _NARROW:
        return small
    side = "key" if is_transposed(stage) else "query"
    table = _NARROW_TILES if widest <= _NARROW else _WIDE_TILES
    return tuple(dict.fromkeys((*table[side][family_of(gpu)], *small)))


def _has_vectors(stage: PairSums) -> bool:
    """Whether there is vector arithmetic for every pair."""
    return bool(stage.vectors) or any(
        not isinstance(node.type, Scalar)
        for expression in pair_expressions(stage)
        for node in walk(expression)
    )


_NARROW_TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "query": {
        "cuda:80": (Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
        "cuda:90": (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
        "cuda:100": (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
        "hip": (Tile(128, 32, 4, 1),),
    },
    "key": {
        "cuda:80": (Tile(128, 32, 8, 2), Tile(64, 64, 8, 2)),
        "cuda:90": (Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
        "cuda:100": (Tile(64, 64, 4, 2), Tile(64, 64, 8, 2)),
        "hip": (Tile(128, 32, 4, 1),),
    },
}

_WIDE_TILES: dict[str, dict[str, tuple[Tile, ...]]] = {
    "query": {
        "cuda:80": (Tile(128, 32, 8, 2),),
        "cuda:90": (Tile(128, 32, 8, 2),),
        "cuda:100": (Tile(128, 64, 8, 2), Tile(128, 32, 8, 2)),
        "hip": (Tile(128, 32, 4, 1),),
    },
    "key": {
        "cuda:80": (Tile(64, 64, 8, 2),),
        "cuda:90": (Tile(64, 64, 8, 2),),
        "cuda:100": (Tile(64, 64, 8, 2),),
        "hip": (Tile(64, 32, 4, 1),),
    },
}

_SMALL: dict[str, tuple[Tile, ...]] = {
    "cuda": (
        Tile(64, 32, 8, 2),
        Tile(64, 16, 8, 2),
        Tile(128, 16, 8, 1),
        Tile(32, 32, 8, 1),
        # Fewer pairs for more threads need more registers again.
        Tile(32, 16, 4, 1),
        Tile(16, 16, 4, 1),
    ),
    "hip": (Tile(64, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 16, 4, 1), Tile(16, 16, 4, 1)),
}

# NVIDIA's tensor cores have no single precision, so operands lie in registers.
_SINGLE_PRECISION = (
    Tile(32, 32, 8, 2),
    Tile(32, 16, 8, 1),
    Tile(16, 16, 8, 1),
    Tile(16, 16, 4, 1),
)
