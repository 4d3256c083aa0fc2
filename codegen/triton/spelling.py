"""Scalar expressions of the language in Triton's terms.

Integer division and remainder floor, as the language says; Triton's truncate, so a plain `//` or
`%` is written only where the operands are proven not to be negative.
"""

from __future__ import annotations

import math

from attndsl.codegen.triton.arrange import times
from attndsl.codegen.triton.functions import DIRECT, LOG2_E
from attndsl.codegen.triton.kernel import Kernel, pointer_to
from attndsl.codegen.triton.reads import read
from attndsl.codegen.triton.reductions import reduce
from attndsl.codegen.triton.values import Binding, Value, call, infix, union
from attndsl.diagnostics import InternalError
from attndsl.dropout import DROPOUT_SIZES
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Call,
    Coordinate,
    Element,
    Expression,
    Index,
    Kept,
    Literal,
    Operand,
    Read,
    Select,
    Size,
    Unary,
)
from attndsl.functions import FUNCTIONS, Shape

_INFIX = {
    "+": Binding.SUM,
    "-": Binding.SUM,
    "*": Binding.PRODUCT,
    "/": Binding.PRODUCT,
    "and": Binding.AND,
    "or": Binding.OR,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), Binding.COMPARE),
}
_SPELLED = {"and": "&", "or": "|"}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
# Unrolled multiplication is as exact as a power and cheaper, up to this exponent.
_LARGEST_UNROLLED = 16


def spell(kernel: Kernel, expression: Expression) -> Value:
    """The text of a compound expression, over values of its operands."""
    match expression:
        case Read():
            return read(kernel, expression)
        case Element(vector=Operand(name=name), index=index):
            return _element(kernel, name, index)
        case Kept(indices=indices):
            return _kept(kernel, indices)
        case Unary(operator="-", operand=operand):
            value = kernel.value(operand)
            return Value(f"-{value.at_least(Binding.UNARY)}", value.axes, Binding.UNARY)
        case Unary(operator="not", operand=operand):
            return _negation(kernel, operand)
        case Binary():
            return _binary(kernel, expression)
        case Select(condition=condition, then=then, otherwise=otherwise):
            parts = (kernel.value(part) for part in (condition, then, otherwise))
            return call("tl.where", *parts)
        case Call(function=name, arguments=arguments):
            return _call(kernel, expression, name, arguments)
    raise InternalError(f"no Triton spelling for {type(expression).__name__}")


def _element(kernel: Kernel, operand: str, index: Expression) -> Value:
    """One element a token of `q`, `k` or `v`, as float32."""
    rows = kernel.value(pointer_to(operand))
    pointers = infix("+", Binding.SUM, rows, kernel.value(index))
    return Value(f"tl.load({pointers.text}).to(tl.float32)", pointers.axes)


def _kept(kernel: Kernel, indices: tuple[Expression, ...]) -> Value:
    """What dropout multiplies the weights of a tile by."""
    kernel.helpers |= {"philox", "kept_factor"}
    sizes = [kernel.size(name) for name in DROPOUT_SIZES]
    *others, key = indices
    if kernel.first_key is None or key != Index("j"):
        kernel.helpers.add("kept_pairs")
        return call("kept_pairs", *map(kernel.value, indices), *map(Value, sizes))
    lanes = kernel.axes_of(key)
    helper = "kept_columns" if lanes == "n" else "kept_rows"
    kernel.helpers.add(helper)
    named = [kernel.value(one).text for one in (*others, kernel.first_key)]
    return Value(f"{helper}({', '.join([*named, kernel.extents[lanes], *sizes])})", "mn")


def _negation(kernel: Kernel, operand: Expression) -> Value:
    match operand:
        case Binary(operator=operator, left=left, right=right) if (
            operator in _OPPOSITE and left.type is INT
        ):
            return _binary(kernel, Binary(_OPPOSITE[operator], left, right, BOOL))
        case Unary(operator="not", operand=inner):
            return kernel.value(inner)
    return infix("==", Binding.COMPARE, kernel.value(operand), Value("0"))


def _binary(kernel: Kernel, expression: Binary) -> Value:
    operator, left, right = expression.operator, expression.left, expression.right
    if operator in ("//", "%"):
        return _division(kernel, operator, left, right)
    if operator == "**":
        return _power(kernel, expression)
    return infix(
        _SPELLED.get(operator, operator),
        _INFIX[operator],
        kernel.value(left),
        kernel.value(right),
    )


def _division(kernel: Kernel, operator: str, left: Expression, right: Expression) -> Value:
    dividend, divisor = kernel.value(left), kernel.value(right)
    if INT not in (left.type, right.type):
        helper = "floor_divide_floats" if operator == "//" else "floor_modulo_floats"
        kernel.helpers.add(helper)
        return call(helper, dividend, divisor)
    match right:
        case Literal(value=int() as number) if number > 0 and number & (number - 1) == 0:
            # Shifts and masks of two's complement floor.
            if operator == "//":
                shift = Value(str(number.bit_length() - 1))
                return infix(">>", Binding.SHIFT, dividend, shift)
            return infix("&", Binding.AND, dividend, Value(str(number - 1)))
    if is_non_negative(left) and is_non_negative(right):
        return infix(operator, Binding.PRODUCT, dividend, divisor)
    helper = "floor_divide" if operator == "//" else "floor_modulo"
    kernel.helpers.add(helper)
    return call(helper, dividend, divisor)


