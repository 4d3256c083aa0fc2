"""The syntax tree: what the user wrote, with spans, and nothing resolved.

Both front ends make it: the Lark grammar from `.attn` text and the decorator from a Python
function. The checker (`check`) turns it into the typed tree of `attention.py`. Spans take no
part in equality: two ways of writing the same thing give equal trees.
"""

from __future__ import annotations

from dataclasses import field

from attndsl.records import dataclass
from attndsl.source import Span


@dataclass(frozen=True)
class Name:
    """An identifier, or a dotted one (`i.y`): `parts` is `("i", "y")`."""

    parts: tuple[str, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Number:
    value: int | float
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Boolean:
    value: bool
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Unary:
    operator: str  # "-", "not"
    operand: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Binary:
    operator: str  # "+ - * / // % ** and or"
    left: Expression
    right: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Compare:
    """A chain `a < b <= c`: `operators` has one entry fewer than `operands`."""

    operators: tuple[str, ...]
    operands: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Conditional:
    """`then if condition else otherwise`."""

    condition: Expression
    then: Expression
    otherwise: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Argument:
    """One argument of a call: positional (`keyword` is None) or by name."""

    keyword: str | None
    value: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    function: Name
    arguments: tuple[Argument, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Slice:
    """`start:stop` inside a subscript; an absent end is None."""

    start: Expression | None
    stop: Expression | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Subscript:
    value: Expression
    indices: tuple[Expression | Slice, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Tuple:
    """`(5, 7, 7)`: one value for each axis, as an argument of a pattern over all axes."""

    items: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


Expression = (
    Name | Number | Boolean | Unary | Binary | Compare | Conditional | Call | Subscript | Tuple
)


@dataclass(frozen=True)
class TypeName:
    """`float[H, Lk // block]`: an element type and, for inputs, dimensions."""

    name: str
    dimensions: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Parameter:
    name: Name
    type: TypeName | None
    default: Expression | None
    where: Expression | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Input:
    name: Name
    type: TypeName
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Axes:
    names: tuple[Name, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Let:
    name: Name
    value: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Assign:
    """`score = …`, `mask = …`, `normalize = …`, `output = …`, or a prepared `q`/`k`/`v = …`."""

    target: Name
    value: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Route:
    """`route blocks of <block> { affinity = … keep = … always = … never = … }`."""

    block: Expression
    fields: tuple[Assign, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class State:
    """`state S: [D, Dv] { steps… read = … }`."""

    name: Name
    dimensions: tuple[Expression, ...]
    steps: tuple[Assign, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Branch:
    name: Name
    value: Expression
    span: Span = field(compare=False, repr=False)


Statement = Input | Axes | Let | Assign | Route | State | Branch


@dataclass(frozen=True)
class Attention:
    name: Name
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Definition:
    """`def f(x, y = 1) = expression`; definitions are inlined where they are called."""

    name: Name
    parameters: tuple[Parameter, ...]
    body: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Import:
    """`import "patterns.attn"` (all names) or `from "patterns.attn" import a, b`."""

    path: str
    names: tuple[Name, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Module:
    imports: tuple[Import, ...]
    definitions: tuple[Definition, ...]
    attentions: tuple[Attention, ...]
    span: Span = field(compare=False, repr=False)
