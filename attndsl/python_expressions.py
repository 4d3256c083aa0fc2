"""From Python's expressions to those of the language, with spans into the user's Python file."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

from attndsl import syntax
from attndsl.diagnostics import AttnError, error
from attndsl.source import Source, Span
from attndsl.tree_builder import MAXIMUM_DEPTH, MAXIMUM_INTEGER

BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
# Operators of Python that the language does not have.
FOREIGN: dict[type[ast.AST], str] = {
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.MatMult: "@",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.Invert: "~",
    ast.UAdd: "+",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
# What to write instead of an operator, expression or statement that the language does not have.
INSTEAD: dict[type[ast.AST], str] = {
    ast.BitAnd: "write `and`",
    ast.BitOr: "write `or`",
    ast.BitXor: "write `**` for a power",
    ast.MatMult: "write `dot(a, b)`",
    ast.LShift: "multiply by a power of two",
    ast.RShift: "divide by a power of two with `//`",
    ast.Invert: "write `not`",
    ast.UAdd: "leave it out",
    ast.Is: "write `==`",
    ast.IsNot: "write `!=`",
    ast.In: "write comparisons, joined by `or`",
    ast.NotIn: "write comparisons, joined by `and`",
    ast.Lambda: "write a function with `@attndsl.define` above the kernel",
    ast.NamedExpr: "assign the name in a statement of its own",
    ast.ListComp: "a formula holds for every pair: there is nothing to loop over",
    ast.GeneratorExp: "a formula holds for every pair: there is nothing to loop over",
    ast.List: "write a value for each axis as a tuple, `(5, 7)`",
    ast.For: "a formula holds for every pair: there is nothing to loop over",
    ast.While: "a formula holds for every pair: there is nothing to loop over",
    ast.If: "write `a if condition else b` inside the formula",
    ast.Import: "import at the top of the file; only `@attndsl.define` functions are seen",
    ast.ImportFrom: "import at the top of the file; only `@attndsl.define` functions are seen",
    ast.FunctionDef: "write a function with `@attndsl.define` above the kernel",
    ast.AugAssign: "write the whole formula in one assignment",
    ast.JoinedStr: "a kernel has no strings",
}


class ExpressionConverter:
    """Converts expressions of one Python source.

    `resolve` says what a name that the function does not bind itself is called in the language:
    itself, unless the user imported it under another name. It sees dotted names in full.
    """

    def __init__(self, source: Source, resolve: Callable[[tuple[str, ...]], tuple[str, ...]]):
        self.source = source
        self.resolve = resolve
        self.bound: frozenset[str] = frozenset()
        self.depth = 0
        self._lines = source.text.split("\n")
        starts = [0]
        for line in self._lines:
            starts.append(starts[-1] + len(line) + 1)
        self._starts = starts

    def offset(self, line: int, byte_column: int) -> int:
        """The character offset of a place that Python's parser gives as a line and a column of
        UTF-8 bytes."""
        text = self._lines[line - 1]
        if text.isascii():
            return self._starts[line - 1] + byte_column
        return self._starts[line - 1] + len(text.encode()[:byte_column].decode(errors="replace"))

    def span(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> Span:
        start = self.offset(node.lineno, node.col_offset)
        if node.end_lineno is None or node.end_col_offset is None:
            return Span(self.source, start, start + 1)
        return Span(self.source, start, self.offset(node.end_lineno, node.end_col_offset))

    def unsupported(self, node: ast.AST, span: Span, what: str | None = None) -> AttnError:
        """The diagnostic for a piece of Python that the language does not have."""
        shown = what or f"`{FOREIGN.get(type(node)) or first_line(span)}`"
        return error(
            "A008",
            f"{shown} is not part of the language",
            span,
            help=INSTEAD.get(type(node), "see the Python form in the language reference"),
        )

    def name(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """What a dotted name is called in the language."""
        return parts if parts[0] in self.bound else self.resolve(parts)

    def expression(self, node: ast.expr) -> syntax.Expression:
        """The expression, or `AttnError` A008 for one that the language does not have."""
        self.depth += 1
        if self.depth > MAXIMUM_DEPTH:
            raise error(
                "A005",
                f"this expression nests more than {MAXIMUM_DEPTH} levels deep",
                self.span(node),
                help="name parts of it, or split it",
            )
        try:
            return self._expression(node)
        finally:
            self.depth -= 1

    def _expression(self, node: ast.expr) -> syntax.Expression:
        at = self.span(node)
        match node:
            case ast.Name() | ast.Attribute():
                parts = dotted(node)
                if parts is not None:
                    return self.identifier(self.name(parts), at)
            case ast.Constant(value=value):
                return self.constant(value, at)
            case ast.UnaryOp(op=ast.USub() | ast.Not() as operator, operand=operand):
                sign = "-" if isinstance(operator, ast.USub) else "not"
                return syntax.Unary(sign, self.expression(operand), at)
            case ast.BinOp(left=left, op=binary, right=right) if type(binary) in BINARY:
                operands = self.expression(left), self.expression(right)
                return syntax.Binary(BINARY[type(binary)], *operands, at)
            case ast.BoolOp(op=boolean, values=values):
                return self.junction("and" if isinstance(boolean, ast.And) else "or", values)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self.comparison(ops, [left, *others], at)
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return syntax.Conditional(
                    self.expression(test), self.expression(then), self.expression(otherwise), at
                )
            case ast.Call(func=function):
                parts = dotted(function)
                if parts is not None:
                    name = self.identifier(self.name(parts), self.span(function))
                    return syntax.Call(name, self.arguments(node), at)
            case ast.Subscript(value=value, slice=index):
                indices = index.elts if isinstance(index, ast.Tuple) else [index]
                return syntax.Subscript(self.expression(value), tuple(map(self.index, indices)), at)
            case ast.Tuple(elts=items):
                return syntax.Tuple(tuple(map(self.expression, items)), at)
            case ast.BinOp(op=other) | ast.UnaryOp(op=other):
                raise self.unsupported(other, at)
        raise self.unsupported(node, at)

    def identifier(self, parts: tuple[str, ...], at: Span) -> syntax.Name:
        """A name with its span. `AttnError` A008 for letters that the language's names lack."""
        if not all(part.isascii() for part in parts):
            raise error(
                "A008",
                f"`{'.'.join(parts)}` cannot be a name",
                at,
                help="names are written with the letters a to z, digits and `_`",
            )
        return syntax.Name(parts, at)

    def constant(self, value: object, at: Span) -> syntax.Expression:
        match value:
            case bool():
                return syntax.Boolean(value, at)
            case int():
                if value > MAXIMUM_INTEGER:
                    raise error(
                        "A006",
                        "this integer does not fit into 32 bits",
                        at,
                        label=f"the greatest is {MAXIMUM_INTEGER}",
                        help="write a float, as in `1e10`",
                    )
                return syntax.Number(value, at)
            case float():
                if math.isinf(value):
                    raise error("A006", "this number is too large for a float", at)
                return syntax.Number(value, at)
        raise error(
            "A008",
            f"`{first_line(at)}` is not a value of the language",
            at,
            label="expected a bool, an int or a float",
        )

    def junction(self, operator: str, values: list[ast.expr]) -> syntax.Expression:
        """`a and b and c`, one node in Python; ours lean to the left, as the parser's do."""
        made = self.expression(values[0])
        for value in values[1:]:
            right = self.expression(value)
            made = syntax.Binary(operator, made, right, made.span.to(right.span))
        return made

    def comparison(
        self, operators: list[ast.cmpop], operands: list[ast.expr], at: Span
    ) -> syntax.Expression:
        for operator in operators:
            if type(operator) not in COMPARISONS:
                raise self.unsupported(operator, at)
        signs = tuple(COMPARISONS[type(operator)] for operator in operators)
        return syntax.Compare(signs, tuple(map(self.expression, operands)), at)

    def arguments(self, call: ast.Call) -> tuple[syntax.Argument, ...]:
        made = []
        for argument in call.args:
            if isinstance(argument, ast.Starred):
                raise self.unsupported(argument, self.span(argument))
            made.append(syntax.Argument(None, self.expression(argument), self.span(argument)))
        for keyword in call.keywords:
            if keyword.arg is None:
                raise self.unsupported(keyword, self.span(keyword))
            value = self.expression(keyword.value)
            made.append(syntax.Argument(keyword.arg, value, self.span(keyword)))
        return tuple(made)

    def index(self, node: ast.expr) -> syntax.Expression | syntax.Slice:
        if not isinstance(node, ast.Slice):
            return self.expression(node)
        if node.step is not None:
            raise error(
                "A008",
                "a slice has no step",
                self.span(node.step),
                help="write `start:stop`",
            )
        start = self.expression(node.lower) if node.lower is not None else None
        stop = self.expression(node.upper) if node.upper is not None else None
        return syntax.Slice(start, stop, self.span(node))


def dotted(node: ast.expr) -> tuple[str, ...] | None:
    """`("i", "y")` for `i.y`; None for what is no dotted name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


def first_line(span: Span) -> str:
    text = span.text.split("\n", 1)[0]
    return text if len(text) <= 60 else text[:57] + "…"
