"""One attention: its parameters, inputs and statements, to the typed `Attention`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from attndsl import syntax
from attndsl.attention import (
    Attention,
    Later,
    Normalizer,
    Softmax,
)
from attndsl.check import expressions, later, normalizers, operators, sizes
from attndsl.check.declarations import Declarations
from attndsl.check.operators import describe
from attndsl.check.scope import (
    KEY_INDICES,
    PAIR_INDICES,
    QUERY_INDICES,
    Binding,
    Context,
    ModuleScope,
    raw_operands,
)
from attndsl.diagnostics import Diagnostic, Severity
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    TRUE,
    Binary,
    Call,
    Expression,
    Operand,
    Scale,
    Size,
    Vector,
    walk,
)
from attndsl.source import Span
from attndsl.suggestions import suggestion

TARGETS = ("score", "mask", "normalize", "q", "k", "v", "output")


def check_attention(
    tree: syntax.Attention, module: ModuleScope
) -> tuple[Attention | None, tuple[Diagnostic, ...]]:
    """The typed attention and its diagnostics; no attention where one of them is an error."""
    checker = _Checker(tree, module)
    result = checker.run()
    return result, tuple(checker.diagnostics)


class _Checker(Declarations):
    """Checks the statements over what is declared."""

    def run(self) -> Attention | None:
        tree = self.tree
        parameters = self.parameters()
        self.declare_axes()
        inputs = self.inputs()
        self.declare_lets()
        scans = self.scans()
        assigned = self.assignments()
        prepared = self.prepared(assigned)
        score = self.value(assigned, "score", self.score) or _default_score(tree.name.span)
        mask = self.value(assigned, "mask", self.mask) or dataclasses.replace(TRUE)
        normalizer: Normalizer = Softmax()
        if "normalize" in assigned:
            with self.recording():
                environment = self.environment(self.pair("a normaliser"))
                normalizer = normalizers.check(assigned["normalize"].value, environment)
        postponed = self.later(assigned)
        if not self.diagnostics:
            self.unused_lets()
        if any(d.severity is Severity.ERROR for d in self.diagnostics):
            return None
        name = tree.name.parts[0]
        return Attention(
            name, parameters, inputs, self.axes, scans, prepared, score, mask, normalizer,
            postponed, tree.span,
        )  # fmt: skip

    def assignments(self) -> dict[str, syntax.Assign]:
        found: dict[str, syntax.Assign] = {}
        for statement in self.statements(syntax.Assign):
            word = statement.target.parts[0]
            with self.recording(statement.target if word not in TARGETS else None):
                if word not in TARGETS:
                    raise self.fault(
                        "A018",
                        f"`{word}` cannot be assigned",
                        statement.target.span,
                        label="expected `score`, `mask`, `normalize`, `q`, `k` or `v`",
                        help=suggestion(word, TARGETS)
                        or f"to name a value, write `let {word} = …`",
                    )
                if word in found:
                    line = found[word].span.line
                    raise self.fault(
                        "A040",
                        f"`{word}` is assigned twice",
                        statement.target.span,
                        label=f"first assigned in line {line}",
                        help="name parts of it with `let`",
                    )
                found[word] = statement
        return found

    def prepared(self, assigned: dict[str, syntax.Assign]) -> tuple[tuple[str, Expression], ...]:
        raw = dict(self.operands)
        seen = {"q": ("q",), "k": ("k",), "v": ("k", "v")}
        found: list[tuple[str, Expression]] = []
        for word, operands in seen.items():
            if word not in assigned:
                continue
            written = assigned[word].value
            with self.recording():
                indices = QUERY_INDICES if word == "q" else KEY_INDICES
                context = Context(
                    f"the preparation of `{word}`", indices, {name: raw[name] for name in operands}
                )
                value = expressions.check(written, self.environment(context))
                if not isinstance(value.type, Vector):
                    raise self.fault(
                        "A024",
                        f"`{word}` is a vector",
                        written.span,
                        label=f"this is {describe(value.type)}",
                    )
                if word == "v" and _changes_size(value):
                    raise self.fault(
                        "A025",
                        "a `v` that is made of `v` keeps its size, Dv",
                        written.span,
                        label=f"this is {describe(value.type)}",
                        help="pass values of the size that is wanted, or make them of `k` alone",
                    )
                found.append((word, value))
                self.operands[word] = Operand(word, value.type)
        return tuple(found)

    def value(
        self,
        assigned: dict[str, syntax.Assign],
        word: str,
        check: Callable[[syntax.Expression], Expression],
    ) -> Expression | None:
        if word not in assigned:
            return None
        with self.recording():
            return check(assigned[word].value)
        return None

    def score(self, written: syntax.Expression) -> Expression:
        environment = self.environment(self.pair("the score"))
        value = expressions.check(written, environment)
        if value.type is INT:
            value = operators.to_float(value, environment, written.span)
        help = None
        if isinstance(value.type, Vector):
            help = "multiply vectors with `dot(q, k)`"
        elif value.type is BOOL:
            help = "hide pairs with `mask = …`"
        self.require(value, FLOAT, "the score", written.span, help)
        return value

    def mask(self, written: syntax.Expression) -> Expression:
        context = Context("the mask", PAIR_INDICES, {})
        value = expressions.check(written, self.environment(context))
        help = None
        if value.type is INT:
            help = "compare it, as in `… != 0`"
        elif value.type is FLOAT:
            help = "compare, as in `i >= j`; what is added goes into `score`"
        self.require(value, BOOL, "the mask", written.span, help)
        return value

    def later(self, assigned: dict[str, syntax.Assign]) -> tuple[Later, ...]:
        environment = self.environment(self.pair("the output"))
        found: list[Later] = []
        branches: dict[str, Binding] = {}
        for statement in self.tree.body:
            match statement:
                case syntax.Route():
                    with self.recording():
                        found.append(later.check_route(statement, environment))
                case syntax.State():
                    with self.recording():
                        self.declare(statement.name, "a state")
                        found.append(later.check_state(statement, environment))
                case syntax.Branch():
                    with self.recording():
                        word = self.declare(statement.name, "a branch")
                        branches[word] = later.branch_value(statement)
                        found.append(later.check_branch(statement, environment))
        if "output" in assigned:
            with self.recording():
                found.append(later.check_output(assigned["output"], branches, environment))
        return tuple(found)

    def unused_lets(self) -> None:
        for statement in self.statements(syntax.Let):
            word = statement.name.parts[0]
            if word not in self.used and word in self.declared:
                # What is never used has not been checked yet.
                if word in self.lets:
                    with self.recording():
                        context = self.pair("a value")
                        expressions.check(statement.value, self.environment(context))
                self.diagnostics.append(
                    Diagnostic(
                        "A056",
                        f"`{word}` is never used",
                        statement.name.span,
                        help="delete it, or use it in the score or the mask",
                        severity=Severity.WARNING,
                    )
                )


def _changes_size(value: Expression) -> bool:
    """Whether values are made of the caller's, and not of the same size.

    Everything after the preparation knows one size of values.
    """
    if not isinstance(value.type, Vector):
        return False
    made_of_values = any(isinstance(node, Operand) and node.name == "v" for node in walk(value))
    return made_of_values and sizes.difference(value.type.size, Size("Dv")) != 0


def _default_score(span: Span) -> Expression:
    """`dot(q, k) * scale`"""
    operands = raw_operands()
    dot = Call("dot", (operands["q"], operands["k"]), FLOAT, span=span)
    return Binary("*", dot, Scale(span=span), FLOAT, span=span)
