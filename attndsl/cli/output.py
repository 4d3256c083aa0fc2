"""What the commands print: colours on a terminal only, diagnostics on the error stream."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import IO, Any

from attndsl.diagnostics import Diagnostic, Severity, render

_RESET, _BOLD = "\033[0m", "\033[1m"
_RED, _YELLOW, _BLUE, _CYAN = "\033[1;31m", "\033[1;33m", "\033[1;34m", "\033[36m"


def use_colours(stream: IO[str]) -> bool:
    """Whether to colour: on a terminal, unless `NO_COLOR` is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show_diagnostic(diagnostic: Diagnostic) -> None:
    """The diagnostic on the error stream."""
    text = render(diagnostic)
    if use_colours(sys.stderr):
        text = _painted(text, _RED if diagnostic.severity is Severity.ERROR else _YELLOW)
    print(text, end="\n\n", file=sys.stderr)


def show_json(value: object) -> None:
    """A value as JSON on the output stream."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def diagnostic_as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """What an editor needs. Lines and columns count from 1, ends are exclusive."""
    place: dict[str, Any] = dict.fromkeys(("file", "line", "column", "end_line", "end_column"))
    if diagnostic.span is not None:
        source = diagnostic.span.source
        line, column = source.position(diagnostic.span.start)
        end_line, end_column = source.position(max(diagnostic.span.end, diagnostic.span.start))
        place = {
            "file": str(source.path or source.name),
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
        }
    return {
        "severity": diagnostic.severity.value,
        "code": diagnostic.code,
        "message": diagnostic.message,
        **place,
        "label": diagnostic.label,
        "help": diagnostic.help,
        "notes": list(diagnostic.notes),
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns under a header: the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: list[str]) -> str:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def _painted(text: str, colour: str) -> str:
    """The layout of `render`, painted as compilers paint it: head, gutter, underline, help."""
    head, *rest = text.split("\n")
    mark, _, message = head.partition(": ")
    lines = [f"{colour}{mark}{_RESET}{_BOLD}: {message}{_RESET}"]
    for line in rest:
        line = re.sub(r"^( *\d* \||\s*-->)", rf"{_BLUE}\1{_RESET}", line)
        line = re.sub(r"(\^+.*)$", rf"{colour}\1{_RESET}", line) if "^" in line else line
        line = re.sub(r"^( *= )(help|note):", rf"{_BLUE}\1{_RESET}{_CYAN}\2{_RESET}:", line)
        lines.append(line)
    return "\n".join(lines)
