"""Expressions that see the positions of a pair only through their distance."""

from __future__ import annotations

from attndsl.expression import (
    BOOL,
    INT,
    Binary,
    Coordinate,
    Expression,
    Index,
    Literal,
    Operand,
    Size,
    children,
    index_names,
    walk,
    with_children,
)
from attndsl.planner.linear import Linear, expression_of, linear

DISTANCE = Index("distance")
"""Stands for `i - j`."""

_QUERY, _KEY, _ROW = Index("i"), Index("j"), Index("row")
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def over_distance(expression: Expression) -> Expression | None:
    """The same value over `DISTANCE` in place of `i`, `j` and `row`; None where there is none."""
    if any(isinstance(node, Coordinate | Operand) for node in walk(expression)):
        return None
    result = _rewritten(expression)
    return None if index_names(result) & {"i", "j", "row"} else result


def _rewritten(node: Expression) -> Expression:
    match node:
        case Binary(operator, left, right) if operator in _COMPARISONS and left.type == INT:
            apart = _over_distance(linear(left).minus(linear(right)))
            if apart is not None:
                return Binary(operator, apart, Literal(0), BOOL)
    if node.type == INT:
        whole = _over_distance(linear(node))
        if whole is not None:
            return whole
    if not children(node):
        return node
    return with_children(node, tuple(map(_rewritten, children(node))))


def _over_distance(form: Linear) -> Expression | None:
    """The sum, if `i` and `j` are in it by their difference."""
    rows = form.terms.get(_ROW, 0)
    if rows:
        form = form.without(_ROW).plus(Linear({_QUERY: rows, Size("offset"): -rows}))
    ahead = form.terms.get(_QUERY, 0)
    if not ahead or ahead != -form.terms.get(_KEY, 0):
        return None
    rest = form.without(_QUERY).without(_KEY)
    terms = {_rewritten(atom): times for atom, times in rest.terms.items()}
    if len(terms) < len(rest.terms):
        return None
    return expression_of(Linear({DISTANCE: ahead, **terms}, rest.constant))
