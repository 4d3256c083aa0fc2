"""From an attention to a first plan: scans, per-token vectors, and one stage over all pairs.

Contract: the attention is bound and checked. The plan that comes out is complete and right, if not
yet good: its block map visits every block and evaluates the mask everywhere. The passes improve it.
"""

from __future__ import annotations

from collections.abc import Callable

from attndsl.attention import Attention, Elementwise, GroupedSoftmax, Normalizer, Softmax
from attndsl.diagnostics import AttnError, Diagnostic, InternalError, error
from attndsl.expression import (
    FALSE,
    FLOAT,
    INT,
    Binary,
    Coordinate,
    Expression,
    Index,
    Kept,
    Literal,
    Operand,
    Size,
    Vector,
    transform,
    walk,
)
from attndsl.planner.block_map import BlockInterval, Kind, Ranges
from attndsl.planner.plan import Attend, Buffer, Plan, Scan, Source, Stage
from attndsl.planner.products import Products

LEADING_INDICES = {"B": "b", "H": "h", "Hkv": "g"}


def lower(attention: Attention, *, dropout: bool = False) -> Plan:
    """The plan that does what `attention` means; with `dropout` calls say which pairs to drop.

    Raises `AttnError` A080 for constructs that no target compiles yet.
    """
    if not attention.is_bound:
        raise InternalError(f"attention `{attention.name}` has unbound parameters")
    _refuse_later_constructs(attention)
    whole = attention
    attention = _on_positions(attention)
    prepared = dict(attention.prepared)

    def as_scored(expression: Expression) -> Expression:
        """With `q`, `k`, `v` replaced by what the spec makes of them."""

        def replace(node: Expression) -> Expression:
            return prepared.get(node.name, node) if isinstance(node, Operand) else node

        return transform(expression, replace)

    taken = {declared.name for declared in attention.inputs}
    taken |= {scan.name for scan in attention.scans}
    products = Products(taken)
    score = products.lower_scalar(as_scored(attention.score))
    normalizer = _lower_normalizer(attention.normalizer, as_scored, products)
    value_vector = as_scored(Operand("v", Vector(Size("Dv"))))
    value = products.source(value_vector, key_side=True)
    operands = {node.name: node.type.size for node in walk(score) if isinstance(node, Operand)}
    attend = Attend(
        dots=products.dots,
        score=score,
        mask=attention.mask,
        value=value,
        vectors=tuple(
            (name, Source(name, Literal(0), size)) for name, size in sorted(operands.items())
        ),
        normalizer=normalizer,
        block_map=EVERYTHING if attention.mask != FALSE else Ranges(()),
        kept=Kept(tuple(map(Index, "bhij"))) if dropout else None,
    )
    stages: list[Stage] = [_scan(scan.name, attention) for scan in attention.scans]
    stages += products.stages
    stages.append(attend)
    return Plan(whole, tuple(stages))


def _key_blocks() -> Expression:
    """`ceil(Lk / BLOCK_N)`, without the overflow-prone sum."""
    length, block = Size("Lk"), Size("BLOCK_N")
    padded = Binary("-", Binary("+", length, block, INT), Literal(1), INT)
    return Binary("//", padded, block, INT)


EVERYTHING = Ranges((BlockInterval(Literal(0), _key_blocks(), Kind.PARTIAL),))


def _on_positions(attention: Attention) -> Attention:
    """With a single axis, its coordinate is the position itself and its length is `Lk`."""
    if len(attention.axes) != 1:
        return attention
    (axis,) = attention.axes

    def replace(node: Expression) -> Expression:
        match node:
            case Coordinate(position=position):
                return Index(position)
            case Size(name=name) if name == f"axis.{axis}":
                return Size("Lk")
        return node

    return attention.map_expressions(lambda expression: transform(expression, replace))


def _refuse_later_constructs(attention: Attention) -> None:
    faults = [
        Diagnostic(
            "A080",
            f"`{later.construct}` is not compiled yet",
            later.span,
            label="this construct",
            help="remove it, or use a mask, score and normalisation, which every target compiles",
        )
        for later in attention.later
    ]
    if isinstance(attention.normalizer, GroupedSoftmax):
        gate = attention.normalizer.gate
        faults.append(
            Diagnostic(
                "A080",
                "`grouped_softmax` is not compiled yet",
                gate.span or attention.span,
                label="this normalisation",
                help="use `softmax` or an elementwise weight",
            )
        )
    if faults:
        raise AttnError(faults)
    for node in walk(attention.mask):
        if isinstance(node, Operand):
            raise error(
                "A080",
                f"a mask that depends on `{node.name}` is not compiled yet",
                node.span or attention.span,
                help="a mask reads positions, coordinates, heads and inputs",
            )


def _scan(name: str, attention: Attention) -> Scan:
    declared = next(scan for scan in attention.scans if scan.name == name)
    indices = []
    for dimension in declared.dimensions[:-1]:
        index = LEADING_INDICES.get(dimension.name) if isinstance(dimension, Size) else None
        if index is None:
            raise InternalError(f"scan `{name}` runs over a dimension that has no index")
        indices.append(index)
    return Scan(Buffer(name, FLOAT, declared.dimensions), tuple(indices), declared.element)


def _lower_normalizer(
    normalizer: Normalizer, as_scored: Callable[[Expression], Expression], products: Products
) -> Normalizer:
    match normalizer:
        case Softmax(sink, value):
            return Softmax(
                None if sink is None else products.lower_scalar(as_scored(sink)),
                None if value is None else products.readable_vector(as_scored(value)),
            )
        case Elementwise(weight, divisor, epsilon):
            if divisor is None or isinstance(divisor, str):
                return normalizer
            return Elementwise(weight, products.lower_scalar(as_scored(divisor)), epsilon)
    raise InternalError("a normaliser that `_refuse_later_constructs` lets through")
