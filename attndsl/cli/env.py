"""`attndsl env`: what this machine offers, for bug reports and for wondering why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

from attndsl.cli.options import JsonOption
from attndsl.cli.output import show_json

PACKAGES = ("torch", "triton", "numpy", "lark", "networkx", "sympy", "typer", "rich", "matplotlib")


def env(json: JsonOption = False) -> None:
    """Show the machine as attndsl sees it: versions, compiler, processor, GPUs, cache.

    Include the output in a report of a bug.
    """
    facts = _facts()
    if json:
        show_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {value}")


def _facts() -> dict[str, str]:
    import attndsl
    from attndsl.runtime.cache import default_directory

    facts = {
        "attndsl": attndsl.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": str(os.cpu_count()),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts | _compiler() | _gpus() | {"cache": str(default_directory())}


def _compiler() -> dict[str, str]:
    from attndsl.diagnostics import AttnError
    from attndsl.runtime.cpp_compiler import find_compiler

    try:
        compiler = find_compiler()
    except AttnError as problem:
        return {"compiler": problem.diagnostics[0].message}
    version = subprocess.run(
        [*compiler.command, "--version"], capture_output=True, text=True, check=False
    )
    return {"compiler": " ".join((*compiler.command, version.stdout.partition("\n")[0])).strip()}


def _gpus() -> dict[str, str]:
    try:
        import torch
    except ImportError:
        return {"gpus": "unknown without torch"}
    if not torch.cuda.is_available():
        return {"gpus": "none (kernels for GPUs can still be compiled)"}
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"gpus": ", ".join(names)}
