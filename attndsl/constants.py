"""The value of an expression without anything that varies: defaults, and bounds of parameters."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping

from attndsl.expression import Binary, Call, Expression, Literal, Parameter, Select, Unary

Value = bool | int | float
# No bound of a parameter needs more; a tower of powers must not fill the memory.
MAXIMUM_INTEGER = 2**63

_BINARY: dict[str, Callable[[Value, Value], Value]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
}
_CALLS: dict[str, Callable[..., Value]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "exp": math.exp,
    "exp2": lambda x: math.pow(2.0, x),
    "log": math.log,
    "log2": math.log2,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "float": float,
    "int": int,
}


class NotConstantError(Exception):
    """The expression has no value by itself, or none at all; the message says why."""


def evaluate(expression: Expression, parameters: Mapping[str, Value]) -> Value:
    """The value. Raises `NotConstantError` where something varies or arithmetic fails."""
    try:
        value = _evaluate(expression, parameters)
    except (ArithmeticError, ValueError) as fault:
        raise NotConstantError(str(fault)) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise NotConstantError("the result is not finite")
    return value


def _evaluate(expression: Expression, parameters: Mapping[str, Value]) -> Value:
    match expression:
        case Literal(value=value):
            return value
        case Parameter(name=name) if name in parameters:
            return parameters[name]
        case Unary(operator="not", operand=operand):
            return not _evaluate(operand, parameters)
        case Unary(operand=operand):
            return -_evaluate(operand, parameters)
        case Binary(operator="**", left=left, right=right):
            return _power(_evaluate(left, parameters), _evaluate(right, parameters))
        case Binary(operator=name, left=left, right=right):
            return _bounded(
                _BINARY[name](_evaluate(left, parameters), _evaluate(right, parameters))
            )
        case Select(condition=condition, then=then, otherwise=otherwise):
            return _evaluate(then if _evaluate(condition, parameters) else otherwise, parameters)
        case Call(function=name, arguments=arguments) if name in _CALLS:
            return _CALLS[name](*(_evaluate(argument, parameters) for argument in arguments))
    raise NotConstantError("only numbers and parameters may stand here")


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, int) and isinstance(exponent, int):
        if exponent * max(abs(base).bit_length(), 1) > 64:
            raise NotConstantError("the result is too large")
        return _bounded(base**exponent)
    result = math.pow(base, exponent)
    return result


def _bounded(value: Value) -> Value:
    if isinstance(value, int) and abs(value) > MAXIMUM_INTEGER:
        raise NotConstantError("the result is too large")
    return value
