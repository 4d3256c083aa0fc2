"""From text to syntax tree, with Lark.

No step recurses over the user's text: Lark's LALR parser keeps its own stack, its tree is turned
into ours from the leaves up, and nesting is limited by a diagnostic and never by Python's stack.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from attndsl import lexical
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.parser_table import load_parser
from attndsl.source import Source
from attndsl.syntax import Module
from attndsl.tree_builder import build

if TYPE_CHECKING:
    from lark import Lark

MAXIMUM_ERRORS = 20


def parse(source: Source) -> Module:
    """The syntax tree of a source.

    Raises `AttnError` (A00x) with the first fault of each top-level item that does not parse.
    """
    unpaired = lexical.check_text(source)
    try:
        return parse_items(source, 0, len(source.text))
    except AttnError as fault:
        first = fault
    if unpaired is not None:
        # Where the parser stumbles before the bracket, the bracket is a consequence.
        (stumble,) = first.diagnostics
        assert stumble.span is not None
        assert unpaired.span is not None
        raise first if stumble.span.start < unpaired.span.start else AttnError(unpaired)
    # Something is wrong: look into each item on its own, so that the faults of all are reported.
    starts = lexical.item_starts(source)
    found: list[Diagnostic] = []
    for start, end in zip(starts, [*starts[1:], len(source.text)], strict=True):
        try:
            parse_items(source, start, end)
        except AttnError as fault:
            found.extend(fault.diagnostics)
        if len(found) >= MAXIMUM_ERRORS:
            break
    raise AttnError(found) if found else first


def parse_items(source: Source, start: int, end: int) -> Module:
    """The syntax tree of a part of the text that holds whole items. Raises `AttnError` as `parse`
    does, with the first fault."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    from attndsl.parse_errors import unexpected_character, unexpected_token

    try:
        tree = _parser().parse(source.text[start:end])
    except UnexpectedToken as fault:
        raise AttnError(unexpected_token(source, start, end, fault)) from None
    except UnexpectedCharacters as fault:
        raise AttnError(unexpected_character(source, start + (fault.pos_in_stream or 0))) from None
    return build(source, start, tree)


@cache
def _parser() -> Lark:
    return load_parser()
