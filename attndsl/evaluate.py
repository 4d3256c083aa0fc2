"""What an expression is worth: NumPy, by broadcasting, floats in float64.

Every index is an int64 array, and all of them broadcast against each other to a grid, usually
`[b, h, i, j]` with 1 where a value does not vary. A scalar expression gives an array that
broadcasts to the grid; a vector has one more, trailing, axis and a matrix two. The caller chooses
the grid, so a block of the score matrix costs the memory of a block.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from attndsl.diagnostics import InternalError, error
from attndsl.dropout import Dropout
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
    Matrix,
    Operand,
    Parameter,
    Read,
    Scalar,
    Scale,
    ScoreValue,
    Select,
    Size,
    Slice,
    Type,
    Unary,
    Vector,
    children,
)
from attndsl.records import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray  # slow to import

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True)
class Environment:
    """What the names in an expression stand for.

    `indices` are int64 arrays over the grid; one named `i.y` is the coordinate of that name, which
    otherwise follows from the position `i`. `axes` are the names of the attention's axes, in
    order; their lengths are the sizes `axis.NAME`. `operands` are float64, the grid with a trailing
    vector axis. `inputs` holds the caller's tensors and the token scans. `visible` is a bool array
    over the grid, or None. `dropout` is what the call drops, if its plan drops pairs.

    A read out of range takes the nearest element. With `clamp` that is all; without, it is an error
    (A078) wherever `visible` holds (everywhere, if it is None).
    """

    indices: Mapping[str, Array] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    scale: float = 1.0
    operands: Mapping[str, Array] = field(default_factory=dict)
    inputs: Mapping[str, Array] = field(default_factory=dict)
    score: Array | None = None
    dots: Mapping[int, Array] = field(default_factory=dict)
    visible: Array | None = None
    dropout: Dropout | None = None
    clamp: bool = False

    def narrowed(self, condition: Array) -> Environment:
        """The same environment where only pairs for which `condition` holds are looked at."""
        if self.clamp:
            return self
        visible = condition if self.visible is None else self.visible & condition
        return dataclasses.replace(self, visible=visible)


def evaluate(expression: Expression, environment: Environment) -> Array:
    """The value of `expression` at every point of the grid: bool, int64 or float64.

    Neither infinities nor NaNs nor a division by zero make a warning: what the mask hides may hold
    anything. Raises `AttnError` A078 for a visible read out of range.
    """
    with np.errstate(all="ignore"):
        return _Evaluator(_shared_nodes(expression)).value(expression, environment)


def evaluate_size(expression: Expression, sizes: Mapping[str, int]) -> int:
    """The value of an integer expression over sizes alone, such as an input's dimension.

    Sizes may be symbols that know arithmetic; then so is the value, unless it takes more than that.
    """
    match expression:
        case Size(name=name) if name in sizes:
            return sizes[name]
        case Literal(value=int(value)):
            return value
        case Binary(operator="+" | "-" | "*" | "//" | "%", left=left, right=right):
            first, second = evaluate_size(left, sizes), evaluate_size(right, sizes)
            match expression.operator:
                case "+":
                    return first + second
                case "-":
                    return first - second
                case "*":
                    return first * second
                case "//" if second != 0:
                    return first // second
                case "%" if second != 0:
                    return first % second
    return int(evaluate(expression, Environment(sizes=sizes)))


def _shared_nodes(expression: Expression) -> frozenset[int]:
    """Identities of the nodes that more than one node refers to."""
    counts: Counter[int] = Counter()
    stack = [expression]
    while stack:
        for child in children(stack.pop()):
            counts[id(child)] += 1
            if counts[id(child)] == 1:
                stack.append(child)
    return frozenset(identity for identity, count in counts.items() if count > 1)


@dataclasses.dataclass
class _Evaluator:
    """One traversal. Shared nodes are evaluated once per environment."""

    shared: frozenset[int]
    known: dict[tuple[int, int], tuple[Array, Environment]] = field(default_factory=dict)

    def value(self, node: Expression, environment: Environment) -> Array:
        if id(node) not in self.shared:
            return self._compute(node, environment)
        key = id(node), id(environment)
        if key not in self.known:
            # The environment is kept, so that its identity is not given to another one.
            self.known[key] = self._compute(node, environment), environment
        return self.known[key][0]

    def _compute(self, node: Expression, environment: Environment) -> Array:
        match node:
            case Literal(value=value):
                return np.asarray(value, _dtype(node.type))
            case Index(name=name):
                return environment.indices[name]
            case Coordinate(position=position, axis=axis):
                return _coordinate(position, axis, environment)
            case Size(name=name):
                return np.asarray(environment.sizes[name], np.int64)
            case Scale():
                return np.asarray(environment.scale, np.float64)
            case ScoreValue():
                if environment.score is None:
                    raise InternalError("a score value outside a weight function")
                return environment.score
            case Parameter(name=name):
                raise InternalError(f"parameter `{name}` is not bound")
            case Operand(name=name):
                return environment.operands[name]
            case DotResult(number=number):
                return environment.dots[number]
            case Read():
                return self._read(node, environment)
            case Kept(indices=indices):
                if environment.dropout is None:
                    raise InternalError("a plan with dropout, and a call without")
                return environment.dropout.kept(
                    *(self.value(index, environment) for index in indices)
                )
            case Unary(operator="not", operand=operand):
                return np.logical_not(self.value(operand, environment))
            case Unary(operand=operand):
                return np.negative(self.value(operand, environment))
            case Binary():
                return self._binary(node, environment)
            case Select():
                return self._select(node, environment)
            case Call():
                return self._call(node, environment)
            case Slice(vector=vector, start=start, stop=stop):
                first, last = (int(self.value(bound, environment)) for bound in (start, stop))
                return self.value(vector, environment)[..., first:last]
            case Element(vector=vector, index=index):
                return self.value(vector, environment)[..., int(self.value(index, environment))]

    def _read(self, node: Read, environment: Environment) -> Array:
        array = environment.inputs[node.name]
        indices = []
        for dimension, index in enumerate(node.indices):
            position = self.value(index, environment)
            length = array.shape[dimension]
            if not environment.clamp:
                outside = (position < 0) | (position >= length)
                if environment.visible is not None and np.any(outside):
                    outside = outside & environment.visible
                if np.any(outside):
                    found = np.broadcast_to(position, outside.shape)[outside].flat[0]
                    raise error(
                        "A078",
                        f"`{node.name}` is read out of range by a visible pair",
                        index.span or node.span,
                        label=f"{found} here, but dimension {dimension} has length {length}",
                        help="hide these pairs in the mask, or pass a larger tensor",
                    )
            indices.append(np.clip(position, 0, max(length - 1, 0)))
        if 0 in array.shape[: len(indices)]:
            # Nothing visible reads it, yet every pair must have a value.
            grid = np.broadcast_shapes(*(index.shape for index in indices))
            return np.zeros(grid + array.shape[len(indices) :], array.dtype)
        value: Array = array[tuple(indices)].astype(_dtype(node.type), copy=False)
        return value

    def _binary(self, node: Binary, environment: Environment) -> Array:
        left = self.value(node.left, environment)
        match node.operator:
            # As in Python, the right side of `or` matters only where the left one is false.
            case "and":
                return left & self.value(node.right, environment.narrowed(left))
            case "or":
                return left | self.value(node.right, environment.narrowed(~left))
        right = self.value(node.right, environment)
        left = _lifted(left, node.left.type, node.type)
        right = _lifted(right, node.right.type, node.type)
        result: Array = _OPERATORS[node.operator](left, right)
        return result

    def _select(self, node: Select, environment: Environment) -> Array:
        condition = self.value(node.condition, environment)
        then = self.value(node.then, environment.narrowed(condition))
        otherwise = self.value(node.otherwise, environment.narrowed(~condition))
        return np.where(
            _lifted(condition, node.condition.type, node.type),
            _lifted(then, node.then.type, node.type),
            _lifted(otherwise, node.otherwise.type, node.type),
        )

    def _call(self, node: Call, environment: Environment) -> Array:
        values = [self.value(argument, environment) for argument in node.arguments]
        match node.function:
            case "dot":
                return _dot(node, *values)
            case "outer":
                return values[0][..., :, np.newaxis] * values[1][..., np.newaxis, :]
            case "concat":
                grid = np.broadcast_shapes(*(value.shape[:-1] for value in values))
                parts = [np.broadcast_to(value, grid + value.shape[-1:]) for value in values]
                return np.concatenate(parts, axis=-1)
            case "arange":
                return np.arange(int(values[0]), dtype=np.float64)
            case "min" | "max":
                pick = np.minimum if node.function == "min" else np.maximum
                types = [argument.type for argument in node.arguments]
                result = _lifted(values[0], types[0], node.type)
                for value, type in zip(values[1:], types[1:], strict=True):
                    result = pick(result, _lifted(value, type, node.type))
                return result
        return _UNARY_FUNCTIONS[node.function](values[0])


def _dtype(type: Type) -> type[np.bool_ | np.int64 | np.float64]:
    match type:
        case Scalar.BOOL:
            return np.bool_
        case Scalar.INT:
            return np.int64
    return np.float64


def _lifted(value: Array, type: Type, result: Type) -> Array:
    """A scalar that meets a vector gets the vector's trailing axis, to broadcast along it."""
    rank = {Vector: 1, Matrix: 2}
    missing = rank.get(result.__class__, 0) - rank.get(type.__class__, 0)
    for _ in range(missing):
        value = value[..., np.newaxis]
    return value


