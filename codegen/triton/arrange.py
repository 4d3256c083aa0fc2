"""Algebra that makes an expression cheap on a tile, without changing its value.

Work on one row or one key costs a fraction of work on every pair. So sums and products are grouped
by the axes that their terms vary with, comparisons of positions keep queries on one side and keys
on the other, and an integer difference becomes a difference of floats per row and per key.
Float rounding may differ in the last place; integers stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attndsl.expression import (
    FLOAT,
    INT,
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Scalar,
    Select,
    Unary,
    children,
    walk,
    with_children,
)

# Positions relative to the tile's first key, so that they fit a float at any length.
KEY_START = Index("key_start")
KEY_LANE = Index("key_lane")


def start_of(axis: str) -> Index:
    """The local coordinate of the tile's first key along an axis of a grid."""
    return Index(f"key_start.{axis}")


def lane_of(axis: str) -> Index:
    """How far the tile's keys are from its first one along an axis of a grid."""
    return Index(f"key_lane.{axis}")


AxesOf = Callable[[Expression], str]


def _parts_of_key(term: Expression, axes_of: AxesOf) -> tuple[Expression, ...]:
    """A key's position as where the tile starts and the lane in it; any other term alone. Where
    tiles of keys go through blocks of queries, a query's."""
    match term:
        case Index("i" | "j") if axes_of(term) == "n":
            return KEY_START, KEY_LANE
        case Coordinate("j", axis):
            return start_of(axis), lane_of(axis)
    return (term,)


_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


@dataclass(frozen=True)
class Product:
    """`coefficient` times the product of `factors`."""

    coefficient: float
    factors: tuple[Expression, ...]

    def times(self, other: float) -> Product:
        return Product(self.coefficient * other, self.factors)


def arrange(expression: Expression, axes_of: AxesOf) -> Expression:
    """The same value, grouped by axes throughout."""
    inner = _inner_sums(expression)
    done: dict[int, Expression] = {}

    def visit(node: Expression) -> Expression:
        known = done.get(id(node))
        if known is None:
            known = with_children(node, tuple(visit(child) for child in children(node)))
            if id(node) not in inner and len(axes_of(known)) > 1:
                known = _arranged(known, axes_of)
            done[id(node)] = known
        return known

    return visit(expression)


def _inner_sums(expression: Expression) -> set[int]:
    """The sums that are nothing but terms of other sums: those are arranged as a whole, once."""
    inside: set[int] = set()
    elsewhere: set[int] = set()
    seen: set[int] = set()
    stack = [expression]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        found = inside if _is_sum(node) else elsewhere
        found.update(id(child) for child in children(node) if _is_sum(child))
        stack.extend(children(node))
    return inside - elsewhere - {id(expression)}


def _is_sum(node: Expression) -> bool:
    match node:
        case Binary("+" | "-", _, _, Scalar.FLOAT) | Unary("-", _, Scalar.FLOAT):
            return True
    return False


def _arranged(node: Expression, axes_of: AxesOf) -> Expression:
    """The node, whose operands are arranged already."""
    match node:
        case Binary("+" | "-", _, _, Scalar.INT):
            return _integers_by_axis(node, axes_of)
        case Call("float", (operand,)) if operand.type is INT:
            return _float_of(operand, axes_of)
        case Call("tanh", (operand,), Scalar.FLOAT):
            # As 2 sigmoid(2x) - 1, so that a factor of the whole merges with the 2.
            logistic = Call("sigmoid", (times(operand, 2.0, axes_of),), FLOAT)
            return _sum_of([Product(2.0, (logistic,)), Product(-1.0, ())], axes_of)
        case Binary("<" | "<=" | ">" | ">=" | "==" | "!=", left, _) if left.type is INT:
            return _congruence(node, axes_of) or _compare(node, axes_of)
        case Binary("+" | "-" | "*" | "/", _, _, Scalar.FLOAT) | Unary("-", _, Scalar.FLOAT):
            return _sum_of(_terms(node), axes_of)
    return node


def times(expression: Expression, factor: float, axes_of: AxesOf) -> Expression:
    """`expression * factor`, the factor folded into what varies least. `expression` is a float."""
    return _sum_of([term.times(factor) for term in _terms(expression)], axes_of)


def linear_in(expression: Expression, variable: Expression) -> Product | None:
    """`coefficient * factors` where the expression is that times `variable`; None if it is not."""
    terms = _terms(expression)
    if len(terms) != 1 or terms[0].factors.count(variable) != 1:
        return None
    rest = list(terms[0].factors)
    rest.remove(variable)
    if any(node == variable for factor in rest for node in walk(factor)):
        return None
    return Product(terms[0].coefficient, tuple(rest))


