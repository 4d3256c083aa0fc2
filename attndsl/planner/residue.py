"""Residue classes: a mask that only lets positions see those congruent to them falls apart.

If every visible pair has `(i - j) % m == 0`, the score matrix is m independent problems, each over
the positions of one class. Written over `i'` and `j'` with `i = r + m·i'`, a dilated window
is a plain window, and its cost is that of its visible pairs.
"""

from __future__ import annotations

from math import gcd

from attndsl.expression import (
    BOOL,
    INT,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Size,
    transform,
)
from attndsl.planner import algebra
from attndsl.planner.linear import Linear, expression_of, linear
from attndsl.planner.simplify import simplify

RESIDUE = Index("residue")
_DIFFERENCE = linear(Binary("-", Index("i"), Index("j"), INT))


def modulus_of(mask: Expression) -> int | None:
    """The greatest m > 1 for which a conjunct says that `i` and `j` are congruent modulo m."""
    found = [_congruence(part) for part in algebra.flat_operands("and", mask)]
    return max((m for m in found if m is not None and m > 1), default=None)


def _congruence(conjunct: Expression) -> int | None:
    match conjunct:
        case Binary(
            "==", Binary("%", x, Literal(value=int(m))), Binary("%", y, Literal(value=int(n)))
        ):
            difference = linear(x).minus(linear(y)) if m == n else Linear({})
        case Binary("==", Binary("%", x, Literal(value=int(m))), rest) | Binary(
            "==", rest, Binary("%", x, Literal(value=int(m)))
        ) if algebra.integer_value(rest) == 0:
            match x:
                case Call("abs", (inner,)):
                    x = inner
            difference = linear(x)
        case _:
            return None
    congruent = (
        difference.terms in (_DIFFERENCE.terms, _DIFFERENCE.times(-1).terms)
        and m > 1
        and difference.constant % m == 0
    )
    return m if congruent else None


def on_classes(expression: Expression, modulus: int) -> Expression:
    """The expression at the positions `r + modulus * i'` and `r + modulus * j'`, over `i'` and `j'`
    (called `i` and `j`) and the class `Index("residue")`, simplified."""

    def spread(index: Index) -> Expression:
        return algebra.add(RESIDUE, algebra.multiply(Literal(modulus), index))

    def replace(node: Expression) -> Expression:
        match node:
            case Index(name="i" | "j"):
                return spread(node)
            case Index(name="row"):
                return algebra.subtract(spread(Index("i")), Size("offset"))
        return node

    return transform(simplify(transform(expression, replace)), lambda node: _reduced(node, modulus))


def _reduced(node: Expression, modulus: int) -> Expression:
    """What follows from `0 <= residue < modulus`, and from common factors of both sides."""
    match node:
        case Binary("//" | "%" as operator, inner, Literal(value=int(divisor))):
            return _reduced_division(operator, inner, divisor, modulus) or simplify(node)
        case Call("abs", (operand,)) if node.type == INT:
            form = linear(operand)
            factor = gcd(form.constant, *form.terms.values())
            if factor > 1:
                return algebra.multiply(
                    Literal(factor), algebra.absolute(expression_of(_divided(form, factor)))
                )
        case Binary(operator, left, right) if (
            operator in algebra.COMPARISONS and left.type == INT and right.type == INT
        ):
            return _reduced_comparison(operator, left, right)
        case Binary() | Call():
            return simplify(node)
    return node


def _reduced_division(
    operator: str, inner: Expression, divisor: int, modulus: int
) -> Expression | None:
    """`(r + m·x) // (m·c)` as `x // c`, and `(r + m·x) % (m·c)` as `r + m·(x % c)`."""
    form = linear(inner)
    rest = form.without(RESIDUE)
    if operator == "//" and divisor == modulus and form == _keys_of_class(modulus):
        return Size("local.Lk")
    if form.terms.get(RESIDUE) != 1 or divisor <= 0:
        return None
    if rest == Linear({}) and divisor >= modulus:
        return Literal(0) if operator == "//" else RESIDUE
    if divisor % modulus or gcd(rest.constant, *rest.terms.values()) % modulus:
        return None
    classes, part = expression_of(_divided(rest, modulus)), Literal(divisor // modulus)
    if operator == "//":
        return algebra.floor_divide(classes, part)
    return algebra.add(RESIDUE, algebra.multiply(Literal(modulus), algebra.modulo(classes, part)))


def _keys_of_class(modulus: int) -> Linear:
    """`Lk - r + m - 1`, whose m-th part is the number of keys of class r."""
    return Linear({Size("Lk"): 1, RESIDUE: -1}, modulus - 1)


def _divided(form: Linear, factor: int) -> Linear:
    return Linear({a: c // factor for a, c in form.terms.items()}, form.constant // factor)


def _reduced_comparison(operator: str, left: Expression, right: Expression) -> Expression:
    """`m·x + c <= 0` as `x <= -c // m`, and likewise for the other comparisons."""
    form = linear(left).minus(linear(right))
    if form.is_constant:
        return algebra.compare(operator, left, right)
    factor = gcd(*form.terms.values())
    terms = _divided(Linear(form.terms), factor)
    match operator:
        case "<=" | ">":
            bound = -form.constant // factor
        case "<" | ">=":
            bound = -(form.constant // factor)
        case _:
            if form.constant % factor:
                return algebra.compare(operator, left, right)
            bound = -form.constant // factor
    return _written(operator, terms, bound)


def _written(operator: str, terms: Linear, bound: int) -> Expression:
    """`terms operator bound`, as one would write it: a positive term first."""
    if all(coefficient < 0 for coefficient in terms.terms.values()):
        return Binary(
            algebra.MIRRORED[operator], expression_of(terms.times(-1)), Literal(-bound), BOOL
        )
    return Binary(operator, expression_of(terms), Literal(bound), BOOL)
