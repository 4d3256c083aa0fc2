"""What a name can mean, and where an expression stands.

Names are looked up from the nearest to the farthest: what the attention (or the parameters of a
definition) declare, indices, operands, sizes, and definitions without parameters. Functions have a
namespace of their own: a parameter `top` does not hide the function `top`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cached_property

from attndsl import syntax
from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.expression import Expression, Scalar, Size, Vector
from attndsl.records import dataclass
from attndsl.source import Span

SIZES = ("B", "H", "Hkv", "Lq", "Lk", "D", "Dv")
INDICES = ("b", "h", "g", "i", "j", "n", "t", "row")
OPERANDS = ("q", "k", "v")
# A spec may declare these itself: they matter in few places, and are good names for inputs.
SHADOWED = frozenset({"g", "n", "t"})
RESERVED = frozenset({*SIZES, *INDICES, *OPERANDS, "scale"}) - SHADOWED
# What a kernel writes: no tensor that it reads may have these names.
RESULTS = frozenset({"out", "log_sum_exp"})
# What every call takes by these names: no input or parameter may have them.
KEYWORDS = frozenset(
    {"offset", "grid", "return_lse", "dropout", "seed", "cu_seqlens", "cu_seqlens_k"}
)
PAIR_INDICES = frozenset({"b", "h", "g", "i", "j", "row"})
QUERY_INDICES = frozenset({"b", "h", "g", "i", "row"})
KEY_INDICES = frozenset({"b", "g", "j"})

# One text may not make an expression without end, by definitions that use each other twice.
MAXIMUM_NODES = 50_000
MAXIMUM_DEPTH = 200
# How many frames of Python's stack the checker may use, of the thousand that there are.
MAXIMUM_FRAMES = 600


@dataclass(frozen=True)
class Array:
    """An input or a token scan, not yet indexed."""

    name: str
    element: Scalar
    dimensions: tuple[Expression, ...]
    span: Span


Binding = Expression | Array


@dataclass(frozen=True)
class Context:
    """The place of an expression in the spec: what varies there, and what `q`, `k`, `v` are.

    `place` is for messages ("the score"). With `whole_inputs`, an input without indices means its
    element at the step `t`, as `cumsum` needs it. With `matrices`, arithmetic takes matrices.
    """

    place: str
    indices: frozenset[str]
    operands: Mapping[str, Expression]
    whole_inputs: bool = False
    matrices: bool = False


@dataclass(frozen=True, eq=False)
class Defined:
    """A definition and the names that its body sees.

    `read` gives it when it is first asked for: a spec uses few of the standard patterns.
    """

    read: Callable[[], syntax.Definition]
    scope: ModuleScope

    @cached_property
    def definition(self) -> syntax.Definition:
        return self.read()


@dataclass(frozen=True)
class ModuleScope:
    """The names of one file: its own, those it imports, and those of the standard patterns.

    With `prelude`, faults in a definition are shown at the call: the user did not write it.
    """

    definitions: dict[str, Defined]
    attentions: dict[str, syntax.Attention]
    prelude: bool = False
    # Names that an import should have brought, and did not: already reported.
    failed: set[str] = field(default_factory=set)


@dataclasses.dataclass
class Budget:
    """Counts the nodes checked for one attention, so that expansion ends."""

    nodes: int = 0
    # The size and depth of typed expressions by identity; the nodes are kept alive beside them.
    measures: dict[int, tuple[int, int, Expression]] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """Everything that checking an expression needs to know."""

    context: Context
    module: ModuleScope
    bindings: Mapping[str, Binding]
    lets: Mapping[str, syntax.Let]
    axes: tuple[str, ...]
    budget: Budget
    # The names that were used, for warnings.
    used: set[str]
    # Names whose declaration is at fault, which is reported once, there.
    failed: frozenset[str] = frozenset()
    # The definitions and lets that are being expanded, outermost first.
    expanding: tuple[str, ...] = ()
    # Where to point instead of the expression's own span, inside a standard pattern.
    at: Span | None = None
    # The frames of Python's stack that lead here.
    frames: int = 0

    def fault(
        self, code: str, message: str, span: Span, *, label: str = "", help: str | None = None
    ) -> AttnError:
        """An error at a span, or at the call of the standard pattern that it lies in."""
        return AttnError(Diagnostic(code, message, self.at or span, label, help))

    def known_values(self) -> list[str]:
        """The names that may stand for a value here."""
        plain = [name for name, d in self.module.definitions.items() if not requires_arguments(d)]
        return [
            *self.bindings,
            *self.lets,
            *self.context.indices,
            *self.context.operands,
            *SIZES,
            "scale",
            *plain,
        ]


def requires_arguments(defined: Defined) -> bool:
    return any(parameter.default is None for parameter in defined.definition.parameters)


def raw_operands() -> dict[str, Expression]:
    """`q`, `k` and `v` as the caller gives them."""
    from attndsl.expression import Operand

    query = Vector(Size("D"))
    return {
        "q": Operand("q", query),
        "k": Operand("k", query),
        "v": Operand("v", Vector(Size("Dv"))),
    }
