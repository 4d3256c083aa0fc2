"""Dependencies point one way, imports stay light, and a wheel holds `attndsl` alone."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "triton", "sympy", "networkx", "matplotlib")

# What joins the parts, and therefore may import all of them.
JOINTS = {"__init__.py", "api.py", "decorator.py", "cli", "integrations", "nn.py"}


def modules(folder: str) -> list[Path]:
    # The links inside `attndsl` show the same files again: the real folders are enough.
    found = [path for path in (ROOT / folder).rglob("*.py") if not _through_link(path, folder)]
    assert found, f"no module under {folder}"
    return found


def _through_link(path: Path, folder: str) -> bool:
    return any(
        (ROOT / folder / part).is_symlink() for part in path.relative_to(ROOT / folder).parts[:1]
    )


def imported(path: Path) -> set[str]:
    """Every module that the file imports anywhere, with names imported from packages."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def importing(paths: list[Path], prefixes: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imported(path))
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
    ]


def test_grammar_knows_nothing_of_the_rest():
    found = list((ROOT / "grammar").rglob("*.py"))
    assert importing(found, ("attndsl.codegen", "attndsl.runtime", "attndsl.planner")) == []


def test_core_knows_neither_codegen_nor_runtime():
    core = [
        path
        for path in modules("attndsl")
        if path.relative_to(ROOT / "attndsl").parts[0] not in JOINTS
    ]
    assert importing(core, ("attndsl.codegen", "attndsl.runtime", "torch", "triton")) == []


def test_codegen_knows_neither_runtime_nor_torch():
    assert importing(modules("codegen"), ("attndsl.runtime", "torch", "triton")) == []


def test_no_part_is_imported_by_its_bare_name():
    everything = [path for folder in ("attndsl", "codegen", "runtime") for path in modules(folder)]
    assert importing(everything, ("codegen", "runtime", "grammar")) == []


@pytest.mark.parametrize("module", ["attndsl", "attndsl.module"])
def test_import_is_light(module):
    program = f"import sys, {module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.split() == []


def test_a_wheel_installs_attndsl_and_nothing_else(tmp_path):
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"attndsl"}
    wanted = {"attndsl/grammar/attn.lark", "attndsl/grammar/std.attn", "attndsl/py.typed"}
    wanted |= {"attndsl/integrations/gemma2.attn", "attndsl/integrations/t5.attn"}
    assert wanted <= set(names)
    for folder in ("codegen", "runtime"):
        for path in modules(folder):
            assert f"attndsl/{path.relative_to(ROOT)}" in names
