"""What an expression is worth, in torch: for the tiled path, which needs no compiler.

As in `attndsl.evaluate`, indices are arrays that broadcast to a grid (usually `[b, h, i, j]`), a
vector has one more, trailing, axis and a matrix two. Floats are float32 unless the environment has
another precision, integers int64, and a read out of range takes the nearest element, as kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from attndsl.diagnostics import InternalError
from attndsl.dropout import KEY_STEPS, MULTIPLIERS, ROUNDS, WORDS, Dropout
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
)

_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Environment:
    """What the names in an expression stand for; `operands` are float32 with a vector axis. An
    index named `i.y` is the coordinate of that name, which otherwise follows from `i`."""

    device: torch.device
    indices: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    scale: float = 1.0
    operands: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    score: Tensor | None = None
    dots: Mapping[int, Tensor] = field(default_factory=dict)
    dropout: Dropout | None = None
    precision: torch.dtype = torch.float32

    def dtype(self, type: Type) -> torch.dtype:
        """The element type of values of a type of expressions."""
        match type:
            case Scalar.BOOL:
                return torch.bool
            case Scalar.INT:
                return torch.int64
        return self.precision


def evaluate(node: Expression, environment: Environment) -> Tensor:
    """The value of an expression at every point of the grid: bool, int64 or float32."""

    def value(child: Expression) -> Tensor:
        return evaluate(child, environment)

    match node:
        case Literal(value=number):
            return torch.tensor(
                number, dtype=environment.dtype(node.type), device=environment.device
            )
        case Index(name=name):
            return environment.indices[name]
        case Coordinate(position=position, axis=axis):
            return _coordinate(position, axis, environment)
        case Size(name=name):
            size = environment.sizes[name]
            return torch.tensor(size, dtype=torch.int64, device=environment.device)
        case Scale():
            scale = environment.scale
            return torch.tensor(scale, dtype=environment.precision, device=environment.device)
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
        case Read(name=name, indices=indices):
            dtype = environment.dtype(node.type)
            return _read(environment.inputs[name], [value(index) for index in indices], dtype)
        case Kept(indices=indices):
            if environment.dropout is None:
                raise InternalError("a plan with dropout, and a call without")
            is_kept = _is_kept(environment.dropout, *map(value, indices))
            return is_kept.to(environment.precision) * environment.dropout.factor
        case Unary(operator="not", operand=operand):
            return ~value(operand)
        case Unary(operand=operand):
            return -value(operand)
        case Binary(operator=operator, left=left, right=right):
            return _OPERATORS[operator](
                _lifted(value(left), left.type, node.type),
                _lifted(value(right), right.type, node.type),
            )
        case Select(condition=condition, then=then, otherwise=otherwise):
            return torch.where(
                _lifted(value(condition), condition.type, node.type),
                _lifted(value(then), then.type, node.type),
                _lifted(value(otherwise), otherwise.type, node.type),
            )
        case Call(function=function, arguments=arguments):
            values = [value(one) for one in arguments]
            return _call(function, arguments, values, node.type, environment.precision)
        case Slice(vector=vector, start=start, stop=stop):
            return value(vector)[..., int(value(start)) : int(value(stop))]
        case Element(vector=vector, index=index):
            return value(vector)[..., int(value(index))]


def _read(array: Tensor, indices: list[Tensor], dtype: torch.dtype) -> Tensor:
    if 0 in array.shape[: len(indices)]:
        # Nothing visible reads it, yet every pair must have a value.
        grid = np.broadcast_shapes(*(index.shape for index in indices))
        return torch.zeros(grid + array.shape[len(indices) :], dtype=dtype, device=array.device)
    if not indices:
        return array.to(dtype)
    clamped = tuple(
        index.clamp(0, length - 1) for index, length in zip(indices, array.shape, strict=False)
    )
    return array[clamped].to(dtype)


def _is_kept(dropout: Dropout, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Which pairs have a factor that is not 0 in `Dropout.kept`."""
    counter = _floor_divide(j, WORDS), i, h, b + dropout.first_batch
    shape = np.broadcast_shapes(b.shape, h.shape, i.shape, j.shape)
    words = [word.expand(shape) & _LOW for word in counter]
    key = dropout.seed & _LOW, dropout.seed >> 32 & _LOW
    for number in range(ROUNDS):
        (first, low), (second, other_low) = (
            _product(word, by) for word, by in zip(words[::2], MULTIPLIERS, strict=True)
        )
        left, right = (
            (part + number * step) & _LOW for part, step in zip(key, KEY_STEPS, strict=True)
        )
        words = [second ^ words[1] ^ left, other_low, first ^ words[3] ^ right, low]
    place = (j % WORDS).expand(words[0].shape)
    word = torch.stack(words).gather(0, place[None])[0]
    return word >= dropout.threshold


