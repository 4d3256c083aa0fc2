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
from attndsl.planner.block_map import Product
from attndsl.planner.plan import PairStage, is_transposed


def places_of(kernel: Kernel, stage: PairStage, tile: Tile) -> Places:
    """Where the stage's tiles lie."""
    if stage.grid is not None:
        assert isinstance(stage.block_map, Product)
        return GridPlaces(kernel, stage.grid, stage.block_map, tile)
    blocks = for_tile(stage.block_map, tile)
    if stage.stripes is not None:
        striped = StripedKeyPlaces if is_transposed(stage) else StripedPlaces
        return striped(kernel, blocks, stage.stripes, tile)
    step = 1
    if stage.residue is not None:
        step = integer(stage.residue, kernel.specialization)
    if is_transposed(stage):
        return KeyPlaces(kernel, blocks, step)
    return LinePlaces(kernel, blocks, step)
