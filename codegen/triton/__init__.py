"""The GPU target: Triton source for NVIDIA and AMD."""

from attndsl.codegen.triton.configurations import tiles
from attndsl.codegen.triton.emit import emit

__all__ = ["emit", "tiles"]
