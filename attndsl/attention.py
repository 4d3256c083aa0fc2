"""An attention, typed and resolved: the meaning of a spec.

Definitions are inlined and parameters are still symbolic. `reference.py` runs this tree densely in
NumPy float64 and is what everything else is compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import field

from attndsl.expression import (
    FALSE,
    TRUE,
    Expression,
    Literal,
    Parameter,
    Scalar,
    transform,
)
from attndsl.records import dataclass
from attndsl.source import Span


@dataclass(frozen=True)
class ParameterDeclaration:
    """`window: int = 256 where window > 0`. `where` is a bool expression over parameters."""

    name: str
    type: Scalar
    default: bool | int | float | None
    where: Expression | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class InputDeclaration:
    """`slope: float[H]`: a tensor that the caller passes by name. No dimensions: a scalar."""

    name: str
    element: Scalar
    dimensions: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class TokenScan:
    """`let c = cumsum(f)`: an array `[*dimensions]` that runs over its last dimension.

    `element` is the summand at the index `t` along the last dimension; the other dimensions are
    indexed by `b`, `h` or `g`. Read elsewhere as `Read(name, …)`. `kind` is `"cumsum"`.
    """

    name: str
    kind: str
    element: Expression
    dimensions: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Softmax:
    """exp(score), divided by the row's sum. With a sink, exp(sink) joins the sum.

    `sink` is a float over `b h i row` and `q`; `sink_value`, a vector of size Dv, is the value that
    the sink contributes (nothing where it is None).
    """

    sink: Expression | None = None
    sink_value: Expression | None = None


@dataclass(frozen=True)
class Elementwise:
    """weight(score) for each visible pair, divided per row by `divisor`.

    `weight` is a float over `ScoreValue` and indices. `divisor` is None, `"sum"` (the sum of the
    row's weights, plus `epsilon`) or a float expression over `b h i row` and sizes.
    """

    weight: Expression
    divisor: Expression | str | None = None
    epsilon: float = 0.0


@dataclass(frozen=True)
class GroupedSoftmax:
    """Landmark attention's two-level softmax: `group`, `own` and `gate` over `b h i j`."""

    group: Expression
    own: Expression
    gate: Expression


Normalizer = Softmax | Elementwise | GroupedSoftmax


def has_statistic(normalizer: Normalizer) -> bool:
    """Whether a row has a number that its backward needs: the log-sum-exp of a softmax, or the sum
    that its weights are divided by."""
    return not isinstance(normalizer, Elementwise) or isinstance(normalizer.divisor, str)


def map_normalizer(
    normalizer: Normalizer, function: Callable[[Expression], Expression]
) -> Normalizer:
    """The same normaliser with `function` applied to every expression in it."""
    match normalizer:
        case Softmax(sink, value):
            return Softmax(
                function(sink) if sink is not None else None,
                function(value) if value is not None else None,
            )
        case Elementwise(weight, divisor, epsilon):
            new = divisor if divisor is None or isinstance(divisor, str) else function(divisor)
            return Elementwise(function(weight), new, epsilon)
        case GroupedSoftmax(group, own, gate):
            return GroupedSoftmax(function(group), function(own), function(gate))


@dataclass(frozen=True)
class Later:
    """A construct that parses and checks and that no target compiles yet (`route`, `state`,
    `branch`, `output`): its keyword and where it stands."""

    construct: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Attention:
    """One variant.

    `prepared` maps `q`, `k`, `v` to vector expressions that replace them per token before scoring:
    over `b h i` for q and `b g j` for k and v; a replaced `v` may read `k` as the caller gave it
    (and then `v` need not be passed). `score` is a float and `mask` a bool over the pair.
    """

    name: str
    parameters: tuple[ParameterDeclaration, ...]
    inputs: tuple[InputDeclaration, ...]
    axes: tuple[str, ...]
    scans: tuple[TokenScan, ...]
    prepared: tuple[tuple[str, Expression], ...]
    score: Expression
    mask: Expression
    normalizer: Normalizer
    later: tuple[Later, ...]
    span: Span = field(compare=False, repr=False)

    @property
    def is_bound(self) -> bool:
        return not self.parameters

    def input(self, name: str) -> InputDeclaration:
        return next(declared for declared in self.inputs if declared.name == name)

    def map_expressions(self, function: Callable[[Expression], Expression]) -> Attention:
        """The same attention with `function` applied to every expression in it."""
        return dataclasses.replace(
            self,
            inputs=tuple(
                dataclasses.replace(i, dimensions=tuple(map(function, i.dimensions)))
                for i in self.inputs
            ),
            scans=tuple(
                dataclasses.replace(
                    s, element=function(s.element), dimensions=tuple(map(function, s.dimensions))
                )
                for s in self.scans
            ),
            prepared=tuple((name, function(value)) for name, value in self.prepared),
            score=function(self.score),
            mask=function(self.mask),
            normalizer=map_normalizer(self.normalizer, function),
        )


def literal(value: bool | int | float) -> Literal:
    """The literal of a parameter's value; `TRUE` and `FALSE` are shared."""
    if isinstance(value, bool):
        return TRUE if value else FALSE
    return Literal(value)


def substitute_parameters(
    attention: Attention, values: Mapping[str, bool | int | float]
) -> Attention:
    """The attention with every parameter replaced by its literal; none is declared any more.

    Types and bounds of the values are the caller's to check (`binding.py` does).
    """

    def replace(node: Expression) -> Expression:
        return literal(values[node.name]) if isinstance(node, Parameter) else node

    bound = attention.map_expressions(lambda expression: transform(expression, replace))
    return dataclasses.replace(bound, parameters=())
