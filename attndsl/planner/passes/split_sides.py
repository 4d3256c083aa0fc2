"""Sums over pairs, each side's in a stage of its own.

On a GPU a program keeps the sums of its own tokens in registers, and no two programs add to the
same number: sums of queries are made by tiles of queries, sums of keys by tiles of keys, which go
through blocks of queries. What is summed up for elements of inputs is a stage for each input.

Query heads that share a key head would meet in its sums. Each has sums of its own instead, which a
`Fold` adds up: a loop over these heads inside a tile costs more registers than there are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from attndsl.expression import (
    FLOAT,
    DotResult,
    Expression,
    Index,
    Operand,
    Read,
    Size,
    Vector,
    substitute,
    walk,
)
from attndsl.planner.pairs import map_pairs, pair_expressions
from attndsl.planner.plan import (
    TOKEN_INDICES,
    Buffer,
    Fold,
    FoldTerm,
    PairSum,
    PairSums,
    Plan,
    Stage,
)


def split_sides(plan: Plan) -> Plan:
    """The same plan, its sums over pairs by side."""
    taken = {one.name for one in plan.attention.inputs} | {one.name for one in plan.buffers}
    stages: list[Stage] = []
    for stage in plan.stages:
        stages += _split(stage, taken) if isinstance(stage, PairSums) else [stage]
    return dataclasses.replace(plan, stages=tuple(stages))


def _split(stage: PairSums, taken: set[str]) -> list[Stage]:
    stages: list[Stage] = []
    queries = tuple(one for one in stage.sums if one.side == "query")
    if queries:
        stages.append(_part(stage, sums=queries))
    keys: list[PairSum] = []
    folds: list[Fold] = []
    for one in stage.sums:
        if one.side == "key":
            sum_of_heads, fold = _by_head(one, taken)
            keys.append(sum_of_heads)
            folds += fold
    # Arithmetic on vectors, pair by pair, leaves registers for one sum.
    together = [[one] for one in keys] if stage.vectors else [keys]
    stages += (_part(stage, sums=tuple(sums), tiles="key") for sums in together if sums)
    stages += (_part(stage, elements=(one,)) for one in stage.elements)
    return [*stages, *folds]


def _by_head(one: PairSum, taken: set[str]) -> tuple[PairSum, list[Fold]]:
    """The sum for each query head, and what adds up those of heads that share a key head."""
    batch, heads, *rest = one.buffer.dimensions
    if heads == Size("H"):
        return one, []
    name, number = f"{one.buffer.name}_by_head", 1
    while name in taken:
        number += 1
        name = f"{one.buffer.name}_by_head_{number}"
    taken.add(name)
    buffer = Buffer(name, one.buffer.element, (batch, Size("H"), *rest))
    type = Vector(rest[1]) if len(rest) > 1 else FLOAT
    value = Read(name, tuple(map(Index, TOKEN_INDICES["key heads"])), type)
    shared = tuple(map(Index, TOKEN_INDICES["key"]))
    fold = Fold(one.buffer, (FoldTerm("key heads", value, shared),))
    return dataclasses.replace(one, buffer=buffer), [fold]


def _part(stage: PairSums, **parts: object) -> PairSums:
    """The stage with some of its sums, and the products and vectors that these are made of."""
    chosen: dict[str, Any] = {"sums": (), "elements": (), "score": None, **parts}
    part = dataclasses.replace(stage, **chosen)
    nodes = {node for one in pair_expressions(part) for node in walk(one)}
    used = {node.number for node in nodes if isinstance(node, DotResult)}
    operands = {node.name for node in nodes if isinstance(node, Operand)}
    numbers = {old: new for new, old in enumerate(sorted(used))}
    names: dict[Expression, Expression] = {
        DotResult(old): DotResult(new) for old, new in numbers.items()
    }
    part = map_pairs(part, lambda expression: substitute(expression, names))
    return dataclasses.replace(
        part,
        dots=tuple(stage.dots[number] for number in sorted(used)),
        vectors=tuple(one for one in stage.vectors if one[0] in operands),
    )
