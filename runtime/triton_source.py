"""Emitted Triton source as an importable module: Triton reads a kernel's text from its file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from attndsl.codegen.program import Program
from attndsl.diagnostics import InternalError
from attndsl.runtime.cache import default_cache, key_of

_KIND = "triton-source"
_FILE = "kernel.py"


def load_module(program: Program) -> ModuleType:
    """The program's file, imported from the cache directory; once for each text.

    Raises `AttnError` A095 where `$ATTNDSL_CACHE` cannot be written.
    """
    key = key_of(program.text)
    name = f"attndsl_triton_{key}"
    if name in sys.modules:
        return sys.modules[name]

    def write(directory: Path) -> None:
        (directory / _FILE).write_text(program.text, encoding="utf-8")

    path = default_cache().obtain(_KIND, key, write) / _FILE
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InternalError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
