"""Every code is explained, and what the explanations show is true."""

from __future__ import annotations

import ast
import linecache
import re
import warnings
from pathlib import Path

import pytest

import attndsl
from attndsl.codes import CODES, explain
from attndsl.diagnostics import AttnError
from attndsl.module import load_file

ROOT = Path(__file__).parent.parent
MISTAKES = Path(__file__).parent / "mistakes"
PATTERNS = "def local(window) = causal and i - j < window\n"
CODE = re.compile(r"A[01]\d\d")


def raised_codes() -> dict[str, str]:
    """Every string in the source that is a code, and a file that has it."""
    found: dict[str, str] = {}
    for folder in ("attndsl", "codegen", "runtime"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if relative.parts[:2] == ("attndsl", "codes"):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and CODE.fullmatch(text):
                    found[text] = str(relative)
    return found


def test_every_code_that_is_raised_is_explained() -> None:
    raised = raised_codes()
    assert len(raised) > 50
    assert {code: where for code, where in raised.items() if code not in CODES} == {}


def test_every_code_that_is_explained_is_raised() -> None:
    assert set(CODES) - set(raised_codes()) == set()


def test_every_code_is_in_the_table_of_mistakes() -> None:
    """`test_mistakes.py` makes each of them happen, and compares what its author reads."""
    for kind in ("specs", "python", "calls", "machine"):
        assert f'mistakes("{kind}")' in (Path(__file__).parent / "test_mistakes.py").read_text()
    assert {path.name[:4] for path in MISTAKES.glob("*/*.txt")} == set(CODES)


def codes_of_spec(text: str, folder: Path) -> set[str]:
    (folder / "patterns.attn").write_text(PATTERNS, "utf-8")
    (folder / "example.attn").write_text(text, "utf-8")
    try:
        return {warning.code for warning in load_file("example.attn").warnings}
    except AttnError as fault:
        return {diagnostic.code for diagnostic in fault.diagnostics}


def codes_of_python(text: str, filename: str) -> set[str]:
    import torch

    Path(filename).write_text(text, "utf-8")
    linecache.checkcache(filename)
    tensors = {name: torch.randn(2, 4, 16, 8) for name in "qkv"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(text, filename, "exec"), {"attndsl": attndsl, "torch": torch, **tensors})
    except AttnError as fault:
        return {diagnostic.code for diagnostic in fault.diagnostics}
    return set()


@pytest.mark.parametrize("code", CODES)
def test_examples_are_true(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = CODES[code]
    match entry.language:
        case "attn":
            assert codes_of_spec(entry.wrong, tmp_path) == {code}
            assert codes_of_spec(entry.right, tmp_path) == set()
        case "python":
            assert codes_of_python(entry.wrong, "wrong.py") == {code}
            assert codes_of_python(entry.right, "right.py") == set()
        case "shell":
            assert "attndsl" in entry.wrong


@pytest.mark.parametrize("code", CODES)
def test_entries_read_well(code: str) -> None:
    entry = CODES[code]
    assert CODE.fullmatch(code)
    assert entry.language in ("attn", "python", "shell")
    assert not entry.title.endswith(".")
    assert len(entry.title) <= 70
    assert entry.explanation.rstrip().endswith((".", ".)"))
    text = explain(code.lower())
    assert text is not None
    assert text.startswith(f"{code}: {entry.title}\n")
    assert max(map(len, text.split("\n"))) <= 100


def test_a_code_that_does_not_exist() -> None:
    assert explain("A999") is None
