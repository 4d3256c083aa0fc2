"""Which plans have kernels that run on packed sequences, all in one launch (see `sequences.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from attndsl.expression import Expression, Index, Size, walk
from attndsl.planner.block_map import Ranges, Table
from attndsl.planner.own_elements import is_of_pairs
from attndsl.planner.plan import ElementSum, Fold, PairStage, PairSums, Plan, Stage, written_buffers


def is_packable(plan: Plan) -> bool:
    """Whether one launch of every kernel can do for all sequences.

    Grids, and sums for elements that belong to pairs, are for one sequence after another, and so is
    what has a length and no batch.
    """
    return all(map(_is_packable, plan.stages))


def _is_packable(stage: Stage) -> bool:
    if isinstance(stage, Fold):
        return True  # no kernel has it
    if isinstance(stage, PairStage):
        if not isinstance(stage.block_map, Ranges | Table) or stage.grid is not None:
            return False
        is_whole = stage.residue is None and stage.stripes is None
        if isinstance(stage.block_map, Table) and not is_whole:
            return False
        if isinstance(stage, PairSums) and stage.elements:
            return all(map(_has_rows, stage.elements))
    return all(_is_of_tokens(one.dimensions) for one in written_buffers(stage))


def _is_of_tokens(dimensions: Sequence[Expression]) -> bool:
    """Whether they are `[B, …, Lq, …]` or `[B, …, Lk, …]`."""
    batch, *rest = dimensions
    found = [size for size in rest if _lengths_in(size)]
    return batch == Size("B") and len(found) == 1 and found[0] in (Size("Lq"), Size("Lk"))


def _has_rows(one: ElementSum) -> bool:
    """Whether what is summed up is one for all sequences, or a row for each."""
    dimensions, indices = one.buffer.dimensions, one.indices
    if dimensions and dimensions[0] == Size("B") and indices[:1] == (Index("b"),):
        dimensions = dimensions[1:]
    return not is_of_pairs(one) and not any(map(_lengths_in, dimensions))


def _lengths_in(size: Expression) -> set[str]:
    return {node.name for node in walk(size) if isinstance(node, Size)} & {"B", "Lq", "Lk"}
