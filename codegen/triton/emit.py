"""From a plan to one readable Triton file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from attndsl.attention import Elementwise, GroupedSoftmax, InputDeclaration, has_statistic
from attndsl.codegen.program import Argument, ArgumentKind, Entry, Program, Specialization, Tile
from attndsl.codegen.triton.attend import AttendWriter
from attndsl.codegen.triton.configurations import tiles
from attndsl.codegen.triton.constants import integer, with_known_sizes
from attndsl.codegen.triton.coordinates import resolved
from attndsl.codegen.triton.element_sums import ElementSumWriter, parts_of, turns_of
from attndsl.codegen.triton.functions import HELPERS
from attndsl.codegen.triton.grid_spans import axis_spans, class_count, tile_count
from attndsl.codegen.triton.kernel import Array, Kernel
from attndsl.codegen.triton.names import Names
from attndsl.codegen.triton.pair_sums import PairSumsWriter
from attndsl.codegen.triton.prepare import (
    PREPARE_TOKENS,
    SCAN_TOKENS,
    write_prepare,
    write_scan,
)
from attndsl.codegen.triton.spelling import spell
from attndsl.codegen.triton.targets import parse_target
from attndsl.codegen.triton.turns import AllAtOnce, Turns
from attndsl.codegen.writer import Writer
from attndsl.diagnostics import InternalError, error
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    Binary,
    Expression,
    Literal,
    Read,
    Size,
    walk,
)
from attndsl.planner.graph import expressions
from attndsl.planner.plan import (
    ROW_RESULTS,
    Attend,
    Buffer,
    Fold,
    PairStage,
    PairSums,
    Partial,
    Plan,
    Prepare,
    Scan,
    Stage,
    is_transposed,
)
from attndsl.planner.simplify import simplify
from attndsl.printing import text

_CONSTANTS = ("BLOCK_M", "BLOCK_N", "PREPARE_TOKENS", "SCAN_TOKENS")
_SHAPES = {
    "q": "[B, H, Lq, D]",
    "k": "[B, Hkv, Lk, D]",
    "v": "[B, Hkv, Lk, Dv]",
    "out": "[B, H, Lq, Dv]",
    "out.gradient": "[B, H, Lq, Dv]",
    "log_sum_exp": "[B, H, Lq]",
}
_DTYPES = {BOOL: "bool", INT: "int32", FLOAT: "fp32"}
_LONGEST_COMMENT = 60  # lines of a spec that are quoted


def emit(
    plan: Plan, specialization: Specialization, tile: Tile | None = None, target: str = "cuda:90"
) -> Program:
    """One Triton file with one kernel for each stage of the plan.

    `tile` is by default the first of `tiles`. Raises `AttnError` A081 for an unknown target and
    A080 for a normaliser that this target does not compile.
    """
    parse_target(target)
    normalizer = plan.attend.normalizer
    if isinstance(normalizer, GroupedSoftmax):
        raise error("A080", "`grouped_softmax` is not compiled yet", plan.attention.span)
    if tile is None:
        tile = tiles(plan, specialization, target)[0]
    return _Emitter(plan, specialization, tile, target).program(range(len(plan.stages)))


def emit_stage(
    plan: Plan, number: int, specialization: Specialization, tile: Tile, target: str = "cuda:90"
) -> Program:
    """One Triton file for stage `number` of a backward, whose stages sum over one side alone: each
    has a tile of its own. Of a `Fold` there is none.

    Raises `AttnError` A081 for an unknown target.
    """
    parse_target(target)
    return _Emitter(plan, specialization, tile, target).program([number])


class _Emitter:
    """Collects the kernels of one file, and the helpers that they use."""

    def __init__(self, plan: Plan, specialization: Specialization, tile: Tile, target: str):
        self.plan = plan
        self.specialization = specialization
        self.tile = tile
        self.target = target
        self.helpers: set[str] = set()
        self.functions = Names(frozenset({*HELPERS, *_CONSTANTS}))
        self.buffers = plan.buffers
        narrow = _only_multiplied(plan)
        self.arrays = {
            **{name: self._array(buffer) for name, buffer in _row_results(plan).items()},
            **{one.name: self._array(one) for one in plan.attention.inputs},
            **{one.name: self._array(one, narrow) for one in self.buffers},
        }

    def _array(
        self, declared: InputDeclaration | Buffer, narrow: frozenset[str] = frozenset()
    ) -> Array:
        """What expressions read by this name; its dimensions are over run-time sizes only."""
        dtype = _DTYPES[declared.element]
        if declared.name in narrow:
            dtype = self.specialization.dtype.value
        dimensions = tuple(
            simplify(with_known_sizes(size, self.specialization)) for size in declared.dimensions
        )
        is_buffer = isinstance(declared, Buffer)
        return Array(declared.name, declared.element, dimensions, dtype, is_buffer)

    def program(self, numbers: Iterable[int]) -> Program:
        """The file with the kernels of these stages of the plan."""
        attention = self.plan.attention
        stages = {number: self.plan.stages[number] for number in numbers}
        parts = tuple(buffer for one in stages.values() if (buffer := self._parts(one)) is not None)
        self.arrays |= {one.name: self._array(one) for one in parts}
        names = [self.functions.fresh(self._wanted(stage)) for stage in stages.values()]
        kernels = [self._kernel(stage) for stage in stages.values()]
        writer = Writer(comment="#")
        spec = attention.span.text.splitlines()
        for line in spec[:_LONGEST_COMMENT]:
            writer.comment(line)
        if len(spec) > _LONGEST_COMMENT:
            writer.comment("…")
        writer.blank()
        writer.lines("import triton", "import triton.language as tl")
        writer.blank()
        self._write_constants(writer, stages.values())
        for name in sorted(self.helpers):
            writer.lines("", "", HELPERS[name].strip("\n"))
        for stage, name, kernel in zip(stages.values(), names, kernels, strict=True):
            writer.lines("", "")
            _write_kernel(writer, name, kernel, _describe(stage))
        entries = tuple(
            Entry(
                number,
                name,
                kernel.arguments,
                self._grid(stage),
                isinstance(stage, PairStage),
                self._turn_count(stage),
            )
            for (number, stage), name, kernel in zip(stages.items(), names, kernels, strict=True)
        )
        return Program(
            self.target,
            writer.text(),
            entries,
            (*self.buffers, *parts),
            self.specialization,
            self.tile,
        )

    def _wanted(self, stage: Stage) -> str:
        name = self.plan.attention.name
        match stage:
            case Prepare(buffer=buffer):
                return f"{name}_prepare_{buffer.name}"
            case Scan(buffer=buffer):
                return f"{name}_scan_{buffer.name}"
            case Attend(partial=Partial()):
                return f"{name}_part"
            case PairSums(elements=(one,)):
                return f"{name}_{one.buffer.name}"
            case PairSums(tiles=tiles):
                return f"{name}_{'keys' if tiles == 'key' else 'queries'}"
        return name

    def _write_constants(self, writer: Writer, stages: Collection[Stage]) -> None:
        pairs = [stage for stage in stages if isinstance(stage, PairStage)]
        if pairs:
            tile, step = "queries", "keys"
            if is_transposed(pairs[0]):
                tile, step = step, tile
            writer.line(f"BLOCK_M = tl.constexpr({self.tile.block_m})  # {tile} of one program")
            writer.line(f"BLOCK_N = tl.constexpr({self.tile.block_n})  # {step} of one step")
        if any(isinstance(stage, Prepare) for stage in stages):
            writer.line(f"PREPARE_TOKENS = tl.constexpr({PREPARE_TOKENS})")
        if any(isinstance(stage, Scan) for stage in stages):
            writer.line(f"SCAN_TOKENS = tl.constexpr({SCAN_TOKENS})")

    def _kernel(self, stage: Stage) -> Kernel:
        tokens = {Prepare: "PREPARE_TOKENS", Scan: "SCAN_TOKENS"}.get(type(stage), "BLOCK_M")
        kernel = Kernel(
            self.specialization,
            self.arrays,
            self.helpers,
            {"m": tokens, "n": "BLOCK_N"},
            frozenset({*HELPERS, *_CONSTANTS}) | self.functions.used,
            spell,
        )
        axes = self.plan.attention.axes
        match stage:
            case Prepare():
                write_prepare(kernel, stage, axes)
            case Scan():
                write_scan(kernel, stage, axes)
            case Attend():
                if stage.grid is None:
                    stage = resolved(stage, axes)
                wanted = self.specialization.log_sum_exp or stage.partial is not None
                writes = wanted and has_statistic(stage.normalizer)
                writer = AttendWriter(
                    kernel, stage, tile=self.tile, log_sum_exp=writes, comments=self._comments()
                )
                writer.write()
            case PairSums():
                if stage.grid is None:
                    stage = resolved(stage, axes)
                comments = self._comments()
                if stage.elements:
                    parts = self._parts(stage)
                    ElementSumWriter(
                        kernel, stage, parts, tile=self.tile, comments=comments
                    ).write()
                else:
                    PairSumsWriter(kernel, stage, tile=self.tile, comments=comments).write()
            case Fold():
                raise InternalError("the Triton target has no kernel for a fold")
        return kernel

    def _comments(self) -> dict[str, str]:
        """The spec's own words for the score and the mask, where they fit on a line."""
        attention = self.plan.attention
        comments = {}
        for what, expression in (("score", attention.score), ("mask", attention.mask)):
            words = " ".join(expression.span.text.split()) if expression.span is not None else ""
            is_written = re.search(rf"\b{what}\s*=", attention.span.text) is not None
            # Where several kernels share the pairs, each has a mask of its own.
            is_whole = what == "score" or len(self.plan.attends) == 1
            if is_written and is_whole and 0 < len(words) <= 80:
                comments[what] = f"{what} = {words}"
        return comments

    def _grid(self, stage: Stage) -> tuple[Expression, ...]:
        """How many programs the stage's kernel has; a turn, if it takes several."""
        match stage:
            case Attend() | PairSums():
                tiles, classes = self._tiles(stage)
                return (_product(self._turns(stage).programs(tiles), classes),)
            case Prepare(buffer=Buffer(dimensions=dimensions)):
                blocks = _blocks(dimensions[2], PREPARE_TOKENS)
                return (_product(dimensions[0], dimensions[1], blocks),)
            case Scan(buffer=Buffer(dimensions=dimensions)):
                return (_product(*dimensions[:-1]),)
        raise InternalError("the Triton target has no kernel for a fold")

    def _tiles(self, stage: PairStage) -> tuple[Expression, Expression]:
        """How many tiles each residue class has, and how many classes there are."""
        if stage.grid is not None:
            spans = axis_spans(stage.grid, self.tile.block_m, self.specialization)
            return tile_count(spans), class_count(spans)
        modulus = 1
        if stage.residue is not None:
            modulus = integer(stage.residue, self.specialization)
        length: Expression = Size("Lq")
        if is_transposed(stage):
            length = Size("Lk") if stage.stripes is None else stage.stripes.keys
        return _blocks(_blocks(length, modulus), self.tile.block_m), Literal(modulus)

    def _turns(self, stage: PairStage) -> Turns:
        if isinstance(stage, PairSums) and stage.elements:
            return turns_of(stage, self.specialization)
        return AllAtOnce()

    def _turn_count(self, stage: Stage) -> Expression | None:
        if not isinstance(stage, PairSums) or not stage.elements:
            return None
        return self._turns(stage).turns(self._tiles(stage)[0])

    def _parts(self, stage: Stage) -> Buffer | None:
        """Where programs leave parts of an element's sum."""
        if not isinstance(stage, PairSums) or not stage.elements:
            return None
        (programs,) = self._grid(stage)
        return parts_of(stage, programs)


