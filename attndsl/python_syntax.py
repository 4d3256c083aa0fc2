"""From a Python function's source to the syntax tree, without executing the function.

The grammar of expressions is shared with `.attn` text; a statement of the function's body maps to
a statement of an attention:

    slope = Input(float, H)      input slope: float[H]
    axes("y", "x")               axes y, x         (or `y, x = axes("y", "x")`, for `y.size`)
    assert window > 0            … where window > 0
    score = …                    score = …         (and mask, normalize, output, q, k, v)
    near = i - j < window        let near = i - j < window
    with route(block): …         route blocks of block { … }
    with state(D, Dv) as S: …    state S: [D, Dv] { … }
    local = branch(…)            branch local = …

Anything else is an `AttnError` A008 whose span points into the user's Python file.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from itertools import chain
from keyword import iskeyword
from types import EllipsisType

from attndsl import syntax
from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.python_expressions import ExpressionConverter, dotted, first_line
from attndsl.source import Span

FORMULAS = frozenset({"score", "mask", "normalize", "output", "q", "k", "v"})
VECTORS = ("q", "k", "v")


class Converter(ExpressionConverter):
    """Converts the functions of one Python source."""

    def attention(self, function: ast.FunctionDef) -> syntax.Attention:
        """The attention that a `@kernel` function describes."""
        self.bound = _bound_names(function)
        parameters = self.parameters(function.args, vectors_allowed=True)
        body: list[syntax.Statement] = []
        faults: list[Diagnostic] = []
        last = len(function.body) - 1
        for number, statement in enumerate(function.body):
            if _says_nothing(statement) or (
                number == last and isinstance(statement, ast.Return) and self._names_only(statement)
            ):
                continue
            try:
                if isinstance(statement, ast.Assert):
                    parameters = self.bounded(parameters, statement)
                else:
                    body.append(self.statement(statement))
            except AttnError as fault:
                faults.extend(fault.diagnostics)
        if faults:
            raise AttnError(faults)
        name, at = self.heading(function)
        return syntax.Attention(name, parameters, tuple(body), at)

    def definition(self, function: ast.FunctionDef) -> syntax.Definition:
        """The definition that a `@define` function describes: a docstring, then one `return`."""
        self.bound = frozenset(argument.arg for argument in _arguments(function.args))
        parameters = self.parameters(function.args, vectors_allowed=False)
        statements = [statement for statement in function.body if not _says_nothing(statement)]
        name, at = self.heading(function)
        match statements:
            case [ast.Return(value=ast.expr() as value)]:
                return syntax.Definition(name, parameters, self.expression(value), at)
        wrong = next((s for s in statements if not isinstance(s, ast.Return)), None)
        raise error(
            "A008",
            "a definition is one `return` with an expression",
            self.span(wrong) if wrong is not None else name.span,
            label="this is something else" if wrong is not None else "nothing is returned here",
            help="write `return` and the formula",
        )

    def heading(self, function: ast.FunctionDef) -> tuple[syntax.Name, Span]:
        """The function's name, and the span from `def` to the end of the body."""
        at = self.span(function)
        start = self.source.text.index(function.name, at.start + len("def"))
        name = Span(self.source, start, start + len(function.name))
        return self.identifier((function.name,), name), at

    def parameters(
        self, arguments: ast.arguments, *, vectors_allowed: bool
    ) -> tuple[syntax.Parameter, ...]:
        """The parameters; a kernel's leading, bare `q`, `k`, `v` only bind names for linters."""
        for starred in (arguments.vararg, arguments.kwarg):
            if starred is not None:
                raise self.unsupported(starred, self.span(starred), f"`*{starred.arg}`")
        plain = [*arguments.posonlyargs, *arguments.args]
        missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
        defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
        made: list[syntax.Parameter] = []
        for argument, default in zip([*plain, *arguments.kwonlyargs], defaults, strict=True):
            name = argument.arg
            if vectors_allowed and name in VECTORS and not made and argument.annotation is None:
                continue
            at = self.span(argument)
            name_span = Span(self.source, at.start, at.start + len(name))
            made.append(
                syntax.Parameter(
                    self.identifier((name,), name_span),
                    self.type_name(argument.annotation) if argument.annotation else None,
                    self.expression(default) if default is not None else None,
                    None,
                    at.to(self.span(default)) if default is not None else at,
                )
            )
        return tuple(made)

    def type_name(self, annotation: ast.expr) -> syntax.TypeName:
        match annotation:
            case ast.Name(id=name) | ast.Constant(value=str(name)):
                return syntax.TypeName(name, (), self.span(annotation))
        raise error(
            "A008",
            f"`{first_line(self.span(annotation))}` is not a type of the language",
            self.span(annotation),
            label="expected `bool`, `int` or `float`",
            help="a tensor that comes with the call is `name = Input(float, H)` in the body",
        )

    def bounded(
        self, parameters: tuple[syntax.Parameter, ...], statement: ast.Assert
    ) -> tuple[syntax.Parameter, ...]:
        """`assert condition` bounds the last parameter that the condition mentions."""
        condition = self.expression(statement.test)
        if statement.msg is not None:
            raise self.unsupported(statement, self.span(statement.msg), "the text of an `assert`")
        used = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
        numbers = [n for n, parameter in enumerate(parameters) if parameter.name.parts[0] in used]
        if not numbers:
            raise error(
                "A008",
                "an `assert` in a kernel bounds a parameter",
                condition.span,
                label="no parameter here",
                help="write the condition into `mask`, or name a parameter as in `window > 0`",
            )
        target = parameters[numbers[-1]]
        if target.where is not None:
            condition = syntax.Binary("and", target.where, condition, condition.span)
        changed = dataclasses.replace(target, where=condition)
        return (*parameters[: numbers[-1]], changed, *parameters[numbers[-1] + 1 :])

    def _names_only(self, statement: ast.Return) -> bool:
        """Whether a last `return score, mask` only lists what the body assigned.

        It says nothing, but linters then see the names used.
        """
        values = (
            statement.value.elts if isinstance(statement.value, ast.Tuple) else [statement.value]
        )
        return all(isinstance(value, ast.Name) and value.id in self.bound for value in values)

    def statement(self, statement: ast.stmt) -> syntax.Statement:
        at = self.span(statement)
        match statement:
            case ast.Assign(targets=[ast.Name() as target], value=value):
                return self.assignment(target, value, at)
            case ast.Expr(value=ast.Call(func=function) as call) if self.called(function, "axes"):
                return self.axes(call, at)
            case ast.Assign(
                targets=[ast.Tuple(elts=names)], value=ast.Call(func=function) as call
            ) if self.called(function, "axes"):
                return self.named_axes(names, call, at)
            case ast.With(items=[ast.withitem(ast.Call() as call, target)], body=body):
                return self.block(call, target, body, at)
            case ast.AnnAssign(target=target):
                written = first_line(self.span(target))
                raise error(
                    "A008",
                    "a statement in a kernel has no annotation",
                    self.span(statement.annotation),
                    help=f"write `{written} = Input(float, …)` for an input,"
                    f" `{written} = …` for a value",
                )
            case ast.Return():
                raise error(
                    "A008",
                    "a kernel returns nothing",
                    at,
                    help="assign `score`, `mask` and `normalize`; a last `return score, mask` may"
                    " list them",
                )
            case ast.Assign(targets=targets):
                wrong = targets[1] if len(targets) > 1 else targets[0]
                raise error(
                    "A008",
                    "an assignment in a kernel has one plain name on its left",
                    self.span(wrong),
                    help="write one assignment for each name",
                )
        raise self.unsupported(statement, self._keyword(at), f"`{_keyword(at)}`")

    def assignment(self, target: ast.Name, value: ast.expr, at: Span) -> syntax.Statement:
        name = self.identifier((target.id,), self.span(target))
        match value:
            case ast.Call(func=function) if self.called(function, "Input"):
                return syntax.Input(name, self.input_type(value), at)
            case ast.Call(func=function) if self.called(function, "branch"):
                return syntax.Branch(name, self._only_argument(value, "branch"), at)
            case ast.Call(func=ast.Name(id="input")):
                raise error(
                    "A008",
                    "`input` is Python's own function",
                    self.span(value),
                    help="write `Input(float, H)`",
                )
            case ast.Constant(value=None) if target.id == "normalize":
                return syntax.Assign(name, syntax.Name(("none",), self.span(value)), at)
        kind = syntax.Assign if target.id in FORMULAS else syntax.Let
        return kind(name, self.expression(value), at)

    def input_type(self, call: ast.Call) -> syntax.TypeName:
        at = self.span(call)
        if call.keywords or not call.args:
            raise error(
                "A008",
                "`Input` takes an element type and the dimensions",
                at,
                help="write `Input(float, H)`",
            )
        element, *dimensions = call.args
        name = self.type_name(element).name
        return syntax.TypeName(name, tuple(map(self.expression, dimensions)), at)

    def axes(self, call: ast.Call, at: Span) -> syntax.Axes:
        names = []
        for argument in call.args:
            match argument:
                case ast.Constant(value=str(text)) if text.isidentifier():
                    names.append(self.identifier((text,), self.span(argument)))
                case _:
                    raise error(
                        "A008",
                        "an axis is named by a string",
                        self.span(argument),
                        help='write `axes("y", "x")`; coordinates are then `i.y`, `j.x`',
                    )
        if call.keywords or not names:
            raise error("A008", "`axes` takes names", at, help='write `axes("y", "x")`')
        return syntax.Axes(tuple(names), at)

    def named_axes(self, names: Sequence[ast.expr], call: ast.Call, at: Span) -> syntax.Axes:
        """`y, x = axes("y", "x")`, where the body also says `y.size`."""
        made = self.axes(call, at)
        written = [name.id if isinstance(name, ast.Name) else "" for name in names]
        if written != [axis.parts[0] for axis in made.names]:
            raise error(
                "A008",
                "axes are called by their own names",
                self.span(names[0]).to(self.span(names[-1])),
                help='write `y, x = axes("y", "x")`',
            )
        return made

    def block(
        self, call: ast.Call, target: ast.expr | None, body: Sequence[ast.stmt], at: Span
    ) -> syntax.Statement:
        """`with route(block):` and `with state(D, Dv) as S:`."""
        fields = []
        for statement in body:
            match statement:
                case ast.Assign(targets=[ast.Name() as name], value=value):
                    made = self.identifier((name.id,), self.span(name))
                    fields.append(syntax.Assign(made, self.expression(value), self.span(statement)))
                case _:
                    raise self.unsupported(statement, self._keyword(self.span(statement)))
        if self.called(call.func, "route") and target is None:
            return syntax.Route(self._only_argument(call, "route"), tuple(fields), at)
        if self.called(call.func, "state") and isinstance(target, ast.Name) and not call.keywords:
            state = self.identifier((target.id,), self.span(target))
            sizes = tuple(map(self.expression, call.args))
            return syntax.State(state, sizes, tuple(fields), at)
        raise error(
            "A008",
            "`with` opens a `route` or a `state`",
            self.span(call),
            help="write `with route(block):` or `with state(D, Dv) as S:`",
        )

    def called(self, function: ast.expr, name: str) -> bool:
        """Whether a call's function is the statement word `name` of the language."""
        parts = dotted(function)
        return parts is not None and self.name(parts) == (name,)

    def _only_argument(self, call: ast.Call, name: str) -> syntax.Expression:
        if len(call.args) != 1 or call.keywords:
            raise error("A008", f"`{name}` takes one expression", self.span(call))
        return self.expression(call.args[0])

    def _keyword(self, at: Span) -> Span:
        return Span(self.source, at.start, at.start + len(_keyword(at)))


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    return list(chain(arguments.posonlyargs, arguments.args, arguments.kwonlyargs))


def _bound_names(function: ast.FunctionDef) -> frozenset[str]:
    """What the function itself names: parameters, and whatever its body assigns."""
    assigned = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return frozenset(assigned | {argument.arg for argument in _arguments(function.args)})


def _says_nothing(statement: ast.stmt) -> bool:
    """A docstring, `...` or `pass`."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant(value=str() | EllipsisType())):
            return True
    return False


def _keyword(span: Span) -> str:
    """The first word of a statement, or its first line where it begins with none."""
    word = ""
    for character in span.text:
        if not character.isalpha():
            break
        word += character
    return word if iskeyword(word) else first_line(span)
