"""The block map: which blocks of the score matrix exist, derived from the mask.

`Ranges` where the mask is arithmetic, a `Table` where it reads tensors per token or has no closed
form, and every block, PARTIAL, where it reads what only a kernel computes (a token scan).
"""

from __future__ import annotations

import dataclasses

from attndsl.expression import Read, index_names, walk
from attndsl.planner.block_map import Ranges, Table
from attndsl.planner.plan import Attend, Plan
from attndsl.planner.ranges import derive_ranges


def derive_block_map(plan: Plan) -> Plan:
    """The same plan, visiting only the blocks that its mask needs."""
    stage = plan.attend
    if stage.residue is not None:
        return plan  # `take_residues` derived its ranges
    ranges = derive_ranges(stage.mask, axes=plan.attention.axes)
    if ranges is not None:
        return _with(plan, ranges, None)
    inputs = {declared.name for declared in plan.attention.inputs}
    read = [node.name for node in walk(stage.mask) if isinstance(node, Read)]
    computed = [name for name in read if name not in inputs]
    if computed:
        return _with(plan, None, f"the mask reads `{computed[0]}`, so every block is visited")
    names = tuple(sorted(set(read)))
    table = Table(_varies_with(stage), names)
    because = f"the mask reads {_listed(names)}" if names else "the mask has no closed form"
    return _with(plan, table, f"{because}, so lists of blocks are built at call time")


def _with(plan: Plan, block_map: Ranges | Table | None, note: str | None) -> Plan:
    stage = plan.attend
    if block_map is not None:
        stage = dataclasses.replace(stage, block_map=block_map)
    notes = plan.notes if note is None else (*plan.notes, note)
    return dataclasses.replace(plan, stages=(*plan.stages[:-1], stage), notes=notes)


def _varies_with(stage: Attend) -> frozenset[str]:
    return index_names(stage.mask) & frozenset("bhg")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
