"""Faults of the Python form point into the Python file."""

# The bodies of kernels are read and never run: what they assign is used.
# ruff: noqa: F841, RUF059

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from python_files import imported

from attndsl.decorator import attention_of, define, kernel, syntax_of
from attndsl.diagnostics import AttnError
from attndsl.language import H, axes, causal, dot, i, j, k, q


def diagnostic_of(function: Callable[..., object]) -> tuple[str, str, int]:
    """Code, marked text and line of the only fault of a function."""
    with pytest.raises(AttnError) as raised:
        attention_of(function)
    (diagnostic,) = raised.value.diagnostics
    assert diagnostic.span is not None
    assert diagnostic.span.source.name == Path(__file__).name
    return diagnostic.code, diagnostic.span.text, diagnostic.span.line


def line_of(function: Callable[..., object], number: int) -> int:
    return inspect.getsourcelines(function)[1] + number


def test_spans_point_into_the_python_file() -> None:
    def misspelt(window: int = 3):
        größe = "ü"
        mask = i - j < windw  # noqa: F821

    def after_wide_characters(window: int = 3):
        mask = i - j < windw or "größe"  # noqa: F821

    def only_name(window: int = 3):
        near = i - j < window  # "größe" in a comment does not matter
        mask = near and i - j < windw  # noqa: F821

    with pytest.raises(AttnError) as raised:
        attention_of(misspelt)
    assert [d.span.text for d in raised.value.diagnostics if d.span] == ["größe"]
    assert diagnostic_of(after_wide_characters) == (
        "A008",
        '"größe"',
        line_of(after_wide_characters, 1),
    )
    assert diagnostic_of(only_name) == ("A012", "windw", line_of(only_name, 2))


def test_a_fault_in_a_definition_points_into_the_definition() -> None:
    @define
    def broken(x):
        return x + misspelt  # noqa: F821

    def uses():
        score = broken(dot(q, k))

    assert diagnostic_of(uses)[:2] == ("A012", "misspelt")


# What the language does not have


def loops():
    for _ in range(3):
        pass


def branches(flag: bool = False):
    if flag:
        mask = causal


def imports():
    import os  # noqa: F401


def lambdas():
    score = (lambda x: x)(dot(q, k))


def strings():
    mask = "causal"


def operators():
    mask = causal & True


def matrix_product():
    score = q @ k


def membership():
    mask = i in (1, 2)


def steps():
    score = dot(q[0:32:2], k[0:32:2])


def augmented():
    score = dot(q, k)
    score += 1.0


def annotated():
    slope: float = 3.0


def unpacked():
    x, y = 1, 2


def returns():
    return dot(q, k)


def starred(*windows: int):
    pass


def keywords(**windows: int):
    pass


def spread():
    score = dot(*(q, k))


def own_input():
    slope = input(float, H)


def unbounded(window: int = 3):
    assert i < 3


def assert_with_text(window: int = 3):
    assert window > 0, "positive"


def formatted():
    mask = f"{i}"


def complex_numbers():
    score = dot(q, k) * 1j


def wide_integers():
    score = dot(q, k) * 4294967296


def tensor_parameter(slope: list[float]):
    score = dot(q, k)


def axes_renamed():
    x, y = axes("y", "x")


def axes_by_name():
    axes(i, j)


async def asynchronous():
    pass


def walrus():
    mask = (near := i - j) < 3


def deletes():
    del i  # noqa: F821


def tries():
    try:
        mask = causal
    finally:
        pass


def with_open():
    with open("/etc/passwd") as file:
        mask = file


def calls_a_method():
    mask = causal.all()[0](3)


