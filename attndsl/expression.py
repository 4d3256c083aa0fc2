"""Typed expressions: the one family that the checker makes and every later stage reads.

An expression has a type: a scalar (`bool`, `int`, `float`), a vector of floats, or a matrix of
floats. Nodes are frozen and compare by structure; the span says where the user wrote it and takes
no part in equality. Traversals return unchanged nodes untouched, so that sharing survives.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from enum import Enum
from typing import TypeVar

from attndsl.records import dataclass
from attndsl.source import Span


class Scalar(Enum):
    BOOL = "bool"
    INT = "int"
    FLOAT = "float"

    # There is one object for each; `Enum` would hash its name, anew each time.
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Vector:
    """A vector of floats; `size` is an integer expression over sizes and parameters."""

    size: Expression


@dataclass(frozen=True)
class Matrix:
    """A matrix of floats, `[rows, columns]`."""

    rows: Expression
    columns: Expression


Type = Scalar | Vector | Matrix
BOOL, INT, FLOAT = Scalar.BOOL, Scalar.INT, Scalar.FLOAT


@dataclass(frozen=True)
class Node:
    """What every expression has. `span` is where the user wrote it, if anywhere.

    A node may remember what follows from it, such as its hash, in attributes that start with an
    underscore; they are no part of it.
    """

    span: Span | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __getstate__(self) -> dict[str, object]:
        """Without what is remembered, which may hold for this process alone."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


_Node = TypeVar("_Node", bound=Node)


def _compared_once(node: type[_Node]) -> type[_Node]:
    """Nodes over operands are looked up often: their hash is not worth a walk each time, and two
    graphs that are equal would be compared as trees, in time exponential in their depth."""
    structural_hash = node.__hash__
    structural_equality: Callable[[_Node, object], bool] = node.__eq__

    def remembered_hash(self: _Node) -> int:
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = self.__dict__["_hash"] = structural_hash(self)
        return known

    def remembered_equality(self: _Node, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, node):
            return False
        if remembered_hash(self) != remembered_hash(other):
            return False
        one, two = _representative(self), _representative(other)
        if one is two:
            return True
        if not structural_equality(self, other):
            return False
        # Links lead to lesser addresses, so that threads that link at once make no ring.
        least, other_end = sorted((one, two), key=id)
        other_end.__dict__["_equal_to"] = least
        return True

    node.__hash__ = remembered_hash  # type: ignore[assignment]
    node.__eq__ = remembered_equality  # type: ignore[assignment]
    return node


def _representative(node: Node) -> Node:
    """The one among nodes known to be equal that stands for all."""
    while (other := node.__dict__.get("_equal_to")) is not None:
        node = other
    return node


@dataclass(frozen=True)
class Literal(Node):
    value: bool | int | float

    @property
    def type(self) -> Type:
        match self.value:
            case bool():
                return BOOL
            case int():
                return INT
        return FLOAT

    # 1, 1.0 and True are equal in Python and must not be equal here.
    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Literal)
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


@dataclass(frozen=True)
class Index(Node):
    """An integer that varies: `b h g i j n t row`, and in block maps `i_first`, `i_last`, `K`.

    Positions `i` and `j` are absolute: `i = row + query_offset`, where `query_offset` is the
    run-time size `Size("offset")`, `Lk - Lq` unless the call says otherwise.
    """

    name: str
    type: Type = field(default=INT, init=False, compare=False)


@dataclass(frozen=True)
class Coordinate(Node):
    """The coordinate of position `i` or `j` along a named axis: `i.y`. Row-major, so the last
    axis varies fastest."""

    position: str
    axis: str
    type: Type = field(default=INT, init=False, compare=False)


@dataclass(frozen=True)
class Size(Node):
    """A run-time size, at least 0: `B H Hkv Lq Lk D Dv`, `offset` (may be negative), an axis's
    length (`axis.y`), and in block maps the tile's `BLOCK_M` and `BLOCK_N`."""

    name: str
    type: Type = field(default=INT, init=False, compare=False)


@dataclass(frozen=True)
class Scale(Node):
    """The scale of the dot product, `1/sqrt(D)` unless the call overrides it; a run-time float."""

    type: Type = field(default=FLOAT, init=False, compare=False)


