"""The plan executor: a plan run block by block in NumPy float64, exactly as it says.

It visits the blocks that the block map lists, evaluates the mask in PARTIAL blocks only, and merges
tiles as a kernel would. Where it agrees with the reference and a kernel does not, the emitter is at
fault; where it does not agree, the planner is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from attndsl.attention import Elementwise, Softmax
from attndsl.diagnostics import InternalError
from attndsl.dropout import Dropout
from attndsl.evaluate import Array, Environment, evaluate, evaluate_size
from attndsl.expression import Expression, Scalar, Vector
from attndsl.planner.block_map import Kind
from attndsl.planner.lists import Block
from attndsl.planner.normalization import SoftmaxState, SumState
from attndsl.planner.plan import Attend, PairStage, Partial, Plan, Prepare, Scan, Source
from attndsl.planner.visits import Visit, pair_indices, tile_indices, visits
from attndsl.reference import Result

_DTYPES = {Scalar.BOOL: np.bool_, Scalar.INT: np.int64, Scalar.FLOAT: np.float64}


def execute(
    plan: Plan,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike | None,
    inputs: Mapping[str, ArrayLike],
    *,
    block_m: int,
    block_n: int,
    scale: float | None = None,
    offset: int | None = None,
    axes: Mapping[str, int] | None = None,
    dropout: Dropout | None = None,
) -> Result:
    """Run a plan with tiles of `block_m` queries by `block_n` keys; otherwise as `reference.run`.

    Raises `InternalError` where the block map breaks an invariant: a block visited twice, or a FULL
    block with keys that do not exist.
    """
    call = call_of(plan, q, k, v, inputs, scale=scale, offset=offset, axes=axes, dropout=dropout)
    for stage in plan.stages:
        match stage:
            case Prepare():
                call = call.with_buffer(stage.buffer.name, call.prepare(stage))
            case Scan():
                call = call.with_buffer(stage.buffer.name, call.scan(stage))
            case Attend(partial=Partial(output, log_sum_exp)):
                part = call.attend(stage, block_m, block_n)
                assert part.log_sum_exp is not None
                call = call.with_buffer(output.name, part.output)
                call = call.with_buffer(log_sum_exp.name, part.log_sum_exp)
    return call.attend(plan.attend, block_m, block_n)


def call_of(
    plan: Plan,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike | None,
    inputs: Mapping[str, ArrayLike],
    *,
    scale: float | None = None,
    offset: int | None = None,
    axes: Mapping[str, int] | None = None,
    dropout: Dropout | None = None,
) -> Call:
    """The arguments of `execute`, in float64 and with all sizes."""
    given = {"q": np.asarray(q, np.float64), "k": np.asarray(k, np.float64)}
    if v is not None:
        given["v"] = np.asarray(v, np.float64)
    batches, heads, rows, width = given["q"].shape
    key_heads, keys = given["k"].shape[1:3]
    sizes = {"B": batches, "H": heads, "Hkv": key_heads, "Lq": rows, "Lk": keys, "D": width}
    sizes["offset"] = keys - rows if offset is None else offset
    sizes |= {f"axis.{name}": length for name, length in (axes or {}).items()}
    if v is not None:
        sizes["Dv"] = given["v"].shape[-1]
    else:
        sizes["Dv"] = evaluate_size(plan.attend.value.size, sizes)
    return Call(
        given,
        Environment(
            sizes=sizes,
            axes=plan.attention.axes,
            scale=1.0 / math.sqrt(width) if scale is None else scale,
            inputs={
                one.name: np.asarray(inputs[one.name], _DTYPES[one.element])
                for one in plan.attention.inputs
            },
            dropout=dropout,
            clamp=True,
        ),
    )


@dataclass(frozen=True)
class Call:
    """One call: the caller's vectors, and an environment whose inputs hold the buffers too."""

    given: Mapping[str, Array]
    base: Environment

    def with_buffer(self, name: str, array: Array) -> Call:
        inputs = {**self.base.inputs, name: array}
        return Call(self.given, dataclasses.replace(self.base, inputs=inputs))

    @property
    def _sizes(self) -> Mapping[str, int]:
        return self.base.sizes

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return max(1, self._sizes["H"] // max(1, self._sizes["Hkv"]))

    def scan(self, stage: Scan) -> Array:
        environment, shape = self.tokens((*stage.indices, "t"), stage.buffer.dimensions)
        element = np.broadcast_to(evaluate(stage.element, environment), shape)
        if stage.from_end:
            return np.flip(np.cumsum(np.flip(element, -1), axis=-1), -1)
        return np.cumsum(element, axis=-1)

    def prepare(self, stage: Prepare) -> Array:
        """`[B, heads, tokens]`, with a last axis if the element is a vector."""
        token = "row" if stage.side == "query" else "j"
        names = ("b", stage.head_index, token)
        environment, shape = self.tokens(names, stage.buffer.dimensions[:3])
        value = evaluate(stage.element, environment)
        return np.array(np.broadcast_to(value, shape + value.shape[3:]))

    def tokens(
        self, names: tuple[str, ...], dimensions: tuple[Expression, ...]
    ) -> tuple[Environment, tuple[int, ...]]:
        """What expressions over tokens read, on the grid of the named indices, and its shape."""
        shape = tuple(evaluate_size(size, self._sizes) for size in dimensions)
        indices = dict(zip(names, np.indices(shape, sparse=True), strict=True))
        if "h" in indices:
            indices["g"] = indices["h"] // self.group
        if "row" in indices:
            indices["i"] = indices["row"] + self._sizes["offset"]
        operands = {}
        for operand, array in self.given.items():
            token, head = ("j", "g") if operand in ("k", "v") else ("row", "h")
            if token in indices:
                place = np.broadcast_arrays(indices["b"], indices[head], indices[token])
                operands[operand] = array[tuple(place)]
        environment = dataclasses.replace(self.base, indices=indices, operands=operands)
        return environment, shape

    def attend(self, stage: Attend, block_m: int, block_n: int) -> Result:
        batches, heads, rows = (self._sizes[name] for name in ("B", "H", "Lq"))
        width = evaluate_size(stage.value.size, self._sizes)
        output = np.zeros((batches, heads, rows, width))
        statistic = np.zeros((batches, heads, rows))
        with np.errstate(all="ignore"):
            for visit in visits(stage, self.base, block_m, block_n):
                tile = _Tile(self, stage, visit)
                output[tile.place], statistic[tile.place] = tile.run()
        return Result.of(stage.normalizer, output, statistic)

    def vectors(self, source: Source, visit: Visit, tokens: Array) -> Array:
        """`[batch, heads, tokens, size]` of a source; heads are query heads."""
        array = self.given.get(source.name)
        if array is None:
            array = self.base.inputs[source.name]
        per_query_head = array.shape[1] == self._sizes["H"]
        heads = visit.heads if per_query_head else visit.heads // self.group
        start, size = (evaluate_size(bound, self._sizes) for bound in (source.start, source.size))
        whole: Array = array[np.ix_(visit.batches, heads, tokens)]
        return whole[..., start : start + size]

    def queries(self, stage: PairStage, visit: Visit) -> list[Array]:
        """The query side of every matrix product, for a tile."""
        rows = visit.queries.numbers
        return [self.vectors(dot.query, visit, rows) for dot in stage.dots]

    def pairs(
        self, stage: PairStage, visit: Visit, block: Block, queries: Sequence[Array]
    ) -> tuple[Environment, Array]:
        """What expressions over the pairs of one block read, and which pairs are visible:
        `[batches, heads, rows, keys]`."""
        rows, keys = visit.queries.numbers, visit.problem.key_tokens(block.box).numbers
        environment = dataclasses.replace(
            self.base,
            indices=pair_indices(visit, block, self._sizes),
            sizes={**self._sizes, **visit.problem.local_sizes},
            dots={
                number: query @ np.swapaxes(self.vectors(dot.key, visit, keys), -1, -2)
                for number, (dot, query) in enumerate(zip(stage.dots, queries, strict=True))
            },
            operands={
                name: self.vectors(source, visit, rows)[:, :, :, np.newaxis]
                if name == "q"
                else self.vectors(source, visit, keys)[:, :, np.newaxis]
                for name, source in stage.vectors
            },
        )
        shape = visit.batches.size, visit.heads.size, rows.size, keys.size
        visible = np.ones(shape, np.bool_)
        if block.kind == Kind.PARTIAL:
            visible = np.broadcast_to(evaluate(stage.mask, environment), shape)
        return environment, visible


class _Tile:
    """One tile of queries, and the state that it carries from block to block."""

    def __init__(self, call: Call, stage: Attend, visit: Visit) -> None:
        self._call, self._stage, self._visit = call, stage, visit
        self._rows = visit.queries.numbers
        indices = tile_indices(visit, call.base.sizes)
        sizes = {**call.base.sizes, **visit.problem.local_sizes}
        self._environment = dataclasses.replace(call.base, indices=indices, sizes=sizes)
        self.place = np.ix_(visit.batches, visit.heads, self._rows)
        self._queries = call.queries(stage, visit)

    def run(self) -> tuple[Array, Array]:
        """Output `[batches, heads, rows, Dv]`, and the log-sum-exp or the divisor of each row."""
        width = evaluate_size(self._stage.value.size, self._call.base.sizes)
        shape = self._visit.batches.size, self._visit.heads.size, self._rows.size
        match self._stage.normalizer:
            case Softmax(sink, sink_value):
                state = SoftmaxState.start(shape, width)
                for block in self._visit.blocks:
                    score, visible, value, pairs = self._block(block)
                    state = state.absorb(score, visible, value, self._kept(pairs))
                return state.finish(self._per_row(sink), self._per_row(sink_value))
            case Elementwise(weight, divisor, epsilon):
                sums = SumState.start(shape, width)
                for block in self._visit.blocks:
                    score, visible, value, pairs = self._block(block)
                    scored = dataclasses.replace(pairs, score=score)
                    weights = np.broadcast_to(evaluate(weight, scored), visible.shape)
                    sums = sums.absorb(weights, visible, value, self._kept(pairs))
                by = sums.total + epsilon if isinstance(divisor, str) else self._per_row(divisor)
                return sums.finish(by), np.zeros(shape) if by is None else by
        raise InternalError("the executor has no rule for this normaliser")

    def _block(self, block: Block) -> tuple[Array, Array, Array, Environment]:
        """Scores, visibility and values of one block, and the environment of its pairs."""
        pairs, visible = self._call.pairs(self._stage, self._visit, block, self._queries)
        score = np.broadcast_to(evaluate(self._stage.score, pairs), visible.shape)
        keys = self._visit.problem.key_tokens(block.box).numbers
        return score, visible, self._call.vectors(self._stage.value, self._visit, keys), pairs

    def _kept(self, pairs: Environment) -> Array | float:
        """What dropout multiplies the weights of values by."""
        return 1.0 if self._stage.kept is None else evaluate(self._stage.kept, pairs)

    def _per_row(self, expression: Expression | str | None) -> Array | None:
        """A float or vector that does not vary with `j`, for every row."""
        if expression is None or isinstance(expression, str):
            return None
        value = evaluate(expression, self._environment)
        if isinstance(expression.type, Vector):
            return np.broadcast_to(value, (*value.shape[:3], 1, value.shape[-1]))[..., 0, :]
        return np.broadcast_to(value, (1,) * (4 - value.ndim) + value.shape)[..., 0]
