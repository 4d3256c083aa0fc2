"""Patterns over all axes of the grid, which a definition alone cannot express."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from attndsl import syntax
from attndsl.check import operators
from attndsl.check.scope import Environment
from attndsl.expression import Coordinate, Expression, Index, Size
from attndsl.source import Span

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
    typed = [define(along, call.arguments, environment, span, three) for three in axes]
    return reduce(lambda a, b: operators.logical("and", a, b, environment, span), typed)
