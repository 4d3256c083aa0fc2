"""Checked specs on disk, so that a spec that has been seen is neither parsed nor checked again.

An entry holds the typed attentions of a file or a text, the warnings about it, and the checksums of
the files that it imports. It is good for this very version of attndsl and for the same text, shown
under the same name; where an imported file has changed, the spec is checked anew. The cache never
stands in a spec's way: what cannot be read or written there is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from attndsl.attention import Attention
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.files import read, resolve
from attndsl.records import dataclass
from attndsl.runtime.cache import Cache, default_directory, key_of
from attndsl.runtime.serialize import decode_all, encode
from attndsl.runtime.version import version

KIND, FILE = "spec", "module.json"


@dataclass(frozen=True)
class SpecModule:
    """The attentions of a spec, in the order in which they are written, and what was noticed."""

    attentions: tuple[Attention, ...]
    warnings: tuple[Diagnostic, ...]


def load_file(path: Path) -> SpecModule:
    """The module of a file. Raises `AttnError` as `attndsl.module.load_file` does."""
    resolve(path)
    known = _find(read(path), str(path), path)
    if known is not None:
        return known
    from attndsl import module

    texts: dict[Path, str] = {}
    checked = module.load_file(path, texts)
    made = SpecModule(tuple(checked.attentions.values()), checked.warnings)
    _keep(made, texts.pop(path), str(path), path, texts)
    return made


def load_text(text: str, name: str) -> SpecModule:
    """The module of a text. Raises `AttnError` as `attndsl.module.load_text` does."""
    known = _find(text, name, None)
    if known is not None:
        return known
    from attndsl import module

    checked = module.load_text(text, name)
    made = SpecModule(tuple(checked.attentions.values()), checked.warnings)
    _keep(made, text, name, None, {})
    return made


def _key(text: str, name: str, path: Path | None) -> str:
    # Imports are found from where the file lies.
    place = "" if path is None else os.path.abspath(path)
    return key_of(version(), text, name, place)


def _find(text: str, name: str, path: Path | None) -> SpecModule | None:
    directory = _quietly(lambda: Cache(default_directory()).find(KIND, _key(text, name, path)))
    return None if directory is None else _stored(directory / FILE)


def _stored(file: Path) -> SpecModule | None:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        for path, checksum in stored["imports"].items():
            if key_of(read(Path(path))) != checksum:
                return None
        return SpecModule(
            decode_all(stored["attentions"], Attention), decode_all(stored["warnings"], Diagnostic)
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AttnError, RecursionError):
        return None


def _keep(
    module: SpecModule, text: str, name: str, path: Path | None, imports: Mapping[Path, str]
) -> None:
    stored = {
        "imports": {str(path): key_of(text) for path, text in imports.items()},
        "attentions": encode(module.attentions, paths=True),
        "warnings": encode(module.warnings, paths=True),
    }
    content = json.dumps(stored)
    key = _key(text, name, path)

    def write(directory: Path) -> None:
        (directory / FILE).write_text(content, encoding="utf-8")

    _quietly(lambda: Cache(default_directory()).replace(KIND, key, write))


def _quietly(use: Callable[[], Path | None]) -> Path | None:
    """Where the cache cannot be used, a kernel that needs it says so."""
    try:
        return use()
    except OSError:
        return None