def _row_results(plan: Plan) -> dict[str, Buffer]:
    """What a backward reads of the forward's results beside vectors."""
    if not plan.gradients:
        return {}
    rows = Size("B"), Size("H"), Size("Lq")
    return {name: Buffer(name, FLOAT, rows) for name in ROW_RESULTS}


def _only_multiplied(plan: Plan) -> frozenset[str]:
    """The prepared vectors that only matrix products read, and so in the type of q, k and v."""
    multiplied, read = set(), set()
    for stage in plan.stages:
        if isinstance(stage, PairStage):
            multiplied |= {source.name for dot in stage.dots for source in (dot.query, dot.key)}
            read |= {source.name for _, source in stage.vectors}
        match stage:
            case Attend(value=value):
                multiplied.add(value.name)
            case PairSums(sums=sums):
                terms = (term for one in sums for term in one.terms)
                multiplied |= {source.name for _, source in terms if source is not None}
        nodes = (node for expression in expressions(stage) for node in walk(expression))
        read |= {node.name for node in nodes if isinstance(node, Read)}
    prepared = {stage.buffer.name for stage in plan.stages if isinstance(stage, Prepare)}
    return frozenset(prepared & (multiplied - read))


def _blocks(length: Expression, block: int) -> Expression:
    """`length / block`, rounded up."""
    if block == 1:
        return length
    padded = Binary("+", length, Literal(block - 1), INT)
    return Binary("//", padded, Literal(block), INT)