@dataclass(frozen=True)
class ScoreValue(Node):
    """Inside a normaliser's weight function: the score it is applied to."""

    type: Type = field(default=FLOAT, init=False, compare=False)


@dataclass(frozen=True)
class Parameter(Node):
    """A parameter of the attention, still symbolic; `bind` replaces it by a literal."""

    name: str
    type: Scalar


QUERY_OPERANDS = ("q", "out", "out.gradient")
"""The operands that a query has; the others are a key's."""
OPERANDS = (*QUERY_OPERANDS, "k", "v")


@dataclass(frozen=True)
class Operand(Node):
    """One of the vectors `q` (at b, h, i), `k`, `v` (at b, g, j). In a backward also the forward's
    result `out` and its gradient `out.gradient` (at b, h, i).

    In a score it is the vector as scored: after `prepare`, if the spec has `q = …`.
    Inside that preparation itself it is the vector as the caller gave it.
    """

    name: str
    type: Vector


@_compared_once
@dataclass(frozen=True)
class Read(Node):
    """An element of an input or of a token scan: `slope[h]`.

    Trailing dimensions that are not indexed make it a vector or a matrix. An index that is out of
    range is an error in the reference; a kernel clamps it, for pairs that the mask hides.
    """

    name: str
    indices: tuple[Expression, ...]
    type: Type


@_compared_once
@dataclass(frozen=True)
class Unary(Node):
    operator: str  # "-", "not"
    operand: Expression
    type: Type


@_compared_once
@dataclass(frozen=True)
class Binary(Node):
    """Arithmetic `+ - * / // % **`, comparison `< <= > >= == !=`, and `and`, `or`.

    Arithmetic on vectors is elementwise, and a scalar broadcasts. `//` and `%` floor. Both operands
    have one scalar type (the checker inserts `float(…)` where an int meets a float); `/` gives a
    float. `and` and `or` evaluate both sides: expressions have no effects.
    """

    operator: str
    left: Expression
    right: Expression
    type: Type


@_compared_once
@dataclass(frozen=True)
class Select(Node):
    """`then if condition else otherwise`."""

    condition: Expression
    then: Expression
    otherwise: Expression
    type: Type


@_compared_once
@dataclass(frozen=True)
class Call(Node):
    """A built-in function; `FUNCTIONS` in `functions.py` lists them with their types.

    `dot` takes two vectors (a float), or a matrix and a vector (a vector).
    """

    function: str
    arguments: tuple[Expression, ...]
    type: Type


@_compared_once
@dataclass(frozen=True)
class Slice(Node):
    """`vector[start:stop]`; the bounds are integer expressions over sizes and parameters."""

    vector: Expression
    start: Expression
    stop: Expression
    type: Vector


@_compared_once
@dataclass(frozen=True)
class Element(Node):
    """`vector[index]`, a float; the index is an integer expression over sizes and parameters."""

    vector: Expression
    index: Expression
    type: Type = field(default=FLOAT, init=False, compare=False)


@_compared_once
@dataclass(frozen=True)
class Kept(Node):
    """In a plan: what dropout multiplies the weight of a pair by, 0 or 1 / (1 - p) (`dropout.py`).

    `indices` are `b`, `h` and the positions of query and key.
    """

    indices: tuple[Expression, ...]
    type: Type = field(default=FLOAT, init=False, compare=False)


@dataclass(frozen=True)
class DotResult(Node):
    """In a plan: the float that matrix product `number` of the stage gives for this pair."""

    number: int
    type: Type = field(default=FLOAT, init=False, compare=False)


Expression = (
    Literal
    | Index
    | Coordinate
    | Size
    | Scale
    | ScoreValue
    | Parameter
    | Operand
    | Read
    | Unary
    | Binary
    | Select
    | Call
    | Slice
    | Element
    | Kept
    | DotResult
)

TRUE, FALSE = Literal(True), Literal(False)


def children(expression: Expression) -> tuple[Expression, ...]:
    """The direct operands, in the order in which they are written; sizes of types are none."""
    of = _CHILDREN.get(type(expression))
    return () if of is None else of(expression)


