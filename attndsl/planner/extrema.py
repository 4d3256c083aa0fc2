"""Least and greatest element of an input over ranges of its indices, many ranges at once.

One varying dimension: a sparse table over granules (any range is covered by two overlapping powers
of two), so a query costs two look-ups. Two: a pyramid of ever coarser cells, of which a range meets
at most two per dimension. Both may look a little further than the range, never less far: the
answer encloses the truth. Memory is proportional to the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Integers = NDArray[np.int64]

# Ranges shorter than this in long arrays are widened to granules, so that the table stays small.
_GRANULE = 16
_EXACT_LENGTH = 1 << 16


def _coarsened(values: Array, axis: int, factor: int, pick: np.ufunc) -> Array:
    """The extremum of every `factor` neighbours along an axis; the last cell may be shorter."""
    length = values.shape[axis]
    if length <= 1 or factor == 1:
        return values
    result: Array = pick.reduceat(values, np.arange(0, length, factor), axis=axis)
    return result


@dataclass
class LineExtrema:
    """Of a one-dimensional array."""

    granule: int
    least: list[Array]
    greatest: list[Array]

    @staticmethod
    def of(values: Array) -> LineExtrema:
        granule = 1 if len(values) <= _EXACT_LENGTH else _GRANULE
        return LineExtrema(
            granule,
            [_coarsened(values, 0, granule, np.minimum)],
            [_coarsened(values, 0, granule, np.maximum)],
        )

    def over(self, first: Integers, last: Integers) -> tuple[Array, Array]:
        """Least and greatest of `values[first : last + 1]`, elementwise; ranges lie within it."""
        first, last = np.broadcast_arrays(first // self.granule, last // self.granule)
        lengths = last - first + 1
        level = (np.frexp(lengths.astype(np.float64))[1] - 1).astype(np.int64)
        self._extend(int(level.max(initial=0)))
        low = np.empty(first.shape, self.least[0].dtype)
        high = np.empty(first.shape, self.least[0].dtype)
        for number in _distinct(level):
            chosen = level == number
            start, end = first[chosen], last[chosen] - (1 << int(number)) + 1
            least, greatest = self.least[number], self.greatest[number]
            low[chosen] = np.minimum(least[start], least[end])
            high[chosen] = np.maximum(greatest[start], greatest[end])
        return low, high

    def _extend(self, level: int) -> None:
        while len(self.least) <= level:
            half = 1 << (len(self.least) - 1)
            self.least.append(np.minimum(self.least[-1][:-half], self.least[-1][half:]))
            self.greatest.append(np.maximum(self.greatest[-1][:-half], self.greatest[-1][half:]))


@dataclass
class PlaneExtrema:
    """Of a two-dimensional array."""

    values: Array
    cells: dict[tuple[int, int], tuple[Array, Array]] = field(default_factory=dict)

    def over(
        self, first: tuple[Integers, Integers], last: tuple[Integers, Integers]
    ) -> tuple[Array, Array]:
        """Least and greatest over the rectangles `first … last`, ends included."""
        rows_first, rows_last, columns_first, columns_last = np.broadcast_arrays(
            first[0], last[0], first[1], last[1]
        )
        row_level = _covering_level(rows_first, rows_last)
        column_level = _covering_level(columns_first, columns_last)
        low = np.empty(rows_first.shape, self.values.dtype)
        high = np.empty(rows_first.shape, self.values.dtype)
        codes = row_level * 64 + column_level
        for code in _distinct(codes):
            p, q = divmod(int(code), 64)
            chosen = codes == code
            least, greatest = self._level(p, q)
            corners = [
                (rows[chosen] >> p, columns[chosen] >> q)
                for rows in (rows_first, rows_last)
                for columns in (columns_first, columns_last)
            ]
            low[chosen] = np.minimum.reduce([least[corner] for corner in corners])
            high[chosen] = np.maximum.reduce([greatest[corner] for corner in corners])
        return low, high

    def _level(self, p: int, q: int) -> tuple[Array, Array]:
        if (p, q) == (0, 0):
            return self.values, self.values
        known = self.cells.get((p, q))
        if known is None:
            axis = 0 if p >= q else 1
            least, greatest = self._level(p - 1, q) if axis == 0 else self._level(p, q - 1)
            known = (
                _coarsened(least, axis, 2, np.minimum),
                _coarsened(greatest, axis, 2, np.maximum),
            )
            self.cells[p, q] = known
        return known


def _covering_level(first: Integers, last: Integers) -> Integers:
    """The least level at which a range meets at most two cells."""
    level = np.zeros(first.shape, np.int64)
    wide = (last >> level) - (first >> level) > 1
    while wide.any():
        level[wide] += 1
        wide = (last >> level) - (first >> level) > 1
    return level


def _distinct(numbers: Integers) -> list[int]:
    """The different ones of small numbers. NumPy's `unique` would load its masked arrays, which
    takes longer than a first call may."""
    return np.flatnonzero(np.bincount(numbers.ravel())).tolist()
