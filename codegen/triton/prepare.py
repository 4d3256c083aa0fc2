"""Kernels of the stages before the tiles: vectors prepared per token, and running sums."""

from __future__ import annotations

from attndsl.codegen.triton.constants import integer, with_known_sizes
from attndsl.codegen.triton.coordinates import without_coordinates
from attndsl.codegen.triton.kernel import Kernel, pointer_to
from attndsl.codegen.triton.reductions import lane_index, padded
from attndsl.codegen.triton.scalarize import element
from attndsl.codegen.triton.sequences import begin, enter, longest, of_all
from attndsl.codegen.triton.tokens import CALLER, TRITON_TYPES, first_of_head, tokens
from attndsl.codegen.triton.turns import define_batch, define_group
from attndsl.codegen.triton.values import Binding, Value, atom, infix, spread
from attndsl.expression import INT, QUERY_OPERANDS, Expression, Index, Operand, Size, Vector, walk
from attndsl.planner.plan import Prepare, Scan
from attndsl.planner.simplify import simplify

# Tokens of one program of a preparation, and of one step of a running sum.
PREPARE_TOKENS = 16
SCAN_TOKENS = 1024


def write_prepare(kernel: Kernel, stage: Prepare, axes: tuple[str, ...]) -> None:
    """`buffer[b, head, token, :] = element` for the tokens of one program."""
    dimensions = stage.buffer.dimensions
    most, heads = (
        kernel.value(size).atom for size in (longest(kernel, dimensions[2]), dimensions[1])
    )
    blocks = kernel.assign("token_blocks", Value(f"tl.cdiv({most}, PREPARE_TOKENS)")).text
    program = kernel.assign("program", Value("tl.program_id(0)")).text
    start = kernel.assign("token_start", Value(f"{program} % {blocks} * PREPARE_TOKENS")).text
    head = kernel.assign(stage.head_index, Value(f"{program} // {blocks} % {heads}"))
    define_batch(kernel, f"{program} // ({blocks} * {heads})")
    length = kernel.value(dimensions[2]).atom
    if kernel.specialization.packed:
        with kernel.inside(f"if {start} >= {length}:"):
            kernel.line("return")
    kernel.define(Index(stage.head_index), head)
    if stage.head_index == "h":
        define_group(kernel)
    kernel.line("# Lanes past the last token repeat it.")
    lane = f"tl.minimum({start} + tl.arange(0, PREPARE_TOKENS), {length} - 1)"
    position = "row" if stage.side == "query" else "j"
    token = kernel.assign(position, Value(lane, "m"))
    kernel.define(Index(position), token)
    if stage.side == "query":
        offset = kernel.size("offset")
        kernel.define_lazily(Index("i"), "i", Value(f"{token.text} + {offset}", "m", Binding.SUM))
    expression = with_known_sizes(without_coordinates(stage.element, axes), kernel.specialization)
    for name in sorted(_operands(expression)):
        on = head.text if name in QUERY_OPERANDS else kernel.value(Index("g")).text
        source = tokens(kernel, name, on, in_tiles=False)
        rows = f"{source.base} + {token.text} * {source.stride}"
        kernel.define_lazily(pointer_to(name), f"{name}_rows", Value(rows, "m", Binding.SUM))
    first = kernel.assign("first", first_of_head(kernel, dimensions, head.text)).text
    dtype = kernel.arrays[stage.buffer.name].dtype
    buffer = kernel.tensor(stage.buffer.name, dtype)
    at = Value(f"{buffer} + ({first} + {token.text})", "m", Binding.SUM)
    if not isinstance(stage.element.type, Vector):
        value = _filled(kernel.arranged(expression), "m", "[PREPARE_TOKENS]")
        kernel.line(f"tl.store({at.text}, {value.text})")
        return
    size = integer(stage.element.type.size, kernel.specialization)
    kernel.extents["d"] = str(padded(size))
    lanes = kernel.value(lane_index(kernel, size))
    value = kernel.arranged(simplify(element(expression, lane_index(kernel, size))))
    value = _filled(value, "md", f"[PREPARE_TOKENS, {padded(size)}]")
    vectors = Value(f"{buffer} + ({first} + {token.text}) * {size}", "m", Binding.SUM)
    stored = value.text
    if dtype != "fp32":
        stored = f"{value.atom}.to({TRITON_TYPES[kernel.specialization.dtype]})"
    kernel.line(f"tl.store({infix('+', Binding.SUM, vectors, lanes).text}, {stored})")


