"""README.md tells the truth: its Python runs, and its commands print what it shows.

A ```console block holds commands behind `$ ` and what they print; `…` stands for anything, within a
line or, alone on a line, for any number of lines. `make` commands are only looked up in the
Makefile: running the tests inside the tests would not end.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@dataclass(frozen=True)
class Command:
    line: str
    expected: list[str]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[Command]:
    found: list[Command] = []
    for block in blocks("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:], []))
            else:
                found[-1].expected.append(line)
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A place of its own with the examples in it, shared by the commands as by a reader's shell."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", path / "examples")
    return path


def matches(expected: list[str], printed: list[str]) -> bool:
    """Whether the printed lines are what is expected, with `…` as the wildcard."""
    if not expected:
        return not printed
    head, *rest = expected
    if head.strip() == "…":
        return any(matches(rest, printed[skip:]) for skip in range(len(printed) + 1))
    pattern = re.sub(r"([\[\]?*])", r"[\1]", head.rstrip()).replace("…", "*")
    return (
        bool(printed)
        and fnmatch.fnmatchcase(printed[0].rstrip(), pattern)
        and matches(rest, printed[1:])
    )


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.line)
def test_command(command, directory):
    program, *arguments = shlex.split(command.line, comments=True)
    if program == "make":
        assert set(arguments) <= set(
            re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        )
        return
    assert program == "attndsl"
    run = subprocess.run(
        [sys.executable, "-m", "attndsl", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
    )
    printed = (run.stdout + run.stderr).rstrip().splitlines()
    expected = "\n".join(command.expected).rstrip().splitlines()
    assert matches(expected, printed), "\n".join(printed)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python(number, directory, monkeypatch):
    monkeypatch.chdir(directory)
    path = directory / f"snippet_{number}.py"
    path.write_text(blocks("python")[number])
    subprocess.run([sys.executable, path], check=True, cwd=directory)


@pytest.mark.parametrize("block", blocks("attn"))
def test_attn(block):
    import attndsl

    assert list(attndsl.parse(block))


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"", README)
    missing = [a or b for a, b in links if not (ROOT / (a or b)).exists()]
    assert links
    assert missing == []


def test_speeds_are_those_that_were_measured() -> None:
    """Every row of the table says what the recorded run has."""
    recorded = json.loads((ROOT / "benchmarks/results/cpu-8192-64.json").read_text())["rows"]
    header = next(line for line in README.splitlines() if line.startswith("| forward, N 8192"))
    rows = README[README.index(header) :].split("\n\n")[0].splitlines()[2:]
    cells = [[one.strip() for one in row.split("|")[1:-1]] for row in rows]
    shown = {name: numbers for name, *numbers in cells}
    expected: dict[str, list[str]] = {}
    for dtype in ("bf16", "fp32"):
        for row in recorded:
            if row["dtype"] == dtype:
                expected.setdefault(row["variant"], []).extend(
                    [
                        f"{row['median_seconds']['attndsl'] * 1e3:.0f}",
                        f"{row['speed_up']['SDPA']:.1f}",
                        f"{row['speed_up']['FlexAttention']:.1f}",
                    ]
                )
    assert shown == expected
