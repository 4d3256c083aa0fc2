"""A plan as text for people: what runs, in which order, over which blocks, and why."""

from __future__ import annotations

from collections.abc import Iterator

from attndsl.attention import Elementwise, Normalizer, Softmax
from attndsl.diagnostics import InternalError
from attndsl.expression import TRUE, Expression, Index, Literal, Size, Vector
from attndsl.planner.block_map import (
    BlockInterval,
    BlockMap,
    Product,
    Ranges,
    Routed,
    Table,
    Window,
)
from attndsl.planner.plan import (
    Attend,
    Buffer,
    Fold,
    Grid,
    PairStage,
    PairSums,
    Plan,
    Prepare,
    Scan,
    Source,
    Stage,
    is_transposed,
)
from attndsl.planner.shared_parts import NamedParts
from attndsl.printing import normalizer_text, text

_SIZES_OF = {"q": Size("D"), "k": Size("D"), "v": Size("Dv")}
_INDENT = "   "


def plan_text(plan: Plan) -> str:
    """The whole plan, with a line break at its end."""
    what = "backward" if plan.gradients else "plan"
    lines = [f"{what} of `{plan.attention.name}`"]
    for number, stage in enumerate(plan.stages, start=1):
        lines += ["", f"{number}. {_title(stage)}"]
        lines += [f"{_INDENT}{line}" for line in _body(stage)]
    if plan.gradients:
        lines += ["", "gradients"]
        lines += [f"{_INDENT}{name} = {buffer}" for name, buffer in plan.gradients]
    if plan.notes:
        lines += ["", "because", *(f"{_INDENT}{note}" for note in plan.notes)]
    return "\n".join(lines) + "\n"


def _title(stage: Stage) -> str:
    match stage:
        case Prepare():
            return f"prepare {buffer_text(stage.buffer)}, once per {stage.side}"
        case Scan():
            start = ", from its end" if stage.from_end else ""
            return f"scan {buffer_text(stage.buffer)}, a running sum over its last dimension{start}"
        case Fold(buffer=buffer):
            return f"fold into {buffer_text(buffer)}"
        case Attend() | PairSums():
            return _pair_title(stage)


def _pair_title(stage: PairStage) -> str:
    residue, grid = stage.residue, stage.grid
    over = "tiles of the score matrix"
    if residue is not None:
        over = f"tiles of the scores of each residue class r modulo {text(residue)}"
    if stage.stripes is not None:
        over += f", keys in stripes of {stage.stripes.width} of every {stage.stripes.period}"
    if grid is not None:
        over = f"boxes of the grid {' × '.join(axis.name for axis in grid.axes)}"
        classes = [
            f"{axis.name} modulo {text(axis.modulus)}"
            for axis in grid.axes
            if axis.modulus is not None
        ]
        if classes:
            over += f", for each residue class of {', '.join(classes)}"
    if isinstance(stage, PairSums):
        by_key = ", a tile of keys at a time" if stage.tiles == "key" else ""
        return f"sum over pairs, over {over}{by_key}"
    if stage.partial is None:
        return f"attend, over {over}"
    partial = stage.partial
    written = f"{buffer_text(partial.output)} and {buffer_text(partial.log_sum_exp)}"
    return f"attend to a part, over {over}, into {written}"


def buffer_text(buffer: Buffer) -> str:
    """`name[B, H, Lq]`."""
    return f"{buffer.name}[{', '.join(map(text, buffer.dimensions))}]"


def _body(stage: Stage) -> Iterator[str]:
    match stage:
        case Prepare(buffer, side, element):
            token = "row" if side == "query" else "j"
            places = ["b", stage.head_index, token]
            places += [":"] if isinstance(element.type, Vector) else []
            parts = NamedParts("part", [element])
            yield from parts.lines()
            yield f"{buffer.name}[{', '.join(places)}] = {parts.text(element)}"
        case Scan(buffer, indices, element):
            yield f"{buffer.name}[{', '.join((*indices, 't'))}] += {text(element)}"
        case Attend():
            yield from _attend(stage)
        case PairSums():
            yield from _pair_sums(stage)
        case Fold(buffer, terms, addends):
            parts = NamedParts("part", [term.value for term in terms])
            yield from parts.lines()
            for addend in addends:
                yield f"{buffer.name} += {addend.name}"
            for term in terms:
                place = ", ".join(map(text, term.indices))
                place = f"[{place}]" if place else ""
                added = parts.text(term.value)
                yield f"{buffer.name}{place} += {added}, for each {_token(term.side)}"


def _token(side: str) -> str:
    match side.split():
        case ["scan", name]:
            return f"element of `{name}`"
        case ["key", "heads"]:
            return "key and query head"
    return side


def _attend(stage: Attend) -> Iterator[str]:
    yield from _tokens_and_dots(stage)
    parts = NamedParts("part", [stage.score, stage.mask])
    yield from parts.lines()
    yield f"score    = {parts.text(stage.score)}"
    yield f"mask     = {parts.text(stage.mask)}"
    yield f"weights  = {normalizer_text(stage.normalizer)}, {carried_text(stage.normalizer)}"
    if stage.kept is not None:
        yield f"dropout  = weights * {text(stage.kept)}, where they multiply values"
    yield f"value    = {source_text(stage.value)}"
    yield from _blocks(stage)


