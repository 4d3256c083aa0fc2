"""Typed expressions and attentions, back in the language.

What is printed parses and checks back to the same tree, except where a later stage has put nodes
that no spec can write (a plan's dot products, a tile's sizes), which print readably.
"""

from __future__ import annotations

from attndsl.attention import (
    Attention,
    Elementwise,
    GroupedSoftmax,
    Normalizer,
    ParameterDeclaration,
    Softmax,
)
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    Binary,
    Call,
    Coordinate,
    DotResult,
    Element,
    Expression,
    Index,
    Kept,
    Literal,
    Operand,
    Parameter,
    Read,
    Scale,
    ScoreValue,
    Select,
    Size,
    Slice,
    Unary,
)

# How tightly an operator binds; its operands must bind as tightly or stand in parentheses.
CONDITIONAL, OR, AND, NOT, COMPARISON, SUM, PRODUCT, SIGN, POWER, POSTFIX = range(10)
_COMPARISON = (COMPARISON, SUM, SUM)
_SUM = (SUM, SUM, PRODUCT)
_PRODUCT = (PRODUCT, PRODUCT, SIGN)
# operator: its own level, and the levels that its left and right operands need.
PRECEDENCE: dict[str, tuple[int, int, int]] = {
    "or": (OR, OR, AND),
    "and": (AND, AND, NOT),
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), _COMPARISON),
    **dict.fromkeys(("+", "-"), _SUM),
    **dict.fromkeys(("*", "/", "//", "%"), _PRODUCT),
    "**": (POWER, POSTFIX, SIGN),
}
UNARY_LEVELS = {"not": NOT, "-": SIGN}


def text(expression: Expression) -> str:
    """The expression in the language's syntax, with no more parentheses than it needs."""
    return _print(expression)[0]


def _at(expression: Expression, level: int) -> str:
    printed, own = _print(expression)
    return printed if own >= level else f"({printed})"


def _print(expression: Expression) -> tuple[str, int]:
    """The text and how tightly it binds."""
    match expression:
        case Literal(value=value):
            negative = not isinstance(value, bool) and str(value).startswith("-")
            return str(value), SIGN if negative else POSTFIX
        case Index(name) | Parameter(name) | Operand(name):
            return name, POSTFIX
        case Coordinate(position, axis):
            return f"{position}.{axis}", POSTFIX
        case Size(name):
            axis = name.removeprefix("axis.")
            return (name if axis == name else f"{axis}.size"), POSTFIX
        case Scale():
            return "scale", POSTFIX
        case ScoreValue():
            return "score", POSTFIX
        case DotResult(number):
            return f"dot#{number}", POSTFIX
        case Read(name, indices):
            return (f"{name}[{', '.join(map(text, indices))}]" if indices else name), POSTFIX
        case Kept(indices):
            return f"kept({', '.join(map(text, indices))})", POSTFIX
        case Unary(operator, operand):
            level = UNARY_LEVELS[operator]
            space = " " if operator == "not" else ""
            return f"{operator}{space}{_at(operand, level)}", level
        case Binary(operator, left, right):
            own, for_left, for_right = PRECEDENCE[operator]
            return f"{_at(left, for_left)} {operator} {_at(right, for_right)}", own
        case Select(condition, then, otherwise):
            otherwise_text = _at(otherwise, CONDITIONAL)
            return f"{_at(then, OR)} if {_at(condition, OR)} else {otherwise_text}", CONDITIONAL
        case Call(function, arguments):
            return f"{function}({', '.join(map(text, arguments))})", POSTFIX
        case Slice(vector, start, stop):
            return f"{_at(vector, POSTFIX)}[{text(start)}:{text(stop)}]", POSTFIX
        case Element(vector, index):
            return f"{_at(vector, POSTFIX)}[{text(index)}]", POSTFIX
    raise InternalError(f"no spelling for {type(expression).__name__}")


def describe(attention: Attention) -> str:
    """The attention as a spec, with definitions written out and every default shown."""
    parameters = ", ".join(map(parameter_text, attention.parameters))
    lines = [f"attention {attention.name}{f'({parameters})' if parameters else ''} {{"]
    for declared in attention.inputs:
        dimensions = ", ".join(map(text, declared.dimensions))
        shape = f"[{dimensions}]" if dimensions else ""
        lines.append(f"    input {declared.name}: {declared.element}{shape}")
    if attention.axes:
        lines.append(f"    axes {', '.join(attention.axes)}")
    for scan in attention.scans:
        lines.append(f"    let {scan.name} = {scan.kind}({text(scan.element)})")
    for name, value in attention.prepared:
        lines.append(f"    {name} = {text(value)}")
    lines.append(f"    score = {text(attention.score)}")
    lines.append(f"    mask = {text(attention.mask)}")
    lines.append(f"    normalize = {normalizer_text(attention.normalizer)}")
    lines += [f"    # {later.construct}: not compiled yet" for later in attention.later]
    return "\n".join([*lines, "}"]) + "\n"


def parameter_text(declared: ParameterDeclaration) -> str:
    """`window: int = 256 where window > 0`"""
    default = "" if declared.default is None else f" = {declared.default}"
    where = "" if declared.where is None else f" where {text(declared.where)}"
    return f"{declared.name}: {declared.type}{default}{where}"


def normalizer_text(normalizer: Normalizer) -> str:
    """The right-hand side of `normalize = …`."""
    match normalizer:
        case Softmax(None, None):
            return "softmax"
        case Softmax(sink, value):
            shown = [("sink", sink), ("value", value)]
            options = ", ".join(f"{name} = {text(e)}" for name, e in shown if e is not None)
            return f"softmax({options})"
        case Elementwise(weight, divisor, epsilon):
            options = text(weight)
            if isinstance(divisor, str):
                options += f", divide = {divisor}"
            elif divisor is not None:
                options += f", divide = {text(divisor)}"
            if epsilon:
                options += f", epsilon = {epsilon}"
            return f"weight({options})"
        case GroupedSoftmax(group, own, gate):
            return f"grouped_softmax(group = {text(group)}, own = {text(own)}, gate = {text(gate)})"
