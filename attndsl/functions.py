"""The built-in functions of the language, in one table.

The checker reads their signatures here, the reference their NumPy meaning, and each emitter must
have a spelling for every one of them (a test asserts it).
"""

from __future__ import annotations

from enum import Enum

from attndsl.records import dataclass


class Shape(Enum):
    """How a function treats its operands."""

    ELEMENTWISE = "elementwise"  # scalars, or vectors element by element; scalars broadcast
    REDUCTION = "reduction"  # one vector to a float
    VECTOR = "vector"  # vectors to a vector
    DOT = "dot"  # vector · vector is a float, matrix · vector a vector


@dataclass(frozen=True)
class Function:
    """`keeps_int`: given ints it gives an int (`abs`, `min`, `max`); else ints become floats."""

    name: str
    arity: int | None  # None: one or more
    shape: Shape
    keeps_int: bool = False
    doc: str = ""


FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function("abs", 1, Shape.ELEMENTWISE, True, "absolute value"),
        Function("min", None, Shape.ELEMENTWISE, True, "least of two or more"),
        Function("max", None, Shape.ELEMENTWISE, True, "greatest of two or more"),
        Function("exp", 1, Shape.ELEMENTWISE, doc="e to the power x"),
        Function("exp2", 1, Shape.ELEMENTWISE, doc="2 to the power x"),
        Function("log", 1, Shape.ELEMENTWISE, doc="natural logarithm"),
        Function("log2", 1, Shape.ELEMENTWISE, doc="logarithm to base 2"),
        Function("sqrt", 1, Shape.ELEMENTWISE, doc="square root"),
        Function("rsqrt", 1, Shape.ELEMENTWISE, doc="1 / sqrt(x)"),
        Function("tanh", 1, Shape.ELEMENTWISE, doc="hyperbolic tangent"),
        Function("sigmoid", 1, Shape.ELEMENTWISE, doc="1 / (1 + exp(-x))"),
        Function("softplus", 1, Shape.ELEMENTWISE, doc="log(1 + exp(x))"),
        Function("relu", 1, Shape.ELEMENTWISE, doc="max(x, 0)"),
        Function("sign", 1, Shape.ELEMENTWISE, doc="-1, 0 or 1 as x is, a float"),
        Function("erf", 1, Shape.ELEMENTWISE, doc="error function"),
        Function("sin", 1, Shape.ELEMENTWISE, doc="sine, in radians"),
        Function("cos", 1, Shape.ELEMENTWISE, doc="cosine, in radians"),
        Function("floor", 1, Shape.ELEMENTWISE, doc="greatest whole number at most x, as an int"),
        Function("float", 1, Shape.ELEMENTWISE, doc="a bool or int as a float"),
        Function("int", 1, Shape.ELEMENTWISE, True, doc="a bool as 0 or 1"),
        Function("dot", 2, Shape.DOT, doc="sum of products; matrix times vector"),
        Function("sum", 1, Shape.REDUCTION, doc="sum of a vector's elements"),
        Function("mean", 1, Shape.REDUCTION, doc="mean of a vector's elements"),
        Function("amax", 1, Shape.REDUCTION, doc="greatest element of a vector"),
        Function("norm", 1, Shape.REDUCTION, doc="Euclidean length of a vector"),
        Function("softmax", 1, Shape.VECTOR, doc="softmax over a vector's elements"),
        Function("concat", None, Shape.VECTOR, doc="vectors end to end"),
        Function("rotate_half", 1, Shape.VECTOR, doc="[-second half, first half]"),
        Function("rotate_pairs", 1, Shape.VECTOR, doc="(x0, x1) to (-x1, x0), pair by pair"),
        Function("arange", 1, Shape.VECTOR, doc="0, 1, …, n-1 as a vector of floats"),
    )
}
