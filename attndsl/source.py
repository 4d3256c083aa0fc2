"""Source text and the spans that point into it.

Every node of the syntax tree and of the typed tree carries a `Span`, so that any later stage can
point at the user's own words.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import field
from functools import cached_property
from pathlib import Path

from attndsl.records import dataclass

# In characters: no spec is longer.
MAXIMUM_LENGTH = 256 * 1024


@dataclass(frozen=True)
class Source:
    """One text that a user wrote: a `.attn` file, a string, or the body of a decorated function.

    `name` is what diagnostics show. `path` is set when imports may be resolved relative to it.
    `first_line` is the line number of the first line of `text` in the file the user knows.
    """

    text: str = field(repr=False)
    name: str = "<text>"
    path: Path | None = None
    first_line: int = 1

    @cached_property
    def _line_starts(self) -> list[int]:
        starts = [0]
        for offset, character in enumerate(self.text):
            if character == "\n":
                starts.append(offset + 1)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character offset, both counted from 1."""
        line = bisect_right(self._line_starts, offset) - 1
        return line + self.first_line, offset - self._line_starts[line] + 1

    def line_text(self, line: int) -> str:
        """The text of a line, by the number that `position` gives, without its newline."""
        index = line - self.first_line
        start = self._line_starts[index]
        end = self.text.find("\n", start)
        return self.text[start:] if end < 0 else self.text[start:end]


@dataclass(frozen=True)
class Span:
    """The half-open range of characters `[start, end)` in a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    @property
    def line(self) -> int:
        """The line on which the span starts, counted as the user counts."""
        return self.source.position(self.start)[0]

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.source, self.start, other.end)
