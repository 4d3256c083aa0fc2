"""Constructs that parse and check and that no target compiles yet.

`route`, `state`, `branch` and `output` are checked for names and types like the rest of a spec;
their meaning is not kept.
"""

from __future__ import annotations

import dataclasses

from attndsl import syntax
from attndsl.attention import Later
from attndsl.check import builtins, expressions
from attndsl.check.operators import describe, fits
from attndsl.check.scope import Binding, Context, Environment, raw_operands
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Expression,
    Matrix,
    Operand,
    Read,
    Size,
    Type,
    Vector,
)
from attndsl.source import Span
from attndsl.suggestions import suggestion

ROUTE_FIELDS = ("affinity", "keep", "always", "never")
KEEP = {"top": INT, "threshold": FLOAT, "mass": FLOAT}
BRANCH_KINDS = {"pooled": 1, "routed": 2}


def _expect(
    value: Expression, wanted: Type, what: str, span: Span, environment: Environment
) -> None:
    if wanted is FLOAT and value.type is INT:
        return
    if not fits(wanted, value.type):
        raise environment.fault(
            "A024",
            f"{what} is {describe(wanted)}",
            span,
            label=f"this is {describe(value.type)}",
        )


def check_route(route: syntax.Route, environment: Environment) -> Later:
    """A016…A03x for names, types and indices; A046 for a field that is missing or unknown."""
    static = dataclasses.replace(environment, context=Context("a block", frozenset(), {}))
    block = expressions.check(route.block, static)
    builtins.static_int(block, "a block", static, route.block.span)
    operands = raw_operands()
    inside = Context(
        "a route",
        frozenset({"b", "h", "g", "i", "n", "row"}),
        # `k` is the block of keys, to be pooled.
        {"q": operands["q"], "k": Read("k", (), Matrix(block, Size("D")))},
        matrices=True,
    )
    routed = dataclasses.replace(environment, context=inside)
    seen: set[str] = set()
    for field in route.fields:
        word = field.target.parts[0]
        if word not in ROUTE_FIELDS:
            raise environment.fault(
                "A018",
                f"a route has no `{word}`",
                field.target.span,
                label="expected `affinity`, `keep`, `always` or `never`",
                help=suggestion(word, ROUTE_FIELDS),
            )
        if word in seen:
            raise environment.fault("A040", f"`{word}` is assigned twice", field.target.span)
        seen.add(word)
        if word == "keep":
            _check_keep(field.value, static)
        else:
            value = expressions.check(field.value, routed)
            wanted: Type = FLOAT if word == "affinity" else BOOL
            _expect(value, wanted, f"`{word}`", field.value.span, routed)
    for word in ("affinity", "keep"):
        if word not in seen:
            raise environment.fault(
                "A046", f"the route has no `{word}`", route.span, help=f"add `{word} = …`"
            )
    return Later("route", route.span)


def _check_keep(value: syntax.Expression, environment: Environment) -> None:
    match value:
        case syntax.Call(function=syntax.Name(parts=(name,)), arguments=(argument,)) if (
            name in KEEP and argument.keyword is None
        ):
            given = expressions.check(argument.value, environment)
            _expect(given, KEEP[name], f"`{name}`", argument.span, environment)
            return
    raise environment.fault(
        "A046",
        "`keep` says how many blocks to choose",
        value.span,
        help="write `top(3)`, `threshold(0.1)` or `mass(0.9)`",
    )


def check_state(state: syntax.State, environment: Environment) -> Later:
    """The state, its steps, and what is read from it."""
    static = dataclasses.replace(environment, context=Context("a state", frozenset(), {}))
    if len(state.dimensions) != 2:
        raise environment.fault(
            "A046", "a state has two dimensions", state.span, help="write `state S: [D, Dv] { … }`"
        )
    rows, columns = (
        builtins.static_int(expressions.check(d, static), "a state", static, d.span)
        for d in state.dimensions
    )
    name = state.name.parts[0]
    matrix = Matrix(rows, columns)
    context = Context("a state", frozenset({"b", "h", "g", "t"}), raw_operands(), matrices=True)
    bindings: dict[str, Binding] = {**environment.bindings, name: Read(name, (), matrix)}
    inside = dataclasses.replace(environment, context=context, bindings=bindings)
    has_read = False
    for step in state.steps:
        value = expressions.check(step.value, inside)
        word = step.target.parts[0]
        if word == name:
            _expect(value, matrix, f"`{name}`", step.value.span, inside)
        elif word == "read":
            has_read = True
            if not isinstance(value.type, Vector):
                raise environment.fault(
                    "A024",
                    "`read` is a vector",
                    step.value.span,
                    label=f"this is {describe(value.type)}",
                )
        else:
            raise environment.fault(
                "A018",
                f"a state has no `{word}`",
                step.target.span,
                label=f"expected `{name}` or `read`",
                help=suggestion(word, [name, "read"]),
            )
    if not has_read:
        raise environment.fault(
            "A046", "the state is never read", state.span, help=f"add `read = dot({name}, q)`"
        )
    return Later("state", state.span)


def branch_value(branch: syntax.Branch) -> Expression:
    """What a branch's name means in the output: a vector of values."""
    return Operand(branch.name.parts[0], Vector(Size("Dv")), span=branch.span)


def check_branch(branch: syntax.Branch, environment: Environment) -> Later:
    """A branch calls an attention of this file, or pools or routes blocks."""
    match branch.value:
        case syntax.Call(function=syntax.Name(parts=(name,))) as call:
            arguments = call.arguments
        case syntax.Name(parts=(name,)):
            arguments = ()
        case _:
            raise environment.fault(
                "A046",
                "a branch names an attention",
                branch.value.span,
                help="write `branch local = sliding_window(window)`",
            )
    static = dataclasses.replace(environment, context=Context("a branch", frozenset(), {}))
    for argument in arguments:
        expressions.check(argument.value, static)
    attention = environment.module.attentions.get(name)
    if attention is not None:
        parameters = [parameter.name.parts[0] for parameter in attention.parameters]
        for argument in arguments:
            if argument.keyword is not None and argument.keyword not in parameters:
                raise environment.fault(
                    "A014",
                    f"`{name}` has no parameter `{argument.keyword}`",
                    argument.span,
                    help=suggestion(argument.keyword, parameters),
                )
        if len(arguments) > len(parameters):
            raise environment.fault(
                "A023", f"`{name}` takes {len(parameters)} arguments", branch.value.span
            )
    elif name in BRANCH_KINDS:
        if len(arguments) != BRANCH_KINDS[name]:
            raise environment.fault(
                "A023", f"`{name}` takes {BRANCH_KINDS[name]} arguments", branch.value.span
            )
    else:
        raise environment.fault(
            "A013",
            f"unknown attention `{name}`",
            branch.value.span,
            label="not an attention of this file, `pooled` or `routed`",
            help=suggestion(name, [*environment.module.attentions, *BRANCH_KINDS]),
        )
    return Later("branch", branch.span)


def check_output(
    output: syntax.Assign, branches: dict[str, Binding], environment: Environment
) -> Later:
    """The output mixes the branches: a vector of size Dv."""
    context = Context("the output", frozenset({"b", "h", "g", "i", "row"}), {})
    inside = dataclasses.replace(
        environment, context=context, bindings={**environment.bindings, **branches}
    )
    value = expressions.check(output.value, inside)
    _expect(value, Vector(Size("Dv")), "the output", output.value.span, inside)
    return Later("output", output.span)
