"""What expressions have in common, so that a text can name it and write it once.

Derivatives share most of their parts. As graphs they are small, but written out as trees they can
be exponential in the depth of the spec.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from attndsl.expression import Call, Expression, Index, Read, children, substitute
from attndsl.printing import text

# What is shorter reads better where it stands.
_WORTH_A_NAME = 28
_LENGTH_OF_NAME = 7
# Between two operands of a node there is about this much.
_LENGTH_BETWEEN = 3


class NamedParts:
    """Expressions, and what several places of them share, each by the name that it is written
    with: `prefix` and a number. `whole` have a name in any case."""

    def __init__(
        self, prefix: str, expressions: Iterable[Expression], *, whole: bool = False
    ) -> None:
        roots = list(dict.fromkeys(expressions))
        places = Counter(part for node in _operands_first(roots) for part in children(node))
        places.update(roots)
        always = set(roots) if whole else set()
        lengths: dict[Expression, int] = {}
        named: list[Expression] = []
        for node in _operands_first(roots):
            length = _own_length(node)
            length += sum(lengths[part] + _LENGTH_BETWEEN for part in children(node))
            lengths[node] = length
            if node in always or (places[node] > 1 and length > _WORTH_A_NAME):
                named.append(node)
                lengths[node] = _LENGTH_OF_NAME
        self._names = {node: f"{prefix}#{number}" for number, node in enumerate(named)}
        self._lines: list[tuple[str, str]] = []
        self._known: dict[Expression, Expression] = {}
        for node, name in self._names.items():
            shown = substitute(node, self._known)
            self._lines.append((name, text(shown)))
            self._known |= {node: Index(name), shown: Index(name)}

    def lines(self) -> Iterator[str]:
        """`name = text` of every part that has a name, each after what it is made of."""
        return (f"{name:<8} = {shown}" for name, shown in self._lines)

    def text(self, expression: Expression) -> str:
        """The text of one of the expressions, with names for its parts."""
        return text(substitute(expression, self._known))


def _own_length(node: Expression) -> int:
    """About how long its text is without its operands."""
    match node:
        case Read(name) | Call(name):
            return len(name)
    return 0 if children(node) else len(text(node))


def _operands_first(roots: Iterable[Expression]) -> list[Expression]:
    """Every expression below the roots once, after its operands."""
    found: dict[Expression, None] = {}

    def visit(node: Expression) -> None:
        if node not in found:
            for operand in children(node):
                visit(operand)
            found[node] = None

    for root in roots:
        visit(root)
    return list(found)
