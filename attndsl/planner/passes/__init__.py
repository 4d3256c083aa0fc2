"""The passes in the order in which they run, each a function from plan to plan.

Every pass takes a valid plan and gives a valid one that computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

from attndsl.planner.passes.derive_block_map import derive_block_map
from attndsl.planner.passes.simplify_expressions import simplify_expressions
from attndsl.planner.passes.split_sides import split_sides
from attndsl.planner.passes.split_strides import split_strides
from attndsl.planner.passes.split_sums import split_sums
from attndsl.planner.passes.take_grids import take_grids
from attndsl.planner.passes.take_residues import take_residues
from attndsl.planner.passes.take_stripes import take_stripes
from attndsl.planner.plan import Plan

PASSES: tuple[Callable[[Plan], Plan], ...] = (
    simplify_expressions,
    split_strides,
    take_residues,
    take_stripes,
    take_grids,
    derive_block_map,
)

BACKWARD_PASSES: tuple[Callable[[Plan], Plan], ...] = (
    simplify_expressions,
    split_sums,
    take_residues,
    take_stripes,
    take_grids,
    derive_block_map,
)

BACKWARD_PASSES_BY_SIDE: tuple[Callable[[Plan], Plan], ...] = (
    simplify_expressions,
    split_sides,
    take_residues,
    take_stripes,
    take_grids,
    derive_block_map,
)
