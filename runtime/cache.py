"""Checked specs, programs and measurements on disk, so that no process builds a thing twice.

An entry is a directory of files with a list of their checksums. It is written beside its place and
renamed into it, so a reader sees all of it or nothing; a file lock lets one process build while the
others wait; an entry that does not match its checksums is built again. The root is
`$ATTNDSL_CACHE`, or the user's cache directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from attndsl.diagnostics import error
from attndsl.records import dataclass

CHECKSUMS = "attndsl-entry.json"
VARIABLE = "ATTNDSL_CACHE"


@dataclass(frozen=True)
class Entry:
    """One entry as `attndsl cache` lists it; `size` in bytes, `modified` in seconds since 1970."""

    kind: str
    key: str
    path: Path
    size: int
    modified: float


class Cache:
    """The entries under `root`: a directory for every kind, and in it one for every key."""

    def __init__(self, root: Path):
        self.root = root

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's directory, or None where there is none or its files are damaged."""
        path = self._path(kind, key)
        return path if _is_intact(path) else None

    def obtain(self, kind: str, key: str, write: Callable[[Path], None]) -> Path:
        """The entry's directory; where there is none, `write` fills a fresh one first.

        Safe among threads and processes: one writes, the others wait and then read what it wrote.
        What `write` raises leaves no entry behind.
        """
        path = self.find(kind, key)
        if path is not None:
            return path
        from filelock import FileLock

        path = self._path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _is_intact(path):
                self._write(path, write)
        return path

    def replace(self, kind: str, key: str, write: Callable[[Path], None]) -> Path:
        """Write the entry anew whatever is there now."""
        from filelock import FileLock

        path = self._path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            self._write(path, write)
        return path

    def entries(self) -> Iterator[Entry]:
        """Every complete entry, by kind and key."""
        for listing in sorted(self.root.glob(f"*/*/{CHECKSUMS}")):
            path = listing.parent
            with suppress(OSError):
                files = [file.stat() for file in path.iterdir()]
                size = sum(file.st_size for file in files)
                yield Entry(path.parent.name, path.name, path, size, listing.stat().st_mtime)

    def clear(self) -> int:
        """Remove every entry, and nothing else that may lie there; the number of entries."""
        entries = list(self.entries())
        for entry in entries:
            shutil.rmtree(entry.path, ignore_errors=True)
            entry.path.with_suffix(".lock").unlink(missing_ok=True)
        return len(entries)

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
        try:
            write(temporary)
            checksums = {file.name: _checksum(file) for file in sorted(temporary.iterdir())}
            (temporary / CHECKSUMS).write_text(json.dumps(checksums, indent=1), encoding="utf-8")
            # A process that has loaded the old files keeps them open; only the names move.
            if path.exists():
                path.rename(Path(tempfile.mkdtemp(prefix=".damaged-", dir=path.parent)) / "entry")
            temporary.rename(path)
        finally:
            for leftover in (temporary, *path.parent.glob(".damaged-*")):
                shutil.rmtree(leftover, ignore_errors=True)


def key_of(*parts: str | bytes) -> str:
    """A key from what an entry depends on; parts are kept apart (`ab, c` is not `a, bc`)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def default_directory() -> Path:
    """`$ATTNDSL_CACHE`, or the user's cache directory for attndsl."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("attndsl", appauthor=False)


def default_cache() -> Cache:
    """The cache of this process.

    Raises `AttnError` A095 where `$ATTNDSL_CACHE` names a place that cannot be written. Where the
    user's own cache directory cannot be, a private temporary one takes its place, with a warning.
    """
    return _open_cache(os.environ.get(VARIABLE), default_directory())


@lru_cache
def _open_cache(chosen: str | None, directory: Path) -> Cache:
    reason = _why_not_writable(directory)
    if reason is None:
        return Cache(directory)
    advice = f"make it writable, or set {VARIABLE} to a directory that is"
    if chosen:
        raise error("A095", f"the cache directory `{directory}` {reason}", help=advice)
    temporary = Path(tempfile.mkdtemp(prefix="attndsl-"))
    warnings.warn(
        f"the cache directory `{directory}` {reason}; compiled kernels go to `{temporary}` and are "
        f"built again by the next process. To keep them, {advice}",
        RuntimeWarning,
        stacklevel=4,
    )
    return Cache(temporary)


def _why_not_writable(directory: Path) -> str | None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Only an actual write tells about quotas, read-only mounts and access lists.
        descriptor, name = tempfile.mkstemp(prefix=".probe-", dir=directory)
        os.close(descriptor)
        os.unlink(name)
    except FileExistsError:
        return "is a file"
    except NotADirectoryError:
        return "lies under a file"
    except OSError as problem:
        return f"cannot be written ({problem.strerror})"
    return None


def _is_intact(path: Path) -> bool:
    try:
        checksums = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
        return isinstance(checksums, dict) and all(
            _checksum(path / name) == checksum for name, checksum in checksums.items()
        )
    except (OSError, ValueError):
        return False


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
