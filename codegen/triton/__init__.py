"""The GPU target: Triton source for NVIDIA and AMD."""

from attndsl.codegen.triton.backward_configurations import stage_tiles
from attndsl.codegen.triton.configurations import tiles
from attndsl.codegen.triton.emit import emit, emit_stage
from attndsl.codegen.triton.packable import is_packable

__all__ = ["emit", "emit_stage", "is_packable", "stage_tiles", "tiles"]