def _terms(expression: Expression) -> list[Product]:
    """The terms of a float sum."""
    match expression:
        case Binary("+", left, right):
            return _terms(left) + _terms(right)
        case Binary("-", left, right):
            return _terms(left) + [term.times(-1.0) for term in _terms(right)]
        case Unary("-", operand):
            return [term.times(-1.0) for term in _terms(operand)]
    return [_product(expression)]


def _product(expression: Expression) -> Product:
    match expression:
        case Literal(value=value):
            return Product(float(value), ())
        case Binary("*", left, right):
            first, second = _product(left), _product(right)
            return Product(first.coefficient * second.coefficient, first.factors + second.factors)
        case Binary("/", left, Literal(value=value)) if value != 0:
            return _product(left).times(1.0 / value)
        case Unary("-", operand):
            return _product(operand).times(-1.0)
    return Product(1.0, (expression,))


def _sum_of(terms: list[Product], axes_of: AxesOf) -> Expression:
    """The sum of products: pairs first, then what varies with keys, then with queries."""
    spread = [part for term in terms for part in _distributed(term, axes_of)]
    order = {"mn": 0, "md": 0, "nd": 0, "n": 1, "d": 1, "m": 2, "": 3}
    groups: dict[str, list[Product]] = {}
    for term in spread:
        groups.setdefault(_axes(term.factors, axes_of), []).append(term)
    result: Expression | None = None
    for axes in sorted(groups, key=order.__getitem__):
        for term in groups[axes]:
            result = _plus(result, term, axes_of)
    return Literal(0.0) if result is None else result


def _axes(factors: tuple[Expression, ...], axes_of: AxesOf) -> str:
    present = {axis for factor in factors for axis in axes_of(factor)}
    return "".join(axis for axis in "mnd" if axis in present)


def _distributed(term: Product, axes_of: AxesOf) -> list[Product]:
    """`scalar * (per row - per key)` as two terms of one axis each, and in general a scalar times
    a sum as a sum, where that adds no work on pairs."""
    sums = [factor for factor in term.factors if len(axes_of(factor)) > 1]
    if len(sums) != 1 or any(len(axes_of(f)) == 1 for f in term.factors):
        return [term]
    inner = _terms(sums[0])
    on_pairs = sum(len(_axes(part.factors, axes_of)) > 1 for part in inner)
    if len(inner) < 2 or on_pairs > 1:
        return [term]
    scalars = tuple(factor for factor in term.factors if factor is not sums[0])
    return [Product(term.coefficient * part.coefficient, scalars + part.factors) for part in inner]


def _plus(total: Expression | None, term: Product, axes_of: AxesOf) -> Expression:
    negative = term.coefficient < 0 and total is not None
    value = _expression_of(term.times(-1.0) if negative else term, axes_of)
    if total is None:
        return value
    if term.coefficient == 0.0 and not term.factors:
        return total
    return Binary("-" if negative else "+", total, value, FLOAT)


def _expression_of(term: Product, axes_of: AxesOf) -> Expression:
    """One product, the factors that vary least first multiplied among themselves."""
    if not term.factors:
        return Literal(term.coefficient)
    match term.factors:
        case (Select(condition, Literal(value=then), Literal(value=otherwise)),):
            first, second = (Literal(float(one) * term.coefficient) for one in (then, otherwise))
            return Select(condition, first, second, FLOAT)
    result: Expression | None = None
    coefficient = term.coefficient
    for factor in sorted(term.factors, key=lambda one: len(axes_of(one))):
        if result is None:
            result = factor
            if coefficient == -1.0:
                result = Unary("-", factor, FLOAT)
            elif coefficient != 1.0:
                result = Binary("*", factor, Literal(coefficient), FLOAT)
        else:
            result = Binary("*", result, factor, FLOAT)
    assert result is not None
    return result


def _integer_terms(expression: Expression) -> list[tuple[int, Expression]]:
    """The terms of an integer sum, with their signs."""
    match expression:
        case Binary("+", left, right):
            return _integer_terms(left) + _integer_terms(right)
        case Binary("-", left, right):
            return _integer_terms(left) + [(-s, term) for s, term in _integer_terms(right)]
        case Unary("-", operand):
            return [(-s, term) for s, term in _integer_terms(operand)]
    return [(1, expression)]


def _integer_sum(terms: list[tuple[int, Expression]]) -> Expression:
    result: Expression | None = None
    for sign, term in sorted(terms, key=lambda pair: -pair[0]):
        if result is None:
            result = term if sign > 0 else _negative(term)
        elif isinstance(term, Literal) and term.value < 0:
            value = Literal(-int(term.value))
            result = Binary("-" if sign > 0 else "+", result, value, INT)
        else:
            result = Binary("+" if sign > 0 else "-", result, term, INT)
    return Literal(0) if result is None else result


