"""Tile sizes and launch parameters to try, for a plan on a target.

The first candidate is the one that the compiled binaries of simple scores were seen to fit; those
that follow need ever fewer registers and less shared memory. The runtime takes the first that
compiles without a stack and within shared memory.
"""

from __future__ import annotations

from math import prod

from attndsl.attention import Elementwise
from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.grid_loops import is_narrower
from attndsl.codegen.triton.targets import GpuTarget, parse_target
from attndsl.expression import (
    BOOL,
    TRUE,
    Binary,
    Call,
    DotResult,
    Expression,
    Literal,
    Read,
    Scalar,
    ScoreValue,
    Select,
    index_names,
    substitute,
    walk,
)
from attndsl.functions import FUNCTIONS, Shape
from attndsl.planner.block_map import BlockMap, Product
from attndsl.planner.grids import tile_sides
from attndsl.planner.plan import Attend, Plan

_NARROW = 64  # the widest vector that counts as narrow
_LARGE = 2048  # pairs of a tile for each warp: what only simple scores leave registers for
_MUCH_WORK = 6
_POWERS = tuple(2**one for one in range(9))
_HARDLY_MORE = 1.25


def tiles(plan: Plan, specialization: Specialization, target: str) -> tuple[Tile, ...]:
    """Candidates, the default first. Raises `AttnError` A081 for an unknown target."""
    gpu = parse_target(target)
    stage = plan.attend
    if specialization.dtype is DType.FLOAT32 and gpu.kind == "cuda":
        return _SINGLE_PRECISION
    widest = max(
        [integer(stage.value.size, specialization)]
        + [integer(dot.key.size, specialization) for dot in stage.dots]
    )
    before_groups = gpu.kind == "cuda" and gpu.generation < 90
    if stage.vectors or _reads_vectors(stage.score):
        heavy = widest > _NARROW or _reductions(stage.score) > 1
        if heavy and before_groups and stage.grid is not None:
            return _SMALLEST_OF_MORE_WARPS
        return (_SMALL_OF_MORE_WARPS if heavy else _SMALL)[gpu.kind]
    if specialization.dtype is DType.FLOAT32:
        return _SMALL[gpu.kind]
    if gpu.kind == "cuda" and not stage.dots and stage.mask != TRUE and widest > _NARROW:
        # Without a product of queries and keys, weights do not lie as their product needs them.
        return _SMALL_OF_MORE_WARPS[gpu.kind]
    if before_groups and widest <= _NARROW and _work_of(stage) >= 2 * _MUCH_WORK:
        # A larger tile takes the assembler seconds, or more registers than there are.
        return _SMALL[gpu.kind]
    if widest > 256:
        return _WIDE[gpu.kind]
    if widest > 128 or (stage.grid is not None and gpu.generation >= 90 and widest > _NARROW):
        return _BROAD[gpu.kind]
    table = _FORWARD_NARROW if widest <= _NARROW else _FORWARD_WIDE
    efficient = _fewest_keys(stage.block_map, table[family_of(gpu)])
    candidates = tuple(dict.fromkeys((*efficient, *_SMALL[gpu.kind])))
    pairs = _most_pairs(stage, widest, gpu)
    return tuple(
        one
        for one in candidates
        if one.block_m * one.block_n < pairs * one.warps
        and _shared(stage, one, widest) <= gpu.shared
    )


def _fewest_keys(block_map: BlockMap, candidates: tuple[Tile, ...]) -> tuple[Tile, ...]:
    """From the first tile on that visits hardly more keys for a query than any other.

    Where a window is narrow, every query computes most of its pairs with keys that only other
    queries of its tile see.
    """
    breadths = _breadths(block_map)
    if breadths is None:
        return candidates
    visited = [_visited_keys(one, breadths) for one in candidates]
    few = [keys <= _HARDLY_MORE * min(visited) for keys in visited]
    return candidates[few.index(True) :]


