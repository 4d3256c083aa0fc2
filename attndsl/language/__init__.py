"""The names of the language, for the Python form: `from attndsl.language import causal, dot, i, j`.

A kernel's body is read and never run, so these names exist for editors, linters and type checkers
only: completion shows the signatures and docstrings below. Using one outside a kernel raises an
`AttnError` A007. Python's own `abs`, `float`, `int`, `max`, `min` and `sum` mean the language's
functions inside a kernel and need no import; `max`, `min` and `sum` are here for type checkers.

A test asserts that every built-in function and every standard pattern stands here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from attndsl.language.patterns import *  # noqa: F403
from attndsl.language.value import Operand, PerAxis, Value, outside_kernel

# Indices

b = Value("b", "the batch")
h = Value("h", "the query head")
g = Value("g", "the key/value head: `h // (H // Hkv)`")
i = Value("i", "the query's absolute position; with axes, `i.y` is a coordinate")
j = Value("j", "the key's absolute position; with axes, `j.y` is a coordinate")
row = Value("row", "the query's row in the tensor: `i` minus the offset")
n = Value("n", "a candidate block of keys, in `route`")
t = Value("t", "the step, in `cumsum` and `state`")

# Sizes

B = Value("B", "the batch size")
H = Value("H", "the number of query heads")
Hkv = Value("Hkv", "the number of key/value heads")
Lq = Value("Lq", "the number of queries")
Lk = Value("Lk", "the number of keys")
D = Value("D", "the elements of a query and of a key")
Dv = Value("Dv", "the elements of a value")

# Vectors and the scale

q = Value("q", "the query's vector at b, h, i")
k = Value("k", "the key's vector at b, g, j")
v = Value("v", "the value's vector at b, g, j")
scale = Value("scale", "1 / sqrt(D), unless the call overrides it")

# Normalisers (`softmax`, `sigmoid`, `relu` and `sum` are functions too, and stand below)

none = Value("none", "the score itself is the weight")
softmax1 = Value("softmax1", "softmax off by one: exp(0) joins the row's sum")


def weight(x: Operand, *, divide: Operand = 1, epsilon: float = 0) -> Value:
    """`normalize = weight(f)`: the weight of a pair, a formula of its `score`."""
    raise outside_kernel("weight")


def grouped_softmax(*, group: Operand, own: Operand, gate: Operand) -> Value:
    """Landmark attention's softmax over groups, each weighted by its gate's share."""
    raise outside_kernel("grouped_softmax")


# Statements


class Input(Value):
    """`slope = Input(float, H)`: a tensor that comes with the call, `attn(q, k, v, slope=…)`.

    The element is `bool`, `int` or `float`; each dimension is an int over sizes and parameters.
    """

    def __init__(self, element: type[bool] | type[int] | type[float], *dimensions: Operand):
        raise outside_kernel("Input")


def axes(*names: str) -> tuple[Value, ...]:
    """`y, x = axes("y", "x")`: tokens lie on a grid; `i.y` and `j.x` are coordinates, `y.size` is
    the length of an axis."""
    raise outside_kernel("axes")


def branch(kind: Operand) -> Value:
    """`local = branch(sliding_window(512))`: an attention of its own, mixed in `output`."""
    raise outside_kernel("branch")


def route(block: Operand) -> AbstractContextManager[None]:
    """`with route(block):` blocks of keys are chosen from data, by `affinity` and `keep`."""
    raise outside_kernel("route")


def state(*dimensions: Operand) -> AbstractContextManager[Value]:
    """`with state(D, Dv) as S:` a matrix that is carried along the sequence."""
    raise outside_kernel("state")


# Inside `route` and `branch`


def top(count: Operand) -> Value:
    """The `count` blocks of the greatest affinity."""
    raise outside_kernel("top")


def threshold(least: Operand) -> Value:
    """The blocks whose affinity is at least this."""
    raise outside_kernel("threshold")


def mass(share: Operand) -> Value:
    """The fewest blocks that hold this share of the affinities' softmax."""
    raise outside_kernel("mass")


def pooled(block: Operand) -> Value:
    """Attention over the means of blocks of keys and values."""
    raise outside_kernel("pooled")


def routed(block: Operand, top: Operand) -> Value:
    """Attention over the blocks that another branch found most important."""
    raise outside_kernel("routed")