@pytest.mark.parametrize(
    ("function", "code", "marked"),
    [
        (loops, "A008", "for"),
        (branches, "A008", "if"),
        (imports, "A008", "import"),
        (lambdas, "A008", "(lambda x: x)(dot(q, k))"),
        (strings, "A008", '"causal"'),
        (operators, "A008", "causal & True"),
        (matrix_product, "A008", "q @ k"),
        (membership, "A008", "i in (1, 2)"),
        (steps, "A008", "2"),
        (augmented, "A008", "score += 1.0"),
        (annotated, "A008", "float"),
        (unpacked, "A008", "x, y"),
        (returns, "A008", "return dot(q, k)"),
        (starred, "A008", "windows: int"),
        (keywords, "A008", "windows: int"),
        (spread, "A008", "*(q, k)"),
        (own_input, "A008", "input(float, H)"),
        (unbounded, "A008", "i < 3"),
        (assert_with_text, "A008", '"positive"'),
        (formatted, "A008", 'f"{i}"'),
        (complex_numbers, "A008", "1j"),
        (wide_integers, "A006", "4294967296"),
        (tensor_parameter, "A008", "list[float]"),
        (axes_by_name, "A008", "i"),
        (axes_renamed, "A008", "x, y"),
        (asynchronous, "A008", "async"),
        (walrus, "A008", "near := i - j"),
        (deletes, "A008", "del"),
        (tries, "A008", "try"),
        (with_open, "A008", 'open("/etc/passwd")'),
        (calls_a_method, "A008", "causal.all()[0](3)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_python_is_refused(function: Callable[..., object], code: str, marked: str) -> None:
    with pytest.raises(AttnError) as raised:
        attention_of(function)
    first = raised.value.diagnostics[0]
    assert first.span is not None
    assert (first.code, first.span.text) == (code, marked)


def test_every_fault_of_a_body_is_reported() -> None:
    def many():
        mask = "a"
        for _ in ():
            pass
        score = q @ k

    with pytest.raises(AttnError) as raised:
        attention_of(many)
    assert [d.code for d in raised.value.diagnostics] == ["A008"] * 3


def test_a_definition_is_one_return() -> None:
    with pytest.raises(AttnError, match="a definition is one `return`"):

        @define
        def two_statements(x):
            y = x
            return y

    with pytest.raises(AttnError, match="nothing is returned here"):

        @define
        def nothing(x):
            """Only words."""


def test_two_definitions_of_one_name_are_refused() -> None:
    def make(number: int) -> tuple[object, object]:
        if number == 1:

            @define
            def helper(x):
                return x + 1

            @define
            def first(x):
                return helper(x)

            return helper, first

        @define
        def helper(x):
            return x + 2

        @define
        def second(x):
            return helper(x)

        return helper, second

    _, first = make(1)
    _, second = make(2)

    def uses_both():
        score = first(second(dot(q, k)))

    assert diagnostic_of(uses_both)[0] == "A040"


@pytest.mark.parametrize("thing", [len, lambda: None, 3, kernel], ids=["C", "lambda", "int", "def"])
def test_what_has_no_source_of_its_own(thing: object) -> None:
    if thing is kernel:
        namespace: dict[str, Callable[..., object]] = {}
        exec("def made(): pass", namespace)
        thing = namespace["made"]
    with pytest.raises(AttnError) as raised:
        syntax_of(thing)  # type: ignore[arg-type]
    assert raised.value.diagnostics[0].code == "A009"


def test_a_file_that_changed_since_its_import(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text("def spec():\n    pass\n")
    module = imported(path)
    path.write_text("\n\n\ndef spec():\n    pass\n")
    with pytest.raises(AttnError, match="not where it was"):
        syntax_of(module.spec)


def test_the_body_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "effects.py"
    path.write_text(
        "def spec(window=__import__('sys').modules.setdefault('mark_default', 1) and 2):\n"
        "    score = __import__('sys').modules.pop('mark_default')\n"
    )
    module = imported(path)  # Python itself runs the default
    try:
        with pytest.raises(AttnError):
            syntax_of(module.spec)
        assert "mark_default" in sys.modules
    finally:
        sys.modules.pop("mark_default", None)
