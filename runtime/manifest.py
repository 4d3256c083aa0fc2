"""The manifest of an artifact: what each file is, and what its kernels need.

A manifest that is read may be damaged: each part is checked before anything is done with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndsl.diagnostics import AttnError, error

MANIFEST = "manifest.json"
FORMAT = 2
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_LARGEST = 1 << 24  # bytes of a manifest
_Scalars = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class Kernel:
    """One kernel in one binary. `arguments` are shown as `kind name` in the order of the call.

    For a GPU: `symbol` is its name in the binary, a block has `warps` warps of `warp_size` lanes
    and `dynamic_shared` bytes of shared memory (`shared` counts the static part, too), and a launch
    needs `scratch` bytes of global memory for every block. `registers` and `stack` (bytes) are a
    thread's. All are None for a CPU.
    """

    function: str
    file: str
    size: int
    arguments: tuple[str, ...]
    symbol: str | None = None
    warps: int | None = None
    warp_size: int | None = None
    stages: int | None = None
    dynamic_shared: int | None = None
    scratch: int | None = None
    registers: int | None = None
    stack: int | None = None
    shared: int | None = None
    instructions: int | None = None


@dataclass(frozen=True)
class ProgramBuild:
    """One source file and its kernels, which share a tile."""

    source: str
    tile: _Scalars
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class TargetBuild:
    """What was made for one target. The stages of a backward have a source each on a GPU, and share
    one on a CPU. `processor` lists the instruction sets that a CPU must have."""

    target: str
    compiler: str
    forward: ProgramBuild
    backward: tuple[ProgramBuild, ...] = ()
    processor: tuple[str, ...] = ()

    @property
    def programs(self) -> tuple[ProgramBuild, ...]:
        return self.forward, *self.backward

    def files(self) -> Iterator[str]:
        for program in self.programs:
            yield program.source
            yield from (kernel.file for kernel in program.kernels)


@dataclass(frozen=True)
class Manifest:
    """What an artifact holds. `gradients` are the arguments that its backward has gradients of;
    without a backward there are none. `files` are the SHA-256 checksums of all other files."""

    format: int
    attndsl: str
    attention: str
    parameters: _Scalars
    inputs: Mapping[str, str]
    axes: tuple[str, ...]
    specialization: _Scalars
    gradients: tuple[str, ...]
    targets: tuple[TargetBuild, ...]
    files: Mapping[str, str]

    def build(self, target: str) -> TargetBuild:
        return next(build for build in self.targets if build.target == target)


def damaged(directory: Path, reason: str) -> AttnError:
    """The error for an artifact that is not as it was written."""
    return error(
        "A096", f"`{directory}` is no artifact, or a damaged one: {reason}", help="compile it again"
    )


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises `AttnError` A096 for anything that is not as it must be."""
    directory = path.parent
    try:
        if path.stat().st_size > _LARGEST:
            raise damaged(directory, f"`{path.name}` is too large")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise damaged(directory, f"`{path.name}`: {problem.strerror}") from None
    except (ValueError, RecursionError):
        raise damaged(directory, f"`{path.name}` is no JSON") from None
    try:
        return _manifest(data)
    except _Wrong as problem:
        raise damaged(directory, f"`{path.name}`: {problem}") from None


class _Wrong(Exception):
    pass


def _manifest(data: Any) -> Manifest:
    if _get(data, "format", int) != FORMAT:
        raise _Wrong(f"its format is not {FORMAT}")
    targets = tuple(_build(one) for one in _get(data, "targets", list))
    if not targets or len({one.target for one in targets}) != len(targets):
        raise _Wrong("`targets` is empty or repeats itself")
    gradients = _texts(data, "gradients")
    if any(bool(one.backward) != bool(gradients) for one in targets):
        raise _Wrong("a target has a backward that computes nothing, or none")
    files = _strings(_get(data, "files", dict))
    for name in files:
        _file_name(name)
    return Manifest(
        format=FORMAT,
        attndsl=_get(data, "attndsl", str),
        attention=_get(data, "attention", str),
        parameters=_scalars(_get(data, "parameters", dict)),
        inputs=_strings(_get(data, "inputs", dict)),
        axes=_texts(data, "axes"),
        specialization=_scalars(_get(data, "specialization", dict)),
        gradients=gradients,
        targets=targets,
        files=files,
    )


def _build(data: Any) -> TargetBuild:
    return TargetBuild(
        target=_get(data, "target", str),
        compiler=_get(data, "compiler", str),
        forward=_program(_get(data, "forward", dict)),
        backward=tuple(_program(one) for one in _get(data, "backward", list)),
        processor=_texts(data, "processor"),
    )


def _program(data: Any) -> ProgramBuild:
    kernels = tuple(_kernel(one) for one in _get(data, "kernels", list))
    if not kernels:
        raise _Wrong("a program has no kernels")
    return ProgramBuild(
        source=_file_name(_get(data, "source", str)),
        tile=_scalars(_get(data, "tile", dict)),
        kernels=kernels,
    )


def _kernel(data: Any) -> Kernel:
    numbers = {
        name: _count(data, name)
        for name in (
            "warps",
            "warp_size",
            "stages",
            "dynamic_shared",
            "scratch",
            "registers",
            "stack",
            "shared",
            "instructions",
        )
    }
    size = _count(data, "size")
    if size is None:
        raise _Wrong("`size` is missing")
    return Kernel(
        function=_get(data, "function", str),
        file=_file_name(_get(data, "file", str)),
        size=size,
        arguments=_texts(data, "arguments"),
        symbol=_get(data, "symbol", str | None),
        **numbers,
    )


def _get(data: Any, key: str, kind: Any) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise _Wrong(f"`{key}` is missing")
    value = data[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _Wrong(f"`{key}` is of the wrong type")
    return value


def _count(data: Any, key: str) -> int | None:
    value: int | None = _get(data, key, int | None)
    if isinstance(value, bool) or (value is not None and not 0 <= value < 1 << 31):
        raise _Wrong(f"`{key}` is out of range")
    return value


def _texts(data: Any, key: str) -> tuple[str, ...]:
    values = _get(data, key, list)
    if not all(isinstance(value, str) for value in values):
        raise _Wrong(f"`{key}` is of the wrong type")
    return tuple(values)


def _strings(data: dict[Any, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in data.values()):
        raise _Wrong("a text is of the wrong type")
    return data


def _scalars(data: dict[Any, Any]) -> dict[str, bool | int | float | str]:
    if not all(isinstance(value, bool | int | float | str) for value in data.values()):
        raise _Wrong("a value is of the wrong type")
    return data


def _file_name(name: str) -> str:
    """A plain name: nothing outside the artifact's folder can be meant."""
    if not _FILE_NAME.fullmatch(name) or ".." in name:
        raise _Wrong(f"{name!r} is no file name")
    return name