def outer(x: Operand, y: Operand) -> Value:
    """The matrix of the products of two vectors' elements, in `state`."""
    raise outside_kernel("outer")


# Built-in functions


def min(*values: Operand) -> Value:
    """Least of two or more."""
    raise outside_kernel("min")


def max(*values: Operand) -> Value:
    """Greatest of two or more."""
    raise outside_kernel("max")


def exp(x: Operand) -> Value:
    """`e` to the power x."""
    raise outside_kernel("exp")


def exp2(x: Operand) -> Value:
    """2 to the power x."""
    raise outside_kernel("exp2")


def log(x: Operand) -> Value:
    """Natural logarithm."""
    raise outside_kernel("log")


def log2(x: Operand) -> Value:
    """Logarithm to base 2."""
    raise outside_kernel("log2")


def sqrt(x: Operand) -> Value:
    """Square root."""
    raise outside_kernel("sqrt")


def rsqrt(x: Operand) -> Value:
    """1 / sqrt(x)."""
    raise outside_kernel("rsqrt")


def tanh(x: Operand) -> Value:
    """Hyperbolic tangent."""
    raise outside_kernel("tanh")


def sigmoid(x: Operand = 0, *, divide: Operand = 1, epsilon: float = 0) -> Value:
    """1 / (1 + exp(-x)); in `normalize`, the weight of a score."""
    raise outside_kernel("sigmoid")


def softplus(x: Operand) -> Value:
    """Log(1 + exp(x))."""
    raise outside_kernel("softplus")


def relu(x: Operand = 0, *, divide: Operand = 1, epsilon: float = 0) -> Value:
    """Max(x, 0); in `normalize`, the weight of a score."""
    raise outside_kernel("relu")


def sign(x: Operand) -> Value:
    """-1, 0 or 1 as x is, a float."""
    raise outside_kernel("sign")


def erf(x: Operand) -> Value:
    """Error function."""
    raise outside_kernel("erf")


def sin(x: Operand) -> Value:
    """Sine, in radians."""
    raise outside_kernel("sin")


def cos(x: Operand) -> Value:
    """Cosine, in radians."""
    raise outside_kernel("cos")


def floor(x: Operand) -> Value:
    """Greatest whole number at most x, as an int."""
    raise outside_kernel("floor")


def dot(x: Operand, y: Operand) -> Value:
    """Sum of products; matrix times vector."""
    raise outside_kernel("dot")


def sum(x: Operand) -> Value:
    """Sum of a vector's elements."""
    raise outside_kernel("sum")


def mean(x: Operand) -> Value:
    """Mean of a vector's elements."""
    raise outside_kernel("mean")


def amax(x: Operand) -> Value:
    """Greatest element of a vector."""
    raise outside_kernel("amax")


def norm(x: Operand) -> Value:
    """Euclidean length of a vector."""
    raise outside_kernel("norm")


def softmax(x: Operand = 0, *, sink: Operand = 0, value: Operand = 0) -> Value:
    """Softmax over a vector's elements; in `normalize`, over the row."""
    raise outside_kernel("softmax")


def concat(*vectors: Operand) -> Value:
    """Vectors end to end."""
    raise outside_kernel("concat")


def rotate_half(x: Operand) -> Value:
    """[-second half, first half]."""
    raise outside_kernel("rotate_half")


def rotate_pairs(x: Operand) -> Value:
    """(x0, x1) to (-x1, x0), pair by pair."""
    raise outside_kernel("rotate_pairs")


def arange(count: Operand) -> Value:
    """0, 1, …, n-1 as a vector of floats."""
    raise outside_kernel("arange")


def cdiv(x: Operand, y: Operand) -> Value:
    """x / y as a whole number, rounded up."""
    raise outside_kernel("cdiv")


def size(x: Operand) -> Value:
    """The number of a vector's elements."""
    raise outside_kernel("size")


def cumsum(x: Operand) -> Value:
    """The running sum of a value per token, an array: `c = cumsum(f)` is read as `c[b, h, i]`."""
    raise outside_kernel("cumsum")


def neighborhood(
    window: PerAxis,
    dilation: PerAxis = 1,
    stride: PerAxis = 1,
    causal: PerAxis = False,
) -> Value:
    """NATTEN's neighborhood over all axes, or along the sequence where there are none.

    An argument may be a tuple with a value for each axis: `neighborhood((5, 7, 7))`.
    """
    raise outside_kernel("neighborhood")