def _filled(value: Value, axes: str, shape: str) -> Value:
    """The value over all of `axes`."""
    if value.axes == axes:
        return value
    return Value(f"{spread(value, axes).at_least(Binding.SUM)} + tl.zeros({shape}, tl.float32)")


def _operands(expression: Expression) -> set[str]:
    return {
        node.name for node in walk(expression) if isinstance(node, Operand) and node.name in CALLER
    }


def write_scan(kernel: Kernel, stage: Scan, axes: tuple[str, ...]) -> None:
    """`buffer[…, t] = buffer[…, t-1] + element`: one program for each of the leading indices."""
    *leading, last = stage.buffer.dimensions
    number = kernel.assign("number", Value("tl.program_id(0)"))
    kernel.line("# Which running sum this is, last index fastest.")
    remaining = number
    for name, dimension in reversed(list(zip(stage.indices, leading, strict=True))):
        if name == "b" and kernel.specialization.packed:
            enter(kernel, remaining.text)
            continue
        size = kernel.value(dimension)
        index = kernel.assign(name, infix("%", Binding.PRODUCT, remaining, size))
        kernel.define(Index(name), index)
        remaining = infix("//", Binding.PRODUCT, remaining, size)
    if "h" in stage.indices and "g" not in stage.indices:
        define_group(kernel)
    length = kernel.value(last).atom
    buffer = kernel.tensor(stage.buffer.name, _dtype(stage))
    pointer = f"{buffer} + {_first_of_scan(kernel, stage, number.text)}"
    start_of = kernel.assign("sums", Value(pointer)).text
    triton_type = "tl.int32" if stage.buffer.element is INT else "tl.float32"
    total = kernel.assign("total", Value(f"tl.cast(0, {triton_type})")).text
    with kernel.loop("start", f"for {{}} in tl.range(0, {length}, SCAN_TOKENS):") as start:
        places = kernel.assign("places", Value(f"{start} + tl.arange(0, SCAN_TOKENS)", "m")).text
        if stage.from_end:
            t = f"{length} - 1 - tl.minimum({places}, {length} - 1)"
        else:
            t = f"tl.minimum({places}, {length} - 1)"
        t = kernel.assign("t", Value(t, "m")).text
        kernel.define(Index("t"), Value(t, "m"))
        summand = _filled(
            kernel.arranged(without_coordinates(stage.element, axes)), "m", "[SCAN_TOKENS]"
        )
        kept = f"tl.where({places} < {length}, {summand.text}, 0)"
        summands = kernel.assign("summands", Value(f"{kept}.to({triton_type})", "m")).text
        kernel.line(
            f"tl.store({start_of} + {t}, {total} + tl.cumsum({summands}, 0),"
            f" mask={places} < {length})"
        )
        kernel.line(f"{total} += tl.sum({summands}, 0)")


def _first_of_scan(kernel: Kernel, stage: Scan, number: str) -> str:
    """Where the first element of running sum `number` is."""
    *leading, last = stage.buffer.dimensions
    if not kernel.specialization.packed:
        return f"tl.cast({number}, tl.int64) * {kernel.value(last).atom}"
    row = ""
    for name, dimension in list(zip(stage.indices, leading, strict=True))[1:]:
        before = f"{atom(row)} * {kernel.value(dimension).atom} + " if row else ""
        row = before + kernel.value(Index(name)).text
    assert isinstance(last, Size)
    here = begin(kernel, last.name)
    if not row:
        return here
    return f"tl.cast({row}, tl.int64) * {kernel.value(of_all(last)).atom} + {here}"


def _dtype(stage: Scan) -> str:
    return "int32" if stage.buffer.element is INT else "fp32"
