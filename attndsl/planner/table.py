"""Block lists for masks that read tables, and for arithmetic that has no closed form.

The grid of blocks is refined from coarse boxes to single blocks, all boxes of a level at once: the
abstract interpreter says which are EMPTY or FULL, and only the others are split. Blocks that stay
undecided are settled exactly: a few pairs are looked at, and then quarters of the block, until a
visible and a hidden pair are known or the whole block has been seen. So the lists are what brute
force finds, at a cost of O(inputs + blocks visited + blocks on the edge of what is visible).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Expression
from attndsl.planner.block_map import BlockTable, Kind, Table
from attndsl.planner.extrema import LineExtrema, PlaneExtrema
from attndsl.planner.intervals import Boxes, truth
from attndsl.planner.simplify import simplify

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Inputs = Mapping[str, NDArray[np.generic]]

# The first boxes: at most this many, each a square of blocks whose side is a power of two.
_FIRST_BOXES = 1024
# Boxes of at most this many pairs are looked at pair by pair.
_SMALL_BOX = 64
# Pairs that are evaluated, or boxes that are interpreted, at a time.
_CHUNK = 1 << 19


def build_table(
    mask: Expression,
    table: Table,
    sizes: Mapping[str, int],
    inputs: Inputs,
    block_m: int,
    block_n: int,
    *,
    axes: tuple[str, ...] | None = None,
    transposed: bool = False,
) -> BlockTable:
    """The block lists of every head, exact, for one call.

    `mask` has its parameters bound. `sizes` holds `B H Hkv Lq Lk`, `offset` (by default `Lk - Lq`)
    and `axis.NAME` for each axis; `inputs` the arrays that the mask reads. `axes` are the names of
    the axes in order, by default in the order in which `sizes` has them.

    `transposed` lists are of tiles of `block_m` keys: for each the blocks of `block_n` queries that
    see some of them, FULL where all exist and see all.
    """
    if axes is None:
        axes = tuple(name.removeprefix("axis.") for name in sizes if name.startswith("axis."))
    sizes = {"offset": sizes["Lk"] - sizes["Lq"], "B": 1, "H": 1, **sizes}
    sizes.setdefault("Hkv", sizes["H"])
    problem = _Problem(
        simplify(mask),
        sizes,
        axes,
        dict(inputs),
        block_n if transposed else block_m,
        block_m if transposed else block_n,
        table.varies_with,
        transposed,
    )
    group = sizes["H"] // max(sizes["Hkv"], 1)
    numbers: dict[tuple[int, ...], int] = {}
    stored: dict[bytes, int] = {}
    lists: list[_Lists] = []
    map_index = np.zeros(sizes["B"] * sizes["H"], np.int32)
    for place in range(len(map_index)):
        batch, head = divmod(place, sizes["H"])
        chosen = {"b": batch, "h": head, "g": head // max(group, 1)}
        key = tuple(value if name in table.varies_with else 0 for name, value in chosen.items())
        if key not in numbers:
            found = problem.lists(chosen)
            content = found.content()
            if content not in stored:
                stored[content] = len(lists)
                lists.append(found)
            numbers[key] = stored[content]
        map_index[place] = numbers[key]
    return _joined(lists, problem.tiles, map_index)


@dataclass(frozen=True)
class _Lists:
    """The blocks of one map, sorted by tile and block."""

    partial_counts: Integers  # per tile
    partial: NDArray[np.int32]
    full_counts: Integers
    full: NDArray[np.int32]

    def content(self) -> bytes:
        parts = (self.partial_counts, self.partial, self.full_counts, self.full)
        return b"".join(part.tobytes() for part in parts)


def _joined(lists: list[_Lists], query_blocks: int, map_index: NDArray[np.int32]) -> BlockTable:
    def offsets(counts: list[Integers]) -> NDArray[np.int32]:
        every = np.concatenate([np.zeros(1, np.int64), *counts])
        return np.cumsum(every).astype(np.int32)

    def blocks(parts: list[NDArray[np.int32]]) -> NDArray[np.int32]:
        return np.concatenate([np.zeros(0, np.int32), *parts])

    return BlockTable(
        query_blocks,
        map_index,
        offsets([item.partial_counts for item in lists]),
        blocks([item.partial for item in lists]),
        offsets([item.full_counts for item in lists]),
        blocks([item.full for item in lists]),
    )


@dataclass(frozen=True)
class _Rectangles:
    """Boxes of pairs, ends included: rows are numbered from 0, columns are keys. `owner` is the
    number of the block that each belongs to."""

    row_first: Integers
    row_last: Integers
    column_first: Integers
    column_last: Integers
    owner: Integers

    def __len__(self) -> int:
        return len(self.owner)

    def chosen(self, which: Booleans | slice) -> _Rectangles:
        return _Rectangles(
            self.row_first[which],
            self.row_last[which],
            self.column_first[which],
            self.column_last[which],
            self.owner[which],
        )

    def quarters(self) -> _Rectangles:
        """Each box cut in half along both sides; halves of a side of length 1 are left out."""
        row_middle = (self.row_first + self.row_last) // 2
        column_middle = (self.column_first + self.column_last) // 2
        rows = [(self.row_first, row_middle), (row_middle + 1, self.row_last)]
        columns = [(self.column_first, column_middle), (column_middle + 1, self.column_last)]
        parts = [(a, b, c, d) for a, b in rows for c, d in columns]
        a, b, c, d = (np.concatenate(side) for side in zip(*parts, strict=True))
        split = _Rectangles(a, b, c, d, np.tile(self.owner, 4))
        exists = (split.row_first <= split.row_last) & (split.column_first <= split.column_last)
        return split.chosen(exists)


@dataclass
class _Problem:
    mask: Expression
    sizes: Mapping[str, int]
    axes: tuple[str, ...]
    inputs: Inputs
    block_m: int
    block_n: int
    varies_with: frozenset[str]
    transposed: bool
    reads: dict[tuple[object, ...], LineExtrema | PlaneExtrema] = field(default_factory=dict)

    @property
    def query_blocks(self) -> int:
        return -(-self.sizes["Lq"] // self.block_m)

    @property
    def key_blocks(self) -> int:
        return -(-self.sizes["Lk"] // self.block_n)

    @property
    def tiles(self) -> int:
        """How many lists there are for a head."""
        return self.key_blocks if self.transposed else self.query_blocks

    def sticks_out(self, row: Integers, column: Integers) -> Booleans:
        """Of blocks, whether their list counts tokens in them that do not exist."""
        if self.transposed:
            return (row + 1) * self.block_m > self.sizes["Lq"]
        return (column + 1) * self.block_n > self.sizes["Lk"]

    def lists(self, fixed: Mapping[str, int]) -> _Lists:
        """The blocks of one head."""
        return _Head(self, fixed).lists()


@dataclass(frozen=True)
class _Head:
    """The mask of one head."""

    problem: _Problem
    fixed: Mapping[str, int]

    def lists(self) -> _Lists:
        full, undecided = self._refined()
        sticks_out = self.problem.sticks_out(*full)
        kinds = self._settled(*undecided)
        blocks = self.problem.key_blocks
        codes = full[0] * blocks + full[1]
        undecided_codes = undecided[0] * blocks + undecided[1]
        partial = np.concatenate([codes[sticks_out], undecided_codes[kinds == Kind.PARTIAL]])
        whole = np.concatenate([codes[~sticks_out], undecided_codes[kinds == Kind.FULL]])
        return _Lists(*self._sorted(partial), *self._sorted(whole))

    def _sorted(self, codes: Integers) -> tuple[Integers, NDArray[np.int32]]:
        codes = np.sort(codes)
        tiles, blocks = np.divmod(codes, max(self.problem.key_blocks, 1))
        if self.problem.transposed:
            order = np.argsort(blocks, kind="stable")
            tiles, blocks = blocks[order], tiles[order]
        counts = np.bincount(tiles, minlength=self.problem.tiles).astype(np.int64)
        return counts, blocks.astype(np.int32)

    def _refined(self) -> tuple[tuple[Integers, Integers], tuple[Integers, Integers]]:
        """Blocks every pair of which is visible, and blocks that are still undecided."""
        problem = self.problem
        side = 1
        while (-(-problem.query_blocks // side)) * (-(-problem.key_blocks // side)) > _FIRST_BOXES:
            side *= 2
        rows = np.arange(0, problem.query_blocks, side, dtype=np.int64)
        columns = np.arange(0, problem.key_blocks, side, dtype=np.int64)
        row, column = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
        full: list[tuple[Integers, Integers]] = [(row[:0], column[:0])]
        undecided = [(row[:0], column[:0])]
        # Depth first over chunks, so that what waits stays proportional to what is visible.
        waiting = [(side, row, column)]
        while waiting:
            side, row, column = waiting.pop()
            if len(row) > _CHUNK:
                half = len(row) // 2
                waiting += [(side, row[half:], column[half:]), (side, row[:half], column[:half])]
                continue
            may, must = self._truth(self._rectangles(row, column, side))
            full.append(self._blocks(row[must], column[must], side))
            row, column = row[may & ~must], column[may & ~must]
            if side == 1:
                undecided.append((row, column))
            elif len(row):
                side //= 2
                below, right = row + side, column + side
                quarter_rows = np.concatenate([row, row, below, below])
                quarter_columns = np.concatenate([column, right, column, right])
                exists = (quarter_rows < problem.query_blocks) & (
                    quarter_columns < problem.key_blocks
                )
                waiting.append((side, quarter_rows[exists], quarter_columns[exists]))
        return _together(full), _together(undecided)

    def _rectangles(self, row: Integers, column: Integers, side: int) -> _Rectangles:
        problem = self.problem
        return _Rectangles(
            row * problem.block_m,
            np.minimum((row + side) * problem.block_m, problem.sizes["Lq"]) - 1,
            column * problem.block_n,
            np.minimum((column + side) * problem.block_n, problem.sizes["Lk"]) - 1,
            np.arange(len(row)),
        )

    def _blocks(self, row: Integers, column: Integers, side: int) -> tuple[Integers, Integers]:
        """The single blocks of squares of blocks."""
        if side == 1 or not len(row):
            return row, column
        steps = np.arange(side)
        rows = row[:, None, None] + steps[None, :, None]
        columns = column[:, None, None] + steps[None, None, :]
        rows, columns = (part.ravel() for part in np.broadcast_arrays(rows, columns))
        exists = (rows < self.problem.query_blocks) & (columns < self.problem.key_blocks)
        return rows[exists], columns[exists]

    def _truth(self, boxes: _Rectangles) -> tuple[Booleans, Booleans]:
        """Whether the mask may hold in each box, and whether it must."""
        offset = self.problem.sizes["offset"]
        ranges = {
            "i": (boxes.row_first + offset, boxes.row_last + offset),
            "row": (boxes.row_first, boxes.row_last),
            "j": (boxes.column_first, boxes.column_last),
        }
        for name, value in self.fixed.items():
            constant = np.asarray(value, np.int64)
            ranges[name] = constant, constant
        problem = self.problem
        found = truth(
            problem.mask,
            Boxes(ranges, problem.sizes, problem.axes, problem.inputs, problem.reads),
        )
        shape = (len(boxes),)
        return np.broadcast_to(found.may, shape), np.broadcast_to(found.must, shape)

    def _visible(self, row: Integers, column: Integers) -> Booleans:
        """The mask at single pairs."""
        indices = {name: np.asarray(value, np.int64) for name, value in self.fixed.items()}
        indices |= {"i": row + self.problem.sizes["offset"], "row": row, "j": column}
        environment = Environment(
            indices=indices,
            sizes=self.problem.sizes,
            axes=self.problem.axes,
            inputs=self.problem.inputs,
            clamp=True,
        )
        shape = np.broadcast_shapes(row.shape, column.shape)
        value = evaluate(self.problem.mask, environment)
        return np.broadcast_to(value, shape).astype(bool, copy=False)

    def _settled(self, row: Integers, column: Integers) -> NDArray[np.uint8]:
        """The kind of each block (as far as its existing keys go), exactly."""
        visible = np.zeros(len(row), bool)
        hidden = np.zeros(len(row), bool)
        waiting = [self._rectangles(row, column, 1)]
        while waiting:
            boxes = waiting.pop()
            boxes = boxes.chosen(~(visible & hidden)[boxes.owner])
            if len(boxes) * _SMALL_BOX > _CHUNK:
                half = len(boxes) // 2
                waiting += [boxes.chosen(slice(half, None)), boxes.chosen(slice(half))]
                continue
            if not len(boxes):
                continue
            self._look(boxes, visible, hidden)
            boxes = boxes.chosen(~(visible & hidden)[boxes.owner])
            area = (boxes.row_last - boxes.row_first + 1) * (
                boxes.column_last - boxes.column_first + 1
            )
            if not len(boxes) or area.max() <= _SMALL_BOX:
                continue  # `_look` has seen every pair
            quarters = boxes.chosen(area > _SMALL_BOX).quarters()
            may, must = self._truth(quarters)
            visible[quarters.owner[must]] = True
            hidden[quarters.owner[~may]] = True
            waiting.append(quarters.chosen(may & ~must))
        kinds = np.full(len(row), Kind.PARTIAL, np.uint8)
        kinds[~visible] = Kind.EMPTY
        kinds[visible & ~hidden] = Kind.FULL
        kinds[(kinds == Kind.FULL) & self.problem.sticks_out(row, column)] = Kind.PARTIAL
        return kinds

    def _look(self, boxes: _Rectangles, visible: Booleans, hidden: Booleans) -> None:
        """Evaluate pairs of each box: all of a small one, a few spread over a large one."""
        height = boxes.row_last - boxes.row_first + 1
        width = boxes.column_last - boxes.column_first + 1
        small = height * width <= _SMALL_BOX
        if small.any():
            self._look_at_all(boxes.chosen(small), visible, hidden)
        large = boxes.chosen(~small)
        if len(large):
            # Corners, the middle, and the points between them.
            rows = _spread(large.row_first, large.row_last)
            columns = _spread(large.column_first, large.column_last)
            seen = self._visible(rows[:, None, :], columns[None, :, :])
            visible[large.owner[seen.any(axis=(0, 1))]] = True
            hidden[large.owner[~seen.all(axis=(0, 1))]] = True

    def _look_at_all(self, boxes: _Rectangles, visible: Booleans, hidden: Booleans) -> None:
        height = boxes.row_last - boxes.row_first + 1
        width = boxes.column_last - boxes.column_first + 1
        area = height * width
        box = np.repeat(np.arange(len(boxes)), area)
        place = np.arange(len(box)) - np.repeat(np.cumsum(area) - area, area)
        row, column = np.divmod(place, width[box])
        seen = self._visible(boxes.row_first[box] + row, boxes.column_first[box] + column)
        visible[boxes.owner[box[seen]]] = True
        hidden[boxes.owner[box[~seen]]] = True


def _spread(first: Integers, last: Integers) -> Integers:
    return np.stack([first, (first + last) // 2, last])


def _together(parts: list[tuple[Integers, Integers]]) -> tuple[Integers, Integers]:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
