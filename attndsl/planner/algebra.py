"""Constructors of integer and boolean expressions that simplify as they build.

Each returns an expression that has the same value for every value of its indices, sizes and reads,
in exact integers with floor division. Floats are folded between literals only: an identity such as
`x * 0 = 0` is false for NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from math import gcd

from attndsl.expression import (
    BOOL,
    FALSE,
    INT,
    TRUE,
    Binary,
    Call,
    Expression,
    Literal,
    Scalar,
    Select,
    Type,
    Unary,
)
from attndsl.planner.linear import Linear, expression_of, linear

MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
COMPARISONS = frozenset(NEGATED)


def integer(value: int) -> Literal:
    return Literal(value)


def integer_value(expression: Expression) -> int | None:
    """The value of an integer literal; None for anything else."""
    match expression:
        case Literal(value=bool()):
            return None
        case Literal(value=int(value)):
            return value
    return None


def add(first: Expression, *others: Expression) -> Expression:
    return expression_of(reduce(Linear.plus, map(linear, others), linear(first)))


def subtract(left: Expression, right: Expression) -> Expression:
    return expression_of(linear(left).minus(linear(right)))


def negate(operand: Expression) -> Expression:
    return expression_of(linear(operand).times(-1))


def multiply(left: Expression, right: Expression) -> Expression:
    a, b = linear(left), linear(right)
    if b.is_constant:
        return expression_of(a.times(b.constant))
    if a.is_constant:
        return expression_of(b.times(a.constant))
    return Binary("*", left, right, INT)


def floor_divide(left: Expression, right: Expression) -> Expression:
    """`left // right`, rounding down."""
    divisor = integer_value(right)
    form = linear(left)
    if divisor is None or divisor == 0:
        return Binary("//", left, right, INT)
    if divisor < 0:
        form, divisor = form.times(-1), -divisor
    if form.is_constant:
        return integer(form.constant // divisor)
    # (m·a + r) // m = a + r // m
    whole = Linear({a: c // divisor for a, c in form.terms.items() if c % divisor == 0})
    rest = Linear({a: c for a, c in form.terms.items() if c % divisor})
    quotient, remainder = divmod(form.constant, divisor)
    whole = whole.shifted(quotient)
    if rest.is_constant:
        return expression_of(whole)  # 0 <= remainder < divisor
    common = reduce(gcd, rest.terms.values(), divisor)
    if common > 1:
        # (c·x + r) // (c·m) = (x + r // c) // m
        rest = Linear({a: c // common for a, c in rest.terms.items()})
        remainder, divisor = remainder // common, divisor // common
    if remainder == 0 and len(rest.terms) == 1 and divisor > 1:
        (atom, coefficient), *_ = rest.terms.items()
        match atom:
            case Binary(operator="//", left=inner, right=Literal(value=int(first))):
                if coefficient == 1 and first > 0 and not isinstance(first, bool):
                    return add(expression_of(whole), floor_divide(inner, integer(first * divisor)))
            case Binary(operator="%", right=Literal(value=int(modulus))):
                if coefficient == 1 and 0 < modulus <= divisor:
                    return expression_of(whole)
    fraction = expression_of(rest.shifted(remainder))
    if divisor > 1:
        fraction = Binary("//", fraction, integer(divisor), INT)
    return add(expression_of(whole), fraction)


def ceil_divide(left: Expression, right: Expression) -> Expression:
    """`left / right` rounded up, for a positive divisor: `(left + right - 1) // right`."""
    return floor_divide(subtract(add(left, right), integer(1)), right)


def modulo(left: Expression, right: Expression) -> Expression:
    """`left % right`, with the sign of `right`."""
    modulus = integer_value(right)
    form = linear(left)
    if modulus is None or modulus <= 0:
        if modulus is not None and modulus < 0 and form.is_constant:
            return integer(form.constant % modulus)
        return Binary("%", left, right, INT)
    # Multiples of the modulus drop out; 7·x % 5 is left as 7·x for the reader.
    rest = Linear({a: c for a, c in form.terms.items() if c % modulus}, form.constant % modulus)
    if rest.is_constant:
        return integer(rest.constant)
    if rest.constant == 0 and len(rest.terms) == 1:
        (atom, coefficient), *_ = rest.terms.items()
        match atom:
            case Binary(operator="%", left=inner, right=Literal(value=int(first))):
                if coefficient == 1 and first > 0 and not isinstance(first, bool):
                    if first <= modulus:
                        return atom
                    if first % modulus == 0:
                        return modulo(inner, right)
    return Binary("%", expression_of(rest), right, INT)


def flat_arguments(function: str, operands: Iterable[Expression]) -> list[Expression]:
    """The operands, with those of the same function (`min` or `max`) taken apart."""
    flat: list[Expression] = []
    for operand in operands:
        match operand:
            case Call(function=name, arguments=arguments) if name == function:
                inner: Iterable[Expression] = arguments
            case _:
                inner = (operand,)
        flat.extend(inner)
    return flat


def _extremum(function: str, operands: Iterable[Expression]) -> Expression:
    keep: list[Expression] = []
    for candidate in flat_arguments(function, operands):
        form = linear(candidate)
        dominated = False
        for other in list(keep):
            difference = form.minus(linear(other))
            if difference.is_constant:
                smaller = difference.constant < 0
                if smaller == (function == "min") and difference.constant != 0:
                    keep.remove(other)
                else:
                    dominated = True
        if not dominated:
            keep.append(candidate)
    return keep[0] if len(keep) == 1 else Call(function, tuple(keep), INT)


def minimum(*operands: Expression) -> Expression:
    return _extremum("min", operands)


def maximum(*operands: Expression) -> Expression:
    return _extremum("max", operands)


def absolute(operand: Expression) -> Expression:
    match operand:
        case Literal(value=int(value)):
            return integer(abs(value))
        case Unary(operator="-", operand=inner):
            return absolute(inner)
        case Call(function="abs"):
            return operand
    return Call("abs", (operand,), INT)


def square_root(operand: Expression) -> Expression | None:
    """The x of `x ** 2` or `x * x`."""
    match operand:
        case Binary("**", base, Literal(value=int(exponent))) if exponent == 2:
            return base
        case Binary("*", left, right) if left == right:
            return left
    return None


def compare(operator: str, left: Expression, right: Expression) -> Expression:
    """A comparison of two integers; folded where their difference is constant."""
    difference = linear(left).minus(linear(right))
    if difference.is_constant:
        return TRUE if holds(operator, difference.constant) else FALSE
    low, high = _remainder_range(difference)
    if low is not None and high is not None:
        decided = {holds(operator, low), holds(operator, high)}
        if operator in ("==", "!=") and low <= 0 <= high:
            decided = {True, False}
        if len(decided) == 1:
            return TRUE if decided.pop() else FALSE
    if operator in ("==", "!="):
        divisor = reduce(gcd, difference.terms.values())
        if difference.constant % divisor:
            return TRUE if operator == "!=" else FALSE
    return Binary(operator, left, right, BOOL)


def _remainder_range(form: Linear) -> tuple[int | None, int | None]:
    """Least and greatest of a sum whose only atom is a remainder, else None."""
    if len(form.terms) != 1:
        return None, None
    (atom, coefficient), *_ = form.terms.items()
    match atom:
        case Binary(operator="%", right=Literal(value=int(modulus))) if modulus > 0:
            ends = form.constant, form.constant + coefficient * (modulus - 1)
            return min(ends), max(ends)
    return None, None


def holds(operator: str, difference: int | float) -> bool:
    """Whether `left operator right`, given left - right."""
    match operator:
        case "<":
            return difference < 0
        case "<=":
            return difference <= 0
        case ">":
            return difference > 0
        case ">=":
            return difference >= 0
        case "==":
            return difference == 0
    return difference != 0


def conjunction(*operands: Expression) -> Expression:
    """`and` of any number of operands."""
    return _junction("and", operands, unit=TRUE, zero=FALSE)


def disjunction(*operands: Expression) -> Expression:
    """`or` of any number of operands."""
    return _junction("or", operands, unit=FALSE, zero=TRUE)


def flat_operands(operator: str, expression: Expression) -> list[Expression]:
    """The operands of a chain of `and` or `or`, left to right."""
    flat: list[Expression] = []
    stack = [expression]
    while stack:
        node = stack.pop()
        match node:
            case Binary(operator=name, left=left, right=right) if name == operator:
                stack += [right, left]
            case _:
                flat.append(node)
    return flat


def _junction(
    operator: str, operands: Iterable[Expression], *, unit: Expression, zero: Expression
) -> Expression:
    keep: dict[Expression, None] = {}
    for operand in operands:
        for part in flat_operands(operator, operand):
            if part == zero:
                return zero
            if part == unit:
                continue
            keep[part] = None
    for part in keep:
        if opposite(part) in keep:
            return zero
    parts = list(keep)
    if not parts:
        return unit
    return reduce(lambda left, right: Binary(operator, left, right, BOOL), parts)


def opposite(expression: Expression) -> Expression:
    """`not expression`, pushed into integer comparisons (a float may be NaN, and stays)."""
    match expression:
        case Literal(value=bool(value)):
            return FALSE if value else TRUE
        case Unary(operator="not", operand=operand):
            return operand
        case Binary(operator=operator, left=left, right=right) if operator in COMPARISONS:
            if left.type in (INT, BOOL):
                return Binary(NEGATED[operator], left, right, BOOL)
    return Unary("not", expression, BOOL)


def select(
    condition: Expression, then: Expression, otherwise: Expression, kind: Type = Scalar.INT
) -> Expression:
    """`then if condition else otherwise`."""
    if condition == TRUE or then == otherwise:
        return then
    if condition == FALSE:
        return otherwise
    if kind == BOOL:
        if then == TRUE:
            return disjunction(condition, otherwise)
        if then == FALSE:
            return conjunction(opposite(condition), otherwise)
        if otherwise == TRUE:
            return disjunction(opposite(condition), then)
        if otherwise == FALSE:
            return conjunction(condition, then)
    return Select(condition, then, otherwise, kind)
