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
    text, suffix = _without_suffix(line[: len(line) - len(colon)])
    if text.endswith(")"):
        opening = _matching(text)
        if _CALL.match(text[:opening]):
            head, inside = text[: opening + 1], text[opening + 1 : -1]
            return [head, *_indented(_arguments(inside, width - 4)), f"){suffix}{colon}"]
    statement = re.match(r"(\w+ \+?= |if )(.*)", text)
    if statement is None:
        return [line]
    body = _terms(f"{statement[2]}{suffix}", width - 4)
    return [f"{statement[1]}(", *_indented(body), f"){colon}"]


def _indented(lines: list[str]) -> list[str]:
    return [_INDENT + line for line in lines]


def _arguments(inside: str, width: int) -> list[str]:
    """What stands between the brackets of a call."""
    if len(inside) <= width:
        return [inside]
    arguments = _split(inside, (", ",))
    if len(arguments) == 1:
        return _terms(inside, width)
    lines = []
    for argument in arguments:
        pieces = _terms(argument.removeprefix(", "), width - 1)
        lines += [*pieces[:-1], f"{pieces[-1]},"]
    return lines


def _terms(text: str, width: int) -> list[str]:
    """An expression, an operand a line where it does not fit on one."""
    if len(text) <= width:
        return [text]
    for operators in _OPERATORS:
        parts = _split(text, operators)
        if len(parts) > 1:
            return [line for part in parts for line in _operand(part.lstrip(), width)]
    return _operand(text, width)


def _operand(text: str, width: int) -> list[str]:
    """One operand with the operator before it; its own brackets are opened where it is long."""
    core, suffix = _without_suffix(text)
    head = re.match(r"(?:[|&+*-]|//?)? ?([\w.=]*)(?=\()", core)
    if len(text) <= width or head is None or _matching(core) != head.end():
        return [text]
    inside = core[head.end() + 1 : -1]
    body = _arguments(inside, width - 4) if head[1] else _terms(inside, width - 4)
    return [core[: head.end() + 1], *_indented(body), f"){suffix}"]


def _without_suffix(text: str) -> tuple[str, str]:
    """The text, and the conversions and subscripts that end it."""
    found = re.search(r"(?:\.to\([\w.]+\)|\[:, None\]|\[None, :\])+$", text)
    return (text, "") if found is None else (text[: found.start()], found[0])


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
    """The place of the bracket that the last character closes; -1 where it closes none."""
    depth = 0
    if not text.endswith((")", "]")):
        return -1
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] in ")]") - (text[place] in "([")
        if depth == 0:
            return place
    return -1
