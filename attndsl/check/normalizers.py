"""The right-hand side of `normalize = …`.

`softmax`, `softmax1`, `grouped_softmax`, `sum`, `none`, `weight(…)`, or any function of one
argument, built in or defined, which is then the weight of a score.
"""

from __future__ import annotations

import dataclasses

from attndsl import syntax
from attndsl.attention import Elementwise, GroupedSoftmax, Normalizer, Softmax
from attndsl.check import builtins, calls, expressions, operators
from attndsl.check.operators import describe
from attndsl.check.scope import PAIR_INDICES, QUERY_INDICES, Context, Environment
from attndsl.diagnostics import AttnError
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Expression,
    Literal,
    Scalar,
    ScoreValue,
    Size,
    Unary,
    Vector,
)
from attndsl.functions import FUNCTIONS, Shape
from attndsl.source import Span
from attndsl.suggestions import suggestion

NORMALIZERS = ("softmax", "softmax1", "grouped_softmax", "sum", "none", "weight")
_OPTIONS = ("divide", "epsilon")


def check(value: syntax.Expression, environment: Environment) -> Normalizer:
    """The normaliser. A047 for what is none; its options are checked like any expression."""
    match value:
        case syntax.Name(parts=(name,)):
            return _normalizer(name, (), value.span, value.span, environment)
        case syntax.Call(function=syntax.Name(parts=(name,)), arguments=arguments):
            return _normalizer(name, arguments, value.function.span, value.span, environment)
    raise environment.fault(
        "A047",
        "this is not a normaliser",
        value.span,
        help="write `softmax`, `sigmoid`, `sum`, `none`, or `weight(…)` with a function of `score`",
    )


def _normalizer(
    name: str,
    arguments: tuple[syntax.Argument, ...],
    at: Span,
    span: Span,
    environment: Environment,
) -> Normalizer:
    match name:
        case "softmax":
            options = _options(name, arguments, ("sink", "value"), environment)
            return _softmax(options, environment)
        case "softmax1":
            _options(name, arguments, (), environment)
            # exp(0) = 1 joins the sum: "softmax off by one".
            return Softmax(sink=Literal(0.0, span=span))
        case "grouped_softmax":
            options = _options(name, arguments, ("group", "own", "gate"), environment)
            return _grouped(options, span, environment)
        case "sum":
            options = _options(name, arguments, ("epsilon",), environment)
            epsilon = _epsilon(options.get("epsilon"), environment)
            return Elementwise(ScoreValue(span=span), "sum", epsilon)
    own = tuple(a for a in arguments if a.keyword not in _OPTIONS)
    options = _options(
        name, tuple(a for a in arguments if a.keyword in _OPTIONS), _OPTIONS, environment
    )
    weight = _weight(name, own, at, span, environment)
    divisor = _divisor(options.get("divide"), environment)
    epsilon = _epsilon(options.get("epsilon"), environment)
    return Elementwise(weight, divisor, epsilon)


def _options(
    name: str,
    arguments: tuple[syntax.Argument, ...],
    allowed: tuple[str, ...],
    environment: Environment,
) -> dict[str, syntax.Expression]:
    found: dict[str, syntax.Expression] = {}
    shown = ", ".join(f"`{option} = …`" for option in allowed)
    for argument in arguments:
        if argument.keyword not in allowed:
            said = f"`{argument.keyword}`" if argument.keyword else "a value without a name"
            help = suggestion(argument.keyword or "", allowed)
            raise environment.fault(
                "A014",
                f"`{name}` does not take {said}",
                argument.span,
                label=f"it takes {shown}" if allowed else "it takes nothing",
                help=help,
            )
        if argument.keyword in found:
            raise environment.fault("A014", f"`{argument.keyword}` is given twice", argument.span)
        found[argument.keyword] = argument.value
    return found


def _for_rows(environment: Environment, place: str, *, query: bool) -> Environment:
    operands = environment.context.operands
    kept = {"q": operands["q"]} if query else {}
    return dataclasses.replace(environment, context=Context(place, QUERY_INDICES, kept))


