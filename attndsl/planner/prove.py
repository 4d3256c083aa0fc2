"""Proofs of integer inequalities: `nonnegative` and what follows from it; and monotonicity.

A small, sound search. It knows that sizes are at least 1 (without queries or keys there is no tile
to ask about), except `offset`, that `i_first <= i_last < i_first + BLOCK_M`, how floor division and
remainder bound their operand, how to split `min` and `max` into cases, and the facts it is given.
"Not proved" says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from attndsl.expression import Binary, Call, Expression, Index, Literal, Size, index_names
from attndsl.planner.linear import Linear, linear
from attndsl.planner.refute import refuted

I_FIRST, I_LAST = Index("i_first"), Index("i_last")
BLOCK_M, BLOCK_N = Size("BLOCK_M"), Size("BLOCK_N")

# Deep enough for every bound that block maps are made of; the search is exponential in it.
FUEL = 10


class Direction(Enum):
    """How a value changes when an index grows by one."""

    CONSTANT = 0
    RISING = 1  # never falls
    FALLING = -1  # never rises
    UNKNOWN = 2

    @property
    def reversed(self) -> Direction:
        if self is Direction.UNKNOWN or self is Direction.CONSTANT:
            return self
        return Direction(-self.value)


def at_most(left: Expression, right: Expression, facts: Sequence[Linear] = ()) -> bool:
    """Whether `left <= right` is proved; `facts` are sums known to be at least 0."""
    return proved(linear(right).minus(linear(left)), facts)


def below(left: Expression, right: Expression, facts: Sequence[Linear] = ()) -> bool:
    """Whether `left < right` is proved."""
    return proved(linear(right).minus(linear(left)).shifted(-1), facts)


def proved(form: Linear, facts: Sequence[Linear] = ()) -> bool:
    """Whether the sum is proved to be at least 0, with a look for counterexamples first."""
    if form.is_constant:
        return form.constant >= 0
    return not refuted(form, facts) and nonnegative(form, facts)


def nonnegative(form: Linear, facts: Sequence[Linear] = (), fuel: int = FUEL) -> bool:
    """Whether the sum is proved to be at least 0."""
    if form.is_constant:
        return form.constant >= 0
    if fuel == 0:
        return False
    fuel -= 1
    split = _split(form, facts, fuel)
    if split is not None:
        return split
    if _by_quotients(form, facts, fuel):
        return True
    if _by_bounds(form):
        return True
    candidates = [*facts, *_known(form)]
    for fact in candidates:
        # Only facts that cancel an atom bring the search nearer to its end.
        for atom, coefficient in fact.terms.items():
            present = form.terms.get(atom, 0)
            if present * coefficient <= 0 or present % coefficient:
                continue
            if nonnegative(form.plus(fact, -(present // coefficient)), facts, fuel):
                return True
    return False


def _split(form: Linear, facts: Sequence[Linear], fuel: int) -> bool | None:
    """The proof by cases, if the sum has a `min`, `max` or absolute value; else None."""
    choice: bool | None = None
    extrema = [
        (atom, coefficient, atom.function, atom.arguments)
        for atom, coefficient in form.terms.items()
        if isinstance(atom, Call) and atom.function in ("min", "max", "abs")
    ]
    # What must hold in every case comes first: the choice among cases may differ between them.
    extrema.sort(key=lambda item: (item[2] == "min") != (item[1] > 0))
    for atom, coefficient, function, arguments in extrema:
        rest = form.without(atom)
        if function == "abs":
            inner = linear(arguments[0])
            sums = [rest.plus(inner, sign * coefficient) for sign in (1, -1)]
            # |x| is the greater of x and -x.
            everywhere = coefficient < 0
        else:
            sums = [rest.plus(linear(argument), coefficient) for argument in arguments]
            everywhere = (function == "min") == (coefficient > 0)
        cases = (nonnegative(one, facts, fuel) for one in sums)
        choice = all(cases) if everywhere else any(cases)
        if choice or everywhere:
            return choice
    return choice


def _known(form: Linear) -> list[Linear]:
    """Sums over the tile's own indices that are at least 0."""
    known = []
    if I_FIRST in form.terms or I_LAST in form.terms:
        known += [
            Linear({I_LAST: 1, I_FIRST: -1}),
            Linear({I_FIRST: 1, BLOCK_M: 1, I_LAST: -1}, -1),
        ]
    return known


