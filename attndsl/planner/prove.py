"""Proofs of integer inequalities, and of monotonicity.

A small, sound search. It knows that sizes are at least 1 (without queries or keys there is no tile
to ask about), except `offset`, that `i_first <= i_last < i_first + BLOCK_M`, how floor division and
remainder bound their operand, how to split `min` and `max` into cases, and the facts it is given.
"Not proved" says nothing.

A divisor may be an expression, such as `Lk // 4`, where it is proved to be positive. Then `x // m`
is bounded by way of the product `(x // m) * m`, which lies in `[x - m + 1, x]`.
"""

from __future__ import annotations

from enum import Enum

from attndsl.expression import Binary, Call, Expression, Index, Literal, Size, index_names
from attndsl.planner.linear import Linear, linear, product
from attndsl.planner.refute import Counterexamples

I_FIRST, I_LAST = Index("i_first"), Index("i_last")
BLOCK_M, BLOCK_N = Size("BLOCK_M"), Size("BLOCK_N")

# Deep enough for every bound that block maps are made of; the search is exponential in it.
FUEL = 8


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


class Prover:
    """Proves inequalities from facts, sums that are known to be at least 0, and remembers what it
    has tried. One serves one derivation."""

    def __init__(
        self, facts: tuple[Linear, ...] = (), counterexamples: Counterexamples | None = None
    ) -> None:
        self.facts = facts
        self._counterexamples = counterexamples or Counterexamples()
        self._tiles = self._counterexamples.among(facts)
        self._proved: dict[object, bool] = {}
        # The most fuel with which a sum has been tried in vain, and the sums that are proved.
        self._failed: dict[object, int] = {}
        self._found: set[object] = set()
        self._directions: dict[tuple[Expression, str], Direction] = {}
        self._positive: dict[Expression, bool] = {}
        self._informed: dict[object, Prover] = {}

    def given(self, *facts: Linear) -> Prover:
        """One that knows more; the same one for the same facts."""
        new = tuple(fact for fact in facts if fact not in self.facts)
        if not new:
            return self
        key = frozenset(fact.key for fact in new)
        known = self._informed.get(key)
        if known is None:
            known = Prover((*self.facts, *new), self._counterexamples)
            self._informed[key] = known
        return known

    def at_most(self, left: Expression, right: Expression) -> bool:
        """Whether `left <= right` is proved."""
        return self.proved(linear(right).minus(linear(left)))

    def below(self, left: Expression, right: Expression) -> bool:
        """Whether `left < right` is proved."""
        return self.proved(linear(right).minus(linear(left)).shifted(-1))

    def positive(self, expression: Expression) -> bool:
        """Whether `expression >= 1` is proved."""
        match expression:
            case Literal(value=int(value)):
                return not isinstance(value, bool) and value > 0
            case Size(name=name) if not name.endswith("offset"):
                return True
        known = self._positive.get(expression)
        if known is None:
            self._positive[expression] = False  # a proof may not rest on itself
            known = self.proved(linear(expression).shifted(-1))
            self._positive[expression] = known
        return known

    def proved(self, form: Linear) -> bool:
        """Whether the sum is proved to be at least 0, with a look for counterexamples first."""
        if form.is_constant:
            return form.constant >= 0
        known = self._proved.get(form.key)
        if known is None:
            refuted = self._counterexamples.refute(form, self._tiles)
            known = self._proved[form.key] = not refuted and self._nonnegative(form, FUEL)
        return known

    def _nonnegative(self, form: Linear, fuel: int) -> bool:
        if form.is_constant:
            return form.constant >= 0
        if form.key in self._found:
            return True
        if fuel <= self._failed.get(form.key, 0):
            return False
        if self._search(form, fuel - 1):
            self._found.add(form.key)
            return True
        self._failed[form.key] = max(fuel, self._failed.get(form.key, 0))
        return False

    def _search(self, form: Linear, fuel: int) -> bool:
        split = self._split(form, fuel)
        if split is not None:
            return split
        if self._by_bounds(form):
            return True
        if self._by_quotients(form, fuel) or self._by_factors(form, fuel):
            return True
        for fact in (*self.facts, *self._known(form)):
            # Only facts that cancel an atom bring the search nearer to its end.
            for atom, coefficient in fact.terms.items():
                present = form.terms.get(atom, 0)
                if present * coefficient <= 0 or present % coefficient:
                    continue
                if self._nonnegative(form.plus(fact, -(present // coefficient)), fuel):
                    return True
        return False

    def _split(self, form: Linear, fuel: int) -> bool | None:
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
            cases = (self._nonnegative(one, fuel) for one in sums)
            choice = all(cases) if everywhere else any(cases)
            if choice or everywhere:
                return choice
        return choice

    def _known(self, form: Linear) -> list[Linear]:
        """Sums over the tile's own indices, and over remainders, that are at least 0."""
        known: list[Linear] = []
        if I_FIRST in form.terms or I_LAST in form.terms:
            known += _TILE_FACTS
        for atom in form.terms:
            match atom:
                case Binary(operator="%", right=modulus) if _literal(
                    modulus
                ) is None and self.positive(modulus):
                    known.append(linear(modulus).minus(Linear({atom: 1})).shifted(-1))
        return known

    def _by_bounds(self, form: Linear) -> bool:
        """Every atom at the end that makes the sum least."""
        total = form.constant
        for atom, coefficient in form.terms.items():
            low, high = self._range(atom)
            end = low if coefficient > 0 else high
            if end is None:
                return False
            total += coefficient * end
        return total >= 0

    def _range(self, atom: Expression) -> tuple[int | None, int | None]:
        match atom:
            case Literal(value=int(value)) if not isinstance(value, bool):
                return value, value
            case Size(name=name):
                return (None if name.endswith("offset") else 1), None
            case Index(name="b" | "h" | "g" | "residue"):
                return 0, None
            case Call(function="abs"):
                return 0, None
            case Binary(operator="%", right=Literal(value=int(modulus))) if modulus > 0:
                return 0, modulus - 1
            case Binary(operator="%", right=modulus) if self.positive(modulus):
                return 0, None
            case Binary(operator="//", left=left, right=right) if _literal(
                right
            ) is None and self.positive(right):
                return (0, None) if self._nonnegative(linear(left), 3) else (None, None)
            case Binary(operator="*", left=left, right=right):
                least, fewest = self._range(left)[0], self._range(right)[0]
                if least is not None and fewest is not None and least >= 0 and fewest >= 0:
                    return least * fewest, None
        return None, None

    def _by_quotients(self, form: Linear, fuel: int) -> bool:
        """`x // m` lies in `[(x - m + 1) / m, x / m]`; and it rises with `x`."""
        quotients = [
            (atom, coefficient)
            for atom, coefficient in form.terms.items()
            if isinstance(atom, Binary) and atom.operator == "//" and self.positive(atom.right)
        ]
        for atom, coefficient in quotients:
            # c·(x // m) - c·(y // m) >= 0 where x >= y.
            for other, opposite in quotients:
                if coefficient <= 0 or opposite != -coefficient or other.right != atom.right:
                    continue
                if self._nonnegative(linear(atom.left).minus(linear(other.left)), fuel):
                    rest = form.without(atom).without(other)
                    if self._nonnegative(rest, fuel):
                        return True
        for atom, coefficient in quotients:
            if atom.right in (BLOCK_M, BLOCK_N):
                continue
            modulus = _literal(atom.right)
            inner = linear(atom.left)
            rest = form.without(atom)
            if rest.is_constant:
                # Exactly: x // m >= t is x >= t·m, and x // m <= t is x < (t + 1)·m.
                divisor = linear(atom.right)
                if coefficient > 0:
                    least = -(rest.constant // coefficient)
                    return self._nonnegative(inner.plus(divisor, -least), fuel)
                most = rest.constant // -coefficient
                below = divisor.times(most + 1).minus(inner).shifted(-1)
                return self._nonnegative(below, fuel)
            if modulus is None:
                # Times m, which is positive: c·m·(x // m) is at least c·(x - m + 1) or c·x.
                if coefficient > 0:
                    inner = inner.minus(linear(atom.right)).shifted(1)
                scaled, share = product(rest, atom.right), coefficient
            else:
                scale = 1 if coefficient % modulus == 0 else modulus
                scaled = rest.times(scale)
                share = coefficient * scale // modulus
                if coefficient > 0:
                    inner = inner.shifted(1 - modulus)
            if self._nonnegative(scaled.plus(inner, share), fuel):
                return True
        return False

    def _by_factors(self, form: Linear, fuel: int) -> bool:
        """Products with a positive factor: `a·m + b·m + r` as `(a + b)·m + r`; and `(x // m)·m`
        lies in `[x - m + 1, x]`."""
        products = [
            (atom, coefficient)
            for atom, coefficient in form.terms.items()
            if isinstance(atom, Binary) and atom.operator == "*" and self.positive(atom.right)
        ]
        for factor in dict.fromkeys(atom.right for atom, _ in products):
            times = form.terms.get(factor, 0)
            inner = Linear({}, times)
            rest = form.without(factor)
            for atom, coefficient in products:
                if atom.right == factor:
                    inner = inner.plus(linear(atom.left), coefficient)
                    rest = rest.without(atom)
            if self._nonnegative(inner, fuel) and self._nonnegative(rest, fuel):
                return True
        for atom, coefficient in products:
            match atom.left:
                case Binary(operator="//", left=left, right=divisor) if divisor == atom.right:
                    inner = linear(left)
                    if coefficient > 0:
                        inner = inner.minus(linear(divisor)).shifted(1)
                    if self._nonnegative(form.without(atom).plus(inner, coefficient), fuel):
                        return True
        return False

    def direction(self, expression: Expression, index: str = "i") -> Direction:
        """How an integer expression changes with an index, by its structure."""
        if index not in index_names(expression):
            return Direction.CONSTANT
        key = expression, index
        known = self._directions.get(key)
        if known is None:
            known = Direction.CONSTANT
            for atom, coefficient in linear(expression).terms.items():
                one = self._atom_direction(atom, index)
                known = _both(known, one.reversed if coefficient < 0 else one)
            self._directions[key] = known
        return known

    def _atom_direction(self, atom: Expression, index: str) -> Direction:
        if index not in index_names(atom):
            return Direction.CONSTANT
        match atom:
            case Index():
                return Direction.RISING
            case Call(function="min" | "max", arguments=arguments):
                result = Direction.CONSTANT
                for argument in arguments:
                    result = _both(result, self.direction(argument, index))
                return result
            case Binary(operator="//" | "*", left=left, right=right) if index not in index_names(
                right
            ) and self.positive(right):
                return self.direction(left, index)
        return Direction.UNKNOWN

    def steepest(self, expression: Expression, index: str = "i") -> int | None:
        """The most that a rising expression can rise when the index grows by one."""
        total = 0
        for atom, coefficient in linear(expression).terms.items():
            if index not in index_names(atom):
                continue
            one = self._atom_steepest(atom, index) if coefficient > 0 else None
            if one is None:
                return None
            total += coefficient * one
        return total

    def _atom_steepest(self, atom: Expression, index: str) -> int | None:
        match atom:
            case Index():
                return 1
            case Call(function="min" | "max", arguments=arguments):
                steps = [self.steepest(argument, index) for argument in arguments]
                known = [step for step in steps if step is not None]
                return max(known) if len(known) == len(steps) else None
            case Binary(operator="//", left=left, right=right) if index not in index_names(
                right
            ) and self.positive(right):
                step = self.steepest(left, index)
                return None if step is None else -(-step // (_literal(right) or 1))
        return None


_TILE_FACTS = (
    Linear({I_LAST: 1, I_FIRST: -1}),
    Linear({I_FIRST: 1, BLOCK_M: 1, I_LAST: -1}, -1),
)


def _literal(expression: Expression) -> int | None:
    match expression:
        case Literal(value=int(value)) if not isinstance(value, bool) and value > 0:
            return value
    return None


def _both(left: Direction, right: Direction) -> Direction:
    if left is Direction.CONSTANT:
        return right
    if right is Direction.CONSTANT or left is right:
        return left
    return Direction.UNKNOWN
