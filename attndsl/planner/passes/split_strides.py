"""Masks such as "near, or every m-th": the every-m-th part becomes a stage of its own.

In one stage such a mask would visit nearly every block, for one pair in m. Apart, the strided part
runs by residue class and the rest by its own closed form, and each costs its visible pairs. The two
merge as softmaxes do: the first stage's log-sum-exp and output are a sink of the second.

Applies to softmax, where both parts have a closed form.
"""

from __future__ import annotations

import dataclasses

from attndsl.attention import Softmax
from attndsl.expression import FLOAT, Expression, Index, Read, Scalar, Size, Vector
from attndsl.planner import algebra
from attndsl.planner.passes.take_residues import by_residue
from attndsl.planner.plan import Attend, Buffer, Partial, Plan
from attndsl.planner.ranges import derive_ranges
from attndsl.planner.residue import modulus_of
from attndsl.planner.simplify import simplify

# Below this, one pair in m is still a good part of every block.
SMALLEST_MODULUS = 4


def split_strides(plan: Plan) -> Plan:
    """The same plan, with a strided alternative of its mask in a stage before the last."""
    stage = plan.attend
    parts = strided_part(stage.mask)
    if parts is None or not isinstance(stage.normalizer, Softmax):
        return plan
    strided, rest = parts
    modulus = modulus_of(strided)
    partial = _partial(plan, stage)
    if modulus is None:
        return plan
    first = by_residue(dataclasses.replace(stage, mask=strided, partial=partial), modulus)
    ranges = derive_ranges(rest, axes=plan.attention.axes)
    if first is None or ranges is None:
        return plan
    place = Index("b"), Index("h"), Index("row")
    merged = Softmax(
        Read(partial.log_sum_exp.name, place, FLOAT),
        Read(partial.output.name, place, Vector(stage.value.size)),
    )
    last = dataclasses.replace(stage, mask=rest, normalizer=merged, block_map=ranges)
    note = f"one key in {modulus}, and the others, are stages of their own, merged as softmaxes"
    stages = (*plan.stages[:-1], first, last)
    return dataclasses.replace(plan, stages=stages, notes=(*plan.notes, note))


def strided_part(mask: Expression) -> tuple[Expression, Expression] | None:
    """The pairs that only a strided alternative of the mask lets through, and the others."""
    conjuncts = algebra.flat_operands("and", mask)
    for number, conjunct in enumerate(conjuncts):
        alternatives = algebra.flat_operands("or", conjunct)
        strided = [one for one in alternatives if (modulus_of(one) or 0) >= SMALLEST_MODULUS]
        if not strided or len(alternatives) == 1:
            continue
        chosen = strided[0]
        others = [one for one in alternatives if one is not chosen]
        common = conjuncts[:number] + conjuncts[number + 1 :]
        apart = algebra.conjunction(*common, chosen, *map(algebra.opposite, others))
        rest = algebra.conjunction(*common, algebra.disjunction(*others))
        return simplify(apart), simplify(rest)
    return None


def _partial(plan: Plan, stage: Attend) -> Partial:
    rows = Size("B"), Size("H"), Size("Lq")
    return Partial(
        Buffer(_free(plan, "strided_output"), Scalar.FLOAT, (*rows, stage.value.size)),
        Buffer(_free(plan, "strided_log_sum_exp"), Scalar.FLOAT, rows),
    )


def _free(plan: Plan, stem: str) -> str:
    taken = {one.name for one in plan.attention.inputs} | {one.name for one in plan.buffers}
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name