def _breadths(block_map: BlockMap) -> list[int] | None:
    """Along each axis of a grid a power of two of keys that one query's window does not exceed."""
    if not isinstance(block_map, Product):
        return None
    breadths = []
    for window in block_map.windows:
        bounds = [one for one in _POWERS if is_narrower(window, one + 1)]
        if not bounds:
            return None
        breadths.append(bounds[0])
    return breadths


def _visited_keys(tile: Tile, breadths: list[int]) -> int:
    axes = len(breadths)
    sides = zip(
        tile_sides(tile.block_m, axes), tile_sides(tile.block_n, axes), breadths, strict=True
    )
    return prod(-(-(queries - 1 + breadth) // keys) * keys for queries, keys, breadth in sides)


def _most_pairs(stage: Attend, widest: int, gpu: GpuTarget) -> int:
    """A tile has fewer pairs than this for each warp."""
    work = _work_of(stage)
    wide_groups = gpu.generation >= 90  # products of several warps, whose results fill registers
    flags = wide_groups and any(one.type is BOOL for one in _pair_reads(stage.mask))
    reads = wide_groups and bool(_pair_reads(stage.score, stage.mask))
    if widest > _NARROW and (flags or (reads and work >= 1.5 * _MUCH_WORK)):
        return _LARGE // 2
    # Without a product there is nothing that has laid out the weights.
    if flags or (wide_groups and not stage.dots) or work >= _MUCH_WORK:
        return _LARGE
    return 2 * _LARGE


def _shared(stage: Attend, tile: Tile, widest: int) -> int:
    """Bytes that loads running ahead lie in: keys and values of each stage, and what is read for
    every pair, of each stage but one. Bytes are not loaded ahead."""
    reads = {one for one in _pair_reads(stage.score, stage.mask) if one.type is not BOOL}
    operands = tile.stages * 2 * 2 * tile.block_n * widest
    return operands + (tile.stages - 1) * len(reads) * 4 * tile.block_m * tile.block_n


def _pair_reads(*expressions: Expression) -> set[Read]:
    """The elements of inputs that are read for every pair."""
    nodes = (node for expression in expressions for node in walk(expression))
    return {node for node in nodes if isinstance(node, Read) and _is_over_pairs(node)}


def _reductions(score: Expression) -> int:
    """How many vectors are summed up for every pair."""
    shapes = (Shape.REDUCTION, Shape.DOT)
    return sum(
        isinstance(node, Call) and FUNCTIONS[node.function].shape in shapes
        for node in set(walk(score))
    )


def _work_of(stage: Attend) -> int:
    work = _work(stage.score) + _work(stage.mask)
    if isinstance(stage.normalizer, Elementwise):
        # Whatever is made of a score is made for every pair.
        scored = substitute(stage.normalizer.weight, {ScoreValue(): DotResult(0)})
        work += _work(scored)
    return work


def _work(expression: Expression) -> int:
    """Roughly how many registers' worth of arithmetic there is for every pair."""
    return sum(_weight(node) for node in set(walk(expression)) if _is_over_pairs(node))


def _is_over_pairs(node: Expression) -> bool:
    names = index_names(node)
    return "j" in names and not names.isdisjoint({"i", "row"})


def _weight(node: Expression) -> int:
    match node:
        case Binary(operator="**", right=Literal(value=2)):
            return 1
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


def family_of(gpu: GpuTarget) -> str:
    """The kind of GPU that tiles are listed for."""
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

# The same work shared by more threads, for vectors or sums of them that fill the registers.
_SMALL_OF_MORE_WARPS: dict[str, tuple[Tile, ...]] = {
    "cuda": (Tile(64, 32, 8, 2), Tile(64, 16, 8, 2), *_SMALL["cuda"][3:]),
    "hip": _SMALL["hip"],
}

# Rows of keys that are gathered have addresses, which lie in registers too.
_SMALLEST_OF_MORE_WARPS = (Tile(32, 32, 8, 2), *_SMALL["cuda"][4:])

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
