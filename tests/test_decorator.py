"""The Python form means what the text form means, and its faults point into the Python file."""

# The bodies of kernels are read and never run: what they assign is used.
# ruff: noqa: F841, RUF059

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import attndsl.language as al
from attndsl import syntax
from attndsl.decorator import attention_of, define, kernel, syntax_of
from attndsl.diagnostics import AttnError
from attndsl.language import (
    D,
    Dv,
    H,
    Hkv,
    Input,
    Lk,
    Lq,
    axes,
    b,
    causal,
    cumsum,
    dot,
    exp,
    g,
    h,
    i,
    j,
    k,
    log,
    neighborhood,
    outer,
    q,
    rms_norm,
    rope,
    route,
    row,
    scale,
    sigmoid,
    softmax,
    state,
    t,
    tanh,
    top,
    v,
)
from attndsl.language import i as position
from attndsl.module import load_file, load_text
from attndsl.parsing import parse
from attndsl.source import Source

EXAMPLES = sorted(Path(__file__).parent.parent.glob("examples/*.attn"))

# Pairs of a function and the text that means the same.


@define
def softcap_twice(x, cap):
    """A definition may have a docstring, and call another."""
    return capped(capped(x, cap), cap)


@define
def capped(x, cap=2.0):
    return cap * tanh(x / cap)


@define
def twice(x):
    return capped(capped(x))


def empty():
    pass


def documented():
    """What it is, in prose."""
    ...


def gemma2(window: int = 4096, cap: float = 50.0):
    score = twice(dot(q, k) * scale) + cap
    mask = causal and i - j < window
    normalize = softmax
    return score, mask, normalize


def bounded(window: int = 256, *, step: int = 4, symmetric: bool = False):
    assert window > 0
    assert step >= 1
    assert step <= window
    mask = abs(i - j) < window * step if symmetric else 0 <= i - j < window and not (i - j) % step


