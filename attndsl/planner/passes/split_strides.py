"""Masks such as "near, or every m-th": the every-m-th part becomes a stage of its own.

In one stage such a mask would visit nearly every block, for one pair in m. Apart, the strided part
runs by residue class (every m-th from the query on) or over the keys of its stripes (every m-th,
wherever the query is), the rest by its own closed form, and each costs its visible pairs. The two
merge as softmaxes do: the first stage's log-sum-exp and output are a sink of the second.

Applies to softmax, where both parts have a closed form.
"""

from __future__ import annotations

import dataclasses

from attndsl.attention import Softmax
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    FLOAT,
    INT,
    Binary,
    Expression,
    Index,
    Literal,
    Read,
    Scalar,
    Size,
    Vector,
)
from attndsl.planner import algebra
from attndsl.planner.find_stripes import stripes_of
from attndsl.planner.linear import Linear, linear
from attndsl.planner.pairs import Pairs
from attndsl.planner.passes.take_residues import by_residue
from attndsl.planner.passes.take_stripes import are_narrow, by_stripes
from attndsl.planner.plan import Attend, Buffer, PairStage, Partial, Plan
from attndsl.planner.ranges import derive_ranges
from attndsl.planner.residue import modulus_of
from attndsl.planner.simplify import simplify
from attndsl.planner.stripes import Stripes

# Below this, one pair in m is still a good part of every block.
SMALLEST_MODULUS = 4


def split_strides(plan: Plan) -> Plan:
    """The same plan, with a strided alternative of its mask in a stage before the last."""
    stage = plan.attend
    parts = strided_part(stage.mask)
    if parts is None or not isinstance(stage.normalizer, Softmax):
        return plan
    strided, rest = parts
    partial = _partial(plan, stage)
    first = apart(dataclasses.replace(stage, mask=strided, partial=partial))
    ranges = derive_ranges(rest, axes=plan.attention.axes)
    if first is None or ranges is None:
        return plan
    place = Index("b"), Index("h"), Index("row")
    merged = Softmax(
        Read(partial.log_sum_exp.name, place, FLOAT),
        Read(partial.output.name, place, Vector(stage.value.size)),
    )
    last = dataclasses.replace(stage, mask=rest, normalizer=merged, block_map=ranges)
    note = f"{listed(first)}, and the others, are stages of their own, merged as softmaxes"
    stages = (*plan.stages[:-1], first, last)
    return dataclasses.replace(plan, stages=stages, notes=(*plan.notes, note))


def strided_part(mask: Expression) -> tuple[Expression, Expression] | None:
    """The pairs that only a strided alternative of the mask lets through, and the others."""
    conjuncts = algebra.flat_operands("and", mask)
    for number, conjunct in enumerate(conjuncts):
        alternatives = algebra.flat_operands("or", conjunct)
        strided = [one for one in alternatives if _is_strided(one)]
        if not strided or len(alternatives) == 1:
            continue
        chosen = strided[0]
        others = [one for one in alternatives if one is not chosen]
        common = conjuncts[:number] + conjuncts[number + 1 :]
        apart = _in_order(algebra.conjunction(*common, chosen, *map(algebra.opposite, others)))
        rest = algebra.conjunction(*common, algebra.disjunction(*others))
        return simplify(apart), simplify(rest)
    return None


def _in_order(mask: Expression) -> Expression:
    """`j <= i and i // m != j // m` as `j // m < i // m`: of positions in order that lie in
    different groups, the groups are in order, which says it all."""
    conjuncts = algebra.flat_operands("and", mask)
    for number, conjunct in enumerate(conjuncts):
        match conjunct:
            case Binary(
                "!=",
                Binary("//", right=Literal(value=int(m))) as one,
                Binary("//", right=Literal(value=int(n))) as other,
            ) if m == n > 0:
                rest = conjuncts[:number] + conjuncts[number + 1 :]
                for low, high in ((one, other), (other, one)):
                    apart = linear(low.left).minus(linear(high.left))
                    says_so = [part for part in rest if _orders(part, apart)]
                    if says_so:
                        kept = [part for part in rest if part not in says_so]
                        return algebra.conjunction(*kept, algebra.compare("<", low, high))
    return mask


def _orders(conjunct: Expression, difference: Linear) -> bool:
    """Whether it says that the difference is at most 0, or at most -1."""
    match conjunct:
        case Binary("<=" | "<", left, right) if left.type == right.type == INT:
            form, is_strict = linear(left).minus(linear(right)), conjunct.operator == "<"
        case Binary(">=" | ">", left, right) if left.type == right.type == INT:
            form, is_strict = linear(right).minus(linear(left)), conjunct.operator == ">"
        case _:
            return False
    if is_strict:
        form = form.shifted(1)
    return form in (difference, difference.shifted(1))


def _is_strided(alternative: Expression) -> bool:
    if (modulus_of(alternative) or 0) >= SMALLEST_MODULUS:
        return True
    found = stripes_of(alternative)
    return found is not None and are_narrow(found[0])


def apart(stage: Pairs) -> Pairs | None:
    """The strided part as a stage that costs its visible pairs."""
    modulus = modulus_of(stage.mask)
    return by_stripes(stage) if modulus is None else by_residue(stage, modulus)


def listed(stage: PairStage) -> str:
    """What the stage is about, in words."""
    match stage.stripes, stage.residue:
        case Stripes(period=period, width=width), _:
            return f"{width} keys of every {period}"
        case _, Literal(value=modulus):
            return f"one key in {modulus}"
    raise InternalError("a strided stage without a stride")


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
