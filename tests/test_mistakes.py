"""What users read about their mistakes: one file a mistake, see `tests/mistakes/README.md`."""

from __future__ import annotations

import linecache
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import attndsl
from attndsl.diagnostics import AttnError, Diagnostic, render
from attndsl.module import load_file

MISTAKES = Path(__file__).parent / "mistakes"
LINE = "-" * 80 + "\n"
PATTERNS = "def local(window) = causal and i - j < window\n"


def mistakes(kind: str) -> list[Path]:
    return sorted((MISTAKES / kind).glob("*.txt"))


def check_golden(path: Path, found: list[Diagnostic], update: bool) -> None:
    """Compare the diagnostics with the lower part of a mistake's file, or write it."""
    assert found, "the mistake was not found"
    text = "\n\n".join(map(render, found)) + "\n"
    assert path.name[:4] in {diagnostic.code for diagnostic in found}, text
    compare(path, text, update)


def compare(path: Path, text: str, update: bool) -> None:
    mistake = path.read_text("utf-8").partition(LINE)[0]
    if update:
        path.write_text(mistake + LINE + text, "utf-8")
    assert path.read_text("utf-8") == mistake + LINE + text


def diagnostics_of_spec(text: str, folder: Path) -> list[Diagnostic]:
    """Errors and warnings of a spec that stands in a folder, beside a file of patterns."""
    (folder / "patterns.attn").write_text(PATTERNS, "utf-8")
    (folder / "spec.attn").write_text(text, "utf-8")
    try:
        return list(load_file("spec.attn").warnings)
    except AttnError as fault:
        return list(fault.diagnostics)


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.mark.parametrize("path", mistakes("specs"), ids=lambda path: path.stem)
def test_spec(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: bool) -> None:
    monkeypatch.chdir(tmp_path)
    text = path.read_text("utf-8").partition(LINE)[0]
    check_golden(path, diagnostics_of_spec(text, tmp_path), update)


def diagnostics_of_python(text: str, filename: str, folder: Path) -> list[Diagnostic]:
    """What running a Python text raises. Its kernels read their source from the file."""
    import torch

    torch.manual_seed(0)
    (folder / filename).write_text(text, "utf-8")
    linecache.checkcache(filename)
    tensors = {name: torch.randn(2, 4, 16, 8) for name in "qkv"}
    try:
        exec(compile(text, filename, "exec"), {"attndsl": attndsl, "torch": torch, **tensors})
    except AttnError as fault:
        return list(fault.diagnostics)
    return []


@pytest.mark.parametrize("path", mistakes("python"), ids=lambda path: path.stem)
def test_python(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: bool) -> None:
    monkeypatch.chdir(tmp_path)
    text = path.read_text("utf-8").partition(LINE)[0]
    check_golden(path, diagnostics_of_python(text, "kernels.py", tmp_path), update)


@pytest.mark.parametrize("path", mistakes("calls"), ids=lambda path: path.stem)
def test_call(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: bool) -> None:
    monkeypatch.chdir(tmp_path)
    text = path.read_text("utf-8").partition(LINE)[0]
    check_golden(path, diagnostics_of_python(text, "call.py", tmp_path), update)


# Programs for a script of the shell: this Python, and the command of this package.
PYTHON = f"""#!/bin/sh
exec {shlex.quote(sys.executable)} "$@"
"""
COMMAND = """#!/bin/sh
exec python -m attndsl "$@"
"""


@pytest.mark.parametrize("path", mistakes("machine"), ids=lambda path: path.stem)
def test_machine(path: Path, tmp_path: Path, update: bool) -> None:
    script = path.read_text("utf-8").partition(LINE)[0]
    programs, work = tmp_path / "programs", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    for name, text in (("python", PYTHON), ("attndsl", COMMAND)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(attndsl.__file__).parent.parent),
        "ATTNDSL_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done
    # Python shows a traceback before it, and the command what it has done so far.
    _, found, diagnostic = done.stderr.partition("error[")
    assert found, done.stderr
    assert diagnostic[:4] == path.name[:4], done.stderr
    compare(path, found + diagnostic, update)
