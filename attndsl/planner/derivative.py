"""Reverse-mode differentiation of expressions, by symbols.

The adjoint of a node says how the output changes with it. It is a float, or has the node's own
type; a float that stands for a vector or a matrix counts for each of its elements.

Contract: the value of an adjoint is the derivative wherever there is one. Integers and truth
values have none, and neither has what is made of them: a comparison, a `floor`, a `//`. Elsewhere
PyTorch's convention holds: 0 for `abs`, `relu` and `norm` at 0, equal shares where arguments of
`min`, `max` or elements of `amax` tie. What a condition does not select has derivative 0, whatever
its own derivative is there: no NaN comes out of `log(x) if x > 0 else 0.0`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Element,
    Expression,
    Literal,
    Matrix,
    Scalar,
    Select,
    Slice,
    Type,
    Unary,
    Vector,
    children,
)
from attndsl.planner import algebra
from attndsl.planner.floats import (
    ONE,
    ZERO,
    count,
    dot,
    filled,
    minus,
    negative,
    over,
    plus,
    select,
    times,
    total,
)

Adjoints = dict[Expression, Expression]


def adjoints(
    output: Expression, adjoint: Expression, is_leaf: Callable[[Expression], bool]
) -> Adjoints:
    """For every leaf in `output` on which it depends, the adjoint that follows from its own.

    A leaf is a node of a float type of which `is_leaf` holds; what is below it is not looked at.
    Leaves that are equal are one.
    """
    order = _parents_first(output, is_leaf)
    found: Adjoints = {output: adjoint}
    leaves: Adjoints = {}
    for node in order:
        own = found.get(node)
        if own is None or own == ZERO:
            continue
        if is_leaf(node):
            leaves[node] = own
            continue
        for operand, part in _parts(node, own):
            if is_differentiable(operand.type) and part != ZERO:
                before = found.get(operand)
                found[operand] = part if before is None else plus(before, part, operand.type)
    return leaves


def is_differentiable(type: Type) -> bool:
    return not isinstance(type, Scalar) or type is FLOAT


def _parents_first(output: Expression, is_leaf: Callable[[Expression], bool]) -> list[Expression]:
    """Nodes through which a derivative can pass, each before its operands; equal ones are one."""
    finished: dict[Expression, None] = {}
    stack: list[tuple[Expression, bool]] = [(output, False)]
    while stack:
        node, is_done = stack.pop()
        if node in finished or not is_differentiable(node.type):
            continue
        if is_done:
            finished[node] = None
            continue
        stack.append((node, True))
        if not is_leaf(node):
            stack.extend((child, False) for child in children(node))
    return list(reversed(finished))


def _parts(node: Expression, own: Expression) -> list[tuple[Expression, Expression]]:
    """What a node's adjoint gives each of its operands."""
    match node:
        case Unary("-", operand):
            return [(operand, negative(own))]
        case Binary():
            return _binary_parts(node, own)
        case Select(condition, then, otherwise):
            of_then, of_otherwise = select(condition, own, ZERO), select(condition, ZERO, own)
            return [
                (then, _onto(then, of_then, ONE, node)),
                (otherwise, _onto(otherwise, of_otherwise, ONE, node)),
            ]
        case Slice(vector, start, stop):
            return [(vector, placed(own, start, stop, vector.type))]
        case Element(vector, index):
            after = algebra.add(index, Literal(1))
            return [(vector, placed(own, index, after, vector.type))]
        case Call():
            return _call_parts(node, own)
    return []


def _binary_parts(node: Binary, own: Expression) -> list[tuple[Expression, Expression]]:
    left, right = node.left, node.right
    match node.operator:
        case "+":
            return [(left, _onto(left, own, ONE, node)), (right, _onto(right, own, ONE, node))]
        case "-":
            minus_one = Literal(-1.0)
            return [
                (left, _onto(left, own, ONE, node)),
                (right, _onto(right, own, minus_one, node)),
            ]
        case "*":
            return [(left, _onto(left, own, right, node)), (right, _onto(right, own, left, node))]
        case "/":
            by_left = _onto(left, over(own, right), ONE, node)
            return [(left, by_left), (right, _onto(right, over(negative(own), right), node, node))]
        case "%":
            # x - y * floor(x / y)
            whole = Call("float", (Call("floor", (over(left, right),), INT),), FLOAT)
            return [(left, own), (right, negative(times(own, whole)))]
        case "**":
            return _power_parts(left, right, node, own)
    return []