def tables(block: int = 64):
    layout = Input(bool, H, Lq // block, Lk // block)
    doc = Input(int, al.B, Lk)
    near = doc[b, i] == doc[b, j]
    mask = layout[h, i // block, j // block] and near


def grid(window: int = 7):
    axes("y", "x")
    mask = neighborhood(window) and i.y >= j.y


def ring(reach: int = 2):
    y, x = axes("y", "x")
    mask = (i.y - j.y + reach) % y.size <= 2 * reach and i.x == j.x


def sinks():
    sink = Input(float, H)
    normalize = softmax(sink=sink[h])


def sigmoid_weights():
    score = dot(q, k) * scale - log(Lk)
    normalize = sigmoid


def no_normalization():
    normalize = None


def prepared(q, k, base: float = 10000.0):
    q = rope(rms_norm(q), i, base)
    k = rope(rms_norm(k), j, base)
    score = dot(q, k) * scale


def slices():
    u = Input(float, H, D)
    score = dot(q[0:32] + u[h, 0:32], k[:32]) - 2.5e-3 * dot(q[32:], k[32:]) ** 2


def scan():
    f = Input(float, al.B, H, Lk)
    c = cumsum(f)
    score = dot(q, k) * scale + c[b, h, i] - c[b, h, j]
    mask = causal


def by_module(window: int = 3):
    mask = al.causal and al.i - position < window + al.row - row


def routed_blocks(block: int = 512, count: int = 3):
    mask = causal
    with route(block):
        affinity = dot(q, al.mean(k))
        keep = top(count)
        always = al.n == i // block


def delta():
    beta = Input(float, al.B, H, Lk)
    with state(D, Dv) as S:
        S = S + outer(k, beta[b, h, t] * (v - dot(S, k)))
        read = dot(S, q) * scale


def streaming(sink: int = 4, recent: int = 256):
    streams = Input(bool, Hkv)
    mask = causal and (not streams[g] or j < sink or i - j < recent)


def decay():
    log_decay = Input(float, H)
    score = dot(q, k) * scale * exp(log_decay[h] * (i - j))
    normalize = sum


DEFINITIONS = "def capped(x, cap = 2.0) = cap * tanh(x / cap)  def twice(x) = capped(capped(x))\n"
PAIRS: list[tuple[Callable[..., object], str]] = [
    (empty, "attention empty {}"),
    (documented, "attention documented {}"),
    (
        gemma2,
        DEFINITIONS
        + """attention gemma2(window: int = 4096, cap: float = 50.0) {
            score = twice(dot(q, k) * scale) + cap
            mask = causal and i - j < window
            normalize = softmax
        }""",
    ),
    (
        tables,
        """attention tables(block: int = 64) {
            input layout: bool[H, Lq // block, Lk // block]
            input doc: int[B, Lk]
            let near = doc[b, i] == doc[b, j]
            mask = layout[h, i // block, j // block] and near
        }""",
    ),
    (
        grid,
        """attention grid(window: int = 7) {
            axes y, x
            mask = neighborhood(window) and i.y >= j.y
        }""",
    ),
    (
        ring,
        """attention ring(reach: int = 2) {
            axes y, x
            mask = (i.y - j.y + reach) % y.size <= 2 * reach and i.x == j.x
        }""",
    ),
    (
        sinks,
        "attention sinks { input sink: float[H] normalize = softmax(sink = sink[h]) }",
    ),
    (
        sigmoid_weights,
        "attention sigmoid_weights { score = dot(q, k) * scale - log(Lk) normalize = sigmoid }",
    ),
    (no_normalization, "attention no_normalization { normalize = none }"),
    (
        prepared,
        """attention prepared(base: float = 10000.0) {
            q = rope(rms_norm(q), i, base)
            k = rope(rms_norm(k), j, base)
            score = dot(q, k) * scale
        }""",
    ),
    (
        slices,
        """attention slices {
            input u: float[H, D]
            score = dot(q[0:32] + u[h, 0:32], k[:32]) - 2.5e-3 * dot(q[32:], k[32:]) ** 2
        }""",
    ),
    (
        scan,
        """attention scan {
            input f: float[B, H, Lk]
            let c = cumsum(f)
            score = dot(q, k) * scale + c[b, h, i] - c[b, h, j]
            mask = causal
        }""",
    ),
    (
        by_module,
        "attention by_module(window: int = 3) { mask = causal and i - i < window + row - row }",
    ),
    (
        routed_blocks,
        """attention routed_blocks(block: int = 512, count: int = 3) {
            mask = causal
            route blocks of block {
                affinity = dot(q, mean(k))
                keep = top(count)
                always = n == i // block
            }
        }""",
    ),
    (
        delta,
        """attention delta {
            input beta: float[B, H, Lk]
            state S: [D, Dv] {
                S = S + outer(k, beta[b, h, t] * (v - dot(S, k)))
                read = dot(S, q) * scale
            }
        }""",
    ),
    (
        streaming,
        """attention streaming(sink: int = 4, recent: int = 256) {
            input streams: bool[Hkv]
            mask = causal and (not streams[g] or j < sink or i - j < recent)
        }""",
    ),
    (
        decay,
        """attention decay {
            input log_decay: float[H]
            score = dot(q, k) * scale * exp(log_decay[h] * (i - j))
            normalize = sum
        }""",
    ),
]


@pytest.mark.parametrize(
    ("function", "text"), PAIRS, ids=lambda value: getattr(value, "__name__", "")
)
def test_equals_the_text_form(function: Callable[..., object], text: str) -> None:
    written = parse(Source(text))
    assert syntax_of(function).attentions == written.attentions
    assert syntax_of(function).definitions == written.definitions
    assert attention_of(function) == load_text(text).attentions[function.__name__]


def test_an_assert_bounds_the_last_parameter_that_it_mentions() -> None:
    with pytest.raises(AttnError) as raised:
        attention_of(bounded)  # `not (i - j) % step`: an int is no condition
    assert [diagnostic.code for diagnostic in raised.value.diagnostics] == ["A020"]
    window, step, symmetric = syntax_of(bounded).attentions[0].parameters
    text = parse(
        Source("attention a(w: int where window > 0, s: int where step >= 1 and step <= window) {}")
    )
    assert (window.where, step.where) == tuple(p.where for p in text.attentions[0].parameters)
    assert symmetric.where is None


# The examples, written as Python by a machine.


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


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_can_be_written_in_python(path: Path, tmp_path: Path) -> None:
    tree = parse(Source(path.read_text("utf-8")))
    if tree.imports:
        pytest.skip("the Python form imports by Python's own means")
    (tmp_path / "spec.py").write_text(as_python(tree), "utf-8")
    module = imported(tmp_path / "spec.py")
    for name, attention in load_file(path).attentions.items():
        assert attention_of(getattr(module, name)) == attention


# Spans


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


# Kernels


def test_a_kernel_computes_what_the_text_form_computes() -> None:
    import torch

    import attndsl

    @attndsl.kernel
    def local(window: int = 5):
        mask = causal and i - j < window

    text = attndsl.parse(
        "attention local(window: int = 5) { mask = causal and i - j < window }"
    ).local
    q, k, v = (torch.randn(1, 2, 13, 8) for _ in range(3))
    assert torch.equal(local(q, k, v), text(q, k, v))
    assert torch.equal(local(window=2)(q, k, v), text(q, k, v, window=2))


def test_a_kernel_that_uses_not_all_of_its_names_warns() -> None:
    import attndsl
    from attndsl.api import SpecWarning

    with pytest.warns(SpecWarning, match="`unused` is never used"):

        @attndsl.kernel
        def wasteful():
            unused = i - j
            mask = causal
