"""The language reference is true: its snippets run, and its tables list what there is."""

from __future__ import annotations

import linecache
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from attndsl.check.builtins import EXPANDED
from attndsl.check.patterns import PATTERNS
from attndsl.check.prelude import standard_patterns
from attndsl.check.scope import INDICES, OPERANDS, SIZES
from attndsl.diagnostics import AttnError
from attndsl.functions import FUNCTIONS
from attndsl.lexical import KEYWORDS
from attndsl.module import load_file
from attndsl.parsing import parse
from attndsl.source import Source

GRAMMAR = Path(__file__).parent.parent / "grammar"
README = GRAMMAR / "README.md"
TEXT = README.read_text("utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind its opening fence, its text, and its first line."""

    language: str
    text: str
    line: int


def fenced_blocks() -> list[Block]:
    found = re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", TEXT, re.MULTILINE)
    return [Block(m[1], m[2], TEXT.count("\n", 0, m.start()) + 2) for m in found]


BLOCKS = fenced_blocks()


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def identifier(block: Block) -> str:
    return f"line{block.line}"


def section(title: str) -> str:
    """The text of a second-level section."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "patterns.attn").write_text("def local(window) = causal and i - j < window\n")
    return tmp_path


def test_there_are_snippets_of_every_kind() -> None:
    assert {block.language for block in BLOCKS} == {"attn", "attn wrong", "text", "python", "ebnf"}
    assert len(of("attn")) > 15


@pytest.mark.parametrize("block", of("attn"), ids=identifier)
def test_specs_check_without_a_complaint(block: Block, folder: Path) -> None:
    (folder / "spec.attn").write_text(block.text, "utf-8")
    assert load_file("spec.attn").warnings == ()


def test_wrong_specs_give_the_diagnostic_that_follows(folder: Path) -> None:
    wrong = [n for n, block in enumerate(BLOCKS) if block.language == "attn wrong"]
    assert wrong
    for n in wrong:
        (folder / "spec.attn").write_text(BLOCKS[n].text, "utf-8")
        with pytest.raises(AttnError) as raised:
            load_file("spec.attn")
        assert BLOCKS[n + 1] == Block("text", f"{raised.value}\n", BLOCKS[n + 1].line)


def test_python_runs(folder: Path) -> None:
    """The blocks are one program: later ones use what earlier ones define."""
    namespace: dict[str, object] = {}
    for number, block in enumerate(of("python")):
        filename = f"block{number}.py"
        # Diagnostics and kernels find their source in the file.
        (folder / filename).write_text(block.text, "utf-8")
        linecache.checkcache(filename)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block.text, filename, "exec"), namespace)


def test_the_specs_of_the_reference_can_be_planned(folder: Path) -> None:
    """All but those that say that they are not compiled yet."""
    from attndsl.binding import bind
    from attndsl.planner import plan

    planned = 0
    for block in of("attn"):
        (folder / "spec.attn").write_text(block.text, "utf-8")
        for attention in load_file("spec.attn").attentions.values():
            if "normalize = grouped_softmax" in attention.span.text or attention.later:
                continue
            missing = {p.name: 4 for p in attention.parameters if p.default is None}
            assert plan(bind(attention, **missing)).attend is not None
            planned += 1
    assert planned > 25


def test_the_table_of_functions_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\(.*?\)` \| (.*) \|$", section("Functions"), re.MULTILINE))
    assert set(rows) == {*FUNCTIONS, *EXPANDED}
    for name, function in FUNCTIONS.items():
        # A matrix is one of two things that `dot` takes.
        assert rows[name].startswith(function.doc.split(";")[0]), name


def test_the_tables_of_patterns_are_complete() -> None:
    """Each standard pattern that no other one is made of stands in a table, as it is declared."""
    described = section("Standard patterns")
    definitions = {n: one.definition for n, one in standard_patterns().definitions.items()}
    named = {*re.findall(r"`(\w+)(?:\(.*?\))?`", described)} - {"attn"}
    assert named - {"normalize", "std"} <= {*definitions, *PATTERNS} | {
        p.name.span.text for one in definitions.values() for p in one.parameters
    }
    helpers = {
        name
        for name in definitions
        for other, one in definitions.items()
        if name != other and re.search(rf"\b{name}\b", one.body.span.text)
    }
    assert set(definitions) - helpers - named - set(PATTERNS.values()) == set()
    for name, arguments in re.findall(r"`(\w+)\((.*?)\)`", described):
        if name in definitions:
            declared = [p.name.span.text for p in definitions[name].parameters]
            written = [part.split("=")[0].strip() for part in arguments.split(",")]
            assert declared[: len(written)] == written, name


def test_names_and_keywords_are_listed() -> None:
    names = section("Names")
    for name in (*INDICES, *SIZES, *OPERANDS, "scale"):
        assert f"`{name}`" in names, name
    listed = re.search(r"Keywords are\n`(.*?)`", names)
    assert listed is not None
    assert set(listed[1].split()) == set(KEYWORDS)


def test_the_grammar_has_the_terminals_of_the_parser() -> None:
    (block,) = of("ebnf")
    ours = set(re.findall(r'"([^"\s]+)"', block.text)) - {"_", "."}
    lark = re.sub(r"//.*|/(?:[^/\n\\]|\\.)+/", "", (GRAMMAR / "attn.lark").read_text("utf-8"))
    # Quoted words and signs; comments, regular expressions and directives are gone.
    theirs = set(re.findall(r'"([^"\s]+)"', lark)) - {"_", "."}
    assert ours >= theirs - {"//"}
    assert ours - theirs <= {"//", "**", "/"}


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\((.*?)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (GRAMMAR / target).exists(), target


def test_every_rule_of_the_ebnf_is_defined() -> None:
    (block,) = of("ebnf")
    without_terminals = re.sub(r'"[^"]*"|\'"\'.*', "", block.text)
    defined = set(re.findall(r"^(\w+)\s*=", block.text, re.MULTILINE))
    used = set(re.findall(r"\b[A-Za-z]+\b", without_terminals))
    prose = {
        "letter",
        "digit",
        "exponent",
        "any",
        "character",
        "but",
        "and",
        "a",
        "line",
        "s",
        "end",
    }
    assert used - defined - prose == set()


def test_the_file_s_own_example_parses() -> None:
    assert parse(Source(of("attn")[0].text)).attentions
