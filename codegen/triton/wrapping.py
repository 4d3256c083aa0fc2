"""Long lines of an emitted kernel, broken as a formatter would break them."""

from __future__ import annotations

import re

WIDTH = 100
_INDENT = "    "
_CALL = re.compile(r"^(?:for \w+ in |if |[\w.]+ \+?= )?[\w.]+$")
# Loosest first; a line is broken at the loosest operator that it has.
_OPERATORS = ((" | ",), (" & ",), (" + ", " - "), (" * ", " / ", " // "))


def wrapped(line: str, width: int) -> list[str]:
    """The statement in lines of at most `width` characters, where it can be broken."""
    if len(line) <= width:
        return [line]
    colon = ":" if line.endswith(":") else ""
    text = line[: len(line) - len(colon)]
    if text.endswith(")"):
        opening = _matching(text)
        if _CALL.match(text[:opening]):
            head, inside = text[: opening + 1], text[opening + 1 : -1]
            return [head, *_indented(_arguments(inside, width - 4)), f"){colon}"]
    assignment = re.match(r"(\w+ \+?= )(.*)", text)
    if assignment is None:
        return [line]
    return [f"{assignment[1]}(", *_indented(_terms(assignment[2], width - 4)), f"){colon}"]


def _indented(lines: list[str]) -> list[str]:
    return [_INDENT + line for line in lines]


def _arguments(inside: str, width: int) -> list[str]:
    if len(inside) <= width:
        return [inside]
    lines = []
    for argument in _split(inside, (", ",)):
        text = argument.removeprefix(", ")
        pieces = wrapped(text, width - 1)
        if len(pieces) == 1 and len(text) >= width:
            pieces = _terms(text, width - 1)
        lines += [*pieces[:-1], f"{pieces[-1]},"]
    return lines


def _terms(text: str, width: int) -> list[str]:
    """An expression, an operand a line where it does not fit on one."""
    if len(text) <= width:
        return [text]
    for operators in _OPERATORS:
        parts = _split(text, operators)
        if len(parts) > 1:
            return [part.lstrip() for part in parts]
    return [text]


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    """The text cut before each separator that stands outside brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and place > start and text.startswith(separators, place):
            parts.append(text[start:place])
            start = place
    return [*parts, text[start:]]


def _matching(text: str) -> int:
    """The place of the bracket that the last character closes."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] in ")]") - (text[place] in "([")
        if depth == 0:
            return place
    return -1