def _softmax(options: dict[str, syntax.Expression], environment: Environment) -> Softmax:
    rows = _for_rows(environment, "a sink", query=True)
    sink = value = None
    if "sink" in options:
        sink = _float(expressions.check(options["sink"], rows), "the sink", rows)
    if "value" in options:
        written = options["value"]
        value = expressions.check(written, rows)
        if not operators.fits(Vector(Size("Dv")), value.type):
            raise environment.fault(
                "A024",
                "the value of a sink is a vector of size Dv",
                written.span,
                label=f"this is {describe(value.type)}",
            )
        if sink is None:
            raise environment.fault(
                "A047", "a sink's value needs a sink", written.span, help="add `sink = …`"
            )
    return Softmax(sink, value)


def _grouped(
    options: dict[str, syntax.Expression], span: Span, environment: Environment
) -> GroupedSoftmax:
    pair = dataclasses.replace(environment, context=Context("a group", PAIR_INDICES, {}))
    typed: dict[str, Expression] = {}
    wanted: dict[str, Scalar] = {"group": INT, "own": INT, "gate": BOOL}
    for name, type_ in wanted.items():
        if name not in options:
            raise environment.fault(
                "A047",
                f"`grouped_softmax` needs `{name} = …`",
                span,
                help="write `grouped_softmax(group = …, own = …, gate = …)`",
            )
        value = typed[name] = expressions.check(options[name], pair)
        if value.type is not type_:
            raise environment.fault(
                "A024",
                f"`{name}` is {describe(type_)}",
                options[name].span,
                label=f"this is {describe(value.type)}",
            )
    return GroupedSoftmax(typed["group"], typed["own"], typed["gate"])


def _weight(
    name: str,
    arguments: tuple[syntax.Argument, ...],
    at: Span,
    span: Span,
    environment: Environment,
) -> Expression:
    """The weight of a score, a float over `ScoreValue`."""
    context = Context("a weight", PAIR_INDICES, {})
    inside = dataclasses.replace(environment, context=context)
    score = ScoreValue(span=span)
    defined = environment.module.definitions.get(name)
    if name == "none":
        if arguments:
            raise environment.fault("A014", "`none` takes only `divide = …`", arguments[0].span)
        return score
    if name == "weight":
        if len(arguments) != 1 or arguments[0].keyword is not None:
            raise environment.fault(
                "A023", "`weight` takes one function of `score`", span, help="`weight(exp(score))`"
            )
        inside = dataclasses.replace(inside, bindings={**inside.bindings, "score": score})
        return _float(expressions.check(arguments[0].value, inside), "a weight", inside)
    if defined is not None and defined.definition.parameters:
        result = calls.expand(defined, arguments, inside, span, [score])
        return _float(result, "a weight", inside)
    function = FUNCTIONS.get(name)
    if function is not None and function.shape is Shape.ELEMENTWISE:
        _options(name, arguments, _OPTIONS, environment)
        return _float(builtins.call(name, [score], inside, span), "a weight", inside)
    raise _not_a_normalizer(name, at, environment)


def _not_a_normalizer(name: str, at: Span, environment: Environment) -> AttnError:
    functions = [f.name for f in FUNCTIONS.values() if f.shape is Shape.ELEMENTWISE]
    defined = [n for n, d in environment.module.definitions.items() if d.definition.parameters]
    return environment.fault(
        "A047",
        f"`{name}` is not a normaliser",
        at,
        label="expected `softmax`, `sum`, `none` or a function of the score",
        help=suggestion(name, [*NORMALIZERS, *functions, *defined]),
    )


def _divisor(
    written: syntax.Expression | None, environment: Environment
) -> Expression | str | None:
    if written is None:
        return None
    if isinstance(written, syntax.Name) and written.parts == ("sum",):
        return "sum"
    rows = _for_rows(environment, "a divisor", query=False)
    return _float(expressions.check(written, rows), "a divisor", rows)


def _epsilon(written: syntax.Expression | None, environment: Environment) -> float:
    if written is None:
        return 0.0
    rows = dataclasses.replace(environment, context=Context("`epsilon`", frozenset(), {}))
    match expressions.check(written, rows):
        case Literal(value=int() | float() as value) if not isinstance(value, bool) and value >= 0:
            return float(value)
        case Unary():
            pass
    raise environment.fault(
        "A029", "`epsilon` is a number, at least 0", written.span, help="write it out: `1e-6`"
    )


def _float(value: Expression, what: str, environment: Environment) -> Expression:
    span = value.span
    assert span is not None
    value = operators.to_float(value, environment, span)
    if value.type is not FLOAT:
        raise environment.fault(
            "A024", f"{what} is a float", span, label=f"this is {describe(value.type)}"
        )
    return value
