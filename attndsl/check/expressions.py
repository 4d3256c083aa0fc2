"""Expressions: from syntax to typed nodes. Names are resolved and definitions written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from attndsl import syntax
from attndsl.check import builtins, operators, patterns, reads
from attndsl.check.operators import describe
from attndsl.check.scope import (
    INDICES,
    MAXIMUM_DEPTH,
    MAXIMUM_NODES,
    OPERANDS,
    SIZES,
    Array,
    Binding,
    Defined,
    Environment,
    requires_arguments,
    suggestion,
)
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Coordinate,
    Expression,
    Index,
    Literal,
    Matrix,
    Read,
    Scalar,
    Scale,
    Size,
    Vector,
    children,
)
from attndsl.source import Span


def check(expression: syntax.Expression, environment: Environment) -> Expression:
    """The typed expression. Raises `AttnError` (A01x names, A02x types, A03x indices, A04x)."""
    _count_node(expression, environment)
    environment = dataclasses.replace(environment, depth=environment.depth + 1)
    span = environment.at or expression.span
    match expression:
        case syntax.Number(value=value) | syntax.Boolean(value=value):
            result: Expression = Literal(value, span=span)
        case syntax.Name():
            result = _value(expression, environment, span)
        case syntax.Unary(operator=operator, operand=operand):
            typed = check(operand, environment)
            apply = operators.invert if operator == "not" else operators.negate
            result = apply(typed, environment, span)
        case syntax.Binary(operator=operator, left=left, right=right):
            a, b = check(left, environment), check(right, environment)
            combine = operators.logical if operator in ("and", "or") else None
            if combine is not None:
                result = combine(operator, a, b, environment, span)
            else:
                result = operators.arithmetic(operator, a, b, environment, span)
        case syntax.Compare():
            result = _comparison(expression, environment, span)
        case syntax.Conditional(condition=condition, then=then, otherwise=otherwise):
            chosen = check(condition, environment)
            a, b = check(then, environment), check(otherwise, environment)
            result = operators.select(chosen, a, b, environment, span)
        case syntax.Call():
            result = _call(expression, environment, span)
        case syntax.Subscript():
            result = _subscript(expression, environment, span)
    measure(result, environment, span)
    return result


def _count_node(expression: syntax.Expression, environment: Environment) -> None:
    environment.budget.nodes += 1
    if environment.budget.nodes > MAXIMUM_NODES:
        raise environment.fault(
            "A042",
            f"definitions expand to more than {MAXIMUM_NODES} operations",
            expression.span,
            help="let the definitions call each other less often",
        )
    if environment.depth >= MAXIMUM_DEPTH:
        raise _too_deep(environment, expression.span)


def _too_deep(environment: Environment, span: Span) -> AttnError:
    return environment.fault(
        "A042",
        f"definitions expand to an expression more than {MAXIMUM_DEPTH} levels deep",
        span,
        help="let the definitions call each other less deeply",
    )


def measure(expression: Expression, environment: Environment, span: Span) -> tuple[int, int]:
    """Nodes and levels of a typed expression, counted once per place that a node stands in.

    A042 where either is without reason: a shared argument may multiply with each definition.
    """
    known = environment.budget.measures.get(id(expression))
    if known is not None:
        return known[0], known[1]
    parts = [measure(child, environment, span) for child in children(expression)]
    nodes = 1 + sum(part[0] for part in parts)
    depth = 1 + max((part[1] for part in parts), default=0)
    if nodes > MAXIMUM_NODES:
        raise environment.fault(
            "A042",
            f"definitions expand to more than {MAXIMUM_NODES} operations",
            span,
            help="let the definitions use their parameters less often",
        )
    if depth > MAXIMUM_DEPTH:
        raise _too_deep(environment, span)
    environment.budget.measures[id(expression)] = (nodes, depth, expression)
    return nodes, depth


# --- names ---------------------------------------------------------------------------------------


def _value(name: syntax.Name, environment: Environment, span: Span) -> Expression:
    if len(name.parts) > 1:
        return _dotted(name, environment, span)
    found = _binding(name, environment, span)
    if isinstance(found, Array):
        if environment.context.whole_inputs:
            return _whole(found, environment, span)
        return reads.read(found, [], environment, span)
    return found


def _binding(name: syntax.Name, environment: Environment, span: Span) -> Binding:
    """What a plain name means, an array without its indices."""
    word = name.parts[0]
    context = environment.context
    if word in environment.bindings:
        environment.used.add(word)
        found = environment.bindings[word]
        return found if isinstance(found, Array) else dataclasses.replace(found, span=span)
    if word in environment.lets:
        return _let(environment.lets[word], environment, span)
    if word in context.indices:
        return Index(word, span=span)
    if word in context.operands:
        return dataclasses.replace(context.operands[word], span=span)
    if word in SIZES:
        return Size(word, span=span)
    if word == "scale":
        return Scale(span=span)
    defined = environment.module.definitions.get(word)
    if defined is not None and not requires_arguments(defined):
        return expand(defined, (), environment, span)
    raise _unknown_name(word, environment, span)


def _let(let: syntax.Let, environment: Environment, span: Span) -> Expression:
    word = let.name.parts[0]
    environment.used.add(word)
    if f"let {word}" in environment.expanding:
        raise environment.fault(
            "A041",
            f"`{word}` is defined by itself",
            let.name.span,
            help="a `let` names a value; it cannot refer to itself",
        )
    inside = dataclasses.replace(environment, expanding=(*environment.expanding, f"let {word}"))
    return check(let.value, inside)


def _unknown_name(word: str, environment: Environment, span: Span) -> AttnError:
    if word in INDICES or word in OPERANDS:
        here = sorted(environment.context.indices | set(environment.context.operands))
        shown = ", ".join(f"`{name}`" for name in here)
        return environment.fault(
            "A019",
            f"`{word}` has no meaning in {environment.context.place}",
            span,
            label=f"here there is {shown}" if here else "nothing varies here",
        )
    defined = environment.module.definitions.get(word)
    if defined is not None:
        parameters = ", ".join(p.name.parts[0] for p in defined.definition.parameters)
        return environment.fault(
            "A023", f"`{word}` needs arguments", span, help=f"write `{word}({parameters})`"
        )
    if builtins.is_builtin(word):
        return environment.fault("A023", f"`{word}` is a function", span, help=f"write `{word}(…)`")
    help = _SPELLINGS.get(word) or suggestion(word, environment.known_values())
    return environment.fault(
        "A012",
        f"unknown name `{word}`",
        span,
        label="not a parameter, input or index",
        help=help,
    )


_SPELLINGS = {
    "true": "write `True`",
    "false": "write `False`",
    "inf": "hide pairs with `mask = …`, not with an infinite score",
    "None": "leave the statement out",
    "pi": "write `3.141592653589793`",
    "kv_head": "did you mean `g`?",
    "head": "did you mean `h`?",
    "batch": "did you mean `b`?",
    "query": "did you mean `q`?",
    "key": "did you mean `k`?",
    "value": "did you mean `v`?",
    "seq_len": "did you mean `Lk`?",
    "L": "did you mean `Lk`?",
    "N": "did you mean `Lk`?",
    "d": "did you mean `D`?",
}


def _dotted(name: syntax.Name, environment: Environment, span: Span) -> Expression:
    first, *rest = name.parts
    axes = environment.axes
    if len(rest) == 1 and first in axes and rest[0] == "size":
        return Size(f"axis.{first}", span=span)
    if len(rest) == 1 and first in ("i", "j") and rest[0] in axes:
        if first not in environment.context.indices:
            raise _unknown_name(first, environment, span)
        return Coordinate(first, rest[0], span=span)
    whole = ".".join(name.parts)
    if not axes:
        help = "declare the grid first, as in `axes y, x`"
    else:
        help = suggestion(whole, [f"{p}.{a}" for p in "ij" for a in axes]) or suggestion(
            whole, [f"{a}.size" for a in axes]
        )
    raise environment.fault(
        "A016",
        f"unknown coordinate `{whole}`",
        span,
        label=f"the axes are {', '.join(f'`{a}`' for a in axes)}" if axes else "there are no axes",
        help=help,
    )


def _whole(array: Array, environment: Environment, span: Span) -> Expression:
    """Inside `cumsum`: the element of an input at the step `t`."""
    indices: list[Expression] = []
    steps = {"B": "b", "H": "h", "Hkv": "g", "Lk": "t"}
    for number, dimension in enumerate(array.dimensions):
        index = steps.get(dimension.name) if isinstance(dimension, Size) else None
        last = number == len(array.dimensions) - 1
        if index is None or (index == "t") != last:
            raise environment.fault(
                "A033",
                f"`cumsum` cannot run over `{reads.declaration_text(array)}`",
                span,
                help="its dimensions must be of `B`, `H` or `Hkv`, and then `Lk`",
            )
        indices.append(Index(index, span=span))
    return reads.read(array, indices, environment, span)


# --- operators over several operands -------------------------------------------------------------


def _comparison(chain: syntax.Compare, environment: Environment, span: Span) -> Expression:
    """`a < b <= c` is `a < b and b <= c`."""
    typed = [check(operand, environment) for operand in chain.operands]
    result: Expression | None = None
    for operator, left, right in zip(chain.operators, typed, typed[1:], strict=False):
        at = span if left.span is None or right.span is None else left.span.to(right.span)
        one = operators.compare(operator, left, right, environment, at)
        result = one if result is None else operators.logical("and", result, one, environment, span)
    assert result is not None
    return result


def _subscript(subscript: syntax.Subscript, environment: Environment, span: Span) -> Expression:
    if isinstance(subscript.value, syntax.Name) and len(subscript.value.parts) == 1:
        found = _binding(subscript.value, environment, environment.at or subscript.value.span)
        if isinstance(found, Array):
            return _read(found, subscript.indices, environment, span)
        value = found
    else:
        value = check(subscript.value, environment)
    at = environment.at or subscript.value.span
    if isinstance(value.type, Matrix) and isinstance(value, Read):
        parts = [_index(index, environment) for index in subscript.indices]
        array = Array(value.name, FLOAT, (value.type.rows, value.type.columns), at)
        inner = reads.read(array, parts, environment, span)
        assert isinstance(inner, Read)
        return dataclasses.replace(inner, indices=(*value.indices, *inner.indices))
    if not isinstance(value.type, Vector):
        raise environment.fault(
            "A027",
            f"{describe(value.type)} cannot be indexed",
            at,
            label=f"this is {describe(value.type)}",
        )
    if len(subscript.indices) != 1:
        raise environment.fault("A031", "a vector has 1 dimension", span)
    (index,) = subscript.indices
    if isinstance(index, syntax.Slice):
        start = check(index.start, environment) if index.start is not None else None
        stop = check(index.stop, environment) if index.stop is not None else None
        return reads.take(value, start, stop, environment, span)
    return reads.element(value, check(index, environment), environment, span)


def _index(index: syntax.Expression | syntax.Slice, environment: Environment) -> Expression:
    if isinstance(index, syntax.Slice):
        raise environment.fault(
            "A031",
            "an input is indexed by position, not sliced",
            index.span,
            help="leave the last index out to get a vector, and slice that: `u[h][0:32]`",
        )
    return check(index, environment)


def _read(
    array: Array,
    indices: Sequence[syntax.Expression | syntax.Slice],
    environment: Environment,
    span: Span,
) -> Expression:
    # `u[h, 0:32]` is a slice of the vector `u[h]`.
    if len(indices) == len(array.dimensions) and isinstance(indices[-1], syntax.Slice):
        typed = [_index(index, environment) for index in indices[:-1]]
        vector = reads.read(array, typed, environment, span)
        start, stop = indices[-1].start, indices[-1].stop
        first = check(start, environment) if start is not None else None
        last = check(stop, environment) if stop is not None else None
        return reads.take(vector, first, last, environment, span)
    return reads.read(array, [_index(i, environment) for i in indices], environment, span)


# --- calls ---------------------------------------------------------------------------------------


def _call(call: syntax.Call, environment: Environment, span: Span) -> Expression:
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
    arguments = [check(argument.value, environment) for argument in call.arguments]
    return builtins.call(name, arguments, environment, span)


def _unknown_function(call: syntax.Call, environment: Environment) -> AttnError:
    name = ".".join(call.function.parts)
    at = call.function.span
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
    from attndsl.functions import FUNCTIONS

    known = [*environment.module.definitions, *FUNCTIONS, *builtins.EXPANDED, *patterns.PATTERNS]
    return environment.fault(
        "A013",
        f"unknown function `{name}`",
        at,
        label="not a definition or a built-in function",
        help=suggestion(name, known),
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
    bindings = bind_arguments(defined, arguments, environment, span, given)
    inside = dataclasses.replace(
        environment,
        module=defined.scope,
        bindings=bindings,
        lets={},
        used=set(),
        expanding=(*environment.expanding, name),
        at=environment.at or (span if defined.scope.prelude else None),
    )
    try:
        return check(definition.body, inside)
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
            value = check(parameter.default, inside)
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
    return check(value, environment)


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
