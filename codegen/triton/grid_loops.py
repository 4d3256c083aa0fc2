"""Loops over the boxes of keys that the windows of a tile hold.

One loop visits all FULL boxes and one all PARTIAL ones. Along each axis the FULL boxes follow one
another; they are numbered first and the others after them, so that the FULL boxes of the tile are
those whose numbers are small along every axis. The others are in as many parts as there are axes:
part `a` holds boxes that are FULL along the axes before `a`, not along `a`, and any along the rest.

Of a mask that mixes axes all boxes in the windows are taken as PARTIAL: to leave some out inside of
a loop would keep loads from running ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attndsl.codegen.triton.block_loops import over
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.values import Value, atom
from attndsl.expression import Expression, Index, Literal, substitute
from attndsl.planner.algebra import subtract
from attndsl.planner.block_map import Kind, Product, Window
from attndsl.planner.plan import Grid
from attndsl.planner.prove import Prover

Body = Callable[[Kind, tuple[str, ...]], None]


@dataclass(frozen=True)
class _Boxes:
    """Names of scalars about one axis: the window's first key, how many boxes it has, and the
    number of the first FULL box and how many there are."""

    first: str
    count: str
    skipped: str
    full: str


class BoxLoops:
    """Writes loops over boxes with the given sides, one for each kind, as often as asked for."""

    def __init__(self, kernel: Kernel, grid: Grid, block_map: Product, sides: tuple[int, ...]):
        self.kernel = kernel
        self.names = tuple(axis.name for axis in grid.axes)
        self.windows = block_map.windows
        self.sides = sides
        pairs = zip(self.windows, sides, strict=True)
        # Where a condition says which boxes are FULL, they do not follow one another.
        self._has_full = block_map.conditions is None and not any(
            is_narrower(window, side) for window, side in pairs
        )
        self._boxes: list[_Boxes] = []
        self._ends: list[str] = []

    def has(self, kind: Kind) -> bool:
        return kind is Kind.PARTIAL or self._has_full

    def write(self, kind: Kind, body: Body, *, pipelined: bool = True) -> None:
        kernel = self.kernel
        if not self._boxes:
            self._boxes = [
                self._count(*one) for one in zip(self.names, self.windows, self.sides, strict=True)
            ]
        if kind is Kind.FULL:
            counts = [one.full for one in self._boxes]
            number_of = self._full_boxes
        else:
            counts = [one.count for one in self._boxes]
            number_of = self._boxes_of_parts if self._has_full else self._all_boxes
        total = " * ".join(counts)
        if kind is Kind.PARTIAL and self._has_full:
            if not self._ends:
                self._ends = self._write_ends()
            total = self._ends[-1]
        with kernel.loop("number", over(f"0, {total}", pipelined)) as number:
            places = number_of(number)
            corners = []
            for name, boxes, side, place in zip(
                self.names, self._boxes, self.sides, places, strict=True
            ):
                corner = Value(f"{boxes.first} + {atom(place)} * {side}")
                corners.append(kernel.assign(f"key_first_{name}", corner).text)
            body(kind, tuple(corners))

    def _count(self, name: str, window: Window, side: int) -> _Boxes:
        kernel = self.kernel
        ends: dict[Expression, Expression] = {
            Index(end): Index(f"{end}.{name}") for end in ("i_first", "i_last")
        }

        def bound(expression: Expression, wanted: str) -> str:
            return kernel.named(substitute(expression, ends), f"{wanted}_{name}").atom

        shift = side.bit_length() - 1
        first, last = bound(window.first, "window_first"), bound(window.last, "window_last")
        count = f"tl.maximum({last} - {first} + {side - 1}, 0) >> {shift}"
        count = kernel.assign(f"boxes_{name}", Value(count)).text
        if not self._has_full:
            return _Boxes(first, count, "", "")
        full_first = bound(window.full_first, "full_first")
        full_last = bound(window.full_last, "full_last")
        skipped = f"tl.maximum({full_first} - {first} + {side - 1}, 0) >> {shift}"
        skipped = kernel.assign(f"skipped_{name}", Value(skipped)).text
        end = f"tl.minimum({count}, {full_last} - {first} >> {shift})"
        full = kernel.assign(f"full_{name}", Value(f"tl.maximum({end} - {skipped}, 0)")).text
        return _Boxes(first, count, skipped, full)

    def _full_boxes(self, number: str) -> list[str]:
        numbers = self._split(number, [one.full for one in self._boxes])
        return [f"{one.skipped} + {place}" for one, place in zip(self._boxes, numbers, strict=True)]

    def _all_boxes(self, number: str) -> list[str]:
        return self._split(number, [one.count for one in self._boxes])

    def _split(self, number: str, counts: Sequence[str]) -> list[str]:
        """The number of a box along each axis, from its number among all, row-major."""
        kernel = self.kernel
        places = []
        for name, count in reversed(list(zip(self.names[1:], counts[1:], strict=True))):
            # There may be none; what is loaded ahead of a loop without steps divides too.
            divisor = f"tl.maximum({count}, 1)"
            rest = kernel.assign(f"before_{name}", Value(f"{number} // {divisor}")).text
            places.append(
                kernel.assign(f"box_{name}", Value(f"{number} - {rest} * {divisor}")).text
            )
            number = rest
        return [number, *reversed(places)]

    def _write_ends(self) -> list[str]:
        """How many PARTIAL boxes there are in each part and those before it."""
        ends: list[str] = []
        for number, boxes in enumerate(self._boxes):
            factors = [
                *(one.full for one in self._boxes[:number]),
                f"({boxes.count} - {boxes.full})",
                *(one.count for one in self._boxes[number + 1 :]),
            ]
            part = " * ".join(factors)
            end = f"{ends[-1]} + {part}" if ends else part
            ends.append(self.kernel.assign("partial_end", Value(end)).text)
        return ends

    def _boxes_of_parts(self, number: str) -> list[str]:
        kernel = self.kernel
        begins = ["0", *self._ends[:-1]]
        begin = self._of_part(number, begins)
        rest = f"({number} - {begin})"
        if len(self._boxes) > 1:
            rest = kernel.assign("place", Value(f"{number} - {begin}")).text
        extents, firsts = [], []
        for axis, boxes in enumerate(self._boxes):
            parts = range(len(self._boxes))
            extents.append(
                self._of_part(
                    number,
                    [
                        boxes.full
                        if part > axis
                        else f"{boxes.count} - {boxes.full}"
                        if part == axis
                        else boxes.count
                        for part in parts
                    ],
                )
            )
            firsts.append(
                self._of_part(number, [boxes.full if part == axis else "0" for part in parts])
            )
        result = []
        for name, boxes, first, place in zip(
            self.names, self._boxes, firsts, self._split(rest, extents), strict=True
        ):
            moved = kernel.assign(f"box_{name}", Value(f"{first} + {place}")).text
            # FULL boxes have the first numbers, those before them the next.
            beyond = f"tl.where({moved} < {boxes.full} + {boxes.skipped}, {boxes.full}, 0)"
            result.append(f"{moved} + tl.where({moved} < {boxes.full}, {boxes.skipped}, -{beyond})")
        return result

    def _of_part(self, number: str, choices: Sequence[str]) -> str:
        """Of one value a part, that of the part which box `number` is in."""
        result = choices[-1]
        for end, choice in reversed(list(zip(self._ends[:-1], choices[:-1], strict=True))):
            if choice != result:
                result = f"tl.where({number} < {end}, {choice}, {result})"
        return result


def is_narrower(window: Window, side: int) -> bool:
    """Whether no query sees `side` keys along the axis, so that no box can be FULL."""
    alone: dict[Expression, Expression] = {Index("i_last"): Index("i_first")}
    first, last = (substitute(bound, alone) for bound in (window.first, window.last))
    return Prover().at_most(subtract(last, first), Literal(side - 1))
