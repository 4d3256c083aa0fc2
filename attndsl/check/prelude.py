"""The standard patterns of `grammar/std.attn`, which every file may use without an import."""

from __future__ import annotations

from functools import cache
from importlib import resources

from attndsl.check.scope import Defined, ModuleScope
from attndsl.parsing import parse
from attndsl.source import Source


@cache
def standard_patterns() -> ModuleScope:
    """The scope that holds them. It is shared: nobody changes it."""
    text = resources.files("attndsl.grammar").joinpath("std.attn").read_text("utf-8")
    tree = parse(Source(text, "std.attn"))
    scope = ModuleScope({}, {}, prelude=True)
    for definition in tree.definitions:
        scope.definitions[definition.name.parts[0]] = Defined(definition, scope)
    return scope