def is_non_negative(expression: Expression) -> bool:
    """Whether an integer is proven to be at least 0. Keys' positions are, queries' not always."""
    match expression:
        case Literal(value=value):
            return value >= 0
        case Index(name=name):
            return name.partition(".")[0] not in ("i", "i_first", "i_last")
        case Coordinate(position=position):
            return position == "j"
        case Size(name=name):
            return name not in ("offset", "local.offset")
        case Binary(operator="+" | "*" | "//", left=left, right=right):
            return is_non_negative(left) and is_non_negative(right)
        case Binary(operator="%", right=right):
            return is_non_negative(right)
        case Call(function="abs"):
            return True
        case Call(function="max", arguments=arguments):
            return any(map(is_non_negative, arguments))
        case Call(function="min", arguments=arguments):
            return all(map(is_non_negative, arguments))
        case Call(function="int"):
            return True
        case Select(then=then, otherwise=otherwise):
            return is_non_negative(then) and is_non_negative(otherwise)
    return False


def _power(kernel: Kernel, expression: Binary) -> Value:
    base, exponent = expression.left, expression.right
    match exponent:
        case Literal(value=value) if value == int(value) and 0 <= value <= _LARGEST_UNROLLED:
            return _unrolled_power(kernel, base, int(value))
        case Literal(value=value) if value == 0.5:
            return call("tl.sqrt", kernel.value(base))
        case Literal(value=float() as value) if value != int(value):
            # A negative base gives NaN, as it does in the reference.
            logarithm = call("tl.log2", kernel.value(base))
            return call("tl.exp2", infix("*", Binding.PRODUCT, logarithm, Value(repr(value))))
    match base:
        case Literal(value=2) if expression.type is INT:
            return infix("<<", Binding.SHIFT, Value("1"), kernel.value(exponent))
        case Literal(value=float() as value) if value > 0:
            exponents = infix(
                "*", Binding.PRODUCT, kernel.value(exponent), Value(repr(math.log2(value)))
            )
            return call("tl.exp2", exponents)
    helper = "integer_power" if expression.type is INT else "power"
    kernel.helpers.add(helper)
    return call(helper, kernel.value(base), kernel.value(exponent))


def _unrolled_power(kernel: Kernel, base: Expression, exponent: int) -> Value:
    if exponent == 0:
        return Value("1" if base.type is INT else "1.0")
    value = kernel.value(base)
    if exponent > 1 and not value.text.isidentifier():
        with kernel.at_depth(kernel.depth_of(base)):
            value = kernel.assign("base", value)
            kernel.define(base, value)
    result = value
    for _ in range(exponent - 1):
        result = infix("*", Binding.PRODUCT, result, value)
    return result


def _call(
    kernel: Kernel, expression: Expression, name: str, arguments: tuple[Expression, ...]
) -> Value:
    if FUNCTIONS[name].shape in (Shape.REDUCTION, Shape.DOT):
        return reduce(kernel, name, arguments)
    if name in DIRECT:
        return call(DIRECT[name], kernel.value(arguments[0]))
    match name:
        case "min" | "max":
            function = "tl.minimum" if name == "min" else "tl.maximum"
            result = kernel.value(arguments[0])
            for argument in arguments[1:]:
                result = call(function, result, kernel.value(argument))
                if expression.type is FLOAT:
                    result = _with_nan(result)
            return result
        case "float" | "int":
            return _converted(kernel.value(arguments[0]), "float32" if name == "float" else "int32")
        case "floor":
            return _converted(call("tl.floor", kernel.value(arguments[0])), "int32")
        case "sign":
            kernel.helpers.add("sign")
            return call("sign", kernel.value(arguments[0]))
        case "relu":
            return _with_nan(call("tl.maximum", kernel.value(arguments[0]), Value("0.0")))
        case "exp":
            return call("tl.exp2", _scaled(kernel, arguments[0], LOG2_E))
        case "tanh":
            # 1 - 2 / (exp(2x) + 1), which neither overflows nor needs the sign of x.
            inverse = _logistic(kernel, arguments[0], 2 * LOG2_E)
            return Value(f"1.0 - 2.0 * {inverse.text}", inverse.axes, Binding.SUM)
        case "sigmoid":
            return _logistic(kernel, arguments[0], -LOG2_E)
        case "softplus":
            kernel.helpers.add("softplus")
            return call("softplus", kernel.value(arguments[0]))
        case "sin" | "cos":
            kernel.helpers.add("sine")
            return call("sine", kernel.value(arguments[0]), Value("0" if name == "sin" else "1"))
    raise InternalError(f"no Triton spelling for `{name}` in {expression}")


def _with_nan(value: Value) -> Value:
    """A minimum or maximum that is NaN where an operand is; by default the other one is taken."""
    text = value.text.removesuffix(")")
    return Value(f"{text}, propagate_nan=tl.PropagateNan.ALL)", value.axes)


def _converted(value: Value, dtype: str) -> Value:
    if value.axes:
        return Value(f"{value.atom}.to(tl.{dtype})", value.axes)
    # Scalars may be plain Python numbers under the interpreter.
    return Value(f"tl.cast({value.text}, tl.{dtype})")


def _scaled(kernel: Kernel, argument: Expression, factor: float) -> Value:
    """`argument * factor`, with the factor folded into what varies least."""
    axes = union(kernel.axes_of(argument))
    if len(axes) < 2:
        return infix("*", Binding.PRODUCT, kernel.value(argument), Value(repr(factor)))
    return kernel.value(times(argument, factor, kernel.axes_of))


def _logistic(kernel: Kernel, argument: Expression, factor: float) -> Value:
    """`1 / (1 + exp2(factor * argument))`."""
    power = call("tl.exp2", _scaled(kernel, argument, factor))
    kernel.helpers.add("reciprocal")
    return call("reciprocal", infix("+", Binding.SUM, power, Value("1.0")))
