"""Expressions: from syntax to typed nodes.

This module, `names` and `calls` call each other: an expression has names and calls in it, and a
name or a call may stand for another expression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from attndsl import syntax
from attndsl.check import calls, names, operators, patterns, reads
from attndsl.check.operators import describe
from attndsl.check.scope import (
    MAXIMUM_DEPTH,
    MAXIMUM_FRAMES,
    MAXIMUM_NODES,
    Array,
    Environment,
)
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import (
    FLOAT,
    Expression,
    Literal,
    Matrix,
    Parameter,
    Read,
    Vector,
    children,
)
from attndsl.lexical import MAXIMUM_ERRORS
from attndsl.source import Span


def check(expression: syntax.Expression, environment: Environment) -> Expression:
    """The typed expression. Raises `AttnError` (A01x names, A02x types, A03x indices, A04x)."""
    _count_node(expression, environment)
    environment = deeper(environment, 1)
    span = environment.at or expression.span
    match expression:
        case syntax.Number(value=value) | syntax.Boolean(value=value):
            result: Expression = Literal(value, span=span)
        case syntax.Name():
            result = names.value(expression, deeper(environment, 3), span)
        case syntax.Unary(operator=operator, operand=operand):
            typed = check(operand, environment)
            apply = operators.invert if operator == "not" else operators.negate
            result = apply(typed, environment, span)
        case syntax.Binary(operator=operator, left=left, right=right):
            a, b = check_all((left, right), environment)
            combine = operators.logical if operator in ("and", "or") else None
            if combine is not None:
                result = combine(operator, a, b, environment, span)
            else:
                result = operators.arithmetic(operator, a, b, environment, span)
        case syntax.Compare():
            result = _comparison(expression, environment, span)
        case syntax.Conditional(condition=condition, then=then, otherwise=otherwise):
            chosen, a, b = check_all((condition, then, otherwise), environment)
            result = operators.select(chosen, a, b, environment, span)
        case syntax.Call():
            result = calls.call(expression, deeper(environment, 1), span)
        case syntax.Subscript():
            result = _subscript(expression, deeper(environment, 3), span)
        case syntax.Tuple():
            raise patterns.misplaced(expression, environment)
    measure(result, environment, span)
    return result


def check_all(
    expressions: Sequence[syntax.Expression], environment: Environment
) -> list[Expression]:
    """The typed expressions; where several are at fault, all of their diagnostics are raised."""
    environment = deeper(environment, 1)
    typed: list[Expression] = []
    failed = False
    found: list[Diagnostic] = []
    for expression in expressions:
        try:
            typed.append(check(expression, environment))
        except AttnError as fault:
            failed = True
            found.extend(one for one in fault.diagnostics if one not in found)
            if any(one.code == "A042" for one in found) or len(found) >= MAXIMUM_ERRORS:
                break  # there is no end to it
    if failed:
        raise AttnError(found)
    return typed


def deeper(environment: Environment, frames: int) -> Environment:
    """The environment as seen from further up Python's stack."""
    return dataclasses.replace(environment, frames=environment.frames + frames)


def _count_node(expression: syntax.Expression, environment: Environment) -> None:
    environment.budget.nodes += 1
    if environment.budget.nodes > MAXIMUM_NODES:
        raise environment.fault(
            "A042",
            f"definitions expand to more than {MAXIMUM_NODES} operations",
            expression.span,
            help="let the definitions call each other less often",
        )
    if environment.frames >= MAXIMUM_FRAMES:
        raise _too_deep(environment, expression.span)


def _too_deep(environment: Environment, span: Span) -> AttnError:
    return environment.fault(
        "A042",
        "this expression nests too deep, once definitions are written out",
        span,
        help="let definitions call each other less deeply",
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


def _comparison(chain: syntax.Compare, environment: Environment, span: Span) -> Expression:
    """`a < b <= c` is `a < b and b <= c`."""
    typed = check_all(chain.operands, deeper(environment, 1))
    result: Expression | None = None
    for n, operator in enumerate(chain.operators):
        at = environment.at or chain.operands[n].span.to(chain.operands[n + 1].span)
        one = operators.compare(operator, typed[n], typed[n + 1], environment, at)
        result = one if result is None else operators.logical("and", result, one, environment, span)
    assert result is not None
    return result


def _subscript(subscript: syntax.Subscript, environment: Environment, span: Span) -> Expression:
    if isinstance(subscript.value, syntax.Name) and len(subscript.value.parts) == 1:
        found = names.binding(subscript.value, environment, environment.at or subscript.value.span)
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
        help = None
        if isinstance(value, Parameter):
            help = f"a tensor is declared by `input {value.name}: {value.type}[…]`"
        raise environment.fault(
            "A027",
            f"{describe(value.type)} cannot be indexed",
            at,
            label=f"this is {describe(value.type)}",
            help=help,
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
    last_is_vector = len(indices) == len(array.dimensions) and not reads.has_role(
        array.dimensions[-1]
    )
    if last_is_vector and isinstance(indices[-1], syntax.Slice):
        typed = [_index(index, environment) for index in indices[:-1]]
        vector = reads.read(array, typed, environment, span)
        start, stop = indices[-1].start, indices[-1].stop
        first = check(start, environment) if start is not None else None
        last = check(stop, environment) if stop is not None else None
        return reads.take(vector, first, last, environment, span)
    return reads.read(array, [_index(i, environment) for i in indices], environment, span)
