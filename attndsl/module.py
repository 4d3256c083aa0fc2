"""Loading specs: a file or a text, with the files that it imports."""

from __future__ import annotations

from pathlib import Path

from attndsl import syntax
from attndsl.check import CheckedModule, Loader, ModuleScope, check
from attndsl.diagnostics import error
from attndsl.files import read, resolve
from attndsl.parsing import parse
from attndsl.source import Source, Span

__all__ = ["CheckedModule", "load_file", "load_text"]

MAXIMUM_IMPORTS = 50


def load_text(text: str, name: str = "<text>") -> CheckedModule:
    """Parse and check a text. It cannot import. Raises `AttnError`."""
    return check(parse(Source(text, name)), load=None)


def load_file(path: str | Path, texts: dict[Path, str] | None = None) -> CheckedModule:
    """Parse and check a file; imports are relative to the file that has them.

    `texts` is filled with the text of every file that was read, by its path as it is written.
    Raises `AttnError`: A043 where a file cannot be read, A044 where files import each other.
    """
    return _load(Path(path), None, (), {}, {} if texts is None else texts)


def _load(
    path: Path,
    span: Span | None,
    importing: tuple[Path, ...],
    loaded: dict[Path, tuple[CheckedModule, str]],
    texts: dict[Path, str],
) -> CheckedModule:
    resolved = resolve(path, span)
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
        module, texts[path] = loaded[resolved]
        return module
    if len(importing) >= MAXIMUM_IMPORTS:
        raise error("A044", f"files import each other more than {MAXIMUM_IMPORTS} deep", span)
    texts[path] = text = read(path, span)

    def load(statement: syntax.Import) -> ModuleScope:
        target = path.parent / statement.path
        return _load(target, statement.span, (*importing, resolved), loaded, texts).scope

    loader: Loader = load
    module = check(parse(Source(text, str(path), path)), load=loader)
    loaded[resolved] = module, text
    return module
