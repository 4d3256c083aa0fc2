"""Masks that confine keys to narrow stripes, over the keys of the stripes alone.

Applies where the stripes are the same for all queries and heads, there are few keys in them, and
the rest of the mask has a closed form. Stripes that are whole blocks of any kernel, or wide ones,
are as cheap where they lie.
"""

from __future__ import annotations

import dataclasses

from attndsl.planner.find_stripes import stripes_of
from attndsl.planner.pairs import Pairs, improve_pairs
from attndsl.planner.plan import PairStage, Plan, is_transposed
from attndsl.planner.ranges import derive_ranges
from attndsl.planner.simplify import simplify
from attndsl.planner.stripes import Stripes
from attndsl.planner.transpose import transposed_ranges

# Of fewer positions than this for each key in a stripe, blocks are well filled as they are.
LEAST_SPARSITY = 4
# Blocks of keys have 64 as a rule: of a stripe this wide those at its ends are a small part.
WIDEST, BLOCK = 256, 64
# Between the numbers of keys past the last one and their positions nothing may overflow.
LONGEST_PERIOD = 1 << 20


def take_stripes(plan: Plan) -> Plan:
    """The same plan, its stages over the keys of their stripes where a mask allows it."""
    return improve_pairs(plan, _improved)


def _improved(stage: PairStage) -> tuple[PairStage, list[str]] | None:
    taken = by_stripes(stage)
    if taken is None:
        return None
    assert taken.stripes is not None
    note = (
        f"{taken.stripes.width} of every {taken.stripes.period} keys are visible at all, so keys "
        "are counted among these"
    )
    return taken, [note]


def by_stripes(stage: Pairs) -> Pairs | None:
    """The stage over keys in stripes; None where its mask has no narrow ones, or no closed form in
    them."""
    found = stripes_of(stage.mask)
    if found is None or not are_narrow(found[0]):
        return None
    stripes, mask = found
    mask = simplify(mask)
    if is_transposed(stage):
        ranges = transposed_ranges(mask, stripes=stripes)
    else:
        ranges = derive_ranges(mask, stripes=stripes)
    if ranges is None:
        return None
    return dataclasses.replace(stage, mask=mask, block_map=ranges, stripes=stripes)


def are_narrow(stripes: Stripes) -> bool:
    """Whether something is gained by leaving out the keys between the stripes."""
    are_blocks = not any(one % BLOCK for one in (stripes.period, stripes.width, stripes.start))
    return (
        LEAST_SPARSITY * stripes.width <= stripes.period <= LONGEST_PERIOD
        and stripes.width < WIDEST
        and not are_blocks
    )
