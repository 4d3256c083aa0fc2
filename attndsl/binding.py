"""Giving an attention its parameters."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator

from attndsl.attention import Attention, ParameterDeclaration, substitute_parameters
from attndsl.constants import NotConstantError, Value, evaluate
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import Binary, Expression, Parameter, Scalar, Select, children, walk
from attndsl.printing import text
from attndsl.suggestions import suggestion

Values = dict[str, Value]


def bind(attention: Attention, **values: object) -> Attention:
    """The attention with every parameter replaced by its value, or by its default.

    Raises `AttnError`: A053 for a divisor that is zero, A060 for a parameter without a value, A061
    for an unknown one, A062 for a value of another type, A063 for one that breaks a bound.
    """
    declared = {parameter.name: parameter for parameter in attention.parameters}
    faults: list[Diagnostic] = []
    for name in values:
        if name not in declared:
            known = ", ".join(f"`{word}`" for word in declared) or "none"
            message = f"`{attention.name}` has no parameter `{name}`"
            help = suggestion(name, declared) or f"its parameters: {known}"
            faults.append(Diagnostic("A061", message, help=help))
    bound: Values = {}
    for name, parameter in declared.items():
        try:
            bound[name] = _value(attention, parameter, values)
        except AttnError as fault:
            faults.extend(fault.diagnostics)
    if not faults:
        faults = [f for p in attention.parameters if (f := _broken_bound(p, bound)) is not None]
    if faults:
        raise AttnError(faults)
    faults = _divisions_by_zero(attention, bound)
    if faults:
        raise AttnError(faults)
    return substitute_parameters(attention, bound)


def _value(
    attention: Attention, parameter: ParameterDeclaration, values: dict[str, object]
) -> Value:
    if parameter.name in values:
        return _converted(parameter, values[parameter.name])
    if parameter.default is None:
        message = f"`{attention.name}` needs a value for `{parameter.name}`"
        raise AttnError(
            Diagnostic(
                "A060",
                message,
                parameter.span,
                "it has no default",
                f"write `{attention.name}({parameter.name}=…)`",
            )
        )
    return parameter.default


def _converted(parameter: ParameterDeclaration, value: object) -> Value:
    """The value as a Python scalar of the parameter's type; NumPy's scalars are welcome."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 1) == 0:
        value = item()
    match parameter.type:
        case Scalar.BOOL if isinstance(value, bool):
            return value
        case Scalar.INT if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            if abs(int(value)) < 2**31:
                return int(value)
            raise _wrong(parameter, value, "an int of 32 bits")
        case Scalar.FLOAT if isinstance(value, numbers.Real) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            raise _wrong(parameter, value, "a finite float")
    article = "an" if parameter.type is Scalar.INT else "a"
    raise _wrong(parameter, value, f"{article} {parameter.type}")


def _wrong(parameter: ParameterDeclaration, value: object, wanted: str) -> AttnError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return AttnError(
        Diagnostic(
            "A062",
            f"`{parameter.name}` takes {wanted}, not `{shown}`",
            parameter.span,
            f"declared as `{parameter.type}`",
        )
    )


def _broken_bound(parameter: ParameterDeclaration, values: Values) -> Diagnostic | None:
    if parameter.where is None:
        return None
    condition = text(parameter.where)
    try:
        holds = bool(evaluate(parameter.where, values))
        label = f"needs `{condition}`"
    except NotConstantError as fault:
        holds, label = False, f"`{condition}` has no value: {fault}"
    if holds:
        return None
    value = values[parameter.name]
    message = f"`{parameter.name} = {value}` is out of bounds"
    return Diagnostic("A063", message, parameter.span, label)


def _divisions_by_zero(attention: Attention, values: Values) -> list[Diagnostic]:
    """A053 for each `//` and `%` whose right operand is zero whatever the call."""
    found: dict[Expression, Diagnostic] = {}

    def look(expression: Expression) -> Expression:
        for node in _reached(expression, values):
            match node:
                case Binary(operator="//" | "%", right=divisor, type=Scalar.INT):
                    names = {part.name for part in walk(divisor) if isinstance(part, Parameter)}
                    if names and _constant(divisor, values) == 0:
                        given = ", ".join(f"{name} = {values[name]}" for name in sorted(names))
                        help = f"bound the parameter: `where {min(names)} > 0`"
                        found[divisor] = Diagnostic(
                            "A053", "integer division by zero", divisor.span, f"0 for {given}", help
                        )
        return expression

    attention.map_expressions(look)
    return list(found.values())


def _reached(expression: Expression, values: Values) -> Iterator[Expression]:
    """The nodes that matter with these values: not those that a condition on them excludes."""
    yield expression
    inside = children(expression)
    match expression:
        case Select(condition=condition, then=then, otherwise=otherwise):
            chosen = _constant(condition, values)
            if chosen is not None:
                inside = (condition, then if chosen else otherwise)
        case Binary(operator="and" | "or" as operator, left=left, right=right):
            decides = operator == "or"
            if decides in (_constant(left, values), _constant(right, values)):
                inside = ()
    for part in inside:
        yield from _reached(part, values)


def _constant(expression: Expression, values: Values) -> Value | None:
    try:
        return evaluate(expression, values)
    except NotConstantError:
        return None
