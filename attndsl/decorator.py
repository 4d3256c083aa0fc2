"""The Python form of a spec: `@attndsl.kernel` and `@attndsl.define`.

The function's body is read, never run: its source becomes the same syntax tree that the `.attn`
parser makes, and goes through the same checker. Names come from `attndsl.language`, so that editors
and linters know them.

    @attndsl.define
    def softcap(x, cap):
        return cap * tanh(x / cap)

    @attndsl.kernel
    def gemma2(window: int = 4096, cap: float = 50.0):
        score = softcap(dot(q, k) * scale, cap)
        mask = causal and i - j < window
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from attndsl import language, syntax
from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.language.value import Value, outside_kernel
from attndsl.python_syntax import Converter
from attndsl.source import Source, Span

if TYPE_CHECKING:
    from attndsl.attention import Attention
    from attndsl.check import CheckedModule
    from attndsl.runtime.kernel import Kernel


@dataclass(frozen=True, eq=False)
class DefinedFunction:
    """What `@attndsl.define` makes: a definition that kernels below it may call by name."""

    function: FunctionType
    definition: syntax.Definition
    uses: tuple[DefinedFunction, ...]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.function.__doc__

    def __call__(self, *arguments: object, **named: object) -> Value:
        raise outside_kernel(self.__name__)


def kernel(function: Callable[..., object]) -> Kernel:
    """The attention that a function describes, as a `Kernel` to bind and to call.

    The function's parameters are the attention's. Raises `AttnError` for what the language does not
    have, with spans in the user's Python file; the body is never executed.
    """
    from attndsl.api import SpecWarning
    from attndsl.runtime.kernel import Kernel

    checked = _checked(function)
    for warning in checked.warnings:
        warnings.warn(str(warning), SpecWarning, stacklevel=2)
    return Kernel(checked.attentions[function.__name__])


def define(function: Callable[..., object]) -> DefinedFunction:
    """A definition for kernels to call, as `def` in a `.attn` file: one `return` with a formula."""
    plain = _plain_function(function)
    source, tree = _source_tree(plain)
    names = _Names(plain)
    definition = Converter(source, names.resolve).definition(tree)
    return DefinedFunction(plain, definition, tuple(names.used.values()))


def attention_of(function: Callable[..., object]) -> Attention:
    """The checked attention of a function. Raises `AttnError`."""
    return _checked(function).attentions[function.__name__]


def _checked(function: Callable[..., object]) -> CheckedModule:
    from attndsl.check import check

    try:
        return check(syntax_of(function))
    except AttnError as fault:
        raise AttnError([_explained(one, function) for one in fault.diagnostics]) from None


def _explained(diagnostic: Diagnostic, function: Callable[..., object]) -> Diagnostic:
    """An unknown name that Python knows was meant to be Python's variable."""
    span = diagnostic.span
    if diagnostic.code not in ("A012", "A013") or span is None:
        return diagnostic
    if span.text not in {*_plain_function(function).__globals__, *function.__code__.co_freevars}:
        return diagnostic
    help = f"a kernel sees no variables of Python: make `{span.text}` a parameter"
    if diagnostic.code == "A013":
        help = f"a kernel calls no functions of Python: decorate `{span.text}` by `@attndsl.define`"
    return dataclasses.replace(diagnostic, help=help)


def syntax_of(function: Callable[..., object]) -> syntax.Module:
    """The syntax tree of a function: its attention, and the definitions that it calls.

    Raises `AttnError`: A008 for Python that the language does not have, A009 where there is no
    source to read.
    """
    plain = _plain_function(function)
    source, tree = _source_tree(plain)
    names = _Names(plain)
    attention = Converter(source, names.resolve).attention(tree)
    definitions = {used.definition.name.parts: used for used in _with_uses(names.used)}
    found = tuple(used.definition for used in definitions.values())
    return syntax.Module((), found, (attention,), attention.span)


class _Names:
    """What the names outside a function mean: names of the language under whatever alias they were
    imported, and the definitions of `@define`, which it collects."""

    def __init__(self, function: FunctionType):
        self._function = function
        self.used: dict[str, DefinedFunction] = {}

    def resolve(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        value = self._value(parts[0])
        rest = parts[1:]
        while isinstance(value, ModuleType) and rest:
            value, rest = vars(value).get(rest[0]), rest[1:]
        match value:
            case DefinedFunction():
                self.used[value.__name__] = value
                return (value.__name__, *rest)
            case Value():
                return (value.name, *rest)
            case FunctionType(__module__=str(module)) if module.startswith(language.__name__):
                return (value.__name__, *rest)
        return parts

    def _value(self, name: str) -> object:
        function = self._function
        if name in function.__code__.co_freevars and function.__closure__ is not None:
            cell = function.__closure__[function.__code__.co_freevars.index(name)]
            try:
                return cell.cell_contents
            except ValueError:  # assigned later
                return None
        return function.__globals__.get(name)


def _with_uses(used: Mapping[str, DefinedFunction]) -> Iterator[DefinedFunction]:
    """The definitions and those that they call, callees first.

    Raises `AttnError` A040 for two different ones of one name.
    """
    done: dict[str, DefinedFunction] = {}

    def visit(defined: DefinedFunction) -> Iterator[DefinedFunction]:
        name = defined.__name__
        known = done.setdefault(name, defined)
        if known is not defined:
            raise error(
                "A040",
                f"two definitions are called `{name}`",
                defined.definition.name.span,
                help=f"rename one; the other is in {_place(known.definition.name.span)}",
            )
        for callee in defined.uses:
            if callee is not done.get(callee.__name__):
                yield from visit(callee)
        yield defined

    for defined in used.values():
        if defined is not done.get(defined.__name__):
            yield from visit(defined)


def _place(span: Span) -> str:
    return f"{span.source.name}, line {span.line}"


def _plain_function(function: Callable[..., object]) -> FunctionType:
    if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
        shown = getattr(function, "__name__", type(function).__name__)
        raise error(
            "A009",
            f"`{shown}` is not a function with a `def` of its own",
            help="decorate a plain function, or use `attndsl.parse` for text",
        )
    return function


def _source_tree(function: FunctionType) -> tuple[Source, ast.FunctionDef]:
    """The file that a function stands in, and the function's tree in it."""
    name = function.__name__
    filename = function.__code__.co_filename
    try:
        text = "".join(inspect.findsource(function)[0])
        tree = _parsed(text)
    except (OSError, SyntaxError):
        raise error(
            "A009",
            f"the source of `{name}` cannot be read from `{filename}`",
            help="put it into a file, or use `attndsl.parse` for text",
        ) from None
    path = Path(filename)
    source = Source(text, path.name, path if path.is_file() else None)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name != name:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if first != function.__code__.co_firstlineno:
            continue
        if isinstance(node, ast.FunctionDef):
            return source, node
        start = Converter(source, lambda parts: parts).span(node).start
        raise error(
            "A008",
            "`async` is not part of the language",
            Span(source, start, start + len("async")),
            help="write `def`",
        )
    raise error(
        "A009",
        f"`{name}` is not where it was in `{filename}`",
        help="the file has changed since it was imported: start Python again",
    )


@lru_cache(maxsize=16)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)
