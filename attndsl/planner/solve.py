"""A mask solved for `j`: a union of terms, each an interval of keys per row.

A term is a conjunction. Every comparison in it that can be solved for `j` becomes a bound
`j >= lower(i)` or `j < upper(i)`; one without `j` a bound on the row, or a condition on the head
and the sizes alone; what cannot be solved, such as a remainder, stays in `rest`. Integer division
is solved exactly: `(j + a) // m <= e` is `j < (e + 1)·m - a`, for literals `m` and for expressions
that are proved to be positive.

The union is exact: a pair is visible if and only if some term holds for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt

from attndsl.expression import (
    BOOL,
    FALSE,
    INT,
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Operand,
    Parameter,
    Read,
    Select,
    Size,
    Unary,
    index_names,
    transform,
    walk,
)
from attndsl.planner import algebra
from attndsl.planner.algebra import COMPARISONS, NEGATED
from attndsl.planner.linear import Linear, expression_of, linear, product
from attndsl.planner.prove import Prover

# A mask that splits into more terms than this is better served by a table.
MOST_TERMS = 48


class TooManyTerms(Exception):
    """The mask has too many alternatives to be written out as intervals."""


@dataclass(frozen=True)
class Term:
    """Pairs with `lower <= j < upper` for all bounds, `row_lower <= i < row_upper`, where every
    condition (over heads and sizes) and every bool in `rest` (over the pair) holds."""

    lower: tuple[Expression, ...] = ()
    upper: tuple[Expression, ...] = ()
    row_lower: tuple[Expression, ...] = ()
    row_upper: tuple[Expression, ...] = ()
    conditions: tuple[Expression, ...] = ()
    rest: tuple[Expression, ...] = ()


@dataclass
class _Bounds:
    """A term in the making."""

    lower: list[Expression] = field(default_factory=list)
    upper: list[Expression] = field(default_factory=list)
    row_lower: list[Expression] = field(default_factory=list)
    row_upper: list[Expression] = field(default_factory=list)
    conditions: list[Expression] = field(default_factory=list)
    rest: list[Expression] = field(default_factory=list)

    def term(self) -> Term:
        def distinct(items: list[Expression]) -> tuple[Expression, ...]:
            return tuple(dict.fromkeys(items))

        return Term(
            _strongest("max", self.lower),
            _strongest("min", self.upper),
            _strongest("max", self.row_lower),
            _strongest("min", self.row_upper),
            distinct(self.conditions),
            distinct(self.rest),
        )


def _strongest(function: str, bounds: list[Expression]) -> tuple[Expression, ...]:
    if not bounds:
        return ()
    combined = algebra.maximum(*bounds) if function == "max" else algebra.minimum(*bounds)
    match combined:
        case Call(function=name, arguments=arguments) if name == function:
            return arguments
    return (combined,)


def terms(mask: Expression, prover: Prover) -> tuple[Term, ...] | None:
    """A mask over positions as a union of terms; None where it has too many.

    What the solver does not know stays in `rest`, so that parameters need not be bound.
    """
    try:
        conjunctions = _disjuncts(mask, positive=True)
    except TooManyTerms:
        return None
    found = []
    for literals in conjunctions:
        bounds = _Bounds()
        for literal in literals:
            _absorb(literal, bounds, prover)
        if FALSE in bounds.conditions:
            continue
        found.append(bounds.term())
    return tuple(dict.fromkeys(found))


def on_positions(
    mask: Expression, axes: tuple[str, ...], *, partly: bool = False
) -> Expression | None:
    """The mask over `i` and `j`; None where it is no arithmetic on positions, heads and sizes (it
    reads a table per token, has two or more axes, or uses a vector), unless `partly` so will do."""

    def replace(node: Expression) -> Expression:
        match node:
            # With one axis, its coordinate is the position itself.
            case Coordinate(position=position) if len(axes) == 1:
                return Index(position)
            case Index(name="row"):
                return algebra.subtract(Index("i"), Size("offset"))
        return node

    mask = transform(mask, replace)
    if partly:
        return mask
    for node in walk(mask):
        match node:
            case Coordinate() | Operand() | Parameter():
                return None
            case Read():
                if index_names(node) & {"i", "j", "row"}:
                    return None
    return mask


Conjunction = tuple[Expression, ...]


def _disjuncts(mask: Expression, *, positive: bool) -> list[Conjunction]:
    """Disjunctive normal form of the mask, or of its negation."""
    match mask:
        case Literal(value=value):
            return [()] if bool(value) == positive else []
        case Unary(operator="not", operand=operand):
            return _disjuncts(operand, positive=not positive)
        case Binary(operator="and" | "or" as operator, left=left, right=right):
            first = _disjuncts(left, positive=positive)
            second = _disjuncts(right, positive=positive)
            if (operator == "and") == positive:
                return _product(first, second)
            return _union(first, second)
        case Binary(operator="==" | "!=" as operator, left=left, right=right) if left.type == BOOL:
            same = (operator == "==") == positive
            return _union(
                _product(_disjuncts(left, positive=True), _disjuncts(right, positive=same)),
                _product(_disjuncts(left, positive=False), _disjuncts(right, positive=not same)),
            )
        case Select(condition=condition, then=then, otherwise=otherwise, type=kind) if kind == BOOL:
            return _union(
                _product(_disjuncts(condition, positive=True), _disjuncts(then, positive=positive)),
                _product(
                    _disjuncts(condition, positive=False), _disjuncts(otherwise, positive=positive)
                ),
            )
        case Binary(operator=operator, left=left, right=right) if (
            operator in COMPARISONS and left.type == INT and right.type == INT
        ):
            if not positive:
                operator = NEGATED[operator]
            return _comparison(operator, linear(left).minus(linear(right)))
    return [(mask if positive else Unary("not", mask, BOOL),)]


def _union(left: list[Conjunction], right: list[Conjunction]) -> list[Conjunction]:
    result = list(dict.fromkeys([*left, *right]))
    if len(result) > MOST_TERMS:
        raise TooManyTerms
    return result


def _product(left: list[Conjunction], right: list[Conjunction]) -> list[Conjunction]:
    result: dict[Conjunction, None] = {}
    for first in left:
        for second in right:
            merged = tuple(dict.fromkeys(first + second))
            if not _contradicts(merged):
                result[merged] = None
        if len(result) > MOST_TERMS:
            raise TooManyTerms
    return list(result)


def _contradicts(literals: Conjunction) -> bool:
    """Two bounds on one sum that no integer satisfies: `x <= 3` and `x >= 5`."""
    known: dict[frozenset[tuple[Expression, int]], int] = {}
    forms: list[Linear] = []
    for literal in literals:
        match literal:
            case Binary(operator="<=", left=left):
                form = linear(left)
                same, constant = form.key
                known[same] = max(known.get(same, constant), constant)
                forms.append(form)
            case Unary(operator="not", operand=operand) if operand in literals:
                return True
    if len(known) < 2:
        return False
    for form in forms:
        # x + c <= 0 and -x + d <= 0 need c + d <= 0.
        opposite = known.get(frozenset((atom, -c) for atom, c in form.terms.items()))
        if opposite is not None and form.constant + opposite > 0:
            return True
    return False


def _comparison(operator: str, form: Linear) -> list[Conjunction]:
    """`form operator 0` as literals `sum <= 0`, or as it stands where it is about a remainder."""
    if form.is_constant:
        return [()] if algebra.holds(operator, form.constant) else []
    if operator in ("==", "!=") and _remainder(form) is not None:
        left, right = expression_of(Linear(form.terms)), algebra.integer(-form.constant)
        return [(Binary(operator, left, right, BOOL),)]
    match operator:
        case "<=":
            return _at_most_zero(form)
        case "<":
            return _at_most_zero(form.shifted(1))
        case ">=":
            return _at_most_zero(form.times(-1))
        case ">":
            return _at_most_zero(form.times(-1).shifted(1))
        case "==":
            return _product(_at_most_zero(form), _at_most_zero(form.times(-1)))
    return _union(_at_most_zero(form.shifted(1)), _at_most_zero(form.times(-1).shifted(1)))


def _remainder(form: Linear) -> Binary | None:
    """The one remainder over positions in the sum, if it is the only atom that varies."""
    varying = [atom for atom in form.terms if index_names(atom) & {"i", "j"}]
    match varying:
        case [Binary(operator="%") as atom]:
            return atom
    return None


def _at_most_zero(form: Linear) -> list[Conjunction]:
    """`form <= 0`, with extrema, absolute values, squares and conditionals taken apart where they
    have to be: those over `j`, and those over `i` that are not monotone by structure."""
    if form.is_constant:
        return [()] if form.constant <= 0 else []
    square = _square(form)
    if square is not None:
        return square
    for atom, coefficient in form.terms.items():
        names = index_names(atom)
        rest = form.without(atom)
        match atom:
            case Call(function="min" | "max" as function, arguments=arguments) if "j" in names:
                cases = [_at_most_zero(rest.plus(linear(a), coefficient)) for a in arguments]
                # c·max(a, b) + r <= 0 needs both for c > 0.
                together = (function == "max") == (coefficient > 0)
            case Call(function="abs", arguments=(operand,)) if names & {"i", "j"}:
                inner = linear(operand)
                cases = [_at_most_zero(rest.plus(inner, sign * coefficient)) for sign in (1, -1)]
                together = coefficient > 0
            case Select(condition=condition, then=then, otherwise=otherwise) if names & {"i", "j"}:
                return _union(
                    _product(
                        _disjuncts(condition, positive=True),
                        _at_most_zero(rest.plus(linear(then), coefficient)),
                    ),
                    _product(
                        _disjuncts(condition, positive=False),
                        _at_most_zero(rest.plus(linear(otherwise), coefficient)),
                    ),
                )
            case _:
                continue
        result = cases[0]
        for case in cases[1:]:
            result = _product(result, case) if together else _union(result, case)
        return result
    return [(Binary("<=", expression_of(form), algebra.integer(0), BOOL),)]


def _square(form: Linear) -> list[Conjunction] | None:
    """`c·x² + r <= 0` for numbers c and r, as bounds on x."""
    if len(form.terms) != 1:
        return None
    ((atom, coefficient),) = form.terms.items()
    root = algebra.square_root(atom)
    if root is None:
        return None
    inner = linear(root)
    if coefficient > 0:
        most = -form.constant // coefficient
        if most < 0:
            return []
        ends = [inner.times(sign).shifted(-isqrt(most)) for sign in (1, -1)]
        return _product(*map(_at_most_zero, ends))
    least = -(form.constant // coefficient)
    if least <= 0:
        return [()]
    ends = [inner.times(sign).shifted(isqrt(least - 1) + 1) for sign in (1, -1)]
    return _union(*map(_at_most_zero, ends))


def _absorb(literal: Expression, bounds: _Bounds, prover: Prover) -> None:
    names = index_names(literal)
    if not names & {"i", "j"}:
        bounds.conditions.append(literal)
        return
    match literal:
        case Binary(operator="<=", left=left, type=kind) if kind == BOOL and left.type == INT:
            index = "j" if "j" in names else "i"
            solved = _solved(linear(left), index, prover)
            if solved is not None:
                is_upper, bound = solved
                if index == "j":
                    (bounds.upper if is_upper else bounds.lower).append(bound)
                else:
                    (bounds.row_upper if is_upper else bounds.row_lower).append(bound)
                return
    bounds.rest.append(literal)


def solve_rows(form: Linear, prover: Prover) -> tuple[bool, Expression] | None:
    """`form <= 0` solved for `i`: (True, e) means `i < e`, (False, e) means `i >= e`."""
    return _solved(form, "i", prover)


def _solved(form: Linear, index: str, prover: Prover) -> tuple[bool, Expression] | None:
    """`form <= 0` solved for an index: (True, e) for `index < e`, (False, e) for `index >= e`."""
    varying = [atom for atom in form.terms if index in index_names(atom)]
    if len(varying) != 1:
        return None
    atom = varying[0]
    coefficient = form.terms[atom]
    rest = expression_of(form.without(atom))
    if coefficient > 0:
        # c·x + r <= 0: x <= floor(-r / c)
        most = algebra.floor_divide(algebra.negate(rest), algebra.integer(coefficient))
        end = algebra.add(most, algebra.integer(1))
        return _inverted(atom, index, prover, is_upper=True, bound=end)
    least = algebra.ceil_divide(rest, algebra.integer(-coefficient))
    return _inverted(atom, index, prover, is_upper=False, bound=least)


def _inverted(
    atom: Expression, index: str, prover: Prover, *, is_upper: bool, bound: Expression
) -> tuple[bool, Expression] | None:
    """`atom < bound` (upper) or `atom >= bound`, solved for the index inside the atom."""
    match atom:
        case Index(name=name) if name == index:
            return is_upper, bound
        case Binary(operator="//" | "*" as operator, left=inner, right=factor) if (
            index not in index_names(factor) and prover.positive(factor)
        ):
            # x // m < e is x < e·m, and x // m >= e is x >= e·m.
            edge = product(linear(bound), factor)
            if operator == "*":
                # x·m < e is x < ceil(e / m), and likewise.
                edge = linear(algebra.ceil_divide(bound, factor))
            difference = linear(inner).minus(edge)
            return _solved(
                difference.shifted(1) if is_upper else difference.times(-1), index, prover
            )
    return None
