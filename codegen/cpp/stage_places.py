"""Which places a stage's tiles have: lines of tokens, stripes of them, or boxes of a grid."""

from __future__ import annotations

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.box_places import BoxPlaces
from attndsl.codegen.cpp.grid_places import GridPlaces
from attndsl.codegen.cpp.places import LinePlaces, Places
from attndsl.codegen.cpp.striped_places import StripedPlaces
from attndsl.codegen.program import Tile
from attndsl.diagnostics import InternalError
from attndsl.planner.block_map import Product
from attndsl.planner.plan import PairStage


def places_of(stage: PairStage, arguments: Arguments, residue: int | None, tile: Tile) -> Places:
    """`residue` is the modulus where each class of positions is a problem of its own."""
    if stage.grid is None:
        if stage.stripes is not None:
            return StripedPlaces(arguments, None, stage.block_map, stripes=stage.stripes)
        return LinePlaces(arguments, residue, stage.block_map)
    if not isinstance(stage.block_map, Product):
        raise InternalError("a stage over a grid has windows along its axes")
    common = (arguments, stage.grid, stage.block_map, tile.block_m)
    conditions = stage.block_map.conditions
    if conditions is None:
        return GridPlaces(*common)
    return BoxPlaces(*common, conditions=conditions, block_n=tile.block_n)