def _onto(operand: Expression, own: Expression, factor: Expression, node: Expression) -> Expression:
    """`own * factor` for an operand; for a float that met a vector, summed over its elements."""
    if isinstance(operand.type, Scalar) and not isinstance(node.type, Scalar):
        return dot(own, factor, node.type)
    return times(own, factor)


def _power_parts(
    base: Expression, exponent: Expression, node: Binary, own: Expression
) -> list[tuple[Expression, Expression]]:
    lower: Expression
    match exponent:
        case Literal(value=float(value)):
            lower = base if value == 2 else Binary("**", base, Literal(value - 1.0), base.type)
            slope = ONE if value == 0 else times(exponent, lower)
            return [(base, ZERO if value == 0 else _onto(base, own, slope, node))]
        case Call("float", (Literal(value=int(value)),)):
            return _power_parts(base, Literal(float(value)), node, own)
    lower = Binary("**", base, minus(exponent, ONE), node.type)
    is_constant = Binary("==", exponent, ZERO, BOOL)
    slope = select(is_constant, ZERO, times(exponent, lower))
    is_flat = Binary(
        "and",
        Binary("==", base, ZERO, BOOL),
        Binary(">=", exponent, ZERO, BOOL),
        BOOL,
    )
    logarithm = select(is_flat, ZERO, times(node, Call("log", (base,), base.type)))
    return [
        (base, _onto(base, own, slope, node)),
        (exponent, _onto(exponent, own, logarithm, node)),
    ]


def placed(own: Expression, start: Expression, stop: Expression, type: Type) -> Expression:
    """A vector of zeros with an adjoint in `[start, stop)`."""
    assert isinstance(type, Vector)
    parts: list[Expression] = []
    sizes = (start, algebra.subtract(stop, start), algebra.subtract(type.size, stop))
    for size, value in zip(sizes, (ZERO, own, ZERO), strict=True):
        if size != Literal(0):
            parts.append(filled(value, Vector(size)))
    return parts[0] if len(parts) == 1 else Call("concat", tuple(parts), type)


def _call_parts(node: Call, own: Expression) -> list[tuple[Expression, Expression]]:
    arguments = node.arguments
    match node.function:
        case "min" | "max":
            return _extremum_parts(node, own)
        case "dot":
            left, right = arguments
            return _dot_parts(left, right, own)
        case "sum":
            return [(arguments[0], own)]
        case "concat":
            return _concat_parts(node, own)
        case "rotate_half" | "rotate_pairs":
            # Both are rotations by a quarter turn: their transpose is their opposite.
            assert isinstance(node.type, Vector)
            turned = Call(node.function, (filled(own, node.type),), node.type)
            return [(arguments[0], negative(turned))]
        case "softmax":
            return [(arguments[0], times(node, minus(own, dot(own, node, node.type))))]
        case "float" | "int" | "floor" | "arange":
            return []
    (operand,) = arguments
    rule = _SLOPES.get(node.function)
    if rule is None:
        raise InternalError(f"`{node.function}` has no rule for its derivative")
    return [(operand, rule(operand, node, own))]


def _extremum_parts(node: Call, own: Expression) -> list[tuple[Expression, Expression]]:
    """The last argument against all before it, and so on; where the two are equal they share."""
    *before, last = node.arguments
    if not before:
        return [(last, own)]
    others = before[0] if len(before) == 1 else Call(node.function, tuple(before), node.type)
    wins = ">" if node.function == "max" else "<"
    if isinstance(node.type, Scalar):
        shared = select(Binary("==", others, last, BOOL), times(Literal(0.5), own), ZERO)
        of_others = select(Binary(wins, others, last, BOOL), own, shared)
        of_last = select(Binary(wins, last, others, BOOL), own, shared)
    else:
        lead = minus(others, last) if node.function == "max" else minus(last, others)
        half = times(Literal(0.5), Call("sign", (lead,), node.type))
        of_others = _onto(others, own, plus(Literal(0.5), half), node)
        of_last = _onto(last, own, minus(Literal(0.5), half), node)
    if len(before) == 1:
        return [(others, of_others), (last, of_last)]
    assert isinstance(others, Call)
    return [*_extremum_parts(others, of_others), (last, of_last)]


