"""Dilated masks, one residue class at a time.

Applies where the mask says that a pair's positions are congruent modulo a literal, what remains of
it has a closed form, and nothing in the stage depends on coordinates (a class of positions is no
class of coordinates).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from attndsl.expression import Coordinate, Expression, Literal, Size, substitute, walk
from attndsl.planner.block_map import Ranges
from attndsl.planner.pairs import Pairs, improve_pairs, map_pairs, pair_expressions
from attndsl.planner.plan import PairStage, Plan, is_transposed
from attndsl.planner.ranges import derive_ranges, renamed
from attndsl.planner.residue import modulus_of, on_classes
from attndsl.planner.transpose import transposed_ranges


def take_residues(plan: Plan) -> Plan:
    """The same plan, its score matrix split into residue classes where the mask allows it."""
    return improve_pairs(plan, _improved)


def _improved(stage: PairStage) -> tuple[PairStage, list[str]] | None:
    modulus = modulus_of(stage.mask)
    split = None if modulus is None else by_residue(stage, modulus)
    if split is None:
        return None
    note = (
        f"positions see only those congruent modulo {modulus}, which makes {modulus} independent "
        "problems"
    )
    return split, [note]


def by_residue(stage: Pairs, modulus: int) -> Pairs | None:
    """The stage over residue classes; None where its mask has no closed form in them."""
    if any(map(_uses_coordinates, pair_expressions(stage))):
        return None
    mask = on_classes(stage.mask, modulus)
    by_key = is_transposed(stage)
    ranges = transposed_ranges(mask, of_class=True) if by_key else _local_ranges(mask)
    if ranges is None:
        return None
    stage = map_pairs(stage, lambda expression: on_classes(expression, modulus))
    return dataclasses.replace(stage, mask=mask, block_map=ranges, residue=Literal(modulus))


def _local_ranges(mask: Expression) -> Ranges | None:
    """The block map of a class, whose keys are `local.Lk`; in the mask `Lk` is still all keys."""
    names = {"Lk": "all.Lk", "Lq": "all.Lq", "offset": "all.offset"}
    names |= {"local.Lk": "Lk", "local.Lq": "Lq", "local.offset": "offset"}
    ranges = derive_ranges(_renamed(mask, names))
    if ranges is None:
        return None
    names = {"Lk": "local.Lk", "Lq": "local.Lq", "offset": "local.offset"}
    names |= {"all.Lk": "Lk", "all.Lq": "Lq", "all.offset": "offset"}
    return renamed(ranges, names)


def _renamed(expression: Expression, names: Mapping[str, str]) -> Expression:
    return substitute(expression, {Size(old): Size(new) for old, new in names.items()})


def _uses_coordinates(expression: Expression) -> bool:
    return any(isinstance(node, Coordinate) for node in walk(expression))