def _coordinate(position: str, axis: str, environment: Environment) -> Array:
    """Row-major: the last axis is the fastest. The first is not reduced modulo its length."""
    own = environment.indices.get(f"{position}.{axis}")
    if own is not None:
        return own
    number = environment.axes.index(axis)
    stride = math.prod(environment.sizes[f"axis.{name}"] for name in environment.axes[number + 1 :])
    steps = environment.indices[position] // stride
    return steps if number == 0 else steps % environment.sizes[f"axis.{axis}"]


def _dot(node: Call, left: Array, right: Array) -> Array:
    result: Array
    if isinstance(node.arguments[0].type, Matrix):
        result = np.einsum("...rc,...c->...r", left, right)
    elif isinstance(node.arguments[1].type, Matrix):
        result = np.einsum("...r,...rc->...c", left, right)
    elif left.ndim == right.ndim == 5 and left.shape[-2] == 1 and right.shape[-3] == 1:
        # Queries by keys: one matrix product in place of a product for every pair.
        result = np.matmul(left[..., :, 0, :], np.swapaxes(right[..., 0, :, :], -1, -2))
    else:
        result = np.einsum("...d,...d->...", left, right)
    return result


def _softmax(vector: Array) -> Array:
    exponentials = np.exp(vector - np.max(vector, axis=-1, keepdims=True))
    weights: Array = exponentials / np.sum(exponentials, axis=-1, keepdims=True)
    return weights


def _rotate_half(vector: Array) -> Array:
    half = vector.shape[-1] // 2
    return np.concatenate([-vector[..., half:], vector[..., :half]], axis=-1)


def _rotate_pairs(vector: Array) -> Array:
    pairs = vector.reshape(*vector.shape[:-1], -1, 2)
    return np.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(vector.shape)


_OPERATORS: dict[str, Callable[[Array, Array], Array]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.mod,
    "**": np.power,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}

_UNARY_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "tanh": np.tanh,
    "sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)),
    "softplus": lambda x: np.logaddexp(0.0, x),
    "relu": lambda x: np.maximum(x, 0.0),
    "sign": np.sign,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sin": np.sin,
    "cos": np.cos,
    "floor": lambda x: np.floor(x).astype(np.int64),
    "float": lambda x: x.astype(np.float64),
    "int": lambda x: x.astype(np.int64),
    "sum": lambda x: np.sum(x, axis=-1),
    "mean": lambda x: np.mean(x, axis=-1),
    "amax": lambda x: np.max(x, axis=-1),
    "norm": lambda x: np.sqrt(np.sum(x * x, axis=-1)),
    "softmax": _softmax,
    "rotate_half": _rotate_half,
    "rotate_pairs": _rotate_pairs,
}
