"""What a user sees of a bug of ours: short, with all that a report needs."""

from __future__ import annotations

import platform
import shlex
import sys
import traceback

import attndsl

TRACKER = "the issue tracker of attndsl"
_FRAMES_SHOWN = 6


def report(problem: Exception, arguments: list[str]) -> None:
    """The report on the error stream. `ATTNDSL_TRACEBACK=1` shows all of the traceback."""
    import os

    frames = traceback.extract_tb(problem.__traceback__)
    shown = frames if os.environ.get("ATTNDSL_TRACEBACK") else frames[-_FRAMES_SHOWN:]
    lines = [
        f"attndsl: internal error: {type(problem).__name__}: {problem}",
        "",
        "This is a bug of attndsl, not of your spec. Please report it, with the spec and these",
        f"lines, to {TRACKER}:",
        "",
        f"    attndsl {shlex.join(arguments)}",
        f"    attndsl {attndsl.__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}",
        *(f"    {frame.filename}:{frame.lineno} in {frame.name}" for frame in shown),
    ]
    print("\n".join(lines), file=sys.stderr)
