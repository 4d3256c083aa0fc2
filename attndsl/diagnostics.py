"""What the compiler says to its user.

A `Diagnostic` has a code, the smallest useful span, what was found and expected, and one line of
help. `AttnError` carries diagnostics; a bug of ours is an `InternalError` and never an `AttnError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from attndsl.records import dataclass
from attndsl.source import Span

# A longer line of the user's is shown in part.
LINE_WIDTH = 120


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Diagnostic:
    """One fault, reported once. Texts are lower case, without a full stop, names in backticks."""

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    help: str | None = None
    severity: Severity = Severity.ERROR
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return render(self)


class AttnError(Exception):
    """The user's spec, input or machine is at fault; every diagnostic names the fix."""

    def __init__(self, diagnostics: Diagnostic | Sequence[Diagnostic]):
        if isinstance(diagnostics, Diagnostic):
            diagnostics = [diagnostics]
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n\n".join(render(diagnostic) for diagnostic in self.diagnostics))


class InternalError(Exception):
    """A bug of attndsl: an invariant of its own was broken. Never caused by a user's text."""


def error(
    code: str, message: str, span: Span | None = None, *, label: str = "", help: str | None = None
) -> AttnError:
    """An `AttnError` with one diagnostic, to raise on the spot."""
    return AttnError(Diagnostic(code, message, span, label, help))


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic as plain text, in the layout that rustc made familiar."""
    head = f"{diagnostic.severity.value}[{diagnostic.code}]: {diagnostic.message}"
    lines = [head]
    gutter = ""
    if diagnostic.span is not None:
        span = diagnostic.span
        line, column = span.source.position(span.start)
        text = _printable(span.source.line_text(line))
        gutter = " " * len(str(line))
        # A span over several lines is underlined to the end of its first.
        width = max(1, min(span.end - span.start, len(text) - column + 1))
        text, first, width = _window(text, column - 1, width)
        before = "".join("\t" if character == "\t" else " " for character in text[:first])
        underline = f"{before}{'^' * width} {diagnostic.label}".rstrip()
        lines += [
            f"{gutter}--> {span.source.name}:{line}:{column}",
            f"{gutter} |",
            f"{line} | {text}",
            f"{gutter} | {underline}",
        ]
    lines += [f"{gutter} = note: {note}" for note in diagnostic.notes]
    if diagnostic.help is not None:
        lines.append(f"{gutter} = help: {diagnostic.help}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """The line without what would move a terminal's cursor, at the same columns."""
    return "".join(
        character if character.isprintable() or character == "\t" else "\N{REPLACEMENT CHARACTER}"
        for character in text.removesuffix("\r")
    )


def _window(text: str, first: int, width: int) -> tuple[str, int, int]:
    """The part of a long line around its underlined characters, and where these are in it."""
    if len(text) <= LINE_WIDTH:
        return text, first, width
    start = max(0, min(first - LINE_WIDTH // 3, len(text) - LINE_WIDTH))
    end = min(len(text), start + LINE_WIDTH)
    left, right = "…" if start else "", "…" if end < len(text) else ""
    return (
        f"{left}{text[start:end]}{right}",
        first - start + len(left),
        max(1, min(width, end - first)),
    )
