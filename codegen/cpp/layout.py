"""Emitted C++ as a person would lay it out: long lines are broken, unused names are left out."""

from __future__ import annotations

import re

WIDTH = 100
# Where a line may be broken: after a comma, or before an operator between spaces.
_BREAKS = re.compile(r"(?<=,) | (?=(?:\+|-|\*|\?|:|&|\||&&|\|\|) )")


def wrap(text: str) -> str:
    """The text with lines longer than WIDTH broken between operands."""
    return "\n".join(part for line in text.split("\n") for part in _broken(line))


def uses(text: str, name: str) -> bool:
    """Whether a name stands in the text by itself: not as a member, not inside another."""
    return re.search(rf"(?<![\w.]){re.escape(name)}\b", text) is not None


def _broken(line: str) -> list[str]:
    if len(line) <= WIDTH or line.lstrip().startswith(("//", "#")):
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    parts: list[str] = []
    rest = line
    while len(rest) > WIDTH:
        places = [match.start() for match in _BREAKS.finditer(rest)]
        fitting = [place for place in places if len(indent) + 8 < place <= WIDTH]
        if not fitting:
            break
        parts.append(rest[: fitting[-1]])
        rest = f"{indent}        {rest[fitting[-1] + 1 :]}"
    return [*parts, rest]
