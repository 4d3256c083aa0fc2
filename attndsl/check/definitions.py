"""The names of a file: its definitions and attentions, and those that it imports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from attndsl import syntax
from attndsl.check.builtins import EXPANDED
from attndsl.check.normalizers import NORMALIZERS
from attndsl.check.patterns import PATTERNS
from attndsl.check.scope import INDICES, RESERVED, Defined, ModuleScope
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.functions import FUNCTIONS
from attndsl.source import Span
from attndsl.suggestions import suggestion

BUILT_IN = frozenset({*FUNCTIONS, *EXPANDED, *PATTERNS, *NORMALIZERS, *RESERVED, "cumsum"})


def collect(
    tree: syntax.Module,
    standard: ModuleScope,
    load: Callable[[syntax.Import], ModuleScope] | None,
) -> tuple[ModuleScope, list[Diagnostic]]:
    """The scope of a file and the faults found: A015 reserved, A040 duplicate, A017 and A043
    imports. Nearer names hide farther ones: own, imported, standard."""
    faults: list[Diagnostic] = []
    scope = ModuleScope(dict(standard.definitions), {})
    for statement in tree.imports:
        try:
            _import(statement, scope, standard, load)
        except AttnError as failed:
            faults.extend(failed.diagnostics)
    own: dict[str, Span] = {}
    for definition in tree.definitions:
        word = definition.name.parts[0]
        fault = _taken(definition.name, own, "definition")
        hidden = word in INDICES and not definition.parameters
        if fault is None and (word in BUILT_IN or hidden):
            fault = Diagnostic(
                "A015",
                f"`{word}` is built in",
                definition.name.span,
                help="choose another name",
            )
        if fault is not None:
            faults.append(fault)
            continue
        # A definition with faulty parameters is known all the same: its uses are no faults.
        fault = _parameters(definition)
        if fault is not None:
            faults.append(fault)
        own[word] = definition.name.span
        scope.definitions[word] = Defined(partial(_itself, definition), scope)
    names: dict[str, Span] = {}
    for attention in tree.attentions:
        fault = _taken(attention.name, names, "attention")
        if fault is not None:
            faults.append(fault)
        names.setdefault(attention.name.parts[0], attention.name.span)
        scope.attentions[attention.name.parts[0]] = attention
    return scope, faults


def _itself(definition: syntax.Definition) -> syntax.Definition:
    return definition


def _taken(name: syntax.Name, own: dict[str, Span], what: str) -> Diagnostic | None:
    word = name.parts[0]
    if word not in own:
        return None
    return Diagnostic(
        "A040",
        f"the {what} `{word}` is declared twice",
        name.span,
        f"first declared in line {own[word].line}",
        "rename one of them",
    )


def _parameters(definition: syntax.Definition) -> Diagnostic | None:
    seen: dict[str, Span] = {}
    optional: str | None = None
    for parameter in definition.parameters:
        fault = _taken(parameter.name, seen, "parameter")
        if fault is not None:
            return fault
        word = parameter.name.parts[0]
        seen[word] = parameter.name.span
        if parameter.where is not None:
            return Diagnostic(
                "A048",
                "a definition's parameter has no bound",
                parameter.where.span,
                help="bounds belong to the parameters of an `attention`",
            )
        if parameter.default is not None:
            optional = word
        elif optional is not None:
            return Diagnostic(
                "A048",
                f"`{word}` needs a default too",
                parameter.span,
                f"`{optional}` before it has one",
                "put parameters without a default first",
            )
    return None


def _import(
    statement: syntax.Import,
    scope: ModuleScope,
    standard: ModuleScope,
    load: Callable[[syntax.Import], ModuleScope] | None,
) -> None:
    if load is None:
        raise AttnError(
            Diagnostic(
                "A043",
                "a text without a file cannot import",
                statement.span,
                help="save it to a file and load that",
            )
        )
    loaded = load(statement)
    own = {
        name: defined
        for name, defined in loaded.definitions.items()
        if standard.definitions.get(name) is not defined
    }
    if not statement.names:
        scope.definitions.update(own)
        scope.attentions.update(loaded.attentions)
        return
    for name in statement.names:
        word = name.parts[0]
        if word in own:
            scope.definitions[word] = own[word]
        if word in loaded.attentions:
            scope.attentions[word] = loaded.attentions[word]
        if word not in own and word not in loaded.attentions:
            scope.failed.add(word)
            raise AttnError(
                Diagnostic(
                    "A017",
                    f"`{statement.path}` has no `{word}`",
                    name.span,
                    help=suggestion(word, [*own, *loaded.attentions]),
                )
            )
