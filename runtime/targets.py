"""Targets by name: `cpu`, `cuda:90`, `hip:gfx942`; and which one a tensor's device is."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from attndsl.diagnostics import error
from attndsl.records import dataclass

if TYPE_CHECKING:
    import torch

_PATTERN = re.compile(r"cpu|cuda:\d{2,3}|hip:gfx[0-9a-f]{3,4}")


@dataclass(frozen=True)
class Target:
    """What a program is compiled for. `language` is the emitter: `cpp` or `triton`."""

    name: str

    @property
    def language(self) -> str:
        return "cpp" if self.name == "cpu" else "triton"

    def __str__(self) -> str:
        return self.name


def parse_target(name: str) -> Target:
    """The target of that name. Raises `AttnError` A081 for what is none."""
    if not isinstance(name, str) or not _PATTERN.fullmatch(name):
        raise error(
            "A081",
            f"unknown target `{name}`",
            help="a target is `cpu`, `cuda:` and a compute capability such as `cuda:90`, or "
            "`hip:` and an architecture such as `hip:gfx942`",
        )
    return Target(name)


@lru_cache
def device_target(device: torch.device) -> Target:
    """The target that compiles for a device. Raises `AttnError` A081 where there is none."""
    import torch

    if device.type == "cpu":
        return Target("cpu")
    if device.type == "cuda":
        if torch.version.hip:
            architecture = torch.cuda.get_device_properties(device).gcnArchName
            return Target(f"hip:{architecture.partition(':')[0]}")
        major, minor = torch.cuda.get_device_capability(device)
        return Target(f"cuda:{major}{minor}")
    raise error(
        "A081",
        f"no target compiles for tensors on `{device}`",
        help="move them to a CPU, or to an NVIDIA or AMD GPU",
    )
