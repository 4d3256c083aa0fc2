"""What an attention declares: parameters, axes, inputs, named values, and token scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from attndsl import constants, syntax
from attndsl.attention import (
    InputDeclaration,
    ParameterDeclaration,
    TokenScan,
)
from attndsl.check import calls, expressions
from attndsl.check.operators import describe
from attndsl.check.scope import (
    KEYWORDS,
    PAIR_INDICES,
    RESERVED,
    RESULTS,
    SIZES,
    Array,
    Binding,
    Budget,
    Context,
    Environment,
    ModuleScope,
    raw_operands,
)
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Call,
    Expression,
    Parameter,
    Read,
    Scalar,
    Scale,
    Size,
    Type,
    index_names,
    walk,
)
from attndsl.source import Span
from attndsl.suggestions import suggestion

Result = TypeVar("Result")

# What is a tensor when a kernel runs.
_TENSORS = ("an input", "a running sum")
_OF_CALLS = ("an input", "a parameter")


class Declarations:
    """Reads the declarations of one attention, and keeps what its names mean.

    Each part is checked on its own, so that one fault does not hide others.
    """

    def __init__(self, tree: syntax.Attention, module: ModuleScope):
        self.tree = tree
        self.module = module
        self.diagnostics: list[Diagnostic] = []
        self.declared: dict[str, Span] = {}
        self.bindings: dict[str, Binding] = {}
        self.lets: dict[str, syntax.Let] = {}
        self.axes: tuple[str, ...] = ()
        self.used: set[str] = set()
        self.failed: set[str] = set()
        self.budget = Budget()
        self.operands = raw_operands()
        # The first of a name; a second one is a fault.
        self.written = {p.name.parts[0]: p for p in reversed(tree.parameters)}

    @contextmanager
    def recording(self, declared: syntax.Name | None = None) -> Iterator[None]:
        """Note the faults of a part and go on with the next; a failed name is known as such."""
        try:
            yield
        except AttnError as fault:
            if declared is not None and declared.parts[0] not in self.bindings:
                self.failed.add(declared.parts[0])
            for diagnostic in fault.diagnostics:
                if diagnostic not in self.diagnostics:
                    self.diagnostics.append(diagnostic)

    def environment(self, context: Context) -> Environment:
        return Environment(
            context,
            self.module,
            self.bindings,
            self.lets,
            self.axes,
            self.budget,
            self.used,
            frozenset(self.failed),
        )

    def fault(
        self, code: str, message: str, span: Span, *, label: str = "", help: str | None = None
    ) -> AttnError:
        return AttnError(Diagnostic(code, message, span, label, help))

    def declare(self, name: syntax.Name, what: str) -> str:
        """Note a name that the spec declares. A015 where it is reserved, A040 where it is taken."""
        word = name.parts[0]
        is_taken = what in _TENSORS and word in RESULTS
        is_taken |= what in _OF_CALLS and word in KEYWORDS
        if word in RESERVED or is_taken:
            raise self.fault(
                "A015",
                f"`{word}` cannot name {what}",
                name.span,
                label=_meaning(word),
                help="choose another name",
            )
        if word in self.declared:
            line = self.declared[word].line
            raise self.fault(
                "A040",
                f"`{word}` is declared twice",
                name.span,
                label=f"first declared in line {line}",
                help="rename one of them",
            )
        self.declared[word] = name.span
        return word

    def require(
        self, value: Expression, type_: Type, what: str, span: Span, help: str | None = None
    ) -> None:
        if value.type is not type_:
            code = {"the mask": "A021", "the score": "A022"}.get(what, "A024")
            raise self.fault(
                code,
                f"{what} is {describe(type_)}, not {describe(value.type)}",
                span,
                label=f"this is {describe(value.type)}",
                help=help,
            )

    def pair(self, place: str) -> Context:
        return Context(place, PAIR_INDICES, self.operands)

    def statements(self, kind: type[Result]) -> list[Result]:
        return [statement for statement in self.tree.body if isinstance(statement, kind)]

    def parameters(self) -> tuple[ParameterDeclaration, ...]:
        found: list[ParameterDeclaration] = []
        constant = self.environment(Context("a default", frozenset(), {}))
        for parameter in self.tree.parameters:
            with self.recording(parameter.name):
                word = self.declare(parameter.name, "a parameter")
                type_ = default = None
                if parameter.type is not None:
                    if parameter.type.dimensions:
                        raise self.fault(
                            "A028",
                            "a parameter is one number",
                            parameter.type.span,
                            help=f"for a tensor, write `input {word}: {parameter.type.span.text}`",
                        )
                    type_ = calls.scalar_type(parameter.type, constant)
                    # Later statements may use the parameter even where its default is wrong.
                    self.bindings[word] = Parameter(word, type_, span=parameter.name.span)
                if parameter.default is not None:
                    default = self.default(parameter.default, type_, constant, word)
                if type_ is None and default is None:
                    raise self.fault(
                        "A028",
                        f"`{word}` needs a type or a default",
                        parameter.span,
                        help=f"write `{word}: int` or `{word} = 1`",
                    )
                if type_ is None:
                    assert default is not None
                    type_ = Scalar(type(default).__name__)
                self.bindings[word] = Parameter(word, type_, span=parameter.name.span)
                found.append(ParameterDeclaration(word, type_, default, None, parameter.span))
        return tuple(map(self.bound, found))

    def default(
        self,
        written: syntax.Expression,
        type_: Scalar | None,
        environment: Environment,
        word: str,
    ) -> bool | int | float:
        value = expressions.check(written, dataclasses.replace(environment, bindings={}))
        try:
            result = constants.evaluate(value, {})
        except constants.NotConstantError as fault:
            raise self.fault(
                "A029",
                f"the default of `{word}` is not a constant",
                written.span,
                label=str(fault),
                help="write a number, `True` or `False`",
            ) from None
        if type_ is FLOAT and type(result) is int:
            result = float(result)
        if type_ is not None and type(result).__name__ != type_.value:
            raise self.fault(
                "A024",
                f"`{word}` is {describe(type_)}",
                written.span,
                label=f"this is {describe(value.type)}",
                help=f"write `{word}: {value.type}`" if isinstance(value.type, Scalar) else None,
            )
        return result

    def bound(self, declared: ParameterDeclaration) -> ParameterDeclaration:
        parameter = self.written[declared.name]
        if parameter.where is None:
            return declared
        with self.recording():
            environment = self.environment(Context("a bound", frozenset(), {}))
            only = {n: b for n, b in self.bindings.items() if isinstance(b, Parameter)}
            environment = dataclasses.replace(environment, bindings=only, used=set())
            where = expressions.check(parameter.where, environment)
            self.require(where, BOOL, "a bound", parameter.where.span)
            for node in walk(where):
                if isinstance(node, Size | Scale):
                    raise self.fault(
                        "A029",
                        "a bound speaks of parameters alone",
                        node.span or parameter.where.span,
                        help="sizes are known only at the call",
                    )
            if declared.default is not None:
                self.check_default(declared, where)
            return dataclasses.replace(declared, where=where)
        return declared

    def check_default(self, declared: ParameterDeclaration, where: Expression) -> None:
        assert declared.default is not None
        try:
            holds = constants.evaluate(where, {declared.name: declared.default})
        except constants.NotConstantError:
            return  # it speaks of other parameters: `bind` decides
        if not holds:
            parameter = self.written[declared.name]
            assert parameter.default is not None
            raise self.fault(
                "A063",
                f"the default of `{declared.name}` breaks its own bound",
                parameter.default.span,
                label=f"{declared.default} does not satisfy it",
            )

    def declare_axes(self) -> None:
        statements = self.statements(syntax.Axes)
        for statement in statements[1:]:
            with self.recording():
                raise self.fault(
                    "A045",
                    "the axes are declared twice",
                    statement.span,
                    help="name them all at once: `axes y, x`",
                )
        for name in [name for statement in statements for name in statement.names]:
            with self.recording():
                self.axes = (*self.axes, self.declare(name, "an axis"))

    def inputs(self) -> tuple[InputDeclaration, ...]:
        found: list[InputDeclaration] = []
        context = Context("a dimension", frozenset(), {})
        for statement in self.statements(syntax.Input):
            with self.recording(statement.name):
                word = self.declare(statement.name, "an input")
                environment = self.environment(context)
                element = calls.scalar_type(statement.type, environment)
                dimensions = tuple(
                    self.dimension(d, environment) for d in statement.type.dimensions
                )
                self.bindings[word] = Array(word, element, dimensions, statement.span)
                found.append(InputDeclaration(word, element, dimensions, statement.span))
        return tuple(found)

    def dimension(self, written: syntax.Expression, environment: Environment) -> Expression:
        if isinstance(written, syntax.Name) and written.parts[0] not in {
            *SIZES,
            *self.bindings,
            *self.axes,
        }:
            word = ".".join(written.parts)
            raise self.fault(
                "A012",
                f"unknown size `{word}`",
                written.span,
                label=f"the sizes are {', '.join(f'`{size}`' for size in SIZES)}",
                help=suggestion(word, [*SIZES, *self.bindings]),
            )
        value = expressions.check(written, environment)
        self.require(value, INT, "a dimension", written.span)
        if any(isinstance(node, Read) for node in walk(value)):
            raise self.fault("A033", "a dimension cannot be read from an input", written.span)
        return value

    def declare_lets(self) -> None:
        for statement in self.statements(syntax.Let):
            with self.recording(statement.name):
                is_scan = _is_scan(statement.value)
                self.declare(statement.name, "a running sum" if is_scan else "a value")
                if not is_scan:
                    self.lets[statement.name.parts[0]] = statement

    def scans(self) -> tuple[TokenScan, ...]:
        """`let c = cumsum(…)`, each over inputs, to an array over the tokens."""
        inputs = dict(self.bindings)
        found: list[TokenScan] = []
        for statement in self.statements(syntax.Let):
            if not _is_scan(statement.value) or statement.name.parts[0] in self.bindings:
                continue
            with self.recording(statement.name):
                scan = self.scan(statement, inputs)
                found.append(scan)
                element = scan.element.type
                assert isinstance(element, Scalar)
                self.bindings[scan.name] = Array(scan.name, element, scan.dimensions, scan.span)
        return tuple(found)

    def scan(self, statement: syntax.Let, inputs: dict[str, Binding]) -> TokenScan:
        call = statement.value
        assert isinstance(call, syntax.Call)
        word = statement.name.parts[0]
        if len(call.arguments) != 1 or call.arguments[0].keyword is not None:
            raise self.fault("A023", "`cumsum` takes 1 argument", call.span)
        context = Context("`cumsum`", frozenset("bhgt"), {}, whole_inputs=True)
        environment = dataclasses.replace(self.environment(context), bindings=inputs)
        written = call.arguments[0].value
        element = expressions.check(written, environment)
        if element.type is BOOL:
            element = Call("int", (element,), INT, span=element.span)
        if not isinstance(element.type, Scalar):
            raise self.fault(
                "A024",
                "`cumsum` takes scalars",
                written.span,
                label=f"this is {describe(element.type)}",
            )
        names = index_names(element)
        if "t" not in names:
            raise self.fault(
                "A034",
                "`cumsum` needs something that varies along the sequence",
                written.span,
                help="use an input whose last dimension is `Lk`",
            )
        if {"h", "g"} <= names:
            raise self.fault("A034", "`cumsum` cannot mix dimensions `H` and `Hkv`", written.span)
        over = {"b": "B", "h": "H", "g": "Hkv"}
        dimensions = (*(Size(size) for index, size in over.items() if index in names), Size("Lk"))
        return TokenScan(word, "cumsum", element, dimensions, statement.span)


def _is_scan(value: syntax.Expression) -> bool:
    return isinstance(value, syntax.Call) and value.function.parts == ("cumsum",)


def _meaning(word: str) -> str:
    meanings = {
        "b": "the batch index",
        "h": "the query head",
        "i": "the query's position",
        "j": "the key's position",
        "row": "the query's row",
        "q": "the query vector",
        "k": "the key vector",
        "v": "the value vector",
        "scale": "the scale of the dot product",
        "out": "the result of a kernel",
        "log_sum_exp": "a result of a kernel",
        **dict.fromkeys(KEYWORDS, "an argument of every call"),
    }
    return f"`{word}` is {meanings.get(word, 'a size')}"
