"""Whether a spec's mask is the one that a model asks for.

Both are evaluated on sample rows of a sequence that is longer than every number in either: rows
around the beginning, the end and multiples of these numbers, against all keys, for a batch with and
without padding. It costs a moment, once for each spec and pattern.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attndsl.attention import Attention
from attndsl.evaluate import Array, Environment, evaluate
from attndsl.expression import Expression, Literal, Read, walk
from attndsl.runtime.integrations.masks import Pattern

# A window past this many keys is as good as none for the comparison.
_LONGEST = 2**16


def disagreement(
    attention: Attention, pattern: Pattern, sources: Mapping[str, object], heads: tuple[int, int]
) -> str | None:
    """A pair of positions on which the mask of a bound attention and `pattern` differ, in words.

    `sources` says what each input of the spec reads. None where the masks agree.
    """
    for node in walk(attention.mask):
        if isinstance(node, Read) and not _is_of_keys(sources.get(node.name)):
            return f"it reads `{node.name}`, of which the model's mask knows nothing"
    sample = _Sample(attention.mask, pattern, sources)
    ours, theirs = np.broadcast_arrays(sample.ours(attention, heads), sample.theirs())
    wrong = np.argwhere((ours != theirs) & sample.is_query)
    if not len(wrong):
        return None
    batch, head, row, column = wrong[0]
    query, shown = sample.rows[row], theirs[batch, head, row, column]
    if shown:
        return f"position {query} does not see {column}, and the model shows it"
    return f"position {query} sees {column}, and the model hides it"


def _is_of_keys(source: object) -> bool:
    return source in ("padding", "first_token", "last_token", "documents")


class _Sample:
    """Positions to compare at, and what the inputs of the mask are there."""

    def __init__(self, mask: Expression, pattern: Pattern, sources: Mapping[str, object]) -> None:
        self._pattern, self._sources = pattern, sources
        numbers = {
            node.value
            for node in walk(mask)
            if isinstance(node, Literal) and type(node.value) is int and node.value > 0
        }
        numbers |= {one for one in (pattern.window, pattern.chunk) if one is not None}
        numbers = {min(one, _LONGEST) for one in numbers} | {8}
        length = 2 * max(numbers) + 5
        near = {one * times + shift for one in numbers for times in (1, 2) for shift in (-1, 0, 1)}
        near |= {0, 1, 2, length // 2, length - 4, length - 1}
        self.rows = np.array(sorted(row for row in near if 0 <= row < length))
        self._length = length
        read = {sources.get(node.name) for node in walk(mask) if isinstance(node, Read)}
        # The second row of the batch is padded where the spec says that it knows of it.
        left, right = read & {"padding", "first_token"}, read & {"padding", "last_token"}
        self._first = np.array([0, 3 if left else 0])[:, None, None, None]
        self._last = np.array([0, 3 if right else 0])[:, None, None, None] * -1 + length - 1
        apart = length // 3 + 1 if pattern.documents else length
        self._document = np.arange(length) // apart

    @property
    def _query(self) -> Array:
        return self.rows[None, None, :, None]

    @property
    def _key(self) -> Array:
        return np.arange(self._length)[None, None, None, :]

    @property
    def is_query(self) -> Array:
        """Rows of padding are nobody's."""
        return (self._first <= self._query) & (self._query <= self._last)

    def theirs(self) -> Array:
        query, key = self._query, self._key
        seen = (self._first <= key) & (key <= self._last) & (query >= 0)
        if self._pattern.causal:
            seen = seen & (key <= query)
        if self._pattern.window is not None:
            # A causal window counts the query; one to both sides does not.
            reach = self._pattern.window - int(self._pattern.causal)
            seen = seen & (abs(query - key) <= reach)
        if self._pattern.chunk is not None:
            size = self._pattern.chunk
            seen = seen & ((query - self._first) // size == (key - self._first) // size)
        if self._pattern.documents:
            seen = seen & (self._document[query] == self._document[key])
        return seen

    def ours(self, attention: Attention, heads: tuple[int, int]) -> Array:
        queries, keys = heads
        head = np.arange(queries)[None, :, None, None]
        positions = np.arange(self._length)
        first, last = self._first[:, :, 0, 0], self._last[:, :, 0, 0]
        values = {
            "padding": (first <= positions) & (positions <= last),
            "first_token": first[:, 0],
            "last_token": last[:, 0],
            "documents": np.broadcast_to(self._document, (2, self._length)),
        }
        inputs = {
            name: values[str(source)]
            for name, source in self._sources.items()
            if _is_of_keys(source)
        }
        environment = Environment(
            indices={
                "b": np.arange(2)[:, None, None, None],
                "h": head,
                "g": head // (queries // keys),
                "i": self._query,
                "row": self._query,
                "j": self._key,
            },
            sizes={
                **{"B": 2, "H": queries, "Hkv": keys, "D": 64, "Dv": 64, "offset": 0},
                **{"Lq": self._length, "Lk": self._length},
            },
            inputs=inputs,
            clamp=True,
        )
        return evaluate(attention.mask, environment)
