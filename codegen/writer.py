"""A writer for emitted source: lines, indentation and blocks.

Every emitter builds its text through one of these, so that what comes out is formatted as a
person would have written it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Writer:
    """Collects lines at the current indentation.

    `comment` is what starts a comment line in the language being written: `//` or `#`.
    """

    def __init__(self, *, comment: str, indent: str = "    "):
        self._comment = comment
        self._indent = indent
        self._depth = 0
        self._lines: list[str] = []

    def line(self, text: str = "") -> None:
        """One line; empty text is an empty line. Text with newlines becomes several lines."""
        for part in text.split("\n"):
            self._lines.append(f"{self._indent * self._depth}{part}".rstrip())

    def lines(self, *texts: str) -> None:
        for text in texts:
            self.line(text)

    def blank(self) -> None:
        """An empty line, unless the text starts here or the last line is empty already."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def comment(self, text: str) -> None:
        """A comment, line by line; what `text` holds cannot end the comment."""
        for part in text.splitlines() or [""]:
            # A backslash at the end of a C++ comment would swallow the next line.
            self.line(f"{self._comment} {_printable(part).rstrip()}".rstrip("\\ "))

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Everything inside stands one level deeper."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @contextmanager
    def block(self, opening: str, closing: str = "") -> Iterator[None]:
        """`opening`, an indented body, and `closing` where it is not empty.

        C++: `with w.block("for (…) {", "}")`; Python: `with w.block("if x:")`.
        """
        self.line(opening)
        with self.indented():
            yield
        if closing:
            self.line(closing)

    def text(self) -> str:
        """Everything written so far, with one newline at the end."""
        return "\n".join(self._lines).rstrip("\n") + "\n"


def _printable(text: str) -> str:
    """The text with control characters (among them line separators) replaced by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)
