"""The names of the language in Python: complete, documented, and without a value."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import attndsl.language as al
from attndsl import syntax
from attndsl.check.builtins import EXPANDED
from attndsl.check.normalizers import NORMALIZERS
from attndsl.check.patterns import PATTERNS
from attndsl.check.prelude import standard_patterns
from attndsl.check.scope import INDICES, OPERANDS, SIZES
from attndsl.decorator import define
from attndsl.diagnostics import AttnError
from attndsl.functions import FUNCTIONS
from attndsl.language import Input, axes, branch, dot, i, j, k, q, scale

ROOT = Path(__file__).parent.parent
PYTHONS_OWN = {"abs", "float", "int"}
HEADER = '''"""The standard patterns, as editors see them.

Made of `grammar/std.attn` by `pytest tests/test_language.py --update-golden`: do not edit.
"""

from __future__ import annotations

from attndsl.language.value import Operand, Value, outside_kernel
'''


def docstring(definition: syntax.Definition, margin: str) -> str:
    """The definition itself says best what it means."""
    text = " ".join(definition.span.text.split()).removeprefix("def ")
    if len(margin) + len(text) + 6 <= 100:
        return f'{margin}"""{text}"""'
    lines = textwrap.wrap(text, 88 - len(margin), break_on_hyphens=False)
    return "\n".join(
        [f'{margin}"""{lines[0]}', *(margin + line for line in lines[1:]), f'{margin}"""']
    )


def as_python(definition: syntax.Definition) -> str:
    name = definition.name.span.text
    if not definition.parameters:
        return f'{name} = Value("{name}", "`{definition.body.span.text}`")\n'
    parameters = ", ".join(
        f"{p.name.span.text}: Operand" + (f" = {p.default.span.text}" if p.default else "")
        for p in definition.parameters
    )
    if len(definition.parameters) == 1 and not definition.parameters[0].default:
        # `normalize = relu2` names the function alone, and so do editors' types.
        parameters = parameters.replace("x: Operand", "x: Operand = 0")
    head = f"def {name}({parameters}) -> Value:"
    if len(head) > 100:
        listed = parameters.replace(", ", ",\n    ")
        head = f"def {name}(\n    {listed},\n) -> Value:"
        if max(map(len, head.split("\n"))) > 100 or len(parameters) + 4 <= 100:
            head = f"def {name}(\n    {parameters}\n) -> Value:"
    return f'{head}\n{docstring(definition, "    ")}\n    raise outside_kernel("{name}")\n'


def test_patterns_are_those_of_the_standard_library(golden: Callable[[Path, str], None]) -> None:
    definitions = [one.definition for one in standard_patterns().definitions.values()]
    text = HEADER
    for definition in definitions:
        python = as_python(definition)
        text += ("\n\n" if python.startswith("def ") else "\n") + python
    golden(ROOT / "attndsl/language/patterns.py", text)


def test_patterns_have_the_parameters_of_their_definitions() -> None:
    for name, one in standard_patterns().definitions.items():
        declared = one.definition.parameters
        value = getattr(al, name)
        if not declared:
            assert isinstance(value, al.Value)
            continue
        signature = inspect.signature(value)
        assert list(signature.parameters) == [p.name.parts[0] for p in declared], name
        for written, parameter in zip(declared, signature.parameters.values(), strict=True):
            if isinstance(written.default, syntax.Number | syntax.Boolean):
                assert parameter.default == written.default.value, name


def test_every_builtin_is_a_name_of_the_language() -> None:
    for name in {*FUNCTIONS, *EXPANDED, *PATTERNS, *NORMALIZERS} - PYTHONS_OWN:
        value = getattr(al, name)
        assert callable(value) or isinstance(value, al.Value), name
        assert value.__doc__, name
    for name in (*INDICES, *SIZES, *OPERANDS, "scale"):
        assert getattr(al, name).name == name


@define
def capped(x):
    return x / 2


@pytest.mark.parametrize(
    "use",
    [
        lambda: i - j,
        lambda: 1 + i,
        lambda: not al.causal,
        lambda: i.y,
        lambda: al.v[0],
        lambda: dot(q, k),
        lambda: Input(float, al.H),
        lambda: axes("y"),
        lambda: float(scale),
        lambda: capped(3.0),
        lambda: branch(3),
    ],
)
def test_names_of_the_language_have_no_value_in_python(use: Callable[[], object]) -> None:
    with pytest.raises(AttnError) as raised:
        use()
    assert raised.value.diagnostics[0].code == "A007"
