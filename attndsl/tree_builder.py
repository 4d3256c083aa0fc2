"""From Lark's tree to the syntax tree, from the leaves up.

Every token is kept in Lark's tree, so a node's span runs from its first child to its last and
covers its brackets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from attndsl import syntax
from attndsl.diagnostics import InternalError, error
from attndsl.records import dataclass
from attndsl.source import Source, Span

if TYPE_CHECKING:
    from lark import Token, Tree

# Later stages walk expressions with a few of Python's stack frames for each level.
MAXIMUM_DEPTH = 200
MAXIMUM_INTEGER = 2**31 - 1  # kernels compute positions in 32 bits

NodeType = TypeVar("NodeType")
EXPRESSIONS = (
    syntax.Name,
    syntax.Number,
    syntax.Boolean,
    syntax.Unary,
    syntax.Binary,
    syntax.Compare,
    syntax.Conditional,
    syntax.Call,
    syntax.Subscript,
    syntax.Tuple,
)


@dataclass(frozen=True)
class _Bracketed:
    """What a rule without a node of its own holds: a default, dimensions, parameters."""

    rule: str
    items: tuple[object, ...]
    span: Span


def build(source: Source, offset: int, tree: Tree[Token]) -> syntax.Module:
    """The module that a tree stands for; `offset` is where the parsed text begins in the source.

    Raises `AttnError`: A005 where expressions nest too deep, A006 for a number out of range.
    """
    builder = _Builder(source, offset)
    done: dict[int, object] = {}
    # Children come before parents.
    for subtree in tree.iter_subtrees():
        children = [
            done[id(child)] if id(child) in done else builder.token(child)
            for child in subtree.children
        ]
        done[id(subtree)] = builder.node(str(subtree.data), children)
    module = done[id(tree)]
    assert isinstance(module, syntax.Module)
    return module


class _Builder:
    def __init__(self, source: Source, offset: int):
        self.source = source
        self.offset = offset
        # How deep an expression nests, by the identity of its node, which the tree keeps alive.
        self.depths: dict[int, int] = {}

    def token(self, token: object) -> _Token:
        from lark import Token

        if not isinstance(token, Token):
            raise InternalError(f"a tree has a child that is neither built nor a token: {token!r}")
        start = self.offset + (token.start_pos or 0)
        return _Token(token.type, str(token), Span(self.source, start, start + len(token)))

    def node(self, rule: str, children: list[object]) -> object:
        if not children:
            at = Span(self.source, self.offset, self.offset)
        else:
            at = _span(children[0]).to(_span(children[-1]))
        made = self._make(rule, children, at)
        if isinstance(made, EXPRESSIONS):
            depth = max((self.depths.get(id(child), 0) for child in children), default=0)
            depth += rule != "parenthesis"
            if isinstance(made, syntax.Compare):
                # A chain becomes nested `and`s.
                depth += len(made.operators) - 1
            if depth > MAXIMUM_DEPTH:
                raise error(
                    "A005",
                    f"this expression nests more than {MAXIMUM_DEPTH} levels deep",
                    at,
                    help="name parts of it with `let` or `def`, or split it",
                )
            self.depths[id(made)] = depth
        elif isinstance(made, syntax.Argument | syntax.Slice | _Bracketed):
            depth = max((self.depths.get(id(child), 0) for child in children), default=0)
            self.depths[id(made)] = depth
        return made

    def _make(self, rule: str, children: list[object], at: Span) -> object:
        match rule:
            case "name":
                return self._name(tuple(token.text for token in _tokens(children, "NAME")), at)
            case "simple_name":
                return syntax.Name((_tokens(children)[0].text,), at)
            case "integer":
                return syntax.Number(_integer(_tokens(children)[0]), at)
            case "float":
                return syntax.Number(_float(_tokens(children)[0]), at)
            case "true" | "false":
                return syntax.Boolean(rule == "true", at)
            case "parenthesis":
                return dataclasses.replace(_expressions(children)[0], span=at)
            case "tuple":
                return syntax.Tuple(_expressions(children), at)
            case "unary":
                operator = _tokens(children)[0].text
                return syntax.Unary(operator, _expressions(children)[0], at)
            case "binary":
                left, right = _expressions(children)
                return syntax.Binary(_tokens(children)[0].text, left, right, at)
            case "compare":
                operators = tuple(token.text for token in _tokens(children))
                return syntax.Compare(operators, _expressions(children), at)
            case "select":
                then, condition, otherwise = _expressions(children)
                return syntax.Conditional(condition, then, otherwise, at)
            case "positional":
                return syntax.Argument(None, _expressions(children)[0], at)
            case "keyword":
                name, value = _expressions(children)
                assert isinstance(name, syntax.Name)
                return syntax.Argument(name.parts[0], value, at)
            case "call":
                arguments = _of(children, syntax.Argument)
                return syntax.Call(_first(children, syntax.Name), arguments, at)
            case "slice":
                start, stop = _field(children, "slice_start"), _field(children, "slice_stop")
                return syntax.Slice(start, stop, at)
            case "subscript":
                indices = tuple(c for c in children if isinstance(c, (*EXPRESSIONS, syntax.Slice)))
                return syntax.Subscript(_expressions(children)[0], indices[1:], at)
            case "type":
                dimensions = _bracketed(children, "dimensions")
                return syntax.TypeName(
                    _first(children, syntax.Name).parts[0], _expressions(dimensions), at
                )
            case "parameter":
                types = _of(_bracketed(children, "parameter_type"), syntax.TypeName)
                return syntax.Parameter(
                    _first(children, syntax.Name),
                    types[0] if types else None,
                    _field(children, "default"),
                    _field(children, "bound"),
                    at,
                )
            case (
                "parameters"
                | "parameter_type"
                | "default"
                | "bound"
                | "dimensions"
                | "slice_start"
                | "slice_stop"
            ):
                return _Bracketed(rule, tuple(children), at)
        return self._make_statement(rule, children, at)

    def _name(self, parts: tuple[str, ...], at: Span) -> syntax.Name:
        if len(parts) > 2:
            raise error(
                "A001",
                "a name has at most one dot",
                at,
                help="coordinates are written `i.y`, and the length of an axis `y.size`",
            )
        return syntax.Name(parts, at)

    def _make_statement(self, rule: str, children: list[object], at: Span) -> object:
        match rule:
            case "start":
                return syntax.Module(
                    _of(children, syntax.Import),
                    _of(children, syntax.Definition),
                    _of(children, syntax.Attention),
                    at,
                )
            case "import_all" | "import_names":
                path = _tokens(children, "STRING")[0].text[1:-1]
                return syntax.Import(path, _of(children, syntax.Name), at)
            case "attention":
                parameters = _of(_bracketed(children, "parameters"), syntax.Parameter)
                body = tuple(child for child in children if isinstance(child, STATEMENTS))
                return syntax.Attention(_first(children, syntax.Name), parameters, body, at)
            case "definition":
                name, value = _expressions(children)
                assert isinstance(name, syntax.Name)
                parameters = _of(_bracketed(children, "parameters"), syntax.Parameter)
                return syntax.Definition(name, parameters, value, at)
            case "input":
                return syntax.Input(
                    _first(children, syntax.Name), _first(children, syntax.TypeName), at
                )
            case "axes":
                return syntax.Axes(_of(children, syntax.Name), at)
            case "route":
                return syntax.Route(_expressions(children)[0], _of(children, syntax.Assign), at)
            case "state":
                dimensions = _expressions(_bracketed(children, "dimensions"))
                steps = _of(children, syntax.Assign)
                return syntax.State(_first(children, syntax.Name), dimensions, steps, at)
            case "let" | "assign" | "branch":
                name, value = _expressions(children)
                assert isinstance(name, syntax.Name)
                kind = {"let": syntax.Let, "assign": syntax.Assign, "branch": syntax.Branch}[rule]
                return kind(name, value, at)
        raise InternalError(f"the grammar has a rule that the tree builder does not know: {rule}")


STATEMENTS = (
    syntax.Input,
    syntax.Axes,
    syntax.Let,
    syntax.Assign,
    syntax.Route,
    syntax.State,
    syntax.Branch,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    span: Span


def _span(child: object) -> Span:
    span = getattr(child, "span", None)
    assert isinstance(span, Span)
    return span


def _tokens(children: Sequence[object], kind: str | None = None) -> list[_Token]:
    tokens = [child for child in children if isinstance(child, _Token)]
    return [token for token in tokens if kind is None or token.kind == kind]


def _of(children: Sequence[object], kind: type[NodeType]) -> tuple[NodeType, ...]:
    return tuple(child for child in children if isinstance(child, kind))


def _first(children: Sequence[object], kind: type[NodeType]) -> NodeType:
    return _of(children, kind)[0]


def _expressions(children: Sequence[object]) -> tuple[syntax.Expression, ...]:
    return tuple(child for child in children if isinstance(child, EXPRESSIONS))


def _bracketed(children: Sequence[object], rule: str) -> tuple[object, ...]:
    """The children of the sub-rule, or nothing where it was left out."""
    for child in children:
        if isinstance(child, _Bracketed) and child.rule == rule:
            return child.items
    return ()


def _field(children: Sequence[object], rule: str) -> syntax.Expression | None:
    found = _expressions(_bracketed(children, rule))
    return found[0] if found else None


def _integer(token: _Token) -> int:
    digits = token.text.lstrip("0")
    # Python refuses to convert thousands of digits, so count before converting.
    if len(digits) > 10 or int(digits or "0") > MAXIMUM_INTEGER:
        raise error(
            "A006",
            "this integer does not fit into 32 bits",
            token.span,
            label=f"the greatest is {MAXIMUM_INTEGER}",
            help="write a float, as in `1e10`",
        )
    return int(digits or "0")


def _float(token: _Token) -> float:
    value = float(token.text)
    if math.isinf(value):
        raise error("A006", "this number is too large for a float", token.span)
    return value
