"""Calls: built-in functions, and definitions, which are written out where they are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from attndsl import syntax
from attndsl.check import builtins, expressions, operators, patterns
from attndsl.check.operators import describe
from attndsl.check.scope import (
    Array,
    Binding,
    Defined,
    Environment,
)
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Expression,
    Scalar,
)
from attndsl.functions import FUNCTIONS
from attndsl.source import Span
from attndsl.suggestions import suggestion


def call(call: syntax.Call, environment: Environment, span: Span) -> Expression:
    name = ".".join(call.function.parts)
    defined = environment.module.definitions.get(name)
    if defined is not None:
        return expand(defined, call.arguments, environment, span)
    if name in patterns.PATTERNS:
        return patterns.expand(call, environment, span, expand)
    if not builtins.is_builtin(name):
        raise _unknown_function(call, environment)
    for argument in call.arguments:
        if argument.keyword is not None:
            raise environment.fault(
                "A014",
                f"`{name}` takes no argument by name",
                argument.span,
                help=f"write `{name}(…)`",
            )
    written = [argument.value for argument in call.arguments]
    arguments = expressions.check_all(written, environment)
    return builtins.call(name, arguments, environment, span)


def _unknown_function(call: syntax.Call, environment: Environment) -> AttnError:
    name = ".".join(call.function.parts)
    at = call.function.span
    if name in environment.failed | environment.module.failed:
        return AttnError([])  # its declaration was reported
    if name in environment.bindings or name in environment.lets:
        return environment.fault(
            "A013",
            f"`{name}` is not a function",
            at,
            help=f"index it with `{name}[…]`" if name in environment.bindings else None,
        )
    if name == "cumsum":
        return environment.fault(
            "A013", "`cumsum` stands alone", at, help="name it first: `let c = cumsum(…)`"
        )
    known = [*environment.module.definitions, *FUNCTIONS, *builtins.EXPANDED, *patterns.PATTERNS]
    if name in environment.known_values():
        return environment.fault(
            "A013", f"`{name}` is not a function", at, help=f"to multiply, write `{name} * (…)`"
        )
    # `torch.tanh` is the language's `tanh`.
    last = call.function.parts[-1]
    return environment.fault(
        "A013",
        f"unknown function `{name}`",
        at,
        label="not a definition or a built-in function",
        help=f"write `{last}(…)`" if last in known else suggestion(name, known),
    )


def expand(
    defined: Defined,
    arguments: Sequence[syntax.Argument],
    environment: Environment,
    span: Span,
    given: Sequence[Binding] = (),
) -> Expression:
    """The body of a definition with its parameters replaced; `given` come before `arguments`."""
    definition = defined.definition
    name = definition.name.parts[0]
    if name in environment.expanding:
        chain = " → ".join(f"`{part}`" for part in (*environment.expanding, name))
        raise environment.fault(
            "A041",
            f"`{name}` calls itself",
            span,
            label=chain,
            help="definitions are written out where they are called, so they cannot recur",
        )
    above = expressions.deeper(environment, 3)
    bindings = bind_arguments(defined, arguments, above, span, given)
    inside = dataclasses.replace(
        environment,
        module=defined.scope,
        bindings=bindings,
        lets={},
        used=set(),
        expanding=(*environment.expanding, name),
        frames=environment.frames + 1,
        at=environment.at or (span if defined.scope.prelude else None),
    )
    try:
        # It stands where it is called; its parts stand where they are defined.
        return dataclasses.replace(expressions.check(definition.body, inside), span=span)
    except AttnError as fault:
        raise AttnError([_called_from(d, name, span) for d in fault.diagnostics]) from None


def _called_from(diagnostic: Diagnostic, name: str, span: Span) -> Diagnostic:
    line, column = span.source.position(span.start)
    note = f"in `{name}`, called at {span.source.name}:{line}:{column}"
    if len(diagnostic.notes) >= 5:
        return diagnostic
    return dataclasses.replace(diagnostic, notes=(*diagnostic.notes, note))


def bind_arguments(
    defined: Defined,
    arguments: Sequence[syntax.Argument],
    environment: Environment,
    span: Span,
    given: Sequence[Binding] = (),
) -> dict[str, Binding]:
    """Parameters of a definition with the values they get. A014, A023 for arguments that misfit."""
    definition = defined.definition
    name = definition.name.parts[0]
    parameters = {parameter.name.parts[0]: parameter for parameter in definition.parameters}
    names = list(parameters)
    positional = [argument for argument in arguments if argument.keyword is None]
    if len(given) + len(positional) > len(names):
        wanted = f"{len(names)} argument{'' if len(names) == 1 else 's'}"
        got = len(given) + len(positional)
        raise environment.fault("A023", f"`{name}` takes {wanted}, not {got}", span)
    bindings: dict[str, Binding] = dict(zip(names, given, strict=False))
    for word, argument in zip(names[len(given) :], positional, strict=False):
        bindings[word] = _argument(argument.value, environment)
    for argument in arguments:
        if argument.keyword is None:
            continue
        if argument.keyword not in parameters:
            raise environment.fault(
                "A014",
                f"`{name}` has no parameter `{argument.keyword}`",
                argument.span,
                help=suggestion(argument.keyword, names),
            )
        if argument.keyword in bindings:
            raise environment.fault("A014", f"`{argument.keyword}` is given twice", argument.span)
        bindings[argument.keyword] = _argument(argument.value, environment)
    ordered: dict[str, Binding] = {}
    for word, parameter in parameters.items():
        if word in bindings:
            ordered[word] = _declared(parameter, bindings[word], environment, span)
        elif parameter.default is not None:
            inside = dataclasses.replace(
                environment, module=defined.scope, bindings=ordered, lets={}, used=set()
            )
            value = expressions.check(parameter.default, inside)
            ordered[word] = _declared(parameter, value, environment, span)
        else:
            shown = ", ".join(names)
            raise environment.fault(
                "A023",
                f"`{name}` needs a value for `{word}`",
                span,
                help=f"write `{name}({shown})`",
            )
    return ordered


def _argument(value: syntax.Expression, environment: Environment) -> Binding:
    """An argument: an input may be passed on whole, to be indexed in the definition."""
    if (
        isinstance(value, syntax.Name)
        and len(value.parts) == 1
        and not environment.context.whole_inputs
    ):
        found = environment.bindings.get(value.parts[0])
        if isinstance(found, Array) and found.dimensions:
            environment.used.add(value.parts[0])
            return found
    return expressions.check(value, environment)


def _declared(
    parameter: syntax.Parameter, value: Binding, environment: Environment, span: Span
) -> Binding:
    """The value, checked against the parameter's type where it declares one."""
    if parameter.type is None or isinstance(value, Array):
        return value
    wanted = scalar_type(parameter.type, environment)
    at = value.span or span
    if wanted is FLOAT and value.type is INT:
        return operators.to_float(value, environment, at)
    if value.type is not wanted:
        raise environment.fault(
            "A024",
            f"`{parameter.name.parts[0]}` is {describe(wanted)}",
            at,
            label=f"this is {describe(value.type)}",
        )
    return value


def scalar_type(type_: syntax.TypeName, environment: Environment) -> Scalar:
    """`bool`, `int` or `float`. A028 for any other."""
    known = {"bool": BOOL, "int": INT, "float": FLOAT}
    if type_.name in known:
        return known[type_.name]
    alias = {"boolean": "bool", "integer": "int", "double": "float", "real": "float"}
    name = type_.name.lower()
    guess = alias.get(name) or next((k for k in known if name.startswith(k)), None)
    raise environment.fault(
        "A028",
        f"unknown type `{type_.name}`",
        type_.span,
        label="expected `bool`, `int` or `float`",
        help=f"write `{guess}`" if guess else None,
    )
