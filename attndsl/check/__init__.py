"""From syntax tree to typed attentions: names, types, index roles, definitions written out.

`scope` says what names mean, `expressions` types expressions with `operators`, `builtins` and
`reads`, `normalizers` and `later` check what is special, and `body` puts an attention together.
"""

from __future__ import annotations

from collections.abc import Callable

from attndsl import syntax
from attndsl.analysis import analyze
from attndsl.attention import Attention
from attndsl.check.body import check_attention
from attndsl.check.definitions import collect
from attndsl.check.prelude import standard_patterns
from attndsl.check.scope import ModuleScope
from attndsl.diagnostics import AttnError, Diagnostic, Severity
from attndsl.lexical import MAXIMUM_ERRORS
from attndsl.records import dataclass

__all__ = ["CheckedModule", "Loader", "ModuleScope", "check"]

Loader = Callable[[syntax.Import], ModuleScope]


@dataclass(frozen=True)
class CheckedModule:
    """The attentions of a file by name, and what an import of it may use."""

    attentions: dict[str, Attention]
    warnings: tuple[Diagnostic, ...]
    scope: ModuleScope


def check(tree: syntax.Module, *, load: Loader | None = None) -> CheckedModule:
    """Check a whole file. `load` gives the names of an imported file (A043 where it is None).

    Raises `AttnError` with every independent fault, up to twenty: A01x names, A02x types, A03x
    index roles, A04x structure, A05x what cannot be meant. Warnings are among the result.
    """
    scope, faults = collect(tree, standard_patterns(), load)
    errors: list[Diagnostic] = list(faults)
    warnings: list[Diagnostic] = []
    attentions: dict[str, Attention] = {}
    for attention in tree.attentions:
        if len(errors) >= MAXIMUM_ERRORS:
            break
        checked, found = check_attention(attention, scope)
        if checked is not None:
            attentions[checked.name] = checked
            found = (*found, *analyze(checked))
        for one in found:
            kept = errors if one.severity is Severity.ERROR else warnings
            # One fault in a definition shows at every use of it; report it once.
            if one not in kept:
                kept.append(one)
    if errors:
        raise AttnError([*errors, *warnings][:MAXIMUM_ERRORS])
    return CheckedModule(attentions, tuple(warnings), scope)
