"""Masks over several axes, with tokens taken in boxes of the grid.

Applies where every conjunct of the mask is about the coordinates of one axis (and heads, sizes and
inputs per head or batch), and what each axis sees is one interval. The blocks of the mask are then
the product of what the axes see, which is exact. Coordinates that must be congruent modulo a size
or a number make classes of that axis. A mask that bounds a sum over several axes, such as a circle,
has the blocks of its bounds along each, without those that a condition rules out (`balls.py`).
Other masks are left as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from attndsl.expression import (
    Binary,
    Call,
    Coordinate,
    Expression,
    Index,
    Literal,
    Size,
    children,
    index_names,
    substitute,
    transform,
    walk,
)
from attndsl.planner import algebra
from attndsl.planner.balls import derive_ball
from attndsl.planner.block_map import Product, Window
from attndsl.planner.linear import expression_of, linear
from attndsl.planner.pairs import Pairs, improve_pairs, map_pairs
from attndsl.planner.plan import Grid, GridAxis, PairStage, Plan, is_transposed
from attndsl.planner.residue import RESIDUE, modulus_of, on_classes
from attndsl.planner.simplify import simplify
from attndsl.planner.windows import derive_window

ONE = Literal(1)
# More classes than this are problems too small to be worth it.
MOST_CLASSES = 256
_POSITIONS = Index("i"), Index("j"), Index("row")


def take_grids(plan: Plan) -> Plan:
    """The same plan, with the tokens of stages over a grid in boxes where the mask allows it."""
    axes = plan.attention.axes
    if len(axes) < 2:
        return plan

    def improved(stage: PairStage) -> tuple[PairStage, list[str]] | None:
        # Where tiles of queries begin follows from what they see; tiles of keys lie in line.
        taken = None if is_transposed(stage) else by_grid(stage, axes)
        return None if taken is None else (taken, _notes(taken))

    return improve_pairs(plan, improved)


def by_grid(stage: Pairs, axes: tuple[str, ...]) -> Pairs | None:
    """The stage over boxes of the grid; None where its mask is no product of intervals."""
    parts = _by_axis(stage.mask, axes)
    if parts is None:
        return _by_ball(stage, axes)
    # Axes that see alike, up to their names, are worked out once.
    known: dict[Expression, _Along | None] = {}
    found: list[_Along] = []
    for axis, part in parts.items():
        own = _renamed(part, _to_line(axis))
        if own not in known:
            known[own] = _along(own)
        along = known[own]
        if along is None:
            return None
        found.append(along)
    grid = Grid(
        tuple(
            GridAxis(
                axis,
                _of_grid(one.modulus, axis),
                one.period,
                one.phase,
                _of_grid(one.shift, axis),
            )
            for axis, one in zip(axes, found, strict=True)
        )
    )
    windows = [_window(one.window, axis) for axis, one in zip(axes, found, strict=True)]
    masks = [
        part if one.is_whole else _renamed(one.mask, _to_grid(axis))
        for (axis, part), one in zip(parts.items(), found, strict=True)
    ]

    def localised(expression: Expression) -> Expression:
        for axis in grid.axes:
            expression = _localised(expression, axis)
        return expression

    mask, block_map = algebra.conjunction(*masks), Product(tuple(windows))
    stage = map_pairs(stage, localised)
    return dataclasses.replace(stage, mask=mask, block_map=block_map, grid=grid)


def _by_ball(stage: Pairs, axes: tuple[str, ...]) -> Pairs | None:
    """The stage over boxes of the grid, for a mask that bounds a sum over axes."""
    block_map = derive_ball(stage.mask, axes)
    if block_map is None:
        return None
    grid = Grid(tuple(GridAxis(axis) for axis in axes))
    return dataclasses.replace(stage, block_map=block_map, grid=grid)


def _notes(stage: PairStage) -> list[str]:
    assert stage.grid is not None
    names = ", ".join(f"`{axis.name}`" for axis in stage.grid.axes)
    match stage.block_map:
        case Product(conditions=None):
            parts = "each part of the mask is about one of"
        case _:
            parts = "the mask bounds a sum over"
    notes = [f"{parts} the axes {names}, so tiles are boxes of them"]
    classes = [axis.name for axis in stage.grid.axes if axis.modulus is not None]
    if classes:
        listed = ", ".join(f"`{name}`" for name in classes)
        notes.append(f"congruent coordinates along {listed} see each other: independent problems")
    return notes


def _by_axis(mask: Expression, axes: tuple[str, ...]) -> dict[str, Expression] | None:
    """The conjuncts of each axis; None where one mixes axes, or a position with them. What is
    about no axis is a condition, and goes with the first."""
    parts: dict[str, list[Expression]] = {axis: [] for axis in axes}
    for conjunct in algebra.flat_operands("and", mask):
        nodes = tuple(walk(conjunct))
        if any(node in _POSITIONS for node in nodes):
            return None
        about = {node.axis for node in nodes if isinstance(node, Coordinate)}
        if len(about) > 1:
            return None
        parts[about.pop() if about else axes[0]].append(conjunct)
    if not _has_coordinates(mask):
        return None
    return {axis: algebra.conjunction(*part) for axis, part in parts.items()}


def _has_coordinates(expression: Expression) -> bool:
    return any(isinstance(node, Coordinate) for node in walk(expression))


@dataclass(frozen=True)
class _Along:
    """What one axis sees, as if it were the sequence: over `i`, `j`, `Lk`, `local.Lk` and the
    class `residue`; in the window `Lk` is the length of the class and `all.Lk` that of the axis."""

    modulus: Expression | None
    mask: Expression
    window: Window
    period: int
    phase: int
    shift: Expression | None

    @property
    def is_whole(self) -> bool:
        """Whether coordinates are what they are in the spec."""
        return self.modulus is None and self.shift is None


def _along(mask: Expression) -> _Along | None:
    shift = _shift(mask)
    modulus = None
    if shift is not None:
        local = _unrolled(mask, shift)
    else:
        modulus, local = _classes(mask)
    own: Expression = local
    if modulus is not None:
        own = substitute(local, {Size("Lk"): Size("all.Lk"), Size("local.Lk"): Size("Lk")})
    window = derive_window(own)
    if window is None:
        return None
    return _Along(modulus, local, window, *_groups(local), shift)


def _shift(mask: Expression) -> Expression | None:
    """The s of a mask that has its coordinates only as `(i - s) % Lk` and `(j - s) % Lk`."""
    shifts: set[Expression] = set()
    stack = [mask]
    while stack:
        node = stack.pop()
        shift = _roll_of(node, "i") or _roll_of(node, "j")
        if shift is not None:
            shifts.add(shift)
        elif node in (Index("i"), Index("j")):
            return None
        else:
            stack += children(node)
    return shifts.pop() if len(shifts) == 1 else None


def _roll_of(node: Expression, index: str) -> Expression | None:
    """The s of `(index - s) % Lk`, an expression over sizes."""
    match node:
        case Binary("%", inner, Size("Lk")):
            form = linear(inner)
            if form.terms.get(Index(index)) == 1:
                shift = expression_of(form.without(Index(index)).times(-1))
                if all(isinstance(one, (Size, Literal, Binary)) for one in walk(shift)):
                    return shift
    return None


def _unrolled(expression: Expression, shift: Expression) -> Expression:
    """The expression over coordinates that are counted from `shift` on, around the end."""

    def replace(node: Expression) -> Expression:
        for index in ("i", "j"):
            if _roll_of(node, index) == shift:
                return Index(f"rolled.{index}")
        return node

    def around(node: Expression) -> Expression:
        match node:
            case Index(name="i" | "j"):
                return algebra.modulo(algebra.add(node, shift), Size("Lk"))
        return node

    # What is rolled already is set aside before the rest is.
    apart = transform(transform(expression, replace), around)
    names: dict[Expression, Expression] = {
        Index(f"rolled.{index}"): Index(index) for index in ("i", "j")
    }
    return simplify(substitute(apart, names))


def _classes(mask: Expression) -> tuple[Expression | None, Expression]:
    """The modulus of the axis' classes, if it has any, and the mask within a class."""
    literal = modulus_of(mask)
    if literal is not None and literal <= MOST_CLASSES:
        return Literal(literal), on_classes(mask, literal)
    conjuncts = algebra.flat_operands("and", mask)
    for conjunct in conjuncts:
        modulus = _varying_modulus(conjunct)
        others = [other for other in conjuncts if other is not conjunct]
        # Within a class of unknown modulus nothing can be said about coordinates.
        if modulus is not None and not any(index_names(one) & {"i", "j"} for one in others):
            return modulus, algebra.conjunction(*others)
    return None, mask


