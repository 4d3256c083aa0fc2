"""Vector expressions, element by element.

`element(vector, index)` is the scalar expression of one element, so that everything past this
module deals with scalars and with reductions over vectors. What remains as a vector access is an
`Element` of an operand; an element of an input is a `Read` with one more index.
"""

from __future__ import annotations

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
    Operand,
    Read,
    Select,
    Slice,
    Unary,
    Vector,
)
from attndsl.functions import FUNCTIONS, Shape


def is_vector(expression: Expression) -> bool:
    return isinstance(expression.type, Vector)


def add(left: Expression, right: Expression) -> Expression:
    return left if right == Literal(0) else Binary("+", left, right, INT)


def subtract(left: Expression, right: Expression) -> Expression:
    return left if right == Literal(0) else Binary("-", left, right, INT)


def size_of(vector: Expression) -> Expression:
    if not isinstance(vector.type, Vector):
        raise InternalError(f"not a vector: {vector}")
    return vector.type.size


def element(vector: Expression, index: Expression) -> Expression:
    """The float `vector[index]` as a scalar expression; a scalar is its own element.

    `index` lies within the vector, or the value is of no interest: indices into parts are clamped.
    """
    if not isinstance(vector.type, (Vector, Matrix)):
        return vector
    match vector:
        case Operand():
            return Element(vector, index)
        case Read(name=name, indices=indices):
            return Read(name, (*indices, index), FLOAT, span=vector.span)
        case Unary(operator=operator, operand=operand):
            return Unary(operator, element(operand, index), FLOAT)
        case Binary(operator=operator, left=left, right=right):
            return Binary(operator, element(left, index), element(right, index), FLOAT)
        case Select(condition=condition, then=then, otherwise=otherwise):
            return Select(condition, element(then, index), element(otherwise, index), FLOAT)
        case Slice(vector=whole, start=start):
            return element(whole, add(index, start))
        case Call(function=name, arguments=arguments):
            return _of_call(name, arguments, vector, index)
    raise InternalError(f"no element of {type(vector).__name__}")


def _of_call(
    name: str, arguments: tuple[Expression, ...], vector: Expression, index: Expression
) -> Expression:
    match name:
        case "arange":
            return Call("float", (index,), FLOAT)
        case "concat":
            return _of_concat(arguments, index)
        case "rotate_half":
            return _rotated_half(arguments[0], index)
        case "rotate_pairs":
            odd = Binary("==", Binary("%", index, Literal(2), INT), Literal(1), BOOL)
            partner = Select(odd, subtract(index, Literal(1)), add(index, Literal(1)), INT)
            value = element(arguments[0], partner)
            return Select(odd, value, Unary("-", value, FLOAT), FLOAT)
        case "softmax":
            # The maximum and the sum are reductions over the whole vector.
            whole = arguments[0]
            shifted = Binary("-", whole, Call("amax", (whole,), FLOAT), whole.type)
            weights = Call("exp", (shifted,), whole.type)
            return Binary("/", element(weights, index), Call("sum", (weights,), FLOAT), FLOAT)
        case "dot":
            left, right = arguments
            if isinstance(right.type, Matrix):
                column = Call("column", (right, index), Vector(right.type.rows))
                return Call("dot", (left, column), FLOAT)
            return Call("dot", (_matrix_row(left, index), right), FLOAT)
        case "column":
            match arguments:
                case (Read(name=matrix, indices=indices), column_index):
                    return Read(matrix, (*indices, index, column_index), FLOAT)
    if FUNCTIONS[name].shape is Shape.ELEMENTWISE:
        return Call(name, tuple(element(argument, index) for argument in arguments), FLOAT)
    raise InternalError(f"no element of `{name}`")


def _of_concat(parts: tuple[Expression, ...], index: Expression) -> Expression:
    first, *rest = parts
    if not rest:
        return element(first, index)
    size = size_of(first)
    inside = Call("min", (index, subtract(size, Literal(1))), INT)
    beyond = Call("max", (subtract(index, size), Literal(0)), INT)
    return Select(
        Binary("<", index, size, BOOL),
        element(first, inside),
        _of_concat(tuple(rest), beyond),
        FLOAT,
    )


def _rotated_half(whole: Expression, index: Expression) -> Expression:
    """`[-x[half:], x[:half]]` at `index`."""
    half = Binary("//", size_of(whole), Literal(2), INT)
    first = Binary("<", index, half, BOOL)
    partner = Select(first, add(index, half), subtract(index, half), INT)
    value = element(whole, partner)
    return Select(first, Unary("-", value, FLOAT), value, FLOAT)


def _matrix_row(matrix: Expression, index: Expression) -> Expression:
    if not isinstance(matrix.type, Matrix):
        raise InternalError("a matrix product needs a matrix")
    vector = Vector(matrix.type.columns)
    match matrix:
        case Read(name=name, indices=indices):
            return Read(name, (*indices, index), vector, span=matrix.span)
    raise InternalError(f"no row of {type(matrix).__name__}")
