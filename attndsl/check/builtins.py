"""The types of built-in functions, by the table in `functions.py`, and those that only the checker
knows: `cdiv` and `size` are written out in terms of others."""

from __future__ import annotations

from attndsl.check import operators, sizes
from attndsl.check.operators import describe
from attndsl.check.scope import Environment
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Expression,
    Literal,
    Matrix,
    Scalar,
    Type,
    Vector,
    index_names,
    walk,
)
from attndsl.expression import Read as ReadNode
from attndsl.functions import FUNCTIONS, Function, Shape
from attndsl.source import Span

EXPANDED = {"cdiv": 2, "size": 1}
OUTER = "outer"  # where matrices are allowed: `outer(k, v)`, of size(k) rows


def is_builtin(name: str) -> bool:
    return name in FUNCTIONS or name in EXPANDED or name == OUTER


def call(
    name: str, arguments: list[Expression], environment: Environment, span: Span
) -> Expression:
    """The typed call. A023 for a wrong number of arguments, A024 for a wrong type."""
    if name == OUTER:
        _count(name, 2, arguments, environment, span)
        return _outer(arguments[0], arguments[1], environment, span)
    if name in EXPANDED:
        _count(name, EXPANDED[name], arguments, environment, span)
        return _expanded(name, arguments, environment, span)
    function = FUNCTIONS[name]
    _count(name, function.arity, arguments, environment, span)
    match function.shape:
        case Shape.ELEMENTWISE:
            return _elementwise(function, arguments, environment, span)
        case Shape.REDUCTION:
            return _reduction(function, arguments[0], environment, span)
        case Shape.VECTOR:
            return _vector(function, arguments, environment, span)
        case Shape.DOT:
            return _dot(arguments[0], arguments[1], environment, span)


def _count(
    name: str,
    arity: int | None,
    arguments: list[Expression],
    environment: Environment,
    span: Span,
) -> None:
    if arity is None and len(arguments) >= 2:
        return
    if arity == len(arguments):
        return
    wanted = "two or more arguments" if arity is None else _arguments(arity)
    help = None
    if name in ("min", "max") and len(arguments) == 1:
        help = "the greatest element of a vector is `amax(x)`"
    raise environment.fault(
        "A023", f"`{name}` takes {wanted}, not {len(arguments)}", span, help=help
    )


def _arguments(count: int) -> str:
    return "1 argument" if count == 1 else f"{count} arguments"


def _wrong(
    function: str,
    wanted: str,
    found: Expression,
    environment: Environment,
    span: Span,
    help: str | None = None,
) -> Exception:
    return environment.fault(
        "A024",
        f"`{function}` takes {wanted}, not {describe(found.type)}",
        found.span or span,
        label=f"this is {describe(found.type)}",
        help=help,
    )


def _elementwise(
    function: Function, arguments: list[Expression], environment: Environment, span: Span
) -> Expression:
    name = function.name
    if name in ("float", "int", "floor"):
        return _conversion(name, arguments[0], environment, span)
    for argument in arguments:
        if argument.type is BOOL or isinstance(argument.type, Matrix):
            help = "convert it with `int(…)`" if argument.type is BOOL else None
            raise _wrong(name, "numbers", argument, environment, span, help)
    if function.keeps_int and all(argument.type is INT for argument in arguments):
        return Call(name, tuple(arguments), INT, span=span)
    converted = [operators.to_float(argument, environment, span) for argument in arguments]
    result = operators.broadcast(name, converted, environment, span)
    return Call(name, tuple(converted), result, span=span)


def _conversion(
    name: str, argument: Expression, environment: Environment, span: Span
) -> Expression:
    if not isinstance(argument.type, Scalar):
        raise _wrong(name, "a scalar", argument, environment, span)
    match name, argument.type:
        case "float", Scalar.FLOAT:
            return argument
        case "float", _:
            return Call("float", (argument,), FLOAT, span=span)
        case (("int" | "floor"), Scalar.INT):
            return argument
        case "int", Scalar.BOOL:
            return Call("int", (argument,), INT, span=span)
        case "floor", Scalar.FLOAT:
            return Call("floor", (argument,), INT, span=span)
        case "int", _:
            raise _wrong(
                name, "a bool", argument, environment, span, "round a float down with `floor(…)`"
            )
    raise _wrong(name, "a float", argument, environment, span, "write `int(…)`")


