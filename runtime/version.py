"""What stored results depend on besides their inputs: this very version of attndsl."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import attndsl
from attndsl.runtime.cache import key_of


@cache
def version() -> str:
    """Changes whenever any part of the compiler does: by the size and date of all its files."""
    parts = [attndsl.__version__]
    for directory, folders, files in os.walk(Path(attndsl.__file__).parent, followlinks=True):
        folders[:] = sorted(folder for folder in folders if folder != "__pycache__")
        for name in sorted(files):
            status = os.stat(os.path.join(directory, name))
            parts.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return key_of(*parts)