def _varying_modulus(conjunct: Expression) -> Expression | None:
    """The m, at least 1, of `(i - j) % m == 0` where it is a part of the axis' length."""
    match conjunct:
        case Binary("==", Binary("%", x, m), Binary("%", y, other)) if m == other:
            difference = linear(x).minus(linear(y))
        case Binary("==", Binary("%", Call("abs", (x,)) | x, m), rest) if (
            algebra.integer_value(rest) == 0
        ):
            difference = linear(x)
        case _:
            return None
    apart = linear(algebra.subtract(Index("i"), Index("j")))
    if difference not in (apart, apart.times(-1)) or not _is_part_of_length(m):
        return None
    # A remainder by 0 is 0: all are congruent modulo 0, as they are modulo 1.
    return algebra.maximum(ONE, m)


def _is_part_of_length(size: Expression) -> bool:
    """Whether it is 0, 1 or at most the length of the axis, so that there are no more classes than
    coordinates."""
    match size:
        case Size("Lk") | Literal(value=1):
            return True
        case Binary("//", Size("Lk"), Literal(value=int(divisor))):
            return divisor > 0
        case Call("max" | "min", arguments):
            return all(_is_part_of_length(one) for one in arguments)
    return False


def _groups(mask: Expression) -> tuple[int, int]:
    """Period and phase of groups of coordinates that see alike, where tiles gain by beginning with
    a group: those of `(i + phase) // period`, the only form in which the mask has i."""
    query, key = _quotients(mask, Index("i")), _quotients(mask, Index("j"))
    if query is None or len(query) != 1:
        return 1, 0
    ((period, shift),) = query
    # Where keys come in the same groups, a tile that sees one is better off with idle lanes.
    if key != query and period & (period - 1):
        return 1, 0
    return period, shift % period


