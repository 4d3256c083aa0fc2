"""attndsl: a compiler for attention.

    module = attndsl.load("gemma2.attn")        # or attndsl.parse(text)
    attn = module.gemma2(window=1024)           # parameters bound: a kernel
    out = attn(q, k, v)                         # torch tensors, [B, H, L, D]

Everything here is imported when it is first used, so that `import attndsl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attndsl import nn
    from attndsl.api import Module, SpecWarning, compile, load, load_artifact, parse
    from attndsl.decorator import define, kernel
    from attndsl.diagnostics import AttnError, Diagnostic, InternalError
    from attndsl.runtime.artifact import Artifact
    from attndsl.runtime.kernel import Kernel

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "AttnError",
    "Diagnostic",
    "InternalError",
    "Kernel",
    "Module",
    "SpecWarning",
    "compile",
    "define",
    "kernel",
    "load",
    "load_artifact",
    "nn",
    "parse",
]

_HOMES = {
    "Artifact": "attndsl.runtime.artifact",
    "AttnError": "attndsl.diagnostics",
    "Diagnostic": "attndsl.diagnostics",
    "InternalError": "attndsl.diagnostics",
    "Kernel": "attndsl.runtime.kernel",
    "Module": "attndsl.api",
    "SpecWarning": "attndsl.api",
    "compile": "attndsl.api",
    "define": "attndsl.decorator",
    "kernel": "attndsl.decorator",
    "load": "attndsl.api",
    "load_artifact": "attndsl.api",
    "parse": "attndsl.api",
}


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module("attndsl.nn")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module `attndsl` has no attribute `{name}`")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
