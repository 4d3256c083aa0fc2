"""The GPU target: Triton source for NVIDIA and AMD."""

from attndsl.codegen.triton.configurations import stage_tiles, tiles
from attndsl.codegen.triton.emit import emit, emit_stage

__all__ = ["emit", "emit_stage", "stage_tiles", "tiles"]
