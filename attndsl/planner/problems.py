"""The independent problems of a stage, and which rows and keys of the call are in them.

A stage is one problem, the whole score matrix; or one for each residue class of positions, or of
the coordinates of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from attndsl.evaluate import Array, Environment, evaluate, evaluate_size
from attndsl.expression import Index, Literal
from attndsl.planner.grids import Span, spans, tile_sides
from attndsl.planner.plan import PairStage
from attndsl.planner.stripes import Stripes

Box = tuple[tuple[int, int], ...]
"""Keys of a problem: from a first one to an end, along its one axis or along each."""


@dataclass(frozen=True)
class Tokens:
    """Rows or keys of a call, and their indices as the expressions of a stage name them: `i`, and
    `row` where it has a value, or `j`; along a grid `i.y` … too. All are int64 of one length."""

    numbers: Array
    indices: Mapping[str, Array]


@dataclass(frozen=True)
class LineProblem:
    """The whole score matrix, one residue class of it, or the keys of some stripes (see `Attend`).

    Query row `row'` of the problem is row `first_row + step * row'` of the call, key `j'` is key
    `first_key + step * j'` or the key of that number in the stripes, and `i' = row' + offset`.
    """

    residue: int | None
    step: int
    first_row: int
    first_key: int
    rows: int
    keys: int
    offset: int
    stripes: Stripes | None = None

    @property
    def local_sizes(self) -> dict[str, int]:
        """The sizes that a stage over residue classes or stripes knows beside the call's."""
        if self.stripes is not None:
            return {"local.Lk": self.keys}
        if self.residue is None:
            return {}
        return {"local.Lq": self.rows, "local.Lk": self.keys, "local.offset": self.offset}

    @property
    def local_indices(self) -> dict[str, int]:
        """The indices that have one value in the problem."""
        return {} if self.residue is None else {"residue": self.residue}

    def tiles(self, block_m: int) -> int:
        return -(-self.rows // block_m)

    def tile_ends(self, block_m: int) -> dict[str, Array]:
        """The positions of the first and the last row of every tile, by the names of indices."""
        first = np.arange(self.tiles(block_m)) * block_m
        last = np.minimum(first + block_m, self.rows) - 1
        return {"i_first": first + self.offset, "i_last": last + self.offset}

    def rows_of_tiles(self, block_m: int) -> Array:
        """How many rows each tile has."""
        return np.minimum(self.rows - np.arange(self.tiles(block_m)) * block_m, block_m)

    def queries(self, tile: int, block_m: int) -> Tokens:
        """The rows of a tile that exist."""
        local = np.arange(tile * block_m, min((tile + 1) * block_m, self.rows))
        rows = self.first_row + self.step * local
        indices = {"i": local + self.offset}
        return Tokens(rows, indices if self.residue is not None else {**indices, "row": rows})

    def boxes(self, block_n: int) -> list[Box]:
        """All keys, cut into blocks from the first on."""
        edges = range(0, self.keys, block_n)
        return [((start, min(start + block_n, self.keys)),) for start in edges]

    def key_tokens(self, box: Box) -> Tokens:
        ((start, stop),) = box
        local = np.arange(start, stop)
        if self.stripes is not None:
            number = Environment(indices={"number": local})
            position = evaluate(self.stripes.position(Index("number")), number)
            return Tokens(position, {"j": position})
        return Tokens(self.first_key + self.step * local, {"j": local})


@dataclass(frozen=True)
class TransposedProblem:
    """A problem on a line the other way round: its tiles are of keys, and its `rows` are keys; what
    a tile goes through are blocks of queries, and its `keys` are queries."""

    line: LineProblem

    @property
    def rows(self) -> int:
        return self.line.keys

    @property
    def keys(self) -> int:
        return self.line.rows

    @property
    def residue(self) -> int | None:
        return self.line.residue

    @property
    def local_sizes(self) -> dict[str, int]:
        """As of the problem."""
        return self.line.local_sizes

    def tiles(self, block_m: int) -> int:
        """How many tiles of keys there are."""
        return -(-self.rows // block_m)

    def tile_ends(self, block_m: int) -> dict[str, Array]:
        """As `LineProblem.tile_ends`, of tiles of keys."""
        first = np.arange(self.tiles(block_m)) * block_m
        ends = {"j_first": first, "j_last": np.minimum(first + block_m, self.rows) - 1}
        if self.line.stripes is None:
            return ends
        position = self.line.stripes.position(Index("number"))
        return {
            name: np.broadcast_to(
                evaluate(position, Environment(indices={"number": numbers})), numbers.shape
            )
            for name, numbers in ends.items()
        }


@dataclass(frozen=True)
class GridProblem:
    """One choice of a residue class an axis (see `Grid`). `lengths` are those of the whole axes."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    spans: tuple[Span, ...]
    offset: int
    rows: int

    @property
    def local_sizes(self) -> dict[str, int]:
        """The sizes that a stage over a grid knows beside the call's."""
        along = zip(self.names, self.spans, strict=True)
        return {f"local.axis.{name}": span.keys for name, span in along}

    @property
    def local_indices(self) -> dict[str, int]:
        """The indices that have one value in the problem."""
        along = zip(self.names, self.spans, strict=True)
        return {f"residue.{name}": span.residue for name, span in along}

    @property
    def shape(self) -> tuple[int, ...]:
        """How many tiles of queries there are along each axis."""
        return tuple(span.tiles * span.laps for span in self.spans)

    def tiles(self, block_m: int) -> int:
        return math.prod(self.shape) if self.rows else 0

    def rows_of_tiles(self, block_m: int) -> Array:
        """How many rows each tile has."""
        if not self.rows:
            return np.zeros(0, np.int64)
        numbers = np.ones((), np.int64)
        for span, tiles in zip(self.spans, self.shape, strict=True):
            ends = np.array([span.tile(number) for number in range(tiles)])
            along = np.maximum(0, ends[:, 1] - ends[:, 0] + 1)
            numbers = np.multiply.outer(numbers, along)
        for outer in self._cut():
            for place in np.ndindex(self.shape[1:]):
                tile = int(np.ravel_multi_index((outer, *place), self.shape))
                numbers[(outer, *place)] = self.queries(tile, block_m).numbers.size
        return numbers.reshape(-1)

    def _cut(self) -> Iterable[int]:
        """The tiles along the first axis in which rows may be missing."""
        first, inner = self.spans[0], math.prod(self.lengths[1:])
        if first.shift is not None:
            whole = inner * first.length
            is_whole = self.offset % whole == 0 and (self.offset + self.rows) % whole == 0
            return () if is_whole else range(self.shape[0])
        is_whole = self.offset % inner == 0 and (self.offset + self.rows) % inner == 0
        return () if is_whole else {0, self.shape[0] - 1}

    def queries(self, tile: int, block_m: int) -> Tokens:
        """The rows of a tile that exist."""
        places = np.unravel_index(tile, self.shape)
        local, position = self._positions(
            [
                span.query_coordinates(int(place))
                for span, place in zip(self.spans, places, strict=True)
            ]
        )
        row = position - self.offset
        exists = (row >= 0) & (row < self.rows)
        indices = {f"i.{name}": c[exists] for name, c in local.items()}
        return Tokens(row[exists], {**indices, "i": position[exists], "row": row[exists]})

    def boxes(self, block_n: int) -> list[Box]:
        """All keys, cut into boxes from the first on."""
        sides = tile_sides(block_n, len(self.spans))
        along = [
            [(start, min(start + side, span.keys)) for start in range(0, span.keys, side)]
            for side, span in zip(sides, self.spans, strict=True)
        ]
        return list(product(*along))

    def key_tokens(self, box: Box) -> Tokens:
        ranges = [np.arange(start, stop) for start, stop in box]
        local, position = self._positions(
            [(c, span.key_coordinates(c)) for c, span in zip(ranges, self.spans, strict=True)]
        )
        return Tokens(position, {**{f"j.{name}": c for name, c in local.items()}, "j": position})

    def _positions(self, along: Sequence[tuple[Array, Array]]) -> tuple[dict[str, Array], Array]:
        """Local coordinates, and positions in the call, of every point of a box, given local and
        whole coordinates along each axis."""
        local = np.meshgrid(*(c for c, _ in along), indexing="ij")
        position = np.zeros((), np.int64)
        for (_, whole), length in zip(along, self.lengths, strict=True):
            position = np.add.outer(position * length, whole)
        named = zip(self.names, local, strict=True)
        return {name: c.reshape(-1) for name, c in named}, position.reshape(-1)


Problem = LineProblem | GridProblem


def problems(stage: PairStage, sizes: Mapping[str, int], block_m: int) -> tuple[Problem, ...]:
    """The independent problems of a stage, in the order of their residues."""
    rows, keys, offset = (sizes[name] for name in ("Lq", "Lk", "offset"))
    if stage.grid is not None:
        names = tuple(axis.name for axis in stage.grid.axes)
        lengths = tuple(sizes[f"axis.{name}"] for name in names)
        return tuple(
            GridProblem(names, lengths, each, offset, rows)
            for each in spans(stage.grid, sizes, block_m)
        )
    if stage.stripes is not None:
        within = evaluate_size(stage.stripes.keys, sizes)
        return (LineProblem(None, 1, 0, 0, rows, within, offset, stage.stripes),)
    if stage.residue is None:
        return (LineProblem(None, 1, 0, 0, rows, keys, offset),)
    assert isinstance(stage.residue, Literal)
    return _classes(int(stage.residue.value), rows, keys, offset)


def _classes(step: int, rows: int, keys: int, offset: int) -> tuple[LineProblem, ...]:
    result = []
    for residue in range(step):
        first_row = (residue - offset) % step
        result.append(
            LineProblem(
                residue,
                step,
                first_row,
                residue,
                max(0, -((first_row - rows) // step)),
                max(0, -((residue - keys) // step)),
                (first_row + offset - residue) // step,
            )
        )
    return tuple(result)
