"""The block map: which blocks of the score matrix exist, derived from the mask.

`Ranges` where the mask is arithmetic, a `Table` where it reads tensors per token or has no closed
form, and every block, PARTIAL, where it reads what only a kernel computes (a token scan).
"""

from __future__ import annotations

import dataclasses

from attndsl.expression import Read, index_names, walk
from attndsl.planner.block_map import BlockMap, Table
from attndsl.planner.lower import EVERYTHING
from attndsl.planner.plan import PairStage, Plan, Stage, is_transposed
from attndsl.planner.ranges import derive_ranges
from attndsl.planner.transpose import EVERY_QUERY, transposed_ranges


def derive_block_map(plan: Plan) -> Plan:
    """The same plan, visiting only the blocks that its masks need."""
    pairs = [stage for stage in plan.stages if isinstance(stage, PairStage)]
    if all(stage.block_map is not EVERYTHING for stage in pairs):
        return plan
    notes = list(plan.notes)
    stages: list[Stage] = []
    for stage in plan.stages:
        # Passes before this one have derived the block maps of what they changed.
        if isinstance(stage, PairStage) and stage.block_map is EVERYTHING:
            block_map, note = _block_map(plan, stage)
            stage = dataclasses.replace(stage, block_map=block_map)
            notes += [one for one in note if one not in notes]
        stages.append(stage)
    return dataclasses.replace(plan, stages=tuple(stages), notes=tuple(notes))


def _block_map(plan: Plan, stage: PairStage) -> tuple[BlockMap, list[str]]:
    """The block map of one stage, and why it is no closed form."""
    transposed = is_transposed(stage)
    derive = transposed_ranges if transposed else derive_ranges
    ranges = derive(stage.mask, axes=plan.attention.axes)
    if ranges is not None:
        return ranges, []
    inputs = {declared.name for declared in plan.attention.inputs}
    read = [node.name for node in walk(stage.mask) if isinstance(node, Read)]
    computed = [name for name in read if name not in inputs]
    if computed:
        everything = EVERY_QUERY if transposed else stage.block_map
        return everything, [f"the mask reads `{computed[0]}`, so every block is visited"]
    names = tuple(sorted(set(read)))
    because = f"the mask reads {_listed(names)}" if names else "the mask has no closed form"
    if transposed and not names:
        because = "for tiles of keys, taken in line, the mask has no closed form"
    table = Table(_varies_with(stage), names)
    return table, [f"{because}, so lists of blocks are built at call time"]


def _varies_with(stage: PairStage) -> frozenset[str]:
    return index_names(stage.mask) & frozenset("bhg")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
