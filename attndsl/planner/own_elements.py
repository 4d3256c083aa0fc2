"""Which elements of an input the pairs of one head read, where a kernel sums up their gradient.

An index that is a batch or a head by itself tells heads apart: what their pairs add lies in places
of their own along that axis. Along the other axes pairs meet.
"""

from __future__ import annotations

from attndsl.expression import Expression, Index, index_names
from attndsl.planner.linear import linear
from attndsl.planner.plan import ElementSum
from attndsl.records import dataclass


@dataclass(frozen=True)
class OwnAxes:
    """`own` are the axes of an `ElementSum` that are indexed by `b`, `h` or `g` alone, and by which
    of them; `others` its other indexed axes."""

    own: tuple[tuple[int, str], ...]
    others: tuple[int, ...]

    @property
    def names(self) -> frozenset[str]:
        """What tells heads and batches apart."""
        return frozenset(name for _, name in self.own)


def own_axes(one: ElementSum) -> OwnAxes:
    """The axes of what is summed up; of a query head and its key head, the first that there is."""
    own: list[tuple[int, str]] = []
    taken: set[str] = set()
    for axis, index in enumerate(one.indices):
        match index:
            case Index(name="b" | "h" | "g" as name) if name not in taken:
                own.append((axis, name))
                taken |= {name} if name == "b" else {"h", "g"}
    known = {axis for axis, _ in own}
    return OwnAxes(tuple(own), tuple(a for a in range(len(one.indices)) if a not in known))


def is_of_pairs(one: ElementSum) -> bool:
    """Whether no two pairs of a head read the same element, as its indices tell both tokens."""
    sides = [_token(one.indices[axis]) for axis in own_axes(one).others]
    return "i" in sides and "j" in sides


def _token(index: Expression) -> str | None:
    """The token that an index tells, if it is its position or row up to a factor and a shift."""
    varying = [atom for atom in linear(index).terms if index_names(atom) & {"i", "j", "row"}]
    match varying:
        case [Index(name="i" | "row")]:
            return "i"
        case [Index(name="j")]:
            return "j"
    return None
