"""What can be seen of a spec before any kernel exists: A05x.

- A050: the mask hides every pair, whatever the call. Proved, from the mask's own terms.
- A051: a row that can be empty. Found, by looking at small calls: the diagnostic names one.
- A052: a logarithm, root or division outside its domain, for a pair that is visible; found too.
- A053: an integer division by zero. An error, as there is no number that it could give; a warning
  where a parameter can be zero, which is an error once it is bound to that.
- A056: a parameter or input that takes no part.

Parameters have the values that their `where` admits. What depends on inputs is not known and never
reported; so there are no false alarms, and no promise to find everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import field

from attndsl.attention import Attention, Elementwise, GroupedSoftmax, ParameterDeclaration, Softmax
from attndsl.diagnostics import Diagnostic, Severity
from attndsl.expression import (
    INT,
    Binary,
    Call,
    DotResult,
    Element,
    Expression,
    Literal,
    Matrix,
    Operand,
    Parameter,
    Read,
    Scalar,
    Scale,
    ScoreValue,
    Size,
    Vector,
    index_names,
    walk,
)
from attndsl.planner.linear import linear
from attndsl.planner.prove import Prover
from attndsl.planner.simplify import simplify
from attndsl.planner.solve import on_positions, terms
from attndsl.probe import Point, Value, value_at
from attndsl.records import dataclass
from attndsl.source import Span

# The imagined calls: positions per axis, by the number of axes; and how many operations may be
# looked at, so that checking a spec stays a matter of milliseconds.
_LENGTHS = {0: (24,), 1: (24,), 2: (6, 4), 3: (3, 4, 2)}
_MOST_OPERATIONS = 20_000
_CANDIDATES: dict[Scalar, tuple[bool | int | float, ...]] = {
    Scalar.BOOL: (False, True),
    Scalar.INT: (0, 1, -1, 2, 5, 64),
    Scalar.FLOAT: (0.0, 1.0, -1.0, 0.5, 50.0),
}

Values = dict[str, bool | int | float]


def analyze(attention: Attention) -> tuple[Diagnostic, ...]:
    """What is suspicious about an attention, with its parameters bound or not; each fault once."""
    found = [*_unused(attention)]
    # Constructs that are not compiled yet keep what they read to themselves.
    if attention.later:
        return ()
    if _is_empty(attention):
        found.append(
            Diagnostic(
                "A050",
                "the mask hides every pair",
                attention.mask.span,
                label="never true",
                help="two of its conditions contradict each other",
            )
        )
    probe = _Probe(attention)
    probe.run()
    for diagnostic in probe.diagnostics.values():
        if diagnostic.code != "A051" or found == [] or found[-1].code != "A050":
            found.append(diagnostic)
    return tuple(found)


def _expressions(attention: Attention) -> Iterator[Expression]:
    """Every expression of the attention, except the bounds of its parameters."""
    yield attention.mask
    yield attention.score
    for declaration in attention.inputs:
        yield from declaration.dimensions
    for scan in attention.scans:
        yield scan.element
        yield from scan.dimensions
    for _, vector in attention.prepared:
        yield vector
    match attention.normalizer:
        case Softmax(sink, value):
            yield from (part for part in (sink, value) if part is not None)
        case Elementwise(weight, divisor, _):
            yield weight
            if divisor is not None and not isinstance(divisor, str):
                yield divisor
        case GroupedSoftmax(group, own, gate):
            yield from (group, own, gate)


def _unused(attention: Attention) -> Iterator[Diagnostic]:
    used: set[str] = set()
    read: set[str] = set()
    for expression in _expressions(attention):
        for node in _with_sizes(expression):
            match node:
                case Parameter(name=name):
                    used.add(name)
                case Read(name=name):
                    read.add(name)
    for parameter in attention.parameters:
        if parameter.name not in used:
            yield _never_used("parameter", parameter.name, parameter.span)
    for declared in attention.inputs:
        if declared.name not in read:
            yield _never_used("input", declared.name, declared.span)


def _with_sizes(expression: Expression) -> Iterator[Expression]:
    """Every node, those in the sizes of vector types too."""
    for node in walk(expression):
        yield node
        match node.type:
            case Vector(size=size):
                yield from walk(size)
            case Matrix(rows=rows, columns=columns):
                yield from walk(rows)
                yield from walk(columns)


def _never_used(kind: str, name: str, span: Span) -> Diagnostic:
    return Diagnostic(
        "A056",
        f"{kind} `{name}` is never used",
        span,
        help="delete it, or use it in the score or the mask",
        severity=Severity.WARNING,
    )


def _is_empty(attention: Attention) -> bool:
    """Whether no term of the mask has room for a pair."""
    mask = on_positions(simplify(attention.mask), attention.axes, partly=True)
    prover = Prover(
        tuple(
            linear(comparison.right).minus(linear(comparison.left)).shifted(slack)
            for parameter in attention.parameters
            for comparison, slack in _bounds(parameter)
        )
    )
    found = None if mask is None else terms(mask, prover)
    if found is None:
        return False
    zero, keys = Literal(0), Size("Lk")
    return all(
        any(
            prover.at_most(high, low) for low in (zero, *term.lower) for high in (keys, *term.upper)
        )
        for term in found
    )


def _bounds(parameter: ParameterDeclaration) -> Iterator[tuple[Binary, int]]:
    """Comparisons of integers in a `where`, each as `left <= right + slack`."""
    stack = [] if parameter.where is None else [parameter.where]
    while stack:
        match stack.pop():
            case Binary(operator="and", left=left, right=right):
                stack += [left, right]
            case Binary(operator="<=" | "<" as operator, left=left, right=right) as node:
                if left.type == INT:
                    yield node, -1 if operator == "<" else 0
            case Binary(operator=">=" | ">" as operator, left=left, right=right, type=kind):
                if left.type == INT:
                    yield Binary("<=", right, left, kind), -1 if operator == ">" else 0


@dataclasses.dataclass
class _Probe:
    """Looks at points of small calls and notes what is wrong, once per place."""

    attention: Attention
    diagnostics: dict[object, Diagnostic] = field(default_factory=dict)
    operations: int = 0
    lengths: dict[int, int] = field(default_factory=dict)

    def run(self) -> None:
        for values in _assignments(self.attention.parameters):
            if self.operations > _MOST_OPERATIONS:
                return
            call = _Call(self.attention, values)
            self._look_at_rows(call)
            self._look_at_scores(call)

    def _look_at_rows(self, call: _Call) -> None:
        mask = self.attention.mask
        for head in call.heads():
            for i in call.rows():
                # The diagonal first: it is visible in most masks.
                for j in (i, *range(call.length)):
                    if self._value(mask, call.point(head, i, j)) is not False:
                        break
                else:
                    self._note_empty_row(call, head, i)
                    return

    def _look_at_scores(self, call: _Call) -> None:
        attention = self.attention
        others = [e for e in _expressions(attention) if e is not attention.mask]
        risky = [e for e in others if any(map(_is_risky, walk(e)))]
        if not risky and not any(map(_is_risky, walk(attention.mask))):
            return
        head = call.heads()[-1]
        for i in call.rows():
            for j in (0, i, call.length - 1):
                point = call.point(head, i, j)
                if self._value(attention.mask, point) is False:
                    continue
                for expression in risky:
                    self._value(expression, point)

    def _value(self, expression: Expression, point: Point) -> Value:
        if id(expression) not in self.lengths:
            self.lengths[id(expression)] = sum(1 for _ in walk(expression))
        self.operations += self.lengths[id(expression)]

        def listen(operation: Expression, operand: Expression, value: float) -> None:
            self._note_domain(operation, operand, value, point)

        return value_at(expression, point, listen)

    def _note_empty_row(self, call: _Call, head: int, i: int) -> None:
        mask = self.attention.mask
        if "A051" in self.diagnostics:
            return
        where = [f"{name} = {value}" for name, value in call.changed.items()]
        if index_names(mask) & {"h", "g"}:
            where.append(f"h = {head}")
        given = f" with {', '.join(where)}" if where else ""
        self.diagnostics["A051"] = Diagnostic(
            "A051",
            "a row can be empty",
            mask.span,
            label=f"query {i} of {call.length} sees no key{given}",
            help="an empty row gives 0 and a log-sum-exp of -inf"
            + (f"; `where` can exclude {where[0]}" if call.changed else ""),
            severity=Severity.WARNING,
        )

    def _note_domain(
        self, operation: Expression, operand: Expression, value: float, point: Point
    ) -> None:
        if not _is_informed(operand):
            return
        span = operand.span or operation.span
        names = sorted({n.name for n in walk(operand) if isinstance(n, Parameter)})
        at = [f"{name} = {point.parameters[name]}" for name in names]
        at += [
            f"{name} = {point.indices[name]}"
            for name in sorted(index_names(operand))
            if name in point.indices
        ]
        label = f"{value} for {', '.join(at)}" if at else f"this is {value}"
        hint = f"bound the parameter: `where {names[0]} > 0`" if names else None
        # One report a fault: a parameter without a bound is one, wherever it divides.
        place = (span.source, span.start, span.end) if span is not None else id(operand)
        key = (type(operation), *names) if names else place
        match operation:
            case Binary(operator="//" | "%" as operator, type=kind) if kind == INT:
                word = "division" if operator == "//" else "remainder"
                # Whether a parameter is ever 0 is for its caller to say: `bind` refuses it then.
                severity = Severity.WARNING if names else Severity.ERROR
                message = f"integer {word} by zero"
                self.diagnostics.setdefault(
                    key, Diagnostic("A053", message, span, label, hint, severity)
                )
            case Binary() | Call():
                what = (
                    "division by zero"
                    if isinstance(operation, Binary)
                    else f"`{operation.function}` outside its domain"
                )
                self.diagnostics.setdefault(
                    key,
                    Diagnostic(
                        "A052",
                        what,
                        span,
                        label=label,
                        help=hint or "hide these pairs in the mask, or keep it above 0 with `max`",
                        severity=Severity.WARNING,
                    ),
                )


def _is_risky(node: Expression) -> bool:
    match node:
        case Binary(operator="/" | "//" | "%"):
            return True
        case Call(function="log" | "log2" | "sqrt" | "rsqrt"):
            return True
    return False


def _is_informed(operand: Expression) -> bool:
    """Whether its value is the spec's doing: sizes and inputs are the caller's."""
    opaque = Read | Operand | Scale | ScoreValue | DotResult | Element | Size
    return not any(isinstance(node, opaque) for node in walk(operand))


@dataclass(frozen=True)
class _Call:
    """An imagined call: as many queries as keys, two groups of two heads."""

    attention: Attention
    values: Values

    @property
    def changed(self) -> Values:
        """Values that are not the parameters' defaults."""
        return {
            parameter.name: self.values[parameter.name]
            for parameter in self.attention.parameters
            if self.values[parameter.name] != parameter.default
        }

    @property
    def _axis_lengths(self) -> tuple[int, ...]:
        axes = self.attention.axes
        return _LENGTHS.get(len(axes), (2,) * len(axes))

    @property
    def length(self) -> int:
        product = 1
        for one in self._axis_lengths:
            product *= one
        return product

    def rows(self) -> tuple[int, ...]:
        """Where masks run out of keys: at both ends, and somewhere in between."""
        middle, end = self.length // 2, self.length
        return (0, 1, middle, middle + 1, end - 2, end - 1)

    def heads(self) -> tuple[int, ...]:
        return (0, 3) if index_names(self.attention.mask) & {"h", "g"} else (0,)

    def point(self, head: int, i: int, j: int) -> Point:
        sizes = {"B": 1, "H": 4, "Hkv": 2, "Lq": self.length, "Lk": self.length, "offset": 0}
        sizes |= {"D": 64, "Dv": 64}
        if self.attention.axes:
            for name, one in zip(self.attention.axes, self._axis_lengths, strict=True):
                sizes[f"axis.{name}"] = one
        indices = {"b": 0, "h": head, "g": head // 2, "i": i, "j": j, "row": i, "t": j}
        return Point(indices, sizes, self.values, self.attention.axes)


def _assignments(parameters: tuple[ParameterDeclaration, ...]) -> Iterator[Values]:
    """The defaults, and then other values of one parameter at a time, as the bounds admit."""

    def admitted(values: Values) -> bool:
        point = Point({}, {}, values)
        return all(
            parameter.where is None or value_at(parameter.where, point) is not False
            for parameter in parameters
        )

    base: Values = {}
    for parameter in parameters:
        choices = _CANDIDATES[parameter.type][::-1]
        if parameter.default is not None:
            choices = (parameter.default, *choices)
        # Without a default, the first value that its own bound admits.
        base[parameter.name] = next(
            (c for c in choices if _alone(parameter, {**base, parameter.name: c})), choices[0]
        )
    if admitted(base):
        yield base
    # One value of every parameter before the next: what is left out in the end is of all of them.
    for number in range(max(map(len, _CANDIDATES.values()))):
        for parameter in parameters:
            for candidate in _CANDIDATES[parameter.type][number : number + 1]:
                values = {**base, parameter.name: candidate}
                if candidate != base[parameter.name] and admitted(values):
                    yield values


def _alone(parameter: ParameterDeclaration, values: Values) -> bool:
    point = Point({}, {}, values)
    return parameter.where is None or value_at(parameter.where, point) is not False
