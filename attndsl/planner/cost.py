"""What a plan costs at given sizes and a given tile: blocks, pairs, operations and bytes.

Counting takes time in proportion to query blocks (to blocks visited, for block maps with guards),
so a million tokens are no matter. The counts are of work, not of time: a tuner measures, and uses
them to tell cheap from dear; `explain` prints them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from attndsl.attention import Elementwise
from attndsl.evaluate import Array, Environment, evaluate, evaluate_size
from attndsl.expression import (
    FLOAT,
    TRUE,
    Binary,
    Call,
    Expression,
    Matrix,
    Read,
    ScoreValue,
    Select,
    Unary,
    Vector,
    walk,
)
from attndsl.functions import FUNCTIONS, Shape
from attndsl.planner.block_map import Product, Ranges, Table, bounds
from attndsl.planner.lists import Block
from attndsl.planner.plan import Attend, Plan, Prepare, Scan, Source
from attndsl.planner.visits import (
    Counts,
    Visit,
    count_blocks,
    pair_indices,
    sample_partial_blocks,
)

DEFAULT_SIZES = {"B": 1, "H": 1, "D": 64}
SAMPLED_TILES = 24
SAMPLED_BLOCKS = 8


@dataclass(frozen=True)
class Cost:
    """Counts over all batches and heads.

    `pairs` are those of visited blocks, `visible_pairs` those that the mask lets through: exact in
    FULL blocks, estimated from a sample of PARTIAL ones (None if the mask reads inputs that are not
    given).
    `matrix_flops` are multiplications and additions of matrix products, `other_operations`
    everything else per pair and per token. `least_bytes` moves every tensor once; `moved_bytes`
    reads keys and values again for every tile of queries, as a kernel without a cache would.
    """

    plan: Plan
    sizes: Mapping[str, int]
    tile: tuple[int, int]
    blocks: Counts
    pairs: int
    visible_pairs: int | None
    matrix_flops: int
    other_operations: int
    least_bytes: int
    moved_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def all_pairs(self) -> int:
        return self.sizes["B"] * self.sizes["H"] * self.sizes["Lq"] * self.sizes["Lk"]

    @property
    def all_blocks(self) -> int:
        return _all_blocks(self.sizes, self.tile)

    @property
    def intensity(self) -> float:
        """Operations of matrix products per byte, if every tensor moves once."""
        return self.matrix_flops / max(1, self.least_bytes)

    def __str__(self) -> str:
        return cost_text(self)


def cost(
    plan: Plan,
    sizes: Mapping[str, int],
    *,
    block_m: int = 64,
    block_n: int = 64,
    element_bytes: int = 2,
    inputs: Mapping[str, Array] | None = None,
) -> Cost:
    """The cost of one call. `sizes` needs `Lq` (and the axes); the rest has defaults: `Lk = Lq`,
    one batch and head, `D = 64`, `Dv = D`.

    A block map that is built from inputs needs them in `inputs`; without, every block is counted,
    and a note says so.
    """
    sizes = _completed(plan, sizes)
    given = dict(inputs or {})
    base = Environment(sizes=sizes, axes=plan.attention.axes, inputs=given, clamp=True)
    tile = block_m, block_n
    notes: list[str] = []
    counts: list[Counts] = []
    visible: int | None = 0
    for stage in plan.attends:
        missing = sorted(_read_by_map(stage) - set(given))
        if missing:
            notes.append(f"`{missing[0]}` is not given, so every block is counted")
            counts.append(Counts(_all_blocks(sizes, tile), 0, 0))
            visible = None
            continue
        counts.append(count_blocks(stage, base, *tile))
        if visible is not None:
            visible += _visible_pairs(stage, base, counts[-1], *tile)
    pairs = [count.visited * block_m * block_n for count in counts]
    return Cost(
        plan,
        sizes,
        tile,
        Counts(
            sum(count.partial for count in counts),
            sum(count.full for count in counts),
            sum(count.full_pairs for count in counts),
        ),
        sum(pairs),
        visible,
        *_operations(plan, sizes, pairs),
        *_bytes(plan, sizes, pairs, block_m, element_bytes),
        tuple(notes),
    )


def _completed(plan: Plan, sizes: Mapping[str, int]) -> dict[str, int]:
    full = DEFAULT_SIZES | dict(sizes)
    full.setdefault("Lk", full["Lq"])
    full.setdefault("Hkv", full["H"])
    full.setdefault("offset", full["Lk"] - full["Lq"])
    full.setdefault("Dv", full["D"])
    full["Dv"] = evaluate_size(plan.attend.value.size, full)
    return full


def _read_by_map(stage: Attend) -> frozenset[str]:
    """The inputs without which the block map is not known."""
    match stage.block_map:
        case Table(inputs=inputs):
            return frozenset(inputs)
        case Ranges() | Product() as block_map:
            nodes = chain.from_iterable(map(walk, bounds(block_map)))
            return frozenset(node.name for node in nodes if isinstance(node, Read))
    return frozenset()


def _all_blocks(sizes: Mapping[str, int], tile: tuple[int, int]) -> int:
    """How many blocks the score matrices have, over all batches and heads."""
    return sizes["B"] * sizes["H"] * -(-sizes["Lq"] // tile[0]) * -(-sizes["Lk"] // tile[1])


def _visible_pairs(
    stage: Attend, base: Environment, blocks: Counts, block_m: int, block_n: int
) -> int:
    """Pairs that the mask lets through: all of FULL blocks, a sample's share of PARTIAL ones."""
    if stage.mask == TRUE:
        return base.sizes["B"] * base.sizes["H"] * base.sizes["Lq"] * _keys(stage, base.sizes)
    partial = visible = 0.0
    for visit in sample_partial_blocks(stage, base, block_m, block_n, SAMPLED_TILES):
        if not visit.blocks:
            continue
        chosen = visit.blocks[:: max(1, len(visit.blocks) // SAMPLED_BLOCKS)]
        seen = sum(_visible_in(stage, base, visit, block) for block in chosen)
        partial += len(visit.blocks)
        visible += seen / len(chosen) * len(visit.blocks)
    return blocks.full_pairs + round(visible / max(1.0, partial) * blocks.partial)


def _keys(stage: Attend, sizes: Mapping[str, int]) -> int:
    """How many keys of a head the stage can see."""
    if stage.stripes is not None:
        return evaluate_size(stage.stripes.keys, sizes)
    return sizes["Lk"]


def _visible_in(stage: Attend, base: Environment, visit: Visit, block: Block) -> int:
    indices = pair_indices(visit, block, base.sizes)
    sizes = {**base.sizes, **visit.problem.local_sizes}
    visible = evaluate(stage.mask, dataclasses.replace(base, indices=indices, sizes=sizes))
    shape = 1, 1, visit.queries.numbers.size, indices["j"].size
    return int(np.broadcast_to(visible, shape).sum())


def _operations(plan: Plan, sizes: Mapping[str, int], pairs: Sequence[int]) -> tuple[int, int]:
    """Of matrix products (a multiplication and an addition count as two), and all others."""
    matrix = other = 0
    for stage, number in zip(plan.attends, pairs, strict=True):
        widths = [evaluate_size(dot.query.size, sizes) for dot in stage.dots]
        matrix += 2 * number * (sum(widths) + sizes["Dv"])
        per_pair = (stage.score, stage.mask, _weight(stage))
        other += number * sum(_per_element(one, sizes) for one in per_pair)
    for one in plan.stages:
        match one:
            case Prepare(buffer, _, element):
                shape = [evaluate_size(size, sizes) for size in buffer.dimensions[:3]]
                other += math.prod(shape) * _per_element(element, sizes)
            case Scan(buffer, _, element):
                shape = [evaluate_size(size, sizes) for size in buffer.dimensions]
                other += math.prod(shape) * (1 + _per_element(element, sizes))
    return matrix, other


def _weight(stage: Attend) -> Expression:
    """The weight as a function of the score; softmax exponentiates it."""
    if isinstance(stage.normalizer, Elementwise):
        return stage.normalizer.weight
    return Call("exp", (ScoreValue(),), FLOAT)


def _per_element(expression: Expression, sizes: Mapping[str, int]) -> int:
    """Operations for one pair or token: every operator and function counts as one an element."""
    total = 0
    for node in walk(expression):
        match node:
            case Unary() | Binary() | Select():
                total += _elements(node, sizes)
            case Call(function=name, arguments=arguments):
                if FUNCTIONS[name].shape in (Shape.DOT, Shape.REDUCTION):
                    factor = 2 if FUNCTIONS[name].shape == Shape.DOT else 1
                    total += factor * _elements(arguments[0], sizes)
                elif name != "concat":
                    total += _elements(node, sizes)
    return total


def _elements(expression: Expression, sizes: Mapping[str, int]) -> int:
    match expression.type:
        case Vector(size=size):
            return evaluate_size(size, sizes)
        case Matrix(rows=rows, columns=columns):
            return evaluate_size(rows, sizes) * evaluate_size(columns, sizes)
    return 1


def _bytes(
    plan: Plan, sizes: Mapping[str, int], pairs: Sequence[int], block_m: int, element_bytes: int
) -> tuple[int, int]:
    """If every tensor moves once, and if every tile of queries reads its keys and values anew."""

    def width(source: Source) -> int:
        own = 4 if source.name not in ("q", "k", "v") else element_bytes
        return evaluate_size(source.size, sizes) * own

    # Every buffer is written once and read once at least.
    shared = sum(
        2 * 4 * math.prod(evaluate_size(size, sizes) for size in buffer.dimensions)
        for buffer in plan.buffers
    )
    rows = sizes["B"] * sizes["H"] * sizes["Lq"]
    shared += rows * sizes["Dv"] * element_bytes
    once = again = shared
    for stage, number in zip(plan.attends, pairs, strict=True):
        queries = sum(width(source) for source in {dot.query for dot in stage.dots})
        keys = sum(width(source) for source in {*(dot.key for dot in stage.dots), stage.value})
        tokens = sizes["B"] * sizes["Hkv"] * _keys(stage, sizes)
        once += rows * queries + tokens * keys
        again += rows * queries + number // block_m * keys
    return once, max(once, again)


def cost_text(cost: Cost) -> str:
    """The cost as a few aligned lines."""
    blocks, sizes = cost.blocks, cost.sizes
    shape = ", ".join(f"{name}={sizes[name]}" for name in ("B", "H", "Hkv", "Lq", "Lk", "D", "Dv"))
    share = _percent(blocks.visited, cost.all_blocks)
    lines = [
        f"cost of `{cost.plan.attention.name}` at {shape}",
        f"   tile        {cost.tile[0]} queries × {cost.tile[1]} keys",
        f"   blocks      {blocks.visited:,} of {cost.all_blocks:,} visited ({share}): "
        f"{blocks.full:,} full, {blocks.partial:,} partial",
        f"   pairs       {cost.pairs:,} computed of {cost.all_pairs:,}",
    ]
    if cost.visible_pairs is not None:
        share = _percent(cost.visible_pairs, cost.pairs)
        lines.append(f"   visible     {cost.visible_pairs:,} pairs, {share} of those computed")
    lines += [
        f"   operations  {_scaled(cost.matrix_flops)}FLOP in matrix products, "
        f"{_scaled(cost.other_operations)}op in all else",
        f"   bytes       {_scaled(cost.least_bytes)}B at least, "
        f"{_scaled(cost.moved_bytes)}B if every tile reads its keys anew",
        f"   intensity   {cost.intensity:,.1f} FLOP per byte at least moved",
    ]
    lines += [f"   note        {note}" for note in cost.notes]
    return "\n".join(lines) + "\n"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.3g} %"


def _scaled(number: float) -> str:
    prefixes = ["", "k", "M", "G", "T", "P"]
    while number >= 1000 and len(prefixes) > 1:
        number /= 1000
        prefixes.pop(0)
    return f"{number:.3g} {prefixes[0]}"