# By class, as every traversal asks for every node's.
_CHILDREN: dict[type, Callable[..., tuple[Expression, ...]]] = {
    Read: lambda read: read.indices,
    Unary: lambda unary: (unary.operand,),
    Binary: lambda binary: (binary.left, binary.right),
    Select: lambda select: (select.condition, select.then, select.otherwise),
    Call: lambda call: call.arguments,
    Slice: lambda slice: (slice.vector, slice.start, slice.stop),
    Element: lambda element: (element.vector, element.index),
    Kept: lambda kept: kept.indices,
}


def with_children(expression: Expression, operands: tuple[Expression, ...]) -> Expression:
    """The same node over other operands; the node itself where every operand is the same object."""
    before = children(expression)
    if len(before) == len(operands) and all(map(operator.is_, before, operands)):
        return expression
    match expression:
        case Read() | Kept():
            return dataclasses.replace(expression, indices=operands)
        case Unary():
            return dataclasses.replace(expression, operand=operands[0])
        case Binary():
            return dataclasses.replace(expression, left=operands[0], right=operands[1])
        case Select():
            condition, then, otherwise = operands
            return dataclasses.replace(
                expression, condition=condition, then=then, otherwise=otherwise
            )
        case Call():
            return dataclasses.replace(expression, arguments=operands)
        case Slice():
            vector, start, stop = operands
            return dataclasses.replace(expression, vector=vector, start=start, stop=stop)
        case Element():
            return dataclasses.replace(expression, vector=operands[0], index=operands[1])
    return expression


def walk(expression: Expression) -> Iterator[Expression]:
    """Every node once, however many places share it: derivatives are small as graphs, and as
    trees exponential in the depth of the spec. What is above a node comes first, by some way."""
    seen: set[int] = set()
    stack = [expression]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            stack.extend(reversed(children(node)))


def transform(
    expression: Expression,
    function: Callable[[Expression], Expression],
    *,
    unless: Callable[[Expression], bool] | None = None,
) -> Expression:
    """Rewrite bottom-up: `function` sees each node with its operands already rewritten.

    Sizes inside vector and matrix types are rewritten too. Shared nodes are rewritten once. Nodes
    of which `unless` holds stay, with all that is below them.
    """
    done: dict[int, Expression] = {}

    def visit(node: Expression) -> Expression:
        known = done.get(id(node))
        if known is None:
            if unless is not None and unless(node):
                known = node
            else:
                operands = children(node)
                known = node
                if operands:
                    known = with_children(node, tuple([visit(child) for child in operands]))
                if type(known.type) is not Scalar:
                    known = _with_type(known, visit)
                known = function(known)
            done[id(node)] = known
        return known

    return visit(expression)


def _with_type(node: Expression, visit: Callable[[Expression], Expression]) -> Expression:
    match node.type:
        case Vector(size=size):
            new: Type = Vector(visit(size))
        case Matrix(rows=rows, columns=columns):
            new = Matrix(visit(rows), visit(columns))
        case _:
            return node
    if new == node.type:
        return node
    # Only nodes whose type is a field of theirs have a vector or matrix type.
    replace: Callable[..., Expression] = dataclasses.replace
    return replace(node, type=new)


def substitute(expression: Expression, values: Mapping[Expression, Expression]) -> Expression:
    """Replace every node that equals a key of `values`."""
    return transform(expression, lambda node: values.get(node, node))


def index_names(expression: Expression) -> frozenset[str]:
    """The indices that the value varies with: coordinates count as their position, `q` as
    `b h i`, `k` and `v` as `b g j`."""
    known: frozenset[str] | None = expression.__dict__.get("_index_names")
    if known is None:
        known = expression.__dict__["_index_names"] = _index_names(expression)
    return known


def _index_names(expression: Expression) -> frozenset[str]:
    match expression:
        case Index(name=name):
            return frozenset((name,))
        case Coordinate(position=position):
            return frozenset((position,))
        case Operand(name=name) if name in QUERY_OPERANDS:
            return frozenset("bhi")
        case Operand():
            return frozenset("bgj")
        case DotResult():
            return frozenset("bhij")
    return frozenset().union(*map(index_names, children(expression)))