def _product(*factors: Expression) -> Expression:
    result: Expression | None = None
    for factor in factors:
        if factor != Literal(1):
            result = factor if result is None else Binary("*", result, factor, INT)
    return Literal(1) if result is None else result


def _describe(stage: Stage) -> str:
    match stage:
        case Prepare(buffer=buffer, side=side):
            shape = (
                "[B, heads, tokens, elements]"
                if len(buffer.dimensions) > 3
                else "[B, heads, tokens]"
            )
            return f"Per {side}: what is scored in its place, {shape}."
        case Scan(from_end=from_end):
            start = ", from its end" if from_end else ""
            return f"Running sums along the last dimension{start}, fp32."
        case PairSums(elements=(one,)):
            return f"{one.buffer.name}: sums over the visible pairs that read an element."
        case PairSums(sums=sums, tiles=tiles):
            written = ", ".join(one.buffer.name for one in sums)
            tokens = "keys" if tiles == "key" else "queries"
            return f"{written}: sums over the visible pairs of one block of {tokens}."
        case Attend(normalizer=Elementwise()):
            return "out [B, H, Lq, Dv]: the weighted sum of values, for one block of queries."
        case Attend(partial=Partial(output, log_sum_exp)):
            written = f"{output.name} and {log_sum_exp.name}"
            return f"{written}: softmax over a part of the pairs, for one block of queries."
    return "out [B, H, Lq, Dv]: the softmax-weighted mean of values, for one block of queries."


def _about(argument: Argument, kernel: Kernel) -> str:
    """The shape and the type of a tensor, for the reader of a signature."""
    if argument.kind is ArgumentKind.TABLE:
        return "int32"
    if argument.kind is not ArgumentKind.TENSOR:
        return ""
    if argument.name in kernel.arrays:
        dimensions = ", ".join(text(size) for size in kernel.arrays[argument.name].dimensions)
        shape = " ".join(dimensions.split())
        return f"[{shape}] {argument.dtype}" if len(shape) <= 60 else argument.dtype
    return f"{_SHAPES[argument.name]} {argument.dtype}"


def _write_kernel(writer: Writer, name: str, kernel: Kernel, description: str) -> None:
    writer.comment(description)
    writer.line("@triton.jit")
    writer.line(f"def {name}(")
    with writer.indented():
        for argument in kernel.arguments:
            about = _about(argument, kernel)
            writer.line(f"{argument.identifier},{'  # ' if about else ''}{about}")
    with writer.block("):"):
        kernel.scope.write(writer, 4)