def _integers_by_axis(node: Expression, axes_of: AxesOf) -> Expression:
    """A sum of integers as what varies with rows, plus or minus what varies with keys."""
    terms = _integer_terms(node)
    keys = [pair for pair in terms if axes_of(pair[1]) == "n"]
    others = [pair for pair in terms if axes_of(pair[1]) != "n"]
    if any(len(axes_of(term)) > 1 for _, term in others):
        return node
    if all(sign < 0 for sign, _ in keys):
        right = _integer_sum([(-sign, term) for sign, term in keys])
        return Binary("-", _integer_sum(others), right, INT)
    return Binary("+", _integer_sum(others), _integer_sum(keys), INT)


def _negative(term: Expression) -> Expression:
    return Literal(-int(term.value)) if isinstance(term, Literal) else Unary("-", term, INT)


def _congruence(node: Binary, axes_of: AxesOf) -> Expression | None:
    """`(i - j) % n == c` as `i % n == (j + c) % n`: one division a row and one a key."""
    match node:
        case Binary("==" | "!=", Binary("%", operand, modulus), Literal(value=int(residue))):
            known = isinstance(modulus, Literal) and 0 <= residue < int(modulus.value)
            if axes_of(modulus) or not (residue == 0 or known):
                return None
        case _:
            return None
    terms = _integer_terms(operand)
    keys = [(-sign, term) for sign, term in terms if axes_of(term) == "n"]
    others = [(sign, term) for sign, term in terms if axes_of(term) != "n"]
    if not keys or any(len(axes_of(term)) > 1 for _, term in others):
        return None
    if residue:
        keys.append((1, Literal(residue)))
    left = Binary("%", _integer_sum(others), modulus, INT)
    return Binary(node.operator, left, Binary("%", _integer_sum(keys), modulus, INT), node.type)


def _compare(node: Binary, axes_of: AxesOf) -> Expression:
    """Queries on the left, keys on the right, where the difference splits that way."""
    difference = _integer_terms(node.left) + [(-s, t) for s, t in _integer_terms(node.right)]
    # Lanes are constants, so that one comparison with an immediate is left for a pair.
    difference = [
        (sign, part) for sign, term in difference for part in _parts_of_key(term, axes_of)
    ]
    keys = [pair for pair in difference if axes_of(pair[1]) == "n"]
    others = [pair for pair in difference if axes_of(pair[1]) != "n"]
    if any(len(axes_of(term)) > 1 for _, term in others):
        return node
    operator = node.operator
    if all(sign > 0 for sign, _ in keys):
        # `keys - queries < c` reads better, and costs less, as `queries > keys - c`.
        others = [(-sign, term) for sign, term in others]
        operator = _MIRRORED[operator]
    else:
        keys = [(-sign, term) for sign, term in keys]
    return Binary(operator, _integer_sum(others), _integer_sum(keys), node.type)


def _float_of(operand: Expression, axes_of: AxesOf) -> Expression:
    """`float(integer)` per pair, as a difference of floats per row and per key where it splits."""
    match operand:
        case Call("abs" | "min" | "max" as name, arguments):
            inner = tuple(_float_of(argument, axes_of) for argument in arguments)
            return Call(name, inner, FLOAT)
        case Select(condition, then, otherwise):
            return Select(condition, _float_of(then, axes_of), _float_of(otherwise, axes_of), FLOAT)
        case Literal(value=value):
            return Literal(float(value))
    terms = _integer_terms(operand)
    if len(axes_of(operand)) < 2 or any(len(axes_of(term)) > 1 for _, term in terms):
        return Call("float", (operand,), FLOAT)
    terms = _relative_to_tile(terms, axes_of)
    keys = [pair for pair in terms if axes_of(pair[1]) == "n"]
    others = [pair for pair in terms if axes_of(pair[1]) != "n"]
    if all(sign < 0 for sign, _ in keys):
        right = _integer_sum([(-sign, term) for sign, term in keys])
        return Binary("-", _as_float(_integer_sum(others)), _as_float(right), FLOAT)
    return Binary("+", _as_float(_integer_sum(others)), _as_float(_integer_sum(keys)), FLOAT)


def _as_float(expression: Expression) -> Expression:
    if isinstance(expression, Literal):
        return Literal(float(expression.value))
    return Call("float", (expression,), FLOAT)


def _relative_to_tile(
    terms: list[tuple[int, Expression]], axes_of: AxesOf
) -> list[tuple[int, Expression]]:
    """`i - j` as `(i - key_start) - key_lane`: both are small where the pair is close."""
    for sign, key in terms:
        match key:
            case Index("i" | "j" as name) if axes_of(key) == "n":
                query: Expression = Index("i" if name == "j" else "j")
            case Coordinate("j", axis):
                query = Coordinate("i", axis)
            case _:
                continue
        pair = (sign, key), (-sign, query)
        if all(terms.count(one) == 1 for one in pair):
            rest = [one for one in terms if one not in pair]
            return [pair[1], *((sign, part) for part in _parts_of_key(key, axes_of)), *rest]
    return terms
