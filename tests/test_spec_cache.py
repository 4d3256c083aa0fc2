"""Checked specs on disk: the same module comes back, and never one of another text or version."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import attndsl
from attndsl import module as core
from attndsl.attention import Attention
from attndsl.diagnostics import AttnError
from attndsl.runtime import modules
from attndsl.runtime.cache import CHECKSUMS
from attndsl.runtime.modules import FILE, KIND, SpecModule, load_file, load_text

ROOT = Path(__file__).parent.parent
# An unused parameter, and rows that can be empty.
WARNED = """
attention odd(unused: int = 3, window: int = 4 where window > 0) {
    mask = i < j and j - i < window
}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is checked anew from here on: names of texts and files."""
    found: list[str] = []
    check_file, check_text = core.load_file, core.load_text

    def file(path: Path, texts: dict[Path, str] | None = None) -> core.CheckedModule:
        found.append(str(path))
        return check_file(path, texts)

    def text(text: str, name: str) -> core.CheckedModule:
        found.append(name)
        return check_text(text, name)

    monkeypatch.setattr(core, "load_file", file)
    monkeypatch.setattr(core, "load_text", text)
    return found


def entries(root: Path) -> list[Path]:
    return sorted(root.glob(f"{KIND}/*/{FILE}"))


def places(attention: Attention) -> list[object]:
    """Where everything in an attention was written, which equality does not look at."""
    found: list[object] = [attention.span]
    for one in (*attention.parameters, *attention.inputs, *attention.scans):
        found.append(one.span)
    attention.map_expressions(lambda e: found.append(e.span and (e.span.text, e.span.line)) or e)
    return [getattr(one, "text", one) for one in found]


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "examples").glob("*.attn")), ROOT / "tests/specs/tour.attn"], ids=str
)
def test_modules_come_back(path: Path, root: Path, checked: list[str]) -> None:
    first = load_file(path)
    again = load_file(path)
    assert checked == [str(path)]
    assert again == first
    assert list(map(places, again.attentions)) == list(map(places, first.attentions))
    assert [str(one) for one in again.warnings] == [str(one) for one in first.warnings]
    assert first.attentions == tuple(core.load_file(path, {}).attentions.values())


def heard(load: Callable[[], object]) -> list[tuple[type, str, str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load()
    return [(one.category, str(one.message), one.filename) for one in caught]


def test_a_spec_with_warnings_warns_again(root: Path, tmp_path: Path, checked: list[str]) -> None:
    path = tmp_path / "odd.attn"
    path.write_text(WARNED)
    first = heard(lambda: attndsl.load(path))
    assert {category for category, _, _ in first} == {attndsl.SpecWarning}
    assert [text for _, text, _ in first] == [str(one) for one in core.load_file(path).warnings]
    assert any("unused" in text for _, text, _ in first)
    assert heard(lambda: attndsl.load(path)) == first
    assert [name for name in checked if name != str(path)] == []
    assert checked.count(str(path)) == 2  # once here, by the test
    assert heard(lambda: attndsl.parse(WARNED, "a")) == heard(lambda: attndsl.parse(WARNED, "a"))
    assert checked.count("a") == 1


def test_diagnostics_name_the_text_as_it_was_given(root: Path, checked: list[str]) -> None:
    for name in ("one", "two", "one"):
        assert f"--> {name}:" in str(load_text(WARNED, name).warnings[0])
    assert checked == ["one", "two"]


def test_faults_are_found_every_time(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.attn"
    path.write_text("attention a { mask = casual }")
    found = []
    for _ in range(2):
        with pytest.raises(AttnError) as caught:
            attndsl.load(path)
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert entries(root) == []
    for name in ("nowhere.attn", "no\0where.attn", str(tmp_path)):
        with pytest.raises(AttnError, match="A043"):
            attndsl.load(name)


def test_an_edited_text_is_checked_again(root: Path, tmp_path: Path, checked: list[str]) -> None:
    path = tmp_path / "a.attn"
    path.write_text("attention a { mask = causal }")
    before = load_file(path)
    # The same length and date: nothing but the text says that it is another.
    status = path.stat()
    path.write_text("attention a { mask = i >= j }")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = load_file(path)
    assert len(checked) == 2
    assert after.attentions[0].mask != before.attentions[0].mask
    path.write_text("attention a { mask = causal }")
    assert load_file(path) == before
    assert len(checked) == 2


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A file that imports a file that imports a file."""
    a, b, c = (tmp_path / name for name in ("a.attn", "b.attn", "c.attn"))
    a.write_text('from "b.attn" import near\nattention a { mask = near }')
    b.write_text('import "c.attn"\ndef near = within(8)')
    c.write_text("def within(window) = abs(i - j) < window")
    return a, b, c


@pytest.mark.parametrize("number", [1, 2])
def test_an_edited_import_is_noticed(
    number: int, root: Path, chain: tuple[Path, Path, Path], checked: list[str]
) -> None:
    before = load_file(chain[0])
    assert load_file(chain[0]) == before
    assert len(checked) == 1
    edited = chain[number]
    edited.write_text(edited.read_text().replace("abs(i - j)", "i - j").replace("8", "9"))
    after = load_file(chain[0])
    assert after.attentions != before.attentions
    assert load_file(chain[0]) == after
    assert len(checked) == 2
    edited.unlink()
    with pytest.raises(AttnError, match="A043"):
        load_file(chain[0])


def test_a_link_that_leads_elsewhere_is_noticed(root: Path, chain: tuple[Path, Path, Path]) -> None:
    _, _, c = chain
    other = c.with_name("other.attn")
    other.write_text("def within(window) = i == j")
    moved = c.rename(c.with_name("moved.attn"))
    c.symlink_to(moved)
    before = load_file(chain[0])
    c.unlink()
    c.symlink_to(other)
    assert load_file(chain[0]).attentions != before.attentions


