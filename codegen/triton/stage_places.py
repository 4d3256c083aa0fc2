"""Which tiles a stage's kernel has."""

from __future__ import annotations

from attndsl.codegen.program import Tile
from attndsl.codegen.triton.block_loops import for_tile
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.grid_places import GridPlaces
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.key_places import KeyPlaces, StripedKeyPlaces
from attndsl.codegen.triton.places import LinePlaces, Places
from attndsl.codegen.triton.striped_places import StripedPlaces
from attndsl.codegen.triton.turns import Turns
from attndsl.planner.block_map import Product
from attndsl.planner.plan import PairStage, is_transposed


def places_of(kernel: Kernel, stage: PairStage, tile: Tile, turns: Turns | None = None) -> Places:
    """Where the stage's tiles lie. `turns` is for tiles of queries, and None where one will do."""
    if stage.grid is not None:
        assert isinstance(stage.block_map, Product)
        return GridPlaces(kernel, stage.grid, stage.block_map, tile, turns)
    blocks = for_tile(stage.block_map, tile)
    step = 1
    if stage.residue is not None:
        step = integer(stage.residue, kernel.specialization)
    if is_transposed(stage):
        if stage.stripes is not None:
            return StripedKeyPlaces(kernel, blocks, stage.stripes, tile)
        return KeyPlaces(kernel, blocks, step)
    if stage.stripes is not None:
        return StripedPlaces(kernel, blocks, stage.stripes, tile, turns)
    return LinePlaces(kernel, blocks, step, turns)