def _dot_parts(
    left: Expression, right: Expression, own: Expression
) -> list[tuple[Expression, Expression]]:
    match left.type, right.type:
        case Matrix(rows, columns), Vector():
            own = filled(own, Vector(rows))
            outer = Call("outer", (own, right), left.type)
            return [(left, outer), (right, Call("dot", (own, left), Vector(columns)))]
        case Vector(), Matrix(rows, columns):
            own = filled(own, Vector(columns))
            outer = Call("outer", (left, own), right.type)
            return [(left, Call("dot", (right, own), Vector(rows))), (right, outer)]
    return [(left, times(own, right)), (right, times(own, left))]


def _concat_parts(node: Call, own: Expression) -> list[tuple[Expression, Expression]]:
    if isinstance(own.type, Scalar):
        return [(argument, own) for argument in node.arguments]
    parts: list[tuple[Expression, Expression]] = []
    start: Expression = Literal(0)
    for argument in node.arguments:
        assert isinstance(argument.type, Vector)
        stop = algebra.add(start, argument.type.size)
        parts.append((argument, Slice(own, start, stop, argument.type)))
        start = stop
    return parts


Slope = Callable[[Expression, Expression, Expression], Expression]
"""The operand's adjoint, of the operand, the call on it, and the call's adjoint."""


def _relu(x: Expression, y: Expression, own: Expression) -> Expression:
    if isinstance(x.type, Scalar):
        return select(Binary(">", x, ZERO, BOOL), own, ZERO)
    return times(own, Call("max", (Call("sign", (x,), x.type), ZERO), x.type))


def _norm(x: Expression, y: Expression, own: Expression) -> Expression:
    return times(select(Binary("==", y, ZERO, BOOL), ZERO, over(own, y)), x)


def _amax(x: Expression, y: Expression, own: Expression) -> Expression:
    apart = Call("abs", (Call("sign", (minus(x, y),), x.type),), x.type)
    greatest = minus(ONE, apart)
    return times(over(own, total(greatest)), greatest)


def _mean(x: Expression, y: Expression, own: Expression) -> Expression:
    return over(own, count(x.type))


_SLOPES: Mapping[str, Slope] = {
    "abs": lambda x, y, own: times(own, Call("sign", (x,), x.type)),
    "sign": lambda x, y, own: ZERO,
    "exp": lambda x, y, own: times(own, y),
    "exp2": lambda x, y, own: times(own, times(Literal(math.log(2.0)), y)),
    "log": lambda x, y, own: over(own, x),
    "log2": lambda x, y, own: over(own, times(Literal(math.log(2.0)), x)),
    "sqrt": lambda x, y, own: over(own, times(Literal(2.0), y)),
    "rsqrt": lambda x, y, own: times(times(Literal(-0.5), own), over(y, x)),
    "tanh": lambda x, y, own: times(own, minus(ONE, times(y, y))),
    "sigmoid": lambda x, y, own: times(own, times(y, minus(ONE, y))),
    "softplus": lambda x, y, own: times(own, Call("sigmoid", (x,), x.type)),
    "relu": _relu,
    "erf": lambda x, y, own: times(
        own,
        times(Literal(2.0 / math.sqrt(math.pi)), Call("exp", (negative(times(x, x)),), x.type)),
    ),
    "sin": lambda x, y, own: times(own, Call("cos", (x,), x.type)),
    "cos": lambda x, y, own: negative(times(own, Call("sin", (x,), x.type))),
    "norm": _norm,
    "mean": _mean,
    "amax": _amax,
}
