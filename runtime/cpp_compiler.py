"""The C++ compiler of this machine, and what its output depends on."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from attndsl.diagnostics import AttnError, InternalError, error

# Not -ffast-math: an object built with it flushes denormals in the whole process.
FLAGS = (
    "-std=gnu++17",
    "-O2",
    "-march=native",
    "-mprefer-vector-width=512",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fwrapv",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-w",
)
_NAMES = ("g++", "c++", "clang++")


@dataclass(frozen=True)
class Compiler:
    """`command` is what to run; `identity` changes when the compiler does."""

    command: tuple[str, ...]
    identity: str

    @property
    def flags(self) -> tuple[str, ...]:
        if platform.machine() not in ("x86_64", "AMD64"):
            return tuple(flag for flag in FLAGS if not flag.startswith("-mprefer"))
        if "amx_bf16" in _features() and not _has_matrix_unit():
            return (*FLAGS, "-mno-amx-bf16")
        return FLAGS

    def compile(self, source: Path, target: Path) -> None:
        """Compile one file to a shared object.

        Raises `AttnError` A091 where the compiler itself does not work, and `InternalError` where
        it does not accept the source.
        """
        command = [*self.command, *self.flags, str(source), "-o", str(target), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as problem:
            raise _broken(self, str(problem)) from problem
        if done.returncode == 0:
            return
        if "error:" not in done.stderr or not _works(self, source.parent):
            raise _broken(self, done.stderr.strip())
        raise InternalError(f"the compiler refused emitted C++:\n{done.stderr}")


def find_compiler() -> Compiler:
    """`$CXX`, or the first of g++, c++ and clang++. Raises `AttnError` A090 where there is none."""
    return _find(os.environ.get("CXX"), os.environ.get("PATH"))


def processor_features() -> str:
    """What `-march=native` stands for on this machine."""
    return _features()


@lru_cache
def _find(chosen: str | None, _path: str | None) -> Compiler:
    candidates = [tuple(shlex.split(chosen))] if chosen else [(name,) for name in _NAMES]
    for command in candidates:
        found = shutil.which(command[0]) if command else None
        if found is not None:
            resolved = Path(found).resolve()
            status = resolved.stat()
            identity = f"{resolved} {status.st_size} {status.st_mtime_ns} {command[1:]}"
            return Compiler((found, *command[1:]), identity)
    looked = f"`{chosen}` (from CXX)" if chosen else ", ".join(f"`{name}`" for name in _NAMES)
    raise error(
        "A090",
        f"no C++ compiler: looked for {looked}",
        help="install g++ or clang++, or name one in CXX",
    )


@lru_cache
def _has_matrix_unit() -> bool:
    """Whether the system lends this process the registers of AMX, if the processor has them."""
    if not sys.platform.startswith("linux") or "amx_bf16" not in _features():
        return False
    # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), see Documentation/arch/x86/xstate.rst
    return bool(ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0)


@lru_cache
def _features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("flags", "Features", "model name")
    first = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
    return "\n".join(first.get(name, "") for name in wanted)


def _works(compiler: Compiler, directory: Path) -> bool:
    """Whether an empty program can be built: a broken set-up is not a broken source."""
    source, target = directory / "probe.cpp", directory / "probe.so"
    source.write_text("#include <cstdint>\n#include <utility>\n", encoding="utf-8")
    command = [*compiler.command, *compiler.flags, str(source), "-o", str(target)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def _broken(compiler: Compiler, output: str) -> AttnError:
    last = output.splitlines()[-1] if output else "no message"
    return error(
        "A091",
        f"the C++ compiler `{compiler.command[0]}` does not work: {last}",
        help="attndsl needs C++17 and OpenMP; name another compiler in CXX",
    )
