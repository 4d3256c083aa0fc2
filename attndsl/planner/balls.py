"""Masks that bound a sum over several axes, such as a circle: `dy ** 2 + dx ** 2 < c`.

How far apart a query of a tile and a key of a box are along one axis is any distance from the
nearest to the farthest, whatever it is along the others. So the least sum over all pairs is the sum
of the leasts, and the greatest that of the greatests: two comparisons say exactly whether some pair
is visible, and whether all are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from attndsl.expression import (
    INT,
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Operand,
    Size,
    index_names,
    walk,
)
from attndsl.planner import algebra
from attndsl.planner.block_map import BoxConditions, Product, Window
from attndsl.planner.linear import Linear, expression_of, linear
from attndsl.planner.simplify import simplify

ZERO, ONE = Literal(0), Literal(1)
_PAIR = {"i", "j", "row"}


@dataclass(frozen=True)
class _Term:
    """`factor * |x|`, or `factor * x ** 2`, of `x = i.axis - j.axis + shift`; `factor` is at
    least 1."""

    axis: str
    factor: int
    is_square: bool
    shift: int

    def of(self, distance: Expression) -> Expression:
        """The term where |x| is `distance`."""
        if self.is_square:
            distance = Binary("**", distance, Literal(2), INT)
        return algebra.multiply(Literal(self.factor), distance)

    @property
    def nearest(self) -> Expression:
        """The least |x| of a tile and a box."""
        low, high = self._ends
        return algebra.maximum(ZERO, low, algebra.negate(high))

    @property
    def farthest(self) -> Expression:
        """The greatest |x| of a tile and a box."""
        low, high = self._ends
        return algebra.maximum(high, algebra.negate(low))

    @property
    def _ends(self) -> tuple[Expression, Expression]:
        first, last, key_first, key_last = (
            Index(f"{end}.{self.axis}") for end in ("i_first", "i_last", "j_first", "j_last")
        )
        shift = Literal(self.shift)
        return (
            algebra.add(algebra.subtract(first, key_last), shift),
            algebra.add(algebra.subtract(last, key_first), shift),
        )

    def reach(self, limit: Expression) -> Expression | None:
        """The greatest |x| for which the term is at most `limit`, if that is at least 0."""
        share = algebra.floor_divide(limit, Literal(self.factor))
        if not self.is_square:
            return share
        known = algebra.integer_value(share)
        return None if known is None or known < 0 else Literal(isqrt(known))


def derive_ball(mask: Expression, axes: tuple[str, ...]) -> Product | None:
    """The block map of a mask that is one bound on a sum of absolute values and squares of
    distances, of one along each of two or more axes; None for any other."""
    bound = _at_most(mask)
    if bound is None:
        return None
    varying = Linear({atom: c for atom, c in bound.terms.items() if _is_over_tokens(atom)})
    limit = expression_of(varying.minus(bound))
    terms = [_term(atom, factor) for atom, factor in varying.terms.items()]
    of_axes = {term.axis: term for term in terms if term is not None}
    if len(of_axes) < max(2, len(terms)):
        return None
    windows = []
    for axis in axes:
        window = _window(axis, of_axes.get(axis), limit)
        if window is None:
            return None
        windows.append(window)

    def holds(distances: list[Expression]) -> Expression:
        each = zip(of_axes.values(), distances, strict=True)
        return simplify(algebra.compare("<=", algebra.add(*(t.of(x) for t, x in each)), limit))

    conditions = BoxConditions(
        holds([term.nearest for term in of_axes.values()]),
        holds([term.farthest for term in of_axes.values()]),
    )
    return Product(tuple(windows), conditions)


def _at_most(mask: Expression) -> Linear | None:
    """The sum that a comparison says is at most 0."""
    match mask:
        case Binary("<=" | "<", left, right) if left.type == right.type == INT:
            form, is_strict = linear(left).minus(linear(right)), mask.operator == "<"
        case Binary(">=" | ">", left, right) if left.type == right.type == INT:
            form, is_strict = linear(right).minus(linear(left)), mask.operator == ">"
        case _:
            return None
    return form.shifted(1) if is_strict else form


def _is_over_tokens(atom: Expression) -> bool:
    return bool(index_names(atom) & _PAIR) or any(
        isinstance(node, Coordinate | Operand) for node in walk(atom)
    )


def _term(atom: Expression, factor: int) -> _Term | None:
    inner = algebra.square_root(atom)
    is_square = inner is not None
    match atom:
        case Call("abs", (operand,)):
            inner = operand
    if inner is None or factor < 1:
        return None
    form = linear(inner)
    if len(form.terms) != 2:
        return None
    for query, coefficient in form.terms.items():
        match query:
            case Coordinate("i", axis) if abs(coefficient) == 1:
                apart = Linear({query: 1, Coordinate("j", axis): -1})
                if form.terms == apart.times(coefficient).terms:
                    return _Term(axis, factor, is_square, coefficient * form.constant)
    return None


def _window(axis: str, term: _Term | None, limit: Expression) -> Window | None:
    """What a tile may see along an axis; no more than that is said by windows."""
    length = Size(f"local.axis.{axis}")
    if term is None:
        return Window(ZERO, length, ZERO, length)
    reach = term.reach(limit)
    if reach is None:
        return None
    first, last = (algebra.add(Index(end), Literal(term.shift)) for end in ("i_first", "i_last"))
    first = simplify(algebra.maximum(ZERO, algebra.subtract(first, reach)))
    last = simplify(algebra.minimum(length, algebra.add(last, reach, ONE)))
    return Window(first, last, first, last)
