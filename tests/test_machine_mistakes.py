"""Faults of the machine: no compiler, a broken one, a cache that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALL = """
import torch, attndsl
q = torch.zeros(1, 1, 4, 8)
try:
    print(attndsl.parse("attention full {}").full(q, q, q).shape)
except attndsl.AttnError as fault:
    print(fault)
"""
AHEAD = """
import attndsl
try:
    attndsl.compile(attndsl.parse("attention full {}").full, target="cpu", dtype="fp32")
except attndsl.AttnError as fault:
    print(fault)
"""


def run(text: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "ATTNDSL_CACHE": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_without_a_compiler_calls_still_run_and_say_how(tmp_path: Path) -> None:
    done = run(CALL, tmp_path, CXX="no-such-compiler")
    assert done.stdout == "torch.Size([1, 1, 4, 8])\n"
    assert "there is no C++ compiler, so `full` runs on the tiled torch path" in done.stderr


def test_without_a_compiler_nothing_is_compiled_ahead(tmp_path: Path) -> None:
    assert run(AHEAD, tmp_path, CXX="no-such-compiler").stdout == (
        "error[A090]: no C++ compiler: looked for `no-such-compiler` (from CXX)\n"
        " = help: install g++ or clang++, or name one in CXX\n"
    )


def test_a_compiler_that_does_not_work(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'fatal error: omp.h: no such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = run(AHEAD, tmp_path / "cache", CXX=str(compiler))
    assert done.stdout == (
        f"error[A091]: the C++ compiler `{compiler}` does not work: "
        "fatal error: omp.h: no such file\n"
        " = help: attndsl needs C++17 and OpenMP; name another compiler in CXX\n"
    )


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_cache_that_cannot_be_written(kind: str, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    cache = blocker if kind == "file" else blocker / "cache"
    done = run(CALL, cache)
    assert done.stdout.startswith(f"error[A095]: the cache directory `{cache}` ")
    assert "ATTNDSL_CACHE" in done.stdout