def _pair_sums(stage: PairSums) -> Iterator[str]:
    yield from _tokens_and_dots(stage)
    yield f"mask     = {text(stage.mask)}"
    values = NamedParts("value", _summed_values(stage), whole=True)
    yield from values.lines()
    for one in stage.sums:
        token, other = ("row", "j") if one.side == "query" else ("j", "row")
        head = "h" if one.buffer.dimensions[1] == Size("H") else "g"
        parts = [
            values.text(value) + ("" if source is None else f" * {source_text(source)}")
            for value, source in one.terms
        ]
        yield f"{one.buffer.name}[b, {head}, {token}] = sum over {other} of {' + '.join(parts)}"
    for each in stage.elements:
        place = ", ".join(map(text, each.indices))
        place = f"[{place}]" if place else ""
        yield f"{each.buffer.name}{place} = sum over pairs of {values.text(each.value)}"
    yield from _blocks(stage)


def _summed_values(stage: PairSums) -> Iterator[Expression]:
    for one in stage.sums:
        yield from (value for value, _ in one.terms)
    yield from (each.value for each in stage.elements)


def _tokens_and_dots(stage: PairStage) -> Iterator[str]:
    if stage.residue is not None:
        modulus = text(stage.residue)
        yield f"i, j     = counted within the class: position r + {modulus} * i, r + {modulus} * j"
    if stage.grid is not None:
        yield from _grid(stage.grid)
    if stage.stripes is not None:
        yield f"keys     = {text(stage.stripes.keys)}, those of the stripes alone"
        yield f"j        = {text(stage.stripes.position(Index('x')))} of key number x"
    for number, dot in enumerate(stage.dots):
        yield f"dot#{number}    = {source_text(dot.query)} · {source_text(dot.key)}"


def _blocks(stage: PairStage) -> Iterator[str]:
    match stage.block_map, stage.grid:
        case Product(windows, conditions), Grid(axes):
            yield "blocks   = boxes of keys, for queries i_first … i_last along each axis:"
            width = max(len(axis.name) for axis in axes)
            for axis, window in zip(axes, windows, strict=True):
                for line in window_text(axis.name.ljust(width), window, conditions is not None):
                    yield f"{_INDENT}{line}"
            if conditions is not None:
                yield f"{_INDENT}and of these, for keys j_first … j_last of a box,"
                yield f"{_INDENT}PARTIAL where {text(conditions.some)}"
                yield f"{_INDENT}FULL    where {text(conditions.every)}"
        case _:
            tile = "keys j" if is_transposed(stage) else "queries i"
            yield from block_map_text(stage.block_map, tile)


def _grid(grid: Grid) -> Iterator[str]:
    for axis in grid.axes:
        name = axis.name
        if axis.modulus is not None:
            step = f"residue.{name} + {text(axis.modulus)}"
            yield f"{name:<8} = counted within the class: {step} * i.{name}, {step} * j.{name}"
        if axis.shift is not None:
            yield f"{name:<8} = rolled: i.{name}, j.{name} are counted from {text(axis.shift)} on"
        if axis.period > 1:
            start = f" less {axis.phase}" if axis.phase else ""
            yield f"tiles along {name} begin at multiples of {axis.period}{start} where they can"


def source_text(source: Source) -> str:
    """`q`, or `k[0:512]` where it is a part."""
    if source.start == Literal(0) and source.size == _SIZES_OF.get(source.name, source.size):
        return source.name
    stop = source.size
    if source.start != Literal(0):
        return f"{source.name}[{text(source.start)}:{text(source.start)} + {text(stop)}]"
    return f"{source.name}[0:{text(stop)}]"


def carried_text(normalizer: Normalizer) -> str:
    """What a row carries from block to block."""
    match normalizer:
        case Softmax():
            return "carrying maximum, sum and output"
        case Elementwise(divisor="sum"):
            return "carrying sum and output"
        case Elementwise():
            return "carrying the output"
    raise InternalError("a normaliser that no plan has")


def block_map_text(block_map: BlockMap, tile: str = "queries i") -> Iterator[str]:
    """The block map in words, then interval by interval; `tile` is what a tile has."""
    match block_map:
        case Ranges(()):
            yield "blocks   = none: no pair is visible"
        case Ranges(intervals):
            yield f"blocks   = ranges in closed form, for {tile}_first … {tile[-1]}_last:"
            for interval in intervals:
                yield f"{_INDENT}{interval_text(interval)}"
        case Table(varies_with, inputs):
            names = " and ".join(f"`{name}`" for name in inputs)
            built = f"lists built at call time{f' from {names}' if inputs else ''}"
            who = ", ".join(name for name in "bhg" if name in varies_with)
            built += " for each tile of keys" if tile[-1] == "j" else ""
            yield f"blocks   = {built}, {f'one for each {who}' if who else 'shared by all heads'}"
        case Routed(route, static):
            yield f"blocks   = chosen by `{route}`, among"
            yield from block_map_text(static, tile)


def interval_text(interval: BlockInterval) -> str:
    """`PARTIAL K in [first, last) step 2 where …`."""
    shown = f"{interval.kind.name:<8} K in [{text(interval.first)}, {text(interval.last)})"
    if interval.step > 1:
        shown += f" step {interval.step}"
    if interval.guard != TRUE:
        shown += f" where {text(interval.guard)}"
    return shown


def window_text(name: str, window: Window, is_bound: bool) -> Iterator[str]:
    """What of an axis some queries see, and what all; or, if it `is_bound`, what none exceeds."""
    if is_bound:
        yield f"{name}  j in [{text(window.first)}, {text(window.last)})"
        return
    yield f"{name}  PARTIAL j in [{text(window.first)}, {text(window.last)})"
    yield f"{name}  FULL    j in [{text(window.full_first)}, {text(window.full_last)})"
