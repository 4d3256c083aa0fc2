"""Loading specs: a file or a text, with the files that it imports."""

from __future__ import annotations

from pathlib import Path

from attndsl import syntax
from attndsl.check import CheckedModule, Loader, ModuleScope, check
from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.lexical import MAXIMUM_LENGTH
from attndsl.parsing import parse
from attndsl.source import Source, Span

__all__ = ["CheckedModule", "load_file", "load_text"]

MAXIMUM_IMPORTS = 50


def load_text(text: str, name: str = "<text>") -> CheckedModule:
    """Parse and check a text. It cannot import. Raises `AttnError`."""
    return check(parse(Source(text, name)), load=None)


def load_file(path: str | Path) -> CheckedModule:
    """Parse and check a file; imports are relative to the file that has them.

    Raises `AttnError`: A043 where a file cannot be read, A044 where files import each other.
    """
    return _load(Path(path), None, (), {})


def _load(
    path: Path,
    span: Span | None,
    importing: tuple[Path, ...],
    loaded: dict[Path, CheckedModule],
) -> CheckedModule:
    resolved = _resolved(path, span)
    if resolved in importing:
        chain = " → ".join(part.name for part in (*importing, resolved))
        raise error(
            "A044",
            f"`{path.name}` imports itself",
            span,
            label=chain,
            help="move what both need into a third file",
        )
    if resolved in loaded:
        return loaded[resolved]
    if len(importing) >= MAXIMUM_IMPORTS:
        raise error("A044", f"files import each other more than {MAXIMUM_IMPORTS} deep", span)
    source = Source(_read(path, span), str(path), path)

    def load(statement: syntax.Import) -> ModuleScope:
        target = path.parent / statement.path
        return _load(target, statement.span, (*importing, resolved), loaded).scope

    loader: Loader = load
    module = check(parse(source), load=loader)
    loaded[resolved] = module
    return module


def _has_suffixed(path: Path) -> bool:
    return not path.suffix and path.with_suffix(".attn").exists()


def _resolved(path: Path, span: Span | None) -> Path:
    """Where a file is: it is known by that, however its path is written."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as fault:
        raise error("A043", f"cannot read `{_shown(path)}`: {_reason(fault)}", span) from None


def _reason(fault: Exception) -> str:
    strerror = fault.strerror if isinstance(fault, OSError) else None
    return (strerror or "this is no path").lower()


def _shown(path: Path) -> str:
    written = str(path).encode("unicode_escape").decode("ascii") if "\0" in str(path) else str(path)
    return written if len(written) <= 100 else f"{written[:40]}…{written[-40:]}"


def _read(path: Path, span: Span | None) -> str:
    try:
        # Devices and pipes may block, or never end.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise error("A043", f"cannot read `{_shown(path)}`: it is not a file", span)
        with path.open("rb") as file:
            data = file.read(4 * MAXIMUM_LENGTH + 1)
        if len(data) > 4 * MAXIMUM_LENGTH:
            raise error("A005", f"`{_shown(path)}` is longer than any spec", span)
        return data.decode("utf-8").replace("\r\n", "\n")
    except OSError as fault:
        help = "paths are relative to the file that imports" if span is not None else None
        if isinstance(fault, FileNotFoundError) and path.name and _has_suffixed(path):
            help = f"did you mean `{path.with_suffix('.attn').name}`?"
        message = f"cannot read `{_shown(path)}`: {_reason(fault)}"
        raise AttnError(Diagnostic("A043", message, span, help=help)) from None
    except UnicodeDecodeError:
        raise error("A043", f"`{_shown(path)}` is not UTF-8 text", span) from None