def _product(word: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of a product of 32-bit numbers, which may overflow 63 bits."""
    low, high = word * (by & 0xFFFF), word * (by >> 16)
    middle = high + (low >> 16)
    return middle >> 16, (middle << 16 | low & 0xFFFF) & _LOW


def _lifted(value: Tensor, type: Type, result: Type) -> Tensor:
    """A scalar that meets a vector gets the vector's trailing axis, to broadcast along it."""
    for _ in range(_rank(result) - _rank(type)):
        value = value.unsqueeze(-1)
    return value


def _rank(type: Type) -> int:
    return 2 if isinstance(type, Matrix) else 1 if isinstance(type, Vector) else 0


def _coordinate(position: str, axis: str, environment: Environment) -> Tensor:
    """Row-major: the last axis is the fastest. The first is not reduced modulo its length."""
    own = environment.indices.get(f"{position}.{axis}")
    if own is not None:
        return own
    number = environment.axes.index(axis)
    stride = math.prod(environment.sizes[f"axis.{name}"] for name in environment.axes[number + 1 :])
    steps = _floor_divide(environment.indices[position], stride)
    return steps if number == 0 else steps % environment.sizes[f"axis.{axis}"]


def _call(
    function: str,
    arguments: tuple[Expression, ...],
    values: list[Tensor],
    type: Type,
    precision: torch.dtype,
) -> Tensor:
    first = values[0]
    match function:
        case "dot":
            left, right = arguments
            return _dot(left.type, right.type, first, values[1])
        case "outer":
            return first.unsqueeze(-1) * values[1].unsqueeze(-2)
        case "concat":
            grid = np.broadcast_shapes(*(value.shape[:-1] for value in values))
            return torch.cat([value.expand(*grid, value.shape[-1]) for value in values], -1)
        case "arange":
            return torch.arange(int(first), dtype=precision, device=first.device)
        case "float":
            return first.to(precision)
        case "min" | "max":
            pick = torch.minimum if function == "min" else torch.maximum
            result = _lifted(first, arguments[0].type, type)
            for argument, value in zip(arguments[1:], values[1:], strict=True):
                result = pick(result, _lifted(value, argument.type, type))
            return result
    return _FUNCTIONS[function](first)


def _dot(left_type: Type, right_type: Type, left: Tensor, right: Tensor) -> Tensor:
    if isinstance(left_type, Matrix):
        return (left @ right.unsqueeze(-1)).squeeze(-1)
    if isinstance(right_type, Matrix):
        return (left.unsqueeze(-2) @ right).squeeze(-2)
    if left.dim() == right.dim() == 5 and left.shape[-2] == 1 and right.shape[-3] == 1:
        # Queries by keys: one matrix product in place of a product for every pair.
        return left[..., :, 0, :] @ right[..., 0, :, :].transpose(-1, -2)
    return (left * right).sum(-1)


def _floor_divide(left: Tensor, right: Tensor | int) -> Tensor:
    """Floors, and gives 0 for a division by 0, which only a hidden pair may ask for."""
    if isinstance(right, int):
        return torch.div(left, right, rounding_mode="floor")
    if right.dtype == torch.int64:
        safe = torch.where(right == 0, 1, right)
        return torch.where(right == 0, 0, torch.div(left, safe, rounding_mode="floor"))
    return torch.div(left, right, rounding_mode="floor")


def _modulo(left: Tensor, right: Tensor) -> Tensor:
    if right.dtype == torch.int64:
        return torch.where(right == 0, 0, left % torch.where(right == 0, 1, right))
    return left % right


def _power(left: Tensor, right: Tensor) -> Tensor:
    # A hidden pair may well have a negative exponent, for which torch refuses integers.
    return torch.pow(left, right.clamp(min=0) if left.dtype == torch.int64 else right)


def _rotate_half(vector: Tensor) -> Tensor:
    half = vector.shape[-1] // 2
    return torch.cat([-vector[..., half:], vector[..., :half]], -1)


def _rotate_pairs(vector: Tensor) -> Tensor:
    pairs = vector.reshape(*vector.shape[:-1], -1, 2)
    return torch.stack([-pairs[..., 1], pairs[..., 0]], -1).flatten(-2)


_OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": torch.add,
    "-": torch.sub,
    "*": torch.mul,
    "/": torch.true_divide,
    "//": _floor_divide,
    "%": _modulo,
    "**": _power,
    "<": torch.lt,
    "<=": torch.le,
    ">": torch.gt,
    ">=": torch.ge,
    "==": torch.eq,
    "!=": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
}

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "log": torch.log,
    "log2": torch.log2,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(torch.zeros_like(x), x),
    "relu": torch.relu,
    "sign": torch.sign,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "floor": lambda x: torch.floor(x).to(torch.int64),
    "int": lambda x: x.to(torch.int64),
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean(-1),
    "amax": lambda x: x.amax(-1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "softmax": lambda x: torch.softmax(x, -1),
    "rotate_half": _rotate_half,
    "rotate_pairs": _rotate_pairs,
}
