"""One kernel while it is being written: its arguments, its scopes, and the values in them.

`value` spells an expression. What an expression depends on decides where it is computed: a value
that does not vary inside a loop is named before the loop, and one that varies with rows or keys
only stays one-dimensional until it meets the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from attndsl.codegen.program import Argument, ArgumentKind, Specialization
from attndsl.codegen.triton.arrange import arrange
from attndsl.codegen.triton.names import Names
from attndsl.codegen.triton.scope import Scope
from attndsl.codegen.triton.values import Binding, Value, union
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    INT,
    Call,
    Expression,
    Index,
    Literal,
    Operand,
    Read,
    Scalar,
    Scale,
    Size,
    children,
    walk,
)

_ORDER = (
    ArgumentKind.TENSOR,
    ArgumentKind.TABLE,
    ArgumentKind.STRIDE,
    ArgumentKind.SIZE,
    ArgumentKind.SCALE,
)
_STRIDE_NAMES = ("batch", "head", "row")
# The tensors `[B, heads, length, width]` whose strides have names of their own.
_FOUR_DIMENSIONAL = frozenset({"q", "k", "v", "out", "out.gradient", "log_sum_exp"})


# The axes of a value, and the depth of the scope where it can be computed.
Facts = Callable[[Expression], tuple[str, int]]


@dataclass(frozen=True)
class Array:
    """An input or a buffer that expressions read. Buffers are contiguous.

    `dtype` is how it lies in memory; a bool is a byte.
    """

    name: str
    element: Scalar
    dimensions: tuple[Expression, ...]
    dtype: str
    is_buffer: bool = False


def pointer_to(operand: str) -> Index:
    """The leaf that stands for the rows of operand `q`, `k` or `v`: pointers, one a token."""
    return Index(f"pointer to {operand}")


class Kernel:
    """The kernel of one stage. `arrays` are what `Read` may name; `sizes` are known dimensions."""

    def __init__(
        self,
        specialization: Specialization,
        arrays: Mapping[str, Array],
        helpers: set[str],
        extents: Mapping[str, str],
        taken: frozenset[str],
        spell: Callable[[Kernel, Expression], Value],
    ):
        self._spell = spell
        self._shared: set[Expression] = set()
        self.specialization = specialization
        self.arrays = arrays
        self.helpers = helpers
        self.extents = dict(extents)
        # The position of a tile's first key, if that is a multiple of 4 and others follow in order:
        # then dropout draws the words of four keys at once.
        self.first_key: Expression | None = None
        self.names = Names(taken)
        self.scopes: list[Scope] = [Scope()]
        self._aside: tuple[Scope, ...] = ()  # open blocks before which lines are written
        self._arguments: dict[tuple[ArgumentKind, str, int], Argument] = {}

    # Arguments, in the order of their kinds; each is declared by its first use.

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return tuple(
            argument
            for kind in _ORDER
            for argument in self._arguments.values()
            if argument.kind is kind
        )

    def _argument(
        self, kind: ArgumentKind, name: str, wanted: str, axis: int = 0, dtype: str = ""
    ) -> str:
        key = (kind, name, axis)
        if key not in self._arguments:
            identifier = self.names.fresh(wanted.replace(".", "_"))
            self._arguments[key] = Argument(kind, name, identifier, axis, dtype)
        return self._arguments[key].identifier

    def tensor(self, name: str, dtype: str) -> str:
        return self._argument(ArgumentKind.TENSOR, name, name, dtype=dtype)

    def stride(self, name: str, axis: int) -> str:
        suffix = _STRIDE_NAMES[axis] if name in _FOUR_DIMENSIONAL else str(axis)
        return self._argument(ArgumentKind.STRIDE, name, f"{name}_stride_{suffix}", axis)

    def size(self, name: str) -> str:
        """A size by its name, which is an argument unless it is defined here."""
        known = self._lookup(Size(name))
        return self.argument_of_size(name, name) if known is None else known.text

    def argument_of_size(self, name: str, wanted: str) -> str:
        return self._argument(ArgumentKind.SIZE, name, wanted)

    def table(self, field: str) -> str:
        return self._argument(ArgumentKind.TABLE, field, field, dtype="int32")

    # Scopes.

    @property
    def depth(self) -> int:
        return len(self.scopes) - 1

    @property
    def scope(self) -> Scope:
        return self.scopes[-1]

    def line(self, text: str = "") -> None:
        self.scope.line(text)

    @contextmanager
    def inside(self, header: str) -> Iterator[Scope]:
        """A block; names that are first given in it are free again after it."""
        with self.loop("", header) as _:
            yield self.scope

    @contextmanager
    def loop(self, wanted: str, header: str) -> Iterator[str]:
        """A block whose header may name a loop variable, in place of `{}`."""
        variable = self.names.fresh(wanted) if wanted else ""
        scope = Scope(header.replace("{}", variable), names=[variable] if wanted else [])
        self.scopes.append(scope)
        try:
            yield variable
        finally:
            self.scopes.pop()
            self.scope.items.append(scope)
            self.scope.inner_names |= {*scope.names, *scope.inner_names}
            self.names.release(scope.names)

    @contextmanager
    def at_depth(self, depth: int) -> Iterator[None]:
        """Whatever is written inside goes to the open scope at `depth`."""
        inner = self.scopes[depth + 1 :]
        before = self._aside
        self._aside = (*before, *inner)
        del self.scopes[depth + 1 :]
        try:
            yield
        finally:
            self.scopes.extend(inner)
            self._aside = before

    def fresh(self, wanted: str) -> str:
        """A new name in the current scope."""
        name = self.names.fresh(wanted)
        while self._aside and self._is_given_behind(name):
            self.scope.names.append(name)
            name = self.names.fresh(wanted)
        self.scope.names.append(name)
        return name

    def _is_given_behind(self, name: str) -> bool:
        """Whether a block that stands behind the current line, and is closed, has given the name to
        something else: what comes after the block would take that for this."""
        return any(name in scope.inner_names for scope in (self.scope, *self._aside))

    def assign(self, wanted: str, value: Value) -> Value:
        """Names a value in the current scope."""
        name = self.fresh(wanted)
        self.line(f"{name} = {value.text}")
        return Value(name, value.axes)

    # Values.

    def define(self, leaf: Expression, value: Value) -> None:
        """`leaf` has this value from here on, in the current scope."""
        # A name for what is computed here anyway changes nothing about what is made of it.
        if not children(leaf) or self.facts(leaf) != (value.axes, self.depth):
            self._forget_facts()
        self.scope.known[leaf] = value

    def define_lazily(self, leaf: Expression, wanted: str, value: Value) -> None:
        """`leaf` is named in the current scope when it is first used."""
        self._forget_facts()
        self.scope.lazy[leaf] = (wanted, value)

    @contextmanager
    def other_lanes(self, leaves: tuple[Expression, ...], extent: str) -> Iterator[None]:
        """Inside, `leaves` have other values, over another number of keys, which the caller gives
        them. What was named over them stands aside."""
        before = self.extents["n"]
        outer = [(scope, dict(scope.known), dict(scope.lazy)) for scope in self.scopes]
        for scope in self.scopes:
            for named in [one for one in (*scope.known, *scope.lazy) if _is_over(one, leaves)]:
                scope.known.pop(named, None)
                scope.lazy.pop(named, None)
        self.extents["n"] = extent
        self._forget_facts()
        try:
            yield
        finally:
            self.extents["n"] = before
            for scope, known, lazy in outer:
                # What was named meanwhile, at an outer place and without the leaves, is kept.
                for leaf in leaves:
                    scope.known.pop(leaf, None)
                scope.known.update(known)
                scope.lazy.update(lazy)
            self._forget_facts()

    def _forget_facts(self) -> None:
        for scope in self.scopes:
            scope.facts.clear()

    def _find(self, expression: Expression) -> tuple[int, Value] | None:
        for depth in range(self.depth, -1, -1):
            scope = self.scopes[depth]
            if expression in scope.known:
                return depth, scope.known[expression]
            if expression in scope.lazy:
                return depth, scope.lazy[expression][1]
        return None

    def facts(self, expression: Expression) -> tuple[str, int]:
        """The axes that the value has, and the depth of the scope where it can be computed."""
        done = self.scope.facts

        def visit(node: Expression) -> tuple[str, int]:
            known = done.get(id(node))
            if known is None:
                # The node is kept too, so that no other takes its address.
                known = done[id(node)] = self._facts_of(node, visit), node
            return known[0]

        return visit(expression)

    def _facts_of(self, node: Expression, visit: Facts) -> tuple[str, int]:
        match node:
            case Operand(name=name):
                node = pointer_to(name)
            case Literal() | Scale() | Size():
                return "", 0
        found = self._find(node)
        if found is not None:
            return found[1].axes, found[0]
        parts = [visit(child) for child in children(node)]
        if not parts and not isinstance(node, (Read, Call)):
            raise InternalError(f"no value for {node} in this kernel")
        axes = union(*(axes for axes, _ in parts)) if parts else ""
        return axes, max((depth for _, depth in parts), default=0)

    def axes_of(self, expression: Expression) -> str:
        return self.facts(expression)[0]

    def depth_of(self, expression: Expression) -> int:
        return self.facts(expression)[1]

    def value(self, expression: Expression) -> Value:
        """The value, computed in the outermost scope where it can be."""
        found = self._lookup(expression)
        if found is not None:
            return found
        match expression:
            case Literal(value=value):
                return _literal(value)
            case Size(name="D"):
                return Value(str(self.specialization.head_dim))
            case Size(name="Dv"):
                return Value(str(self.specialization.value_dim))
            case Size(name="BLOCK_M" | "BLOCK_N" as name):
                return Value(name)
            case Size(name=name):
                return Value(self.size(name))
            case Scale():
                return Value(self._argument(ArgumentKind.SCALE, "scale", "scale"))
        return self._compute(expression)

    def _lookup(self, expression: Expression) -> Value | None:
        for depth in range(self.depth, -1, -1):
            scope = self.scopes[depth]
            if expression in scope.known:
                return scope.known[expression]
            if expression in scope.lazy:
                wanted, value = scope.lazy[expression]
                with self.at_depth(depth):
                    scope.known[expression] = self.assign(wanted, value)
                return scope.known[expression]
        return None

    def _compute(self, expression: Expression) -> Value:
        axes, depth = self.facts(expression)
        hoisted = depth < self.depth
        with self.at_depth(depth):
            value = self._spell(self, expression)
            if value.binding is Binding.ATOM and value.text.isidentifier():
                return value
            named = hoisted and (axes or not _is_plain(expression))
            if named or expression in self._shared:
                value = self.assign(_wanted(axes, expression), value)
                self.define(expression, value)
        return value

    def named(self, expression: Expression, wanted: str) -> Value:
        """The value under a name; `wanted` where it has none yet."""
        self._shared.discard(expression)
        value = self.value(expression)
        if not value.text.isidentifier() and not isinstance(expression, Literal):
            value = self.assign(wanted, value)
            self.define(expression, value)
        return value

    def share(self, expressions: Iterable[Expression]) -> None:
        """What occurs twice among the expressions is named when it is first used."""
        self._shared |= _shared_in(expressions)

    def arranged(self, expression: Expression) -> Value:
        """The value, after `arrange`; sub-expressions that occur twice are named once."""
        arranged = arrange(expression, self.axes_of)
        self.share([arranged])
        return self.value(arranged)


def _is_over(expression: Expression, leaves: tuple[Expression, ...]) -> bool:
    return any(node in leaves for node in walk(expression))


def _shared_in(expressions: Iterable[Expression]) -> set[Expression]:
    """The compound expressions that occur more than once."""
    seen: set[Expression] = set()
    shared: set[Expression] = set()

    def visit(node: Expression) -> None:
        if not children(node):
            return
        if node in seen:
            if not _is_plain(node):
                shared.add(node)
            return
        seen.add(node)
        for child in children(node):
            visit(child)

    for expression in expressions:
        visit(expression)
    return shared


def _literal(value: bool | int | float) -> Value:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return Value(f'float("{value}")')
    return Value(repr(value), "", Binding.UNARY if value < 0 else Binding.ATOM)


def _is_plain(expression: Expression) -> bool:
    """Integer arithmetic on scalars, which reads best where it is used."""
    if expression.type not in (INT, BOOL) or isinstance(expression, (Read, Call)):
        return False
    return all(_is_plain(child) for child in children(expression))


def _wanted(axes: str, expression: Expression) -> str:
    kind = {"": "scalar", "m": "row", "n": "key", "d": "element"}.get(axes, "pair")
    if expression.type is BOOL:
        return f"{kind}_condition"
    return f"{kind}_index" if expression.type is INT else f"{kind}_term"