def test_relative_paths_are_of_their_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, pattern in (("x", "i == j"), ("y", "i != j")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.attn").write_text('import "p.attn"\nattention a { mask = p or i == 0 }')
        (folder / "p.attn").write_text(f"def p = {pattern}")
    found = []
    for name in ("x", "y", "x"):
        monkeypatch.chdir(tmp_path / name)
        found.append(load_file(Path("a.attn")))
    assert found[0] == found[2] != found[1]


def test_another_version_reads_nothing(
    root: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_text(WARNED, "a")
    monkeypatch.setattr(modules, "version", lambda: "another")
    load_text(WARNED, "a")
    assert checked == ["a", "a"]
    assert len(entries(root)) == 2


def reseal(file: Path, content: str) -> None:
    """Write an entry's file as someone would who means harm: its checksum fits."""
    from hashlib import sha256

    file.write_text(content)
    checksums = {FILE: sha256(content.encode()).hexdigest()}
    (file.parent / CHECKSUMS).write_text(json.dumps(checksums))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"imports": [], "attentions": 1, "warnings": 2}',
        '{"imports": {"x\\u0000": "y"}, "attentions": {}, "warnings": {}}',
        '{"imports": {"x": "y"}, "attentions": {}, "warnings": {}}',
        '{"imports": {}, "attentions": {"nodes": [["os.system", "true"]], "root": {"node": 0}}}',
        '{"imports": {}, "attentions": {"nodes": [], "root": {"tuple": [1]}}, "warnings": {}}',
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_entry_is_written_again(
    content: str, sealed: bool, root: Path, checked: list[str]
) -> None:
    first = load_text(WARNED, "a")
    (file,) = entries(root)
    whole = file.read_text()
    if sealed:
        reseal(file, content)
    else:
        file.write_text(content)
    assert load_text(WARNED, "a") == first
    assert checked == ["a", "a"]
    assert file.read_text() == whole
    assert load_text(WARNED, "a") == first
    assert checked == ["a", "a"]


@pytest.mark.parametrize("name", ["x; system(0)", "", "a b", "a\n", "é", "*/", "a.b.c", "1"])
def test_a_name_that_no_spec_has_is_refused(name: str, root: Path, checked: list[str]) -> None:
    """What comes out may be emitted as a kernel."""
    load_text("attention a { input slope: float[H] score = dot(q, k) + slope[h] }", "a")
    (file,) = entries(root)
    stored = file.read_text()
    assert '"slope"' in stored
    reseal(file, stored.replace('"slope"', json.dumps(name)))
    assert load_text("attention a { input slope: float[H] score = dot(q, k) + slope[h] }", "a")
    assert checked == ["a", "a"]


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_spec_loads_where_the_cache_cannot_be_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: list[str]
) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    place = blocker if kind == "file" else blocker / "cache"
    monkeypatch.setenv("ATTNDSL_CACHE", str(place))
    for _ in range(2):
        assert len(load_text(WARNED, "a").warnings) > 0
    assert checked == ["a", "a"]


def test_an_unwritable_directory_is_read_all_the_same(
    root: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_text(WARNED, "a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Permissions do not hold for every user that runs tests.
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert load_text(WARNED, "a")
    assert checked == ["a"]
    assert load_text(WARNED, "b")
    assert load_text(WARNED, "b")
    assert checked == ["a", "b", "b"]


def load_many(count: int) -> SpecModule:
    for number in range(count):
        made = load_text(f"attention a {{ mask = causal and i - j < {number + 1} }}", "a")
    return made


def test_processes_may_load_at_once(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=load_many, args=(8,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(entries(root)) == 8
    assert not list(root.rglob(".*"))


SECOND = """
import sys, torch, attndsl
q = torch.ones(1, 1, 4, 8)
print(float(attndsl.load(sys.argv[1]).a(q, q, q).sum()))
heavy = ["lark", "sympy", "networkx", "typer", "rich", "matplotlib", "regex"]
parts = ["check", "parsing", "planner.lower", "planner.simplify", "codegen.cpp", "module"]
print([name for name in heavy if name in sys.modules])
print([name for name in parts if f"attndsl.{name}" in sys.modules])
"""


def test_a_second_process_imports_neither_checker_nor_planner(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.attn"
    path.write_text("attention a(window: int = 2) { mask = causal and i - j < window }")
    first, second = (
        subprocess.run(
            [sys.executable, "-c", SECOND, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout.splitlines()
        for _ in range(2)
    )
    assert first[0] == second[0]
    assert "check" in first[2]
    assert second[1:] == ["[]", "[]"]


SECOND_BACKWARD = """
import sys, torch, attndsl
q = torch.ones(1, 1, 4, 8, requires_grad=True)
v = torch.arange(32.0).reshape(1, 1, 4, 8)
attndsl.load(sys.argv[1]).a(q, q, v).square().sum().backward()
print(q.grad.tolist())
parts = ["planner.backward", "planner.passes", "codegen.cpp"]
print([name for name in parts if f"attndsl.{name}" in sys.modules])
"""


def test_a_second_process_derives_no_backward(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.attn"
    path.write_text("attention a { mask = causal }")
    first, second = (
        subprocess.run(
            [sys.executable, "-c", SECOND_BACKWARD, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout.splitlines()
        for _ in range(2)
    )
    assert first[0] == second[0]
    assert "planner.backward" in first[1]
    assert second[1] == "[]"