def _quotients(mask: Expression, index: Index) -> set[tuple[int, int]] | None:
    """Every (m, s) with `(index + s) // m` in the mask; None where it has the index elsewhere."""
    found: set[tuple[int, int]] = set()
    stack = [mask]
    while stack:
        node = stack.pop()
        match node:
            case Binary("//", inner, Literal(value=int(divisor))) if divisor > 1:
                form = linear(inner)
                if form.terms == {index: 1}:
                    found.add((divisor, form.constant))
                    continue
        if node == index:
            return None
        stack += children(node)
    return found


def _to_line(axis: str) -> dict[Expression, Expression]:
    """An axis as if it were the sequence; what belongs to the sequence is put aside."""
    return {
        Coordinate("i", axis): Index("i"),
        Coordinate("j", axis): Index("j"),
        Size(f"axis.{axis}"): Size("Lk"),
        Index("i"): Index("sequence.i"),
        Index("j"): Index("sequence.j"),
        Index("row"): Index("sequence.row"),
        Size("Lk"): Size("sequence.Lk"),
    }


def _to_grid(axis: str) -> dict[Expression, Expression]:
    back = {new: old for old, new in _to_line(axis).items()}
    back[RESIDUE] = Index(f"residue.{axis}")
    back[Size("local.Lk")] = Size(f"local.axis.{axis}")
    return back


def _renamed(expression: Expression, names: Mapping[Expression, Expression]) -> Expression:
    return substitute(expression, names)


def _of_grid(expression: Expression | None, axis: str) -> Expression | None:
    return None if expression is None else _renamed(expression, _to_grid(axis))


def _localised(expression: Expression, axis: GridAxis) -> Expression:
    """The expression with the axis' coordinates local to a class, or rolled."""
    if not _has_coordinates(expression):
        return expression
    if axis.shift is not None:
        line = _renamed(expression, _to_line(axis.name))
        shift = _renamed(axis.shift, _to_line(axis.name))
        return _renamed(_unrolled(line, shift), _to_grid(axis.name))
    if axis.modulus is None:
        return expression
    modulus = axis.modulus
    match modulus:
        case Literal(value=int(value)):
            line = on_classes(_renamed(expression, _to_line(axis.name)), value)
            return _renamed(line, _to_grid(axis.name))

    def replace(node: Expression) -> Expression:
        if isinstance(node, Coordinate) and node.axis == axis.name:
            local = algebra.multiply(modulus, node)
            return algebra.add(Index(f"residue.{axis.name}"), local)
        return node

    return transform(expression, replace)


def _window(window: Window, axis: str) -> Window:
    """The window over the names of a grid."""
    names = _to_grid(axis)
    names |= {Size("Lk"): Size(f"local.axis.{axis}"), Size("all.Lk"): Size(f"axis.{axis}")}
    return Window(
        _renamed(window.first, names),
        _renamed(window.last, names),
        _renamed(window.full_first, names),
        _renamed(window.full_last, names),
    )
