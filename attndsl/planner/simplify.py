"""Simplification of expressions: the same values, fewer operations.

Sound for every value of the indices, sizes, parameters and reads. Integer arithmetic, comparisons
and connectives are rebuilt by the constructors of `algebra`; floats are folded between literals.
Divisions by a literal zero are left for the checker's diagnostics.

Not a normal form: two equal expressions may simplify to different trees, and the user's own way
of writing a comparison is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attndsl.expression import (
    BOOL,
    FALSE,
    FLOAT,
    INT,
    TRUE,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Select,
    Size,
    Unary,
    children,
    index_names,
    transform,
)
from attndsl.planner import algebra


def simplify(
    expression: Expression, indices: Mapping[Index, Expression] | None = None
) -> Expression:
    """An expression with the same value everywhere; the same object where nothing is simpler.

    Where `indices` are given, they are replaced on the way.
    """

    replaced = {index.name for index in indices or ()}

    def rebuild(node: Expression) -> Expression:
        match node:
            case Index():
                return node if indices is None else indices.get(node, node)
            case Literal() | Size():
                return node
        simpler = _simplified(node)
        if simpler != node:
            return simpler
        if all(map(_is_simple, children(node))):
            node.__dict__["_simple"] = True
        return node

    def stays(node: Expression) -> bool:
        return "_simple" in node.__dict__ and replaced.isdisjoint(index_names(node))

    return transform(expression, rebuild, unless=stays)


def _is_simple(node: Expression) -> bool:
    """Whether it is known that no rule applies to it, nor to what is below it."""
    return "_simple" in node.__dict__ or isinstance(node, Index | Literal | Size)


def _simplified(node: Expression) -> Expression:
    match node:
        case Unary(operator="-", operand=operand, type=kind) if kind == INT:
            return algebra.negate(operand)
        case Unary(operator="-", operand=Literal(value=float(value))):
            return Literal(-value)
        case Unary(operator="not", operand=operand):
            return algebra.opposite(operand)
        case Binary(operator="and", left=left, right=right):
            return algebra.conjunction(left, right)
        case Binary(operator="or", left=left, right=right):
            return algebra.disjunction(left, right)
        case Binary(left=left, right=right) if left.type == INT and right.type == INT:
            return _integer(node)
        case Binary(left=Literal(value=float()), right=Literal(value=float())):
            return _folded_floats(node)
        case Binary(operator="*", left=left, right=Literal(value=float(value))) if value == 1.0:
            return left if left.type == node.type else node
        case Binary(operator="*", left=Literal(value=float(value)), right=right) if value == 1.0:
            return right if right.type == node.type else node
        case Binary(operator="/", left=left, right=Literal(value=float(value))) if value == 1.0:
            return left if left.type == node.type else node
        case Binary(operator="==" | "!=", left=left, right=right) if left.type == BOOL:
            return _bool_equality(node, left, right)
        case Select(condition=condition, then=then, otherwise=otherwise, type=kind):
            return algebra.select(condition, then, otherwise, kind)
        case Call():
            return _call(node)
    return node


def _integer(node: Binary) -> Expression:
    left, right = node.left, node.right
    match node.operator:
        case "+":
            return algebra.add(left, right)
        case "-":
            return algebra.subtract(left, right)
        case "*":
            return algebra.multiply(left, right)
        case "//":
            return algebra.floor_divide(left, right)
        case "%":
            return algebra.modulo(left, right)
        case "**" if node.type == INT:
            base, exponent = algebra.integer_value(left), algebra.integer_value(right)
            if exponent == 1:
                return left
            # Huge powers are left alone: they would cost unbounded time here.
            if base is not None and exponent is not None and 0 <= exponent <= 64:
                return Literal(base**exponent)
        case operator if operator in algebra.COMPARISONS:
            return algebra.compare(operator, left, right)
    return node


def _folded_floats(node: Binary) -> Expression:
    assert isinstance(node.left, Literal)
    assert isinstance(node.right, Literal)
    a, b = float(node.left.value), float(node.right.value)
    match node.operator:
        case "+":
            return Literal(a + b)
        case "-":
            return Literal(a - b)
        case "*":
            return Literal(a * b)
        case "/" if b != 0.0:
            return Literal(a / b)
        case operator if operator in algebra.COMPARISONS and not (a != a or b != b):
            sign = (a > b) - (a < b)
            return TRUE if algebra.holds(operator, sign) else FALSE
    return node


def _bool_equality(node: Binary, left: Expression, right: Expression) -> Expression:
    if isinstance(left, Literal):
        left, right = right, left
    if left == right:
        return TRUE if node.operator == "==" else FALSE
    if isinstance(right, Literal):
        same = bool(right.value) == (node.operator == "==")
        return left if same else algebra.opposite(left)
    return node


def _call(node: Call) -> Expression:
    match node:
        case Call(function="min", type=kind, arguments=arguments) if kind == INT:
            return algebra.minimum(*arguments)
        case Call(function="max", type=kind, arguments=arguments) if kind == INT:
            return algebra.maximum(*arguments)
        case Call(function="abs", type=kind, arguments=(operand,)) if kind == INT:
            return algebra.absolute(operand)
        case Call(function="float", arguments=(Literal(value=value),)):
            return Literal(float(value))
        case Call(function="float", arguments=(operand,)) if operand.type == FLOAT:
            return operand
        case Call(function="int", arguments=(Literal(value=bool(value)),)):
            return Literal(int(value))
        case Call(function="int", arguments=(operand,)) if operand.type == INT:
            return operand
        case Call(function="floor", arguments=(Literal(value=float(value)),)):
            return Literal(math.floor(value)) if math.isfinite(value) else node
    return node
