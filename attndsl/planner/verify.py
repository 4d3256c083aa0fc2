"""What must hold of every plan, between passes and before an emitter sees it.

A plan that breaks a rule is a bug of ours, so `verify` raises `InternalError`, never `AttnError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from attndsl.attention import Elementwise, Softmax
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    FLOAT,
    INT,
    QUERY_OPERANDS,
    Binary,
    Call,
    Coordinate,
    DotResult,
    Element,
    Expression,
    Index,
    Kept,
    Literal,
    Matrix,
    Operand,
    Parameter,
    Read,
    ScoreValue,
    Select,
    Size,
    Slice,
    Type,
    Unary,
    Vector,
    walk,
)
from attndsl.functions import FUNCTIONS
from attndsl.planner.block_map import (
    BlockMap,
    BoxConditions,
    Product,
    Ranges,
    Routed,
    Table,
    Window,
    bounds,
)
from attndsl.planner.pairs import pair_expressions
from attndsl.planner.plan import (
    ROW_RESULTS,
    Attend,
    Buffer,
    Fold,
    Grid,
    GridAxis,
    PairStage,
    PairSums,
    Plan,
    Prepare,
    Scan,
    Source,
    is_transposed,
    written_buffers,
)
from attndsl.planner.stripes import Stripes

SIZES = {"B", "H", "Hkv", "Lq", "Lk", "D", "Dv", "offset"}
LOCAL_SIZES = {"local.Lq", "local.Lk", "local.offset"}
TILE_SIZES = {"BLOCK_M", "BLOCK_N"}
COMPARISONS = {"<", "<=", ">", ">=", "==", "!="}

# Per token: what a query-side and a key-side element may vary with, and read.
QUERY_INDICES = {"b", "h", "g", "i", "row"}
KEY_INDICES = {"b", "h", "g", "j"}
BOUND_INDICES = {"b", "h", "g", "i_first", "i_last"}
TRANSPOSED_INDICES = {"b", "h", "g", "j_first", "j_last"}


def verify(plan: Plan) -> None:
    """Raise `InternalError` if the plan breaks an invariant; it names the stage and the rule."""
    _Verifier(plan).run()


class _Verifier:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stage = "plan"
        self._ranks = {one.name: len(one.dimensions) for one in plan.attention.inputs}
        self._elements = {one.name: one.element for one in plan.attention.inputs}
        self._sides: dict[str, str] = {}
        self._sizes = SIZES | {f"axis.{axis}" for axis in plan.attention.axes}
        self._query_vectors = {"q"}
        if plan.gradients:
            self._query_vectors = set(QUERY_OPERANDS)
            self._ranks |= dict.fromkeys(ROW_RESULTS, 3)
            self._elements |= dict.fromkeys(ROW_RESULTS, FLOAT)

    def _require(self, holds: bool, rule: str) -> None:
        if not holds:
            raise InternalError(f"plan of `{self._plan.attention.name}`, {self._stage}: {rule}")

    def run(self) -> None:
        stages = self._plan.stages
        self._require(self._plan.attention.is_bound, "every parameter has a value")
        attends = [stage for stage in stages if isinstance(stage, Attend)]
        if self._plan.gradients:
            self._require(not attends, "a backward attends to nothing")
        else:
            self._require(bool(attends), "there is a stage over pairs")
            self._require(stages[-1] is attends[-1], "a stage over pairs comes last")
            self._require(attends[-1].partial is None, "the last stage writes the outputs")
            self._require(
                all(stage.partial is not None for stage in attends[:-1]),
                "a stage before the last writes buffers",
            )
            self._require(
                len({stage.kept is None for stage in attends}) == 1,
                "dropout is for all pairs",
            )
        for number, stage in enumerate(stages):
            self._stage = f"stage {number} ({type(stage).__name__.lower()})"
            match stage:
                case Prepare():
                    self._prepare(stage)
                case Scan():
                    self._scan(stage)
                case Attend():
                    self._attend(stage)
                case PairSums():
                    self._pair_sums(stage)
                case Fold():
                    self._fold(stage)
        for name, buffer in self._plan.gradients:
            self._require(buffer in self._ranks, f"the gradient of `{name}` is computed")

    def _define(self, buffer: Buffer) -> None:
        self._require(
            buffer.name not in self._ranks and buffer.name not in {"q", "k", "v", "out"},
            f"the name of buffer `{buffer.name}` is taken",
        )
        for dimension in buffer.dimensions:
            self._expression(dimension, INT, set())
        self._ranks[buffer.name] = len(buffer.dimensions)
        self._elements[buffer.name] = buffer.element

    def _prepare(self, stage: Prepare) -> None:
        self._require(stage.side in {"query", "key"}, "a side is `query` or `key`")
        query = stage.side == "query"
        indices = QUERY_INDICES if query else KEY_INDICES
        operands = self._query_vectors if query else {"k", "v"}
        self._expression(stage.element, None, indices, operands=operands)
        rank = 4 if isinstance(stage.element.type, Vector) else 3
        self._require(
            len(stage.buffer.dimensions) == rank, "a buffer has the element's shape for each token"
        )
        self._define(stage.buffer)
        self._sides[stage.buffer.name] = stage.side

    def _scan(self, stage: Scan) -> None:
        self._require(
            len(stage.indices) + 1 == len(stage.buffer.dimensions),
            "every dimension of a scan but the last has an index",
        )
        self._expression(stage.element, None, {*stage.indices, "b", "h", "g", "t"})
        self._define(stage.buffer)

    def _pairs(self, stage: PairStage) -> set[str]:
        """What stages over pairs have in common; the indices that have a value in them."""
        indices = {"b", "h", "g", "i", "j", "row"}
        if stage.stripes is not None:
            self._stripes(stage, stage.stripes)
        if stage.residue is not None:
            self._residue(stage)
            indices = {"b", "h", "g", "i", "j", "residue"}
        if stage.grid is not None:
            indices |= self._grid(stage, stage.grid)
            self._sizes = self._sizes | {f"local.axis.{axis.name}" for axis in stage.grid.axes}
        for dot in stage.dots:
            self._source(dot.query, "query")
            self._source(dot.key, "key")
        self._expression(stage.mask, BOOL, indices)
        return indices

    def _pair_sums(self, stage: PairSums) -> None:
        known = self._sizes
        indices = self._pairs(stage)
        listed, dots = {name for name, _ in stage.vectors}, len(stage.dots)
        self._require(stage.tiles in {"query", "key"}, "tiles are of queries or of keys")
        if stage.tiles == "key":
            self._require(not stage.elements, "tiles of keys sum up for keys alone")
            self._require(stage.grid is None, "tiles of keys lie in line")
        for one in stage.sums:
            self._require(one.side in {"query", "key"}, "a side is `query` or `key`")
            self._require(stage.tiles in ("query", one.side), "tiles of keys have sums of keys")
            for value, source in one.terms:
                self._expression(
                    value, None if source is None else FLOAT, indices, operands=listed, dots=dots
                )
                if source is not None:
                    self._source(source, "key" if one.side == "query" else "query")
        for element in stage.elements:
            self._expression(element.value, None, indices, operands=listed, dots=dots)
            for index in element.indices:
                self._expression(index, INT, indices)
        if stage.stripes is not None:
            self._sizes = known | {"local.Lk"}
        self._block_map(stage.block_map, stage)
        self._sizes = known
        for buffer in written_buffers(stage):
            self._define(buffer)

    def _fold(self, stage: Fold) -> None:
        for addend in stage.addends:
            self._require(addend.name in self._ranks, f"`{addend.name}` is computed before")
        for term in stage.terms:
            side = term.side.split()[0]
            if side == "scan":
                indices, operands = {"b", "h", "g", "t"}, set[str]()
            elif side == "query":
                indices, operands = QUERY_INDICES, self._query_vectors
            else:
                indices, operands = KEY_INDICES, {"k", "v"}
            self._expression(term.value, None, indices, operands=operands)
            for index in term.indices:
                self._expression(index, INT, indices)
        self._define(stage.buffer)

    def _attend(self, stage: Attend) -> None:
        known = self._sizes
        indices = self._pairs(stage)
        self._source(stage.value, "key")
        listed = {name for name, _ in stage.vectors}
        self._expression(stage.score, FLOAT, indices, operands=listed, dots=len(stage.dots))
        if stage.kept is not None:
            self._expression(stage.kept, FLOAT, indices)
        row_indices = indices - {"j"}
        match stage.normalizer:
            case Softmax(sink, value):
                if sink is not None:
                    self._expression(sink, FLOAT, row_indices)
                if value is not None:
                    self._require(isinstance(value, Read), "a sink's value is read, not computed")
                    self._expression(value, None, row_indices)
            case Elementwise(weight, divisor, _):
                self._expression(weight, FLOAT, indices, scores=True)
                if divisor is not None and not isinstance(divisor, str):
                    self._expression(divisor, FLOAT, row_indices)
            case _:
                self._require(False, "the normaliser is one that targets compile")
        if stage.stripes is not None:
            self._sizes = known | {"local.Lk"}
        self._block_map(stage.block_map, stage)
        self._sizes = known
        if stage.partial is not None:
            self._require(isinstance(stage.normalizer, Softmax), "only softmaxes merge")
            self._define(stage.partial.output)
            self._define(stage.partial.log_sum_exp)

    def _stripes(self, stage: PairStage, stripes: Stripes) -> None:
        self._require(stage.residue is None, "a stage has residue classes or stripes")
        self._require(stage.grid is None, "a stage has a grid or stripes")
        self._require(isinstance(stage.block_map, Ranges), "a stage over stripes has ranges")
        self._require(0 < stripes.width < stripes.period, "stripes leave keys out")
        self._require(
            -stripes.width < stripes.start <= stripes.period - stripes.width,
            "stripes begin in the first period",
        )

    def _residue(self, stage: PairStage) -> None:
        self._require(stage.grid is None, "a stage has residue classes or a grid")
        modulus = stage.residue
        self._require(
            isinstance(modulus, Literal) and type(modulus.value) is int and modulus.value > 1,
            "the number of residue classes is a literal above 1",
        )
        for expression in pair_expressions(stage):
            self._require(
                not any(isinstance(node, Coordinate) for node in walk(expression)),
                "residue classes are of positions, not of coordinates",
            )

    def _grid(self, stage: PairStage, grid: Grid) -> set[str]:
        """The indices that have a value in a stage over a grid beside the usual."""
        self._require(isinstance(stage.block_map, Product), "a stage over a grid has windows")
        names = tuple(axis.name for axis in grid.axes)
        self._require(names == self._plan.attention.axes, "a grid has the axes of the spec")
        for axis in grid.axes:
            match axis.modulus:
                case Literal(value=value):
                    self._require(int(value) > 1, "an axis with classes has several")
            if axis.modulus is not None:
                self._expression(axis.modulus, INT, set())
            if axis.shift is not None:
                self._expression(axis.shift, INT, set())
                self._require(axis.modulus is None, "a rolled axis has no classes")
            self._require(0 <= axis.phase < axis.period, "groups begin within a period")
        return {f"residue.{axis.name}" for axis in grid.axes if axis.modulus is not None}

    def _product(self, windows: tuple[Window, ...], stage: PairStage) -> None:
        self._require(stage.grid is not None, "windows are along the axes of a grid")
        if stage.grid is None:
            return
        self._require(len(windows) == len(stage.grid.axes), "every axis has a window")
        for axis, window in zip(stage.grid.axes, windows, strict=True):
            indices = {"b", "h", "g", "i_first", "i_last"}
            if axis.modulus is not None:
                indices.add(f"residue.{axis.name}")
            for bound in bounds(Product((window,))):
                self._expression(bound, INT, indices)

    def _conditions(
        self, conditions: BoxConditions, windows: tuple[Window, ...], grid: Grid
    ) -> None:
        for window in windows:
            both = (window.full_first, window.full_last)
            self._require((window.first, window.last) == both, "a condition says what is full")
        self._require(
            all(axis == GridAxis(axis.name) for axis in grid.axes),
            "axes that a mask mixes are taken as they are",
        )
        ends = ("i_first", "i_last", "j_first", "j_last")
        indices = {f"{end}.{axis.name}" for end in ends for axis in grid.axes}
        for condition in (conditions.some, conditions.every):
            self._expression(condition, BOOL, indices | {"b", "h", "g"})

    def _block_map(self, block_map: BlockMap, stage: PairStage) -> None:
        indices = TRANSPOSED_INDICES if is_transposed(stage) else BOUND_INDICES
        if stage.residue is not None:
            indices = indices | {"residue"}
        match block_map:
            case Ranges(intervals):
                for interval in intervals:
                    for bound in (interval.first, interval.last):
                        self._expression(bound, INT, indices, tile=True)
                    self._expression(interval.guard, BOOL, indices | {"K"}, tile=True)
                    self._require(interval.step > 0, "a step is positive")
                    self._require(interval.kind > 0, "only blocks that are visited are listed")
            case Product(windows, conditions):
                self._product(windows, stage)
                if conditions is not None and stage.grid is not None:
                    self._conditions(conditions, windows, stage.grid)
            case Table(varies_with, inputs):
                self._require(varies_with <= {"b", "h", "g"}, "a table varies with heads and batch")
                self._require(
                    set(inputs) <= {one.name for one in self._plan.attention.inputs},
                    "a table is built from inputs",
                )
                self._require(
                    stage.residue is None and stage.grid is None, "classes and grids have no table"
                )
            case Routed(_, static):
                self._block_map(static, stage)

    def _source(self, source: Source, side: str) -> None:
        own = self._query_vectors if side == "query" else {"k", "v"}
        known = source.name in own or self._sides.get(source.name) == side
        self._require(known, f"`{source.name}` is a vector of the {side} side")
        self._expression(source.start, INT, set())
        self._expression(source.size, INT, set())

    def _expression(
        self,
        expression: Expression,
        wanted: Type | None,
        indices: set[str],
        *,
        operands: Collection[str] = (),
        dots: int = 0,
        scores: bool = False,
        tile: bool = False,
    ) -> None:
        if wanted is not None:
            self._require(expression.type == wanted, f"expected {wanted}, found {expression.type}")
        sizes = self._sizes | (TILE_SIZES if tile else set())
        if "residue" in indices:
            sizes |= LOCAL_SIZES
        for node in _with_sizes(expression):
            match node:
                case Parameter(name=name):
                    self._require(False, f"parameter `{name}` has a value")
                case Index(name=name):
                    self._require(name in indices, f"index `{name}` has a value here")
                case Coordinate(position=position, axis=axis):
                    self._require(position in indices, f"`{position}.{axis}` has a value here")
                    self._require(f"axis.{axis}" in self._sizes, f"`{axis}` is an axis")
                case Size(name=name):
                    self._require(name in sizes, f"size `{name}` is known here")
                case Operand(name=name):
                    self._require(name in operands, f"vector `{name}` can be read here")
                case DotResult(number=number):
                    self._require(0 <= number < dots, f"matrix product {number} exists")
                case ScoreValue():
                    self._require(scores, "only a weight sees the score")
                case Read():
                    self._read(node)
            self._require(_is_typed(node), f"`{type(node).__name__}` has operands of its types")

    def _read(self, read: Read) -> None:
        self._require(read.name in self._ranks, f"`{read.name}` is computed before it is read")
        rank = len(read.indices)
        match read.type:
            case Vector():
                rank += 1
            case Matrix():
                rank += 2
            case scalar:
                self._require(
                    scalar == self._elements[read.name], f"`{read.name}` is read as what it holds"
                )
        self._require(rank == self._ranks[read.name], f"`{read.name}` has a place for each index")
        self._require(
            all(index.type == INT for index in read.indices), f"`{read.name}` is indexed by ints"
        )


def _with_sizes(expression: Expression) -> Iterator[Expression]:
    """Every node, and every node of the sizes in their types."""
    for node in walk(expression):
        yield node
        match node.type:
            case Vector(size=size):
                yield from walk(size)
            case Matrix(rows=rows, columns=columns):
                yield from walk(rows)
                yield from walk(columns)


def _is_typed(node: Expression) -> bool:
    """Whether the operands of one node have types that the node's own type follows from."""
    match node:
        case Unary("not", operand):
            return operand.type == node.type == BOOL
        case Unary(_, operand):
            return _kind(operand.type) == _kind(node.type) != BOOL
        case Binary("and" | "or", left, right):
            return left.type == right.type == node.type == BOOL
        case Binary(operator, left, right) if operator in COMPARISONS:
            return left.type == right.type and node.type == BOOL
        case Binary(_, left, right):
            kinds = {_kind(left.type), _kind(right.type)}
            if Vector in kinds:
                return kinds <= {Vector, FLOAT} and isinstance(node.type, Vector)
            return len(kinds) == 1 and BOOL not in kinds and node.type in (left.type, FLOAT)
        case Select(condition, then, otherwise):
            kinds = {_kind(then.type), _kind(otherwise.type)}
            return condition.type == BOOL and (len(kinds) == 1 or kinds == {Vector, FLOAT})
        case Call("outer", (left, right)):
            return isinstance(left.type, Vector) and isinstance(right.type, Vector)
        case Call(function, arguments):
            known = FUNCTIONS.get(function)
            return known is not None and known.arity in (None, len(arguments))
        case Kept(indices):
            return len(indices) == 4 and all(index.type == INT for index in indices)
        case Slice(vector, start, stop):
            return isinstance(vector.type, Vector) and start.type == stop.type == INT
        case Element(vector, index):
            return isinstance(vector.type, Vector) and index.type == INT
    return True


def _kind(of: Type) -> object:
    """A scalar type itself, or that it is a vector or matrix of whatever size."""
    return type(of) if isinstance(of, (Vector, Matrix)) else of