def _reduction(
    function: Function, argument: Expression, environment: Environment, span: Span
) -> Expression:
    if isinstance(argument.type, Matrix) and environment.context.matrices:
        # Over the rows: the mean of a block's keys is a vector.
        return Call(function.name, (argument,), Vector(argument.type.columns), span=span)
    if not isinstance(argument.type, Vector):
        raise _wrong(function.name, "a vector", argument, environment, span)
    return Call(function.name, (argument,), FLOAT, span=span)


def _vector(
    function: Function, arguments: list[Expression], environment: Environment, span: Span
) -> Expression:
    if function.name == "arange":
        length = static_int(arguments[0], "`arange`", environment, span)
        return Call("arange", (length,), Vector(length), span=span)
    total: Expression = Literal(0)
    for argument in arguments:
        if not isinstance(argument.type, Vector):
            help = None
            if function.name == "softmax":
                help = "to normalise the row, write `normalize = softmax`"
            raise _wrong(function.name, "vectors", argument, environment, span, help)
        total = sizes.add(total, argument.type.size)
    return Call(function.name, tuple(arguments), Vector(total), span=span)


def _dot(left: Expression, right: Expression, environment: Environment, span: Span) -> Expression:
    if not isinstance(left.type, Vector | Matrix):
        raise _wrong("dot", "a vector or a matrix", left, environment, span, "multiply with `*`")
    if not isinstance(right.type, Vector):
        help = "the matrix comes first" if isinstance(right.type, Matrix) else "multiply with `*`"
        raise _wrong("dot", "a vector on the right", right, environment, span, help)
    size = right.type.size
    result: Type = FLOAT
    if isinstance(left.type, Vector):
        inner = left.type.size
    else:
        inner, result = left.type.columns, Vector(left.type.rows)
        # A state `[D, Dv]` is read by its keys: `dot(S, k)` sums over the rows.
        if environment.context.matrices and sizes.differ(inner, size):
            inner, result = left.type.rows, Vector(left.type.columns)
        elif environment.context.matrices and left.type.rows == size:
            result = Vector(left.type.columns)
    if sizes.differ(inner, size):
        raise environment.fault(
            "A025",
            "`dot` takes vectors of one size",
            span,
            label=f"{describe(left.type)} and {describe(right.type)}",
            help="take a slice of the longer one, as in `q[0:32]`",
        )
    return Call("dot", (left, right), result, span=span)


def _outer(left: Expression, right: Expression, environment: Environment, span: Span) -> Expression:
    if not environment.context.matrices:
        message = "`outer` has a meaning only in a state"
        raise environment.fault("A019", message, span, help="write it in a step of a `state`")
    for side in (left, right):
        if not isinstance(side.type, Vector):
            raise _wrong(OUTER, "vectors", side, environment, span)
    assert isinstance(left.type, Vector)
    assert isinstance(right.type, Vector)
    return Call(OUTER, (left, right), Matrix(left.type.size, right.type.size), span=span)


def _expanded(
    name: str, arguments: list[Expression], environment: Environment, span: Span
) -> Expression:
    if name == "size":
        if not isinstance(arguments[0].type, Vector):
            raise _wrong("size", "a vector", arguments[0], environment, span)
        return arguments[0].type.size
    dividend, divisor = arguments
    for argument in arguments:
        if argument.type is not INT:
            raise _wrong("cdiv", "ints", argument, environment, span)
    # Rounding up is rounding down after adding the divisor less one.
    less_one = Binary("-", divisor, Literal(1, span=span), INT, span=span)
    raised = Binary("+", dividend, less_one, INT, span=span)
    return Binary("//", raised, divisor, INT, span=span)


def static_int(value: Expression, what: str, environment: Environment, span: Span) -> Expression:
    """An int over sizes and parameters alone. A024 otherwise."""
    if value.type is not INT:
        raise _wrong(what.strip("`"), "an int", value, environment, span)
    if index_names(value) or any(isinstance(node, ReadNode) for node in walk(value)):
        raise environment.fault(
            "A034",
            f"{what} takes an int over sizes and parameters",
            value.span or span,
            label="this varies from token to token",
        )
    return value
