"""The GPUs that kernels are emitted for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attndsl.diagnostics import error

# Shared memory that one block may use, in bytes, and where it is not listed the closest below.
_CUDA_SHARED = {
    75: 65_536,
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    120: 101_376,
}
_HIP_SHARED = 65_536
_OLDEST_CUDA = 75


@dataclass(frozen=True)
class GpuTarget:
    """`kind` is `cuda` or `hip`; `architecture` is `90` or `gfx942`. `shared` is in bytes."""

    kind: str
    architecture: str
    warp_size: int
    shared: int

    @property
    def generation(self) -> int:
        """The compute capability of an NVIDIA GPU; 0 for AMD."""
        return int(self.architecture) if self.kind == "cuda" else 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.architecture}"


def parse_target(text: str) -> GpuTarget:
    """`cuda:90` or `hip:gfx942`. Raises `AttnError` A081 for anything else."""
    cuda = re.fullmatch(r"cuda:(\d{2,3})", text)
    if cuda is not None and int(cuda[1]) >= _OLDEST_CUDA:
        capability = int(cuda[1])
        known = max(one for one in _CUDA_SHARED if one <= capability)
        return GpuTarget("cuda", cuda[1], 32, _CUDA_SHARED[known])
    hip = re.fullmatch(r"hip:(gfx[0-9a-f]{3,4})", text)
    if hip is not None:
        # CDNA (gfx9) has waves of 64; RDNA runs waves of 32.
        return GpuTarget("hip", hip[1], 64 if hip[1].startswith("gfx9") else 32, _HIP_SHARED)
    raise error(
        "A081",
        f"unknown target `{text}`",
        help="targets are `cpu`, `cuda:80`, `cuda:86`, `cuda:90`, `cuda:100`, `hip:gfx942`",
    )
