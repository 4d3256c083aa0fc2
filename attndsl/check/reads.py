"""Indexing: inputs and token scans by the roles of their dimensions, vectors by number or slice."""

from __future__ import annotations

from attndsl.check import sizes
from attndsl.check.builtins import static_int
from attndsl.check.operators import describe
from attndsl.check.scope import Array, Environment
from attndsl.expression import (
    FLOAT,
    INT,
    Binary,
    Element,
    Expression,
    Index,
    Literal,
    Matrix,
    Read,
    Size,
    Slice,
    Type,
    Vector,
    index_names,
    walk,
)
from attndsl.source import Span

# Which indices run over a dimension of this size; the first is the one to suggest.
ROLES: dict[str, tuple[str, ...]] = {
    "B": ("b",),
    "H": ("h",),
    "Hkv": ("g",),
    "Lq": ("row",),
    "Lk": ("j", "i", "t"),
}
_INDEXED = {index: size for size, indices in ROLES.items() for index in indices}


def has_role(dimension: Expression) -> bool:
    """Whether an index runs over the dimension, rather than the elements of a vector."""
    return isinstance(dimension, Size) and dimension.name in ROLES


def dimension_text(dimension: Expression) -> str:
    from attndsl.printing import text

    return text(dimension)


def declaration_text(array: Array) -> str:
    """`slope: float[H]`, as the user declared it."""
    inside = ", ".join(dimension_text(dimension) for dimension in array.dimensions)
    return f"{array.name}: {array.element}" + (f"[{inside}]" if inside else "")


def example(array: Array, environment: Environment) -> str:
    """How the array could be indexed here: `slope[h]`."""
    parts = []
    for dimension in array.dimensions:
        by = ""
        if isinstance(dimension, Binary) and dimension.operator == "//":
            by = f" // {dimension_text(dimension.right)}"
            dimension = dimension.left
        roles = ROLES.get(dimension.name, ()) if isinstance(dimension, Size) else ()
        if by and roles == ("row",):
            roles = ("i",)
        usable = [role for role in roles if role in environment.context.indices]
        parts.append(f"{usable[0]}{by}" if usable else "…")
    return f"{array.name}[{', '.join(parts)}]"


def read(
    array: Array, indices: list[Expression], environment: Environment, span: Span
) -> Expression:
    """The element, or the vector or matrix of the trailing dimensions that are not indexed.

    A030 for an index of another role, A031 for too many indices, A032 for too few, A024 for an
    index that is not an int.
    """
    count = len(array.dimensions)
    if len(indices) > count:
        raise environment.fault(
            "A031",
            f"`{array.name}` has {_dimensions(count)}, not {len(indices)}",
            span,
            label=f"declared as `{declaration_text(array)}`",
            help=f"write `{example(array, environment)}`" if count else f"write `{array.name}`",
        )
    for index, dimension in zip(indices, array.dimensions, strict=False):
        _check_index(array, index, dimension, environment, span)
    result = _trailing_type(array, array.dimensions[len(indices) :], environment, span)
    return Read(array.name, tuple(indices), result, span=span)


def _dimensions(count: int) -> str:
    if count == 0:
        return "no dimensions"
    return "1 dimension" if count == 1 else f"{count} dimensions"


def _trailing_type(
    array: Array, trailing: tuple[Expression, ...], environment: Environment, span: Span
) -> Type:
    if not trailing:
        return array.element
    if any(map(has_role, trailing)) or array.element is not FLOAT or len(trailing) > 2:
        missing = ", ".join(f"`{dimension_text(dimension)}`" for dimension in trailing)
        raise environment.fault(
            "A032",
            f"`{array.name}` needs an index for {missing}",
            span,
            label=f"declared as `{declaration_text(array)}`",
            help=f"write `{example(array, environment)}`",
        )
    if len(trailing) == 1:
        return Vector(trailing[0])
    return Matrix(trailing[0], trailing[1])


