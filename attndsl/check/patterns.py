"""Patterns over all axes of the grid, which a definition alone cannot express.

An argument of such a pattern may be a tuple with a value for each axis; nothing else takes tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from attndsl import syntax
from attndsl.check import operators
from attndsl.check.scope import Environment
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import Coordinate, Expression, Index, Size
from attndsl.source import Span
from attndsl.suggestions import suggestion

# A pattern's name, and the definition in `std.attn` that says what it is along one axis: its first
# parameters are the query's coordinate, the key's, and the axis's length.
PATTERNS = {"neighborhood": "neighborhood1d"}


def expand(
    call: syntax.Call,
    environment: Environment,
    span: Span,
    define: Callable[..., Expression],
) -> Expression:
    """The conjunction over the declared axes; without axes, the pattern along the sequence.

    `define` writes out a definition: `expressions.expand`.
    """
    for index in ("i", "j"):
        if index not in environment.context.indices:
            raise environment.fault(
                "A019",
                f"`{call.function.parts[0]}` has no meaning in {environment.context.place}",
                span,
                label=f"nothing here has a position `{index}`",
                help="it is a pattern of queries and keys, for `mask`",
            )
    axes: list[tuple[Expression, Expression, Expression]] = [
        (
            Coordinate("i", axis, span=span),
            Coordinate("j", axis, span=span),
            Size(f"axis.{axis}", span=span),
        )
        for axis in environment.axes
    ]
    if not axes:
        axes = [(Index("i", span=span), Index("j", span=span), Size("Lk", span=span))]
    along = environment.module.definitions[PATTERNS[call.function.parts[0]]]
    names = [parameter.name.parts[0] for parameter in along.definition.parameters]
    typed: list[Expression] = []
    found: list[Diagnostic] = []
    arguments = _by_axis(call, span, names[len(axes[0]) :], environment)
    for three, own in zip(axes, arguments, strict=True):
        try:
            typed.append(define(along, own, environment, span, three))
        except AttnError as fault:
            # What all axes share is at fault along each of them.
            found += [one for one in fault.diagnostics if one not in found]
    if len(typed) < len(axes):
        raise AttnError(found)
    return reduce(lambda a, b: operators.logical("and", a, b, environment, span), typed)


def misplaced(written: syntax.Tuple, environment: Environment) -> AttnError:
    """The diagnostic for a tuple that is no argument of a pattern."""
    taker = " and ".join(f"`{name}`" for name in PATTERNS)
    help = f"only {taker} takes a value for each axis"
    if not written.items:
        help = "write a value between the parentheses"
    elif len(written.items) == 1:
        help = "delete the comma"
    return environment.fault(
        "A026",
        "a tuple cannot stand here",
        written.span,
        label="expected a single value",
        help=help,
    )


def _by_axis(
    call: syntax.Call, span: Span, names: Sequence[str], environment: Environment
) -> list[list[syntax.Argument]]:
    """The arguments for each axis: their own, and those that all axes share."""
    pattern = call.function.parts[0]
    count = max(len(environment.axes), 1)
    own: list[list[syntax.Argument]] = [[] for _ in range(count)]
    found: list[Diagnostic] = []
    positional = [argument for argument in call.arguments if argument.keyword is None]
    if len(positional) > len(names):
        takes = f"`{pattern}` takes {len(names)} arguments, not {len(positional)}"
        raise environment.fault("A023", takes, span)
    unnamed = iter(names)
    for argument in call.arguments:
        name, value = argument.keyword or next(unnamed), argument.value
        values = value.items if isinstance(value, syntax.Tuple) else (value,) * count
        if name not in names:
            help = suggestion(name, names)
            message = f"`{pattern}` has no parameter `{name}`"
            found += environment.fault("A014", message, argument.span, help=help).diagnostics
        elif len(values) != count:
            found += _wrong_number(name, value.span, len(values), environment).diagnostics
        else:
            for place, one in zip(own, values, strict=True):
                place.append(syntax.Argument(argument.keyword, one, argument.span))
    if found:
        raise AttnError(found)
    return own


def _wrong_number(name: str, at: Span, given: int, environment: Environment) -> AttnError:
    axes = environment.axes
    listed = ", ".join(f"`{axis}`" for axis in axes)
    match len(axes):
        case 0:
            label = "no axes are declared, so the sequence is the only one"
            help = "write a single value, or declare the axes first: `axes y, x`"
        case 1:
            label, help = f"the only axis is {listed}", "write a single value"
        case _:
            label = f"the axes are {listed}"
            help = "write one value for each axis, or a single value for all of them"
    values = f"{given or 'no'} value{'' if given == 1 else 's'}"
    there = f"{len(axes)} axes" if len(axes) > 1 else "1 axis"
    return environment.fault(
        "A026", f"`{name}` has {values} for {there}", at, label=label, help=help
    )
