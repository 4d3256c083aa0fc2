"""Every example can be written in the Python form: here by a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from python_files import imported

from attndsl import syntax
from attndsl.decorator import attention_of
from attndsl.module import load_file
from attndsl.parsing import parse
from attndsl.source import Source

EXAMPLES = sorted(Path(__file__).parent.parent.glob("examples/*.attn"))


def as_python(tree: syntax.Module) -> str:
    """A spec's items as decorated functions. An expression is spelt alike in both languages, but
    may need brackets to stand on several lines."""

    def parameters(declared: tuple[syntax.Parameter, ...]) -> str:
        return ", ".join(
            p.name.span.text
            + (f": {p.type.span.text}" if p.type else "")
            + (f" = ({p.default.span.text})" if p.default else "")
            for p in declared
        )

    lines = ["import attndsl.decorator", "from attndsl.language import *", ""]
    for definition in tree.definitions:
        lines += [
            "@attndsl.decorator.define",
            f"def {definition.name.span.text}({parameters(definition.parameters)}):",
            f"    return ({definition.body.span.text})",
        ]
    for attention in tree.attentions:
        lines.append(f"def {attention.name.span.text}({parameters(attention.parameters)}):")
        lines.append("    pass")
        lines += [f"    assert {p.where.span.text}" for p in attention.parameters if p.where]
        for statement in attention.body:
            match statement:
                case syntax.Input(name, type_):
                    sizes = "".join(f", {size.span.text}" for size in type_.dimensions)
                    lines.append(f"    {name.span.text} = Input({type_.name}{sizes})")
                case syntax.Axes(names):
                    lines.append(f"    axes({', '.join(repr(name.span.text) for name in names)})")
                case syntax.Let(name, value) | syntax.Assign(name, value):
                    lines.append(f"    {name.span.text} = ({value.span.text})")
                case _:
                    pytest.skip("written in text only")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_can_be_written_in_python(path: Path, tmp_path: Path) -> None:
    tree = parse(Source(path.read_text("utf-8")))
    if tree.imports:
        pytest.skip("the Python form imports by Python's own means")
    (tmp_path / "spec.py").write_text(as_python(tree), "utf-8")
    module = imported(tmp_path / "spec.py")
    for name, attention in load_file(path).attentions.items():
        assert attention_of(getattr(module, name)) == attention