def _check_index(
    array: Array, index: Expression, dimension: Expression, environment: Environment, span: Span
) -> None:
    at = index.span or span
    if index.type is not INT:
        raise environment.fault(
            "A024",
            f"an index is an int, not {describe(index.type)}",
            at,
            label=f"this is {describe(index.type)}",
            help="round down with `floor(…)`" if index.type is FLOAT else None,
        )
    wanted = ROLES.get(dimension.name) if isinstance(dimension, Size) else None
    if wanted is not None:
        # An index that is itself read from an input may point anywhere.
        names = index_names(index)
        gathered = any(isinstance(node, Read) for node in walk(index))
        misplaced = isinstance(index, Index) and index.name not in wanted
        if misplaced or (names and not gathered and not names & set(wanted)):
            raise _wrong_role(array, index, dimension, wanted, environment, at)
    elif isinstance(index, Index):
        _check_bare(array, index, dimension, environment, at)


def _wrong_role(
    array: Array,
    index: Expression,
    dimension: Expression,
    wanted: tuple[str, ...],
    environment: Environment,
    at: Span,
) -> Exception:
    usable = [role for role in wanted if role in environment.context.indices] or list(wanted)
    shown = " or ".join(f"`{role}`" for role in sorted(usable))
    help = f"write `{example(array, environment)}`"
    if isinstance(index, Index) and index.name == "i" and wanted == ("row",):
        help = "`i` is a position among the keys; the query's own row is `row`"
    return environment.fault(
        "A030",
        f"the dimension `{dimension_text(dimension)}` of `{array.name}` takes {shown}",
        at,
        label=f"declared as `{declaration_text(array)}`",
        help=help,
    )


def _check_bare(
    array: Array, index: Index, dimension: Expression, environment: Environment, at: Span
) -> None:
    """A plain `h` cannot be meant for `Lk // block`, nor a plain `i`, which would run past it."""
    mentioned = {node.name for node in walk(dimension) if isinstance(node, Size)} & set(ROLES)
    over = _INDEXED.get(index.name)
    if not mentioned or over is None:
        return
    text = dimension_text(dimension)
    if over not in mentioned and not (index.name == "i" and "Lq" in mentioned):
        raise environment.fault(
            "A030",
            f"`{index.name}` does not run over the dimension `{text}` of `{array.name}`",
            at,
            label=f"declared as `{declaration_text(array)}`",
        )
    if isinstance(dimension, Binary) and dimension.operator == "//":
        by = dimension_text(dimension.right)
        raise environment.fault(
            "A030",
            f"`{index.name}` runs past the dimension `{text}` of `{array.name}`",
            at,
            label=f"declared as `{declaration_text(array)}`",
            help=f"write `{index.name} // {by}`",
        )


def element(
    vector: Expression, index: Expression, environment: Environment, span: Span
) -> Expression:
    """`vector[index]`. A035 where the index is provably out of range."""
    assert isinstance(vector.type, Vector)
    if isinstance(vector, Read):
        # `u[h][3]` is `u[h, 3]`.
        return Read(vector.name, (*vector.indices, index), FLOAT, span=span)
    index = static_int(index, "an element", environment, span)
    _check_bound(index, vector.type.size, environment, span, inclusive=False)
    return Element(vector, index, span=span)


def take(
    vector: Expression,
    start: Expression | None,
    stop: Expression | None,
    environment: Environment,
    span: Span,
) -> Expression:
    """`vector[start:stop]`. A035 where a bound is provably out of range."""
    assert isinstance(vector.type, Vector)
    size = vector.type.size
    first = Literal(0) if start is None else static_int(start, "a slice", environment, span)
    last = size if stop is None else static_int(stop, "a slice", environment, span)
    for bound in (first, last):
        _check_bound(bound, size, environment, span, inclusive=True)
    length = sizes.subtract(last, first)
    if isinstance(length, Literal) and length.value <= 0:
        raise environment.fault("A035", "this slice is empty", span)
    return Slice(vector, first, last, Vector(length), span=span)


def _check_bound(
    bound: Expression, size: Expression, environment: Environment, span: Span, *, inclusive: bool
) -> None:
    if isinstance(bound, Literal) and bound.value < 0:
        end = dimension_text(size)
        raise environment.fault(
            "A035",
            "vectors are not indexed from their end",
            bound.span or span,
            help=f"write `{end} - {-bound.value}`",
        )
    past = sizes.difference(bound, size)
    if past is not None and (past > 0 or (past == 0 and not inclusive)):
        raise environment.fault(
            "A035",
            f"this runs past a vector of size {dimension_text(size)}",
            bound.span or span,
        )