def _by_bounds(form: Linear) -> bool:
    """Every atom at the end that makes the sum least."""
    total = form.constant
    for atom, coefficient in form.terms.items():
        low, high = _range(atom)
        end = low if coefficient > 0 else high
        if end is None:
            return False
        total += coefficient * end
    return total >= 0


def _range(atom: Expression) -> tuple[int | None, int | None]:
    match atom:
        case Size(name="offset"):
            return None, None
        case Size():
            return 1, None
        case Index(name="b" | "h" | "g" | "residue"):
            return 0, None
        case Call(function="abs"):
            return 0, None
        case Binary(operator="%", right=Literal(value=int(modulus))) if modulus > 0:
            return 0, modulus - 1
        case Binary(operator="//", left=left, right=Size(name="BLOCK_N" | "BLOCK_M")):
            return (0, None) if nonnegative(linear(left), fuel=3) else (None, None)
    return None, None


def _by_quotients(form: Linear, facts: Sequence[Linear], fuel: int) -> bool:
    """`x // m` lies in `[(x - m + 1) / m, x / m]`; and it rises with `x`."""
    quotients = [
        (atom, coefficient)
        for atom, coefficient in form.terms.items()
        if isinstance(atom, Binary) and atom.operator == "//"
    ]
    for atom, coefficient in quotients:
        # c·(x // m) - c·(y // m) >= 0 where x >= y.
        for other, opposite in quotients:
            if coefficient <= 0 or opposite != -coefficient or other.right != atom.right:
                continue
            divisor = atom.right
            if not (_is_block(divisor) or _literal(divisor) is not None):
                continue
            if nonnegative(linear(atom.left).minus(linear(other.left)), facts, fuel):
                rest = form.without(atom).without(other)
                if nonnegative(rest, facts, fuel):
                    return True
    for atom, coefficient in quotients:
        modulus = _literal(atom.right)
        if modulus is None:
            continue
        scale = 1 if coefficient % modulus == 0 else modulus
        scaled = form.without(atom).times(scale)
        inner = linear(atom.left)
        share = coefficient * scale // modulus
        if coefficient > 0:
            inner = inner.shifted(1 - modulus)
        if nonnegative(scaled.plus(inner, share), facts, fuel):
            return True
    return False


def _is_block(expression: Expression) -> bool:
    return expression in (BLOCK_M, BLOCK_N)


def _literal(expression: Expression) -> int | None:
    match expression:
        case Literal(value=int(value)) if not isinstance(value, bool) and value > 0:
            return value
    return None


def direction(expression: Expression, index: str = "i") -> Direction:
    """How an integer expression changes with an index, by its structure."""
    form = linear(expression)
    result = Direction.CONSTANT
    for atom, coefficient in form.terms.items():
        one = _atom_direction(atom, index)
        if coefficient < 0:
            one = one.reversed
        result = _both(result, one)
    return result


def _both(left: Direction, right: Direction) -> Direction:
    if left is Direction.CONSTANT:
        return right
    if right is Direction.CONSTANT or left is right:
        return left
    return Direction.UNKNOWN


def _atom_direction(atom: Expression, index: str) -> Direction:
    if index not in index_names(atom):
        return Direction.CONSTANT
    match atom:
        case Index():
            return Direction.RISING
        case Call(function="min" | "max", arguments=arguments):
            result = Direction.CONSTANT
            for argument in arguments:
                result = _both(result, direction(argument, index))
            return result
        case Binary(operator="//", left=left, right=right) if _literal(right) is not None:
            return direction(left, index)
    return Direction.UNKNOWN


def steepest(expression: Expression, index: str = "i") -> int | None:
    """The most that a rising expression can rise when the index grows by one."""
    total = 0
    for atom, coefficient in linear(expression).terms.items():
        if coefficient < 0:
            if index in index_names(atom):
                return None
            continue
        one = _atom_steepest(atom, index)
        if one is None:
            return None
        total += coefficient * one
    return total


def _atom_steepest(atom: Expression, index: str) -> int | None:
    if index not in index_names(atom):
        return 0
    match atom:
        case Index():
            return 1
        case Call(function="min" | "max", arguments=arguments):
            steps = [steepest(argument, index) for argument in arguments]
            known = [step for step in steps if step is not None]
            return max(known) if len(known) == len(steps) else None
        case Binary(operator="//", left=left, right=right):
            step, divisor = steepest(left, index), _literal(right)
            if step is not None and divisor is not None:
                return -(-step // divisor)
    return None
