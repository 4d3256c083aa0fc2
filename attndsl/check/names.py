"""Names in expressions: what each one means where it stands."""

from __future__ import annotations

import dataclasses

from attndsl import syntax
from attndsl.check import builtins, calls, expressions, reads
from attndsl.check.scope import (
    INDICES,
    OPERANDS,
    SIZES,
    Array,
    Binding,
    Environment,
    requires_arguments,
)
from attndsl.diagnostics import AttnError
from attndsl.expression import (
    Coordinate,
    Expression,
    Index,
    Scale,
    Size,
)
from attndsl.source import Span
from attndsl.suggestions import suggestion


def value(name: syntax.Name, environment: Environment, span: Span) -> Expression:
    if len(name.parts) > 1:
        return _dotted(name, environment, span)
    found = binding(name, environment, span)
    if isinstance(found, Array):
        if environment.context.whole_inputs:
            return _whole(found, environment, span)
        return reads.read(found, [], environment, span)
    return found


def binding(name: syntax.Name, environment: Environment, span: Span) -> Binding:
    """What a plain name means, an array without its indices."""
    word = name.parts[0]
    context = environment.context
    if word in environment.failed | environment.module.failed:
        raise AttnError([])  # its declaration was reported
    if word in environment.bindings:
        environment.used.add(word)
        found = environment.bindings[word]
        return found if isinstance(found, Array) else dataclasses.replace(found, span=span)
    if word in environment.lets:
        return _let(environment.lets[word], environment, span)
    if word in context.indices:
        return Index(word, span=span)
    if word in context.operands:
        return dataclasses.replace(context.operands[word], span=span)
    if word in SIZES:
        return Size(word, span=span)
    if word == "scale":
        return Scale(span=span)
    defined = environment.module.definitions.get(word)
    if defined is not None and not requires_arguments(defined):
        return calls.expand(defined, (), environment, span)
    raise _unknown_name(word, environment, span)


def _let(let: syntax.Let, environment: Environment, span: Span) -> Expression:
    word = let.name.parts[0]
    environment.used.add(word)
    if f"let {word}" in environment.expanding:
        raise environment.fault(
            "A041",
            f"`{word}` is defined by itself",
            let.name.span,
            help="a `let` names a value; it cannot refer to itself",
        )
    inside = dataclasses.replace(environment, expanding=(*environment.expanding, f"let {word}"))
    # It stands where the name is written; its parts stand where they are defined.
    return dataclasses.replace(expressions.check(let.value, inside), span=span)


def _unknown_name(word: str, environment: Environment, span: Span) -> AttnError:
    if word in INDICES or word in OPERANDS:
        here = sorted(environment.context.indices | set(environment.context.operands))
        shown = ", ".join(f"`{name}`" for name in here)
        return environment.fault(
            "A019",
            f"`{word}` has no meaning in {environment.context.place}",
            span,
            label=f"here there is {shown}" if here else "nothing varies here",
            help=_elsewhere(word, environment),
        )
    defined = environment.module.definitions.get(word)
    if defined is not None:
        parameters = ", ".join(p.name.parts[0] for p in defined.definition.parameters)
        return environment.fault(
            "A023", f"`{word}` needs arguments", span, help=f"write `{word}({parameters})`"
        )
    if builtins.is_builtin(word):
        return environment.fault("A023", f"`{word}` is a function", span, help=f"write `{word}(…)`")
    help = _SPELLINGS.get(word) or suggestion(word, environment.known_values())
    return environment.fault(
        "A012",
        f"unknown name `{word}`",
        span,
        label="not a parameter, input or index",
        help=help,
    )


def _elsewhere(word: str, environment: Environment) -> str | None:
    """What to use instead of an index or operand that has no meaning here."""
    indices = environment.context.indices
    match word:
        case "n":
            return "`n` is a candidate block, in a `route`"
        case "t":
            return "`t` is a step, in a `state` or a `cumsum`"
        case "h" if "g" in indices:
            return "the heads of keys and values are `g`"
        case "i" | "row" if "j" in indices:
            return "the position of a key is `j`"
        case "j" if "i" in indices:
            return "the position of a query is `i`"
        case "q" | "k" | "v" if "j" in indices and not environment.context.operands:
            return "this depends on positions, heads and inputs alone"
    return None


_SPELLINGS = {
    "true": "write `True`",
    "false": "write `False`",
    "inf": "hide pairs with `mask = …`, not with an infinite score",
    "None": "leave the statement out",
    "pi": "write `3.141592653589793`",
    "q_idx": "did you mean `i`?",
    "kv_idx": "did you mean `j`?",
    "k_idx": "did you mean `j`?",
    "kv_head": "did you mean `g`?",
    "head": "did you mean `h`?",
    "batch": "did you mean `b`?",
    "query": "did you mean `q`?",
    "key": "did you mean `k`?",
    "value": "did you mean `v`?",
    "seq_len": "did you mean `Lk`?",
    "L": "did you mean `Lk`?",
    "N": "did you mean `Lk`?",
    "d": "did you mean `D`?",
}


def _dotted(name: syntax.Name, environment: Environment, span: Span) -> Expression:
    first, *rest = name.parts
    axes = environment.axes
    if len(rest) == 1 and first in axes and rest[0] == "size":
        return Size(f"axis.{first}", span=span)
    if len(rest) == 1 and first in ("i", "j") and rest[0] in axes:
        if first not in environment.context.indices:
            raise _unknown_name(first, environment, span)
        return Coordinate(first, rest[0], span=span)
    whole = ".".join(name.parts)
    help: str | None
    if not axes:
        help = "declare the grid first, as in `axes y, x`"
    else:
        known = [f"{one}.{axis}" for one in ("i", "j") for axis in axes]
        help = suggestion(whole, [*known, *(f"{axis}.size" for axis in axes)])
    raise environment.fault(
        "A016",
        f"unknown coordinate `{whole}`",
        span,
        label=f"the axes are {', '.join(f'`{a}`' for a in axes)}" if axes else "there are no axes",
        help=help,
    )


def _whole(array: Array, environment: Environment, span: Span) -> Expression:
    """Inside `cumsum`: the element of an input at the step `t`."""
    indices: list[Expression] = []
    steps = {"B": "b", "H": "h", "Hkv": "g", "Lk": "t"}
    for number, dimension in enumerate(array.dimensions):
        index = steps.get(dimension.name) if isinstance(dimension, Size) else None
        last = number == len(array.dimensions) - 1
        if index is None or (index == "t") != last:
            raise environment.fault(
                "A033",
                f"`cumsum` cannot run over `{reads.declaration_text(array)}`",
                span,
                help="its dimensions must be of `B`, `H` or `Hkv`, and then `Lk`",
            )
        indices.append(Index(index, span=span))
    return reads.read(array, indices, environment, span)
