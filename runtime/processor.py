"""Which instruction sets this machine's processor has, and whether a binary asks for others."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from attndsl.diagnostics import error

# Of all that Linux lists, what compilers turn into instructions.
_INSTRUCTION_SETS = (
    *("sse", "ssse", "avx", "fma", "bmi", "f16c", "popcnt", "abm", "movbe", "adx", "aes", "sha"),
    *("vaes", "vpclmulqdq", "gfni", "amx", "neon", "asimd", "sve", "fphp", "bf16", "i8mm"),
)


@lru_cache
def instruction_sets() -> tuple[str, ...]:
    """The machine's architecture and its extensions, sorted."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    listed = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    flags = listed.partition(":")[2].split()
    found = {flag for flag in flags if flag.startswith(_INSTRUCTION_SETS)}
    return (platform.machine(), *sorted(found))


def check_processor(needed: Iterable[str]) -> None:
    """Raises `AttnError` A087 where a binary was built for a processor that can do more."""
    missing = [name for name in needed if name not in instruction_sets()]
    if missing:
        raise error(
            "A087",
            f"the artifact was compiled for a processor with {', '.join(missing[:4])}, which this "
            "one lacks",
            help="compile it on a machine of this kind",
        )
