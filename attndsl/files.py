"""Reading the files of specs."""

from __future__ import annotations

from pathlib import Path

from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.source import MAXIMUM_LENGTH, Span


def read(path: Path, span: Span | None = None) -> str:
    """The text of a file; `span` is the import that names it.

    Raises `AttnError`: A005 where it is longer than any spec, A043 where it cannot be read.
    """
    try:
        # Devices and pipes may block, or never end.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise error("A043", f"cannot read `{shown(path)}`: it is not a file", span)
        with path.open("rb") as file:
            data = file.read(4 * MAXIMUM_LENGTH + 1)
        if len(data) > 4 * MAXIMUM_LENGTH:
            raise error("A005", f"`{shown(path)}` is longer than any spec", span)
        return data.decode("utf-8").replace("\r\n", "\n")
    except OSError as fault:
        help = "paths are relative to the file that imports" if span is not None else None
        if isinstance(fault, FileNotFoundError) and path.name and _has_suffixed(path):
            help = f"did you mean `{path.with_suffix('.attn').name}`?"
        message = f"cannot read `{shown(path)}`: {reason(fault)}"
        raise AttnError(Diagnostic("A043", message, span, help=help)) from None
    except UnicodeDecodeError:
        raise error("A043", f"`{shown(path)}` is not UTF-8 text", span) from None


def resolve(path: Path, span: Span | None = None) -> Path:
    """Where a file is: it is known by that, however its path is written. Raises A043."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as fault:
        raise error("A043", f"cannot read `{shown(path)}`: {reason(fault)}", span) from None


def shown(path: Path) -> str:
    """The path as a diagnostic shows it."""
    written = str(path).encode("unicode_escape").decode("ascii") if "\0" in str(path) else str(path)
    return written if len(written) <= 100 else f"{written[:40]}…{written[-40:]}"


def reason(fault: Exception) -> str:
    """What the system says."""
    strerror = fault.strerror if isinstance(fault, OSError) else None
    return (strerror or "this is no path").lower()


def _has_suffixed(path: Path) -> bool:
    return not path.suffix and path.with_suffix(".attn").exists()
