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
    # A file is known by where it is, however its path is written.
    resolved = path.resolve()
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


def _read(path: Path, span: Span | None) -> str:
    try:
        if path.stat().st_size > 4 * MAXIMUM_LENGTH:
            raise error("A005", f"`{path}` is longer than any spec", span)
        return path.read_text("utf-8")
    except OSError as fault:
        reason = fault.strerror or "it cannot be read"
        help = "paths are relative to the file that imports" if span is not None else None
        if path.name and not path.suffix and path.with_suffix(".attn").exists():
            help = f"did you mean `{path.with_suffix('.attn').name}`?"
        message = f"cannot read `{path}`: {reason.lower()}"
        raise AttnError(Diagnostic("A043", message, span, help=help)) from None
    except UnicodeDecodeError:
        raise error("A043", f"`{path}` is not UTF-8 text", span) from None
