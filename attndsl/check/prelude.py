"""The standard patterns of `grammar/std.attn`, which every file may use without an import."""

from __future__ import annotations

import re
from functools import cache, partial
from importlib import resources
from itertools import pairwise

from attndsl import syntax
from attndsl.check.scope import Defined, ModuleScope
from attndsl.parsing import parse_items
from attndsl.source import Source

# Every definition in the file begins a line.
_DEFINITION = re.compile(r"^def (\w+)", re.MULTILINE)


@cache
def standard_patterns() -> ModuleScope:
    """The scope that holds them. It is shared: nobody changes it.

    Each is parsed when it is first used: to parse them all takes longer than most specs do.
    """
    text = resources.files("attndsl.grammar").joinpath("std.attn").read_text("utf-8")
    source = Source(text, "std.attn")
    scope = ModuleScope({}, {}, prelude=True)
    found = list(_DEFINITION.finditer(text))
    places = [*(match.start() for match in found), len(text)]
    for match, (start, end) in zip(found, pairwise(places), strict=True):
        scope.definitions[match[1]] = Defined(partial(_parsed, source, start, end), scope)
    return scope


def _parsed(source: Source, start: int, end: int) -> syntax.Definition:
    (definition,) = parse_items(source, start, end).definitions
    return definition
