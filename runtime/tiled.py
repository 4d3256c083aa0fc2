"""A plan run in torch, tile by tile: for machines without a C++ compiler.

Correct on every device that torch has, several times slower than a compiled kernel, and never
larger than a tile of the score matrix for every head. Accumulates in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attndsl import evaluate as numpy_evaluate
from attndsl.attention import Elementwise, Softmax
from attndsl.diagnostics import InternalError
from attndsl.dropout import Dropout
from attndsl.evaluate import evaluate_size
from attndsl.expression import OPERANDS, QUERY_OPERANDS, Expression, Vector
from attndsl.planner.block_map import Kind
from attndsl.planner.lists import Block
from attndsl.planner.plan import Attend, PairStage, Partial, Plan, Prepare, Scan, Source
from attndsl.planner.visits import Visit, pair_indices, tile_indices, visits
from attndsl.runtime.arguments import Call as CheckedCall
from attndsl.runtime.torch_evaluate import Environment, evaluate

BLOCK_M, BLOCK_N = 128, 256


def run(
    plan: Plan,
    operands: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    scale: float,
    *,
    dropout: Dropout | None = None,
    block_m: int = BLOCK_M,
    block_n: int = BLOCK_N,
) -> tuple[Tensor, Tensor]:
    """Output `[B, H, Lq, Dv]` in q's dtype, and log-sum-exp float32 `[B, H, Lq]` (zeros where the
    normaliser has none). Arguments are checked already; `inputs` have the dtypes kernels read."""
    device = operands["q"].device
    call = Call(operands, environment_of(plan, device, inputs, sizes, scale, dropout))
    for stage in plan.stages:
        match stage:
            case Prepare():
                call = call.with_buffer(stage.buffer.name, call.prepare(stage))
            case Scan():
                call = call.with_buffer(stage.buffer.name, call.scan(stage))
            case Attend(partial=Partial(output, log_sum_exp)):
                part, statistics = call.attend(stage, block_m, block_n)
                call = call.with_buffer(output.name, part)
                call = call.with_buffer(log_sum_exp.name, statistics)
    out, statistics = call.attend(plan.attend, block_m, block_n)
    return out.to(operands["q"].dtype), statistics


def environment_of(
    plan: Plan,
    device: torch.device,
    inputs: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    scale: float,
    dropout: Dropout | None,
) -> Environment:
    return Environment(
        device,
        sizes=sizes,
        axes=plan.attention.axes,
        scale=scale,
        inputs=inputs,
        dropout=dropout,
    )


def call_of(plan: Plan, checked: CheckedCall, tensors: Mapping[str, Tensor]) -> Call:
    """What stages of a backward read, by name: vectors of tokens, and all else."""
    vectors = {name: tensors[name] for name in OPERANDS if name in tensors}
    others = {name: one for name, one in tensors.items() if name not in vectors}
    device = tensors["q"].device
    numbers = checked.sizes, checked.scale, checked.dropout
    return Call(vectors, environment_of(plan, device, others, *numbers))


@dataclass(frozen=True)
class Call:
    """One call: the caller's vectors, and an environment whose inputs hold the buffers too."""

    given: Mapping[str, Tensor]
    base: Environment

    def with_buffer(self, name: str, array: Tensor) -> Call:
        inputs = {**self.base.inputs, name: array}
        return Call(self.given, dataclasses.replace(self.base, inputs=inputs))

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return max(1, self.base.sizes["H"] // max(1, self.base.sizes["Hkv"]))

    def scan(self, stage: Scan) -> Tensor:
        environment, shape = self.tokens((*stage.indices, "t"), stage.buffer.dimensions)
        element = evaluate(stage.element, environment).expand(shape).to(torch.float64)
        if stage.from_end:
            return element.flip(-1).cumsum(-1).flip(-1).to(torch.float32)
        return element.cumsum(-1).to(torch.float32)

    def prepare(self, stage: Prepare) -> Tensor:
        """`[B, heads, tokens]`, with a last axis if the element is a vector."""
        names = ("b", stage.head_index, "row" if stage.side == "query" else "j")
        environment, shape = self.tokens(names, stage.buffer.dimensions[:3])
        value = evaluate(stage.element, environment)
        return value.expand(shape + value.shape[3:]).contiguous()

    def tokens(
        self, names: tuple[str, ...], dimensions: tuple[Expression, ...]
    ) -> tuple[Environment, tuple[int, ...]]:
        """What expressions over tokens read, on the grid of the named indices, and its shape."""
        shape = self.shape(dimensions)
        indices = dict(zip(names, self._grid(shape), strict=True))
        if "h" in indices:
            indices["g"] = torch.div(indices["h"], self.group, rounding_mode="floor")
        if "row" in indices:
            indices["i"] = indices["row"] + self.base.sizes["offset"]
        operands = {}
        for operand, array in self.given.items():
            token, head = ("row", "h") if operand in QUERY_OPERANDS else ("j", "g")
            if token in indices:
                place = indices["b"], indices[head], indices[token]
                operands[operand] = array[place].float()
        environment = dataclasses.replace(self.base, indices=indices, operands=operands)
        return environment, shape

    def attend(self, stage: Attend, block_m: int, block_n: int) -> tuple[Tensor, Tensor]:
        sizes = self.base.sizes
        query = self.given["q"]
        shape = sizes["B"], sizes["H"], sizes["Lq"]
        output = query.new_zeros((*shape, sizes["Dv"]), dtype=torch.float32)
        log_sum_exp = query.new_zeros(shape, dtype=torch.float32)
        for visit in self.visits(stage, block_m, block_n):
            tile = _Tile(self, stage, visit)
            result, statistics = tile.run()
            output[tile.place], log_sum_exp[tile.place] = result, statistics
        return output, log_sum_exp

    def visits(self, stage: PairStage, block_m: int, block_n: int) -> Iterator[Visit]:
        """The planner enumerates tiles in NumPy."""
        base = numpy_evaluate.Environment(
            sizes=self.base.sizes,
            axes=self.base.axes,
            inputs={name: tensor.cpu().numpy() for name, tensor in self.base.inputs.items()},
            clamp=True,
        )
        return visits(stage, base, block_m, block_n)

    def vectors(self, source: Source, visit: Visit, tokens: Tensor) -> Tensor:
        """`[batch, heads, tokens, size]` of a source in float32; heads are query heads."""
        array = self.given.get(source.name)
        if array is None:
            array = self.base.inputs[source.name]
        heads = self.tensor(visit.heads)
        if array.shape[1] != self.base.sizes["H"]:
            heads = torch.div(heads, self.group, rounding_mode="floor")
        batches = self.tensor(visit.batches)
        start, size = (
            evaluate_size(bound, self.base.sizes) for bound in (source.start, source.size)
        )
        picked = array[batches[:, None, None], heads[:, None], tokens, start : start + size]
        return picked.float()

    def queries(self, stage: PairStage, visit: Visit) -> list[Tensor]:
        """The query side of every matrix product, for a tile."""
        rows = self.tensor(visit.queries.numbers)
        return [self.vectors(dot.query, visit, rows) for dot in stage.dots]

    def pairs(
        self, stage: PairStage, visit: Visit, block: Block, queries: Sequence[Tensor]
    ) -> tuple[Environment, Tensor]:
        """What expressions over the pairs of one block read, and which pairs are visible:
        `[batches, heads, rows, keys]`."""
        rows = self.tensor(visit.queries.numbers)
        keys = self.tensor(visit.problem.key_tokens(block.box).numbers)
        environment = dataclasses.replace(
            self.base,
            indices=self.tensors(pair_indices(visit, block, self.base.sizes)),
            sizes={**self.base.sizes, **visit.problem.local_sizes},
            dots={
                number: query @ self.vectors(dot.key, visit, keys).transpose(-1, -2)
                for number, (dot, query) in enumerate(zip(stage.dots, queries, strict=True))
            },
            operands={
                name: self.vectors(source, visit, rows)[:, :, :, None]
                if name == "q"
                else self.vectors(source, visit, keys)[:, :, None]
                for name, source in stage.vectors
            },
        )
        shape = visit.batches.size, visit.heads.size, rows.numel(), keys.numel()
        if block.kind == Kind.PARTIAL:
            return environment, evaluate(stage.mask, environment).expand(shape)
        return environment, torch.ones(shape, dtype=torch.bool, device=self.base.device)

    def tensor(self, array: numpy_evaluate.Array) -> Tensor:
        return torch.as_tensor(array, dtype=torch.int64, device=self.base.device)

    def tensors(self, arrays: Mapping[str, numpy_evaluate.Array]) -> dict[str, Tensor]:
        return {name: self.tensor(array) for name, array in arrays.items()}

    def shape(self, dimensions: tuple[Expression, ...]) -> tuple[int, ...]:
        return tuple(evaluate_size(size, self.base.sizes) for size in dimensions)

    def _grid(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Indices of every dimension, shaped to broadcast against each other."""
        return [
            torch.arange(length, device=self.base.device).reshape(
                [-1 if axis == other else 1 for other in range(len(shape))]
            )
            for axis, length in enumerate(shape)
        ]


class _Tile:
    """One tile of queries, and the state that it carries from block to block."""

    def __init__(self, call: Call, stage: Attend, visit: Visit) -> None:
        self._call, self._stage, self._visit = call, stage, visit
        self._rows = call.tensor(visit.queries.numbers)
        indices = call.tensors(tile_indices(visit, call.base.sizes))
        sizes = {**call.base.sizes, **visit.problem.local_sizes}
        self._environment = dataclasses.replace(call.base, indices=indices, sizes=sizes)
        batches, heads = call.tensor(visit.batches), call.tensor(visit.heads)
        self.place = batches[:, None, None], heads[:, None], self._rows
        self._shape = (visit.batches.size, visit.heads.size, self._rows.numel())
        self._queries = call.queries(stage, visit)

    def run(self) -> tuple[Tensor, Tensor]:
        """Output `[batches, heads, rows, Dv]` and log-sum-exp (zeros where there is none)."""
        match self._stage.normalizer:
            case Softmax(sink, sink_value):
                return self._softmax(sink, sink_value)
            case Elementwise() as elementwise:
                return self._elementwise(elementwise)
        raise InternalError("the tiled path has no rule for this normaliser")

    def _softmax(
        self, sink: Expression | None, sink_value: Expression | None
    ) -> tuple[Tensor, Tensor]:
        """The running maximum, total and weighted sum of Milakov & Gimelshein (2018)."""
        maximum, total = self._zeros() - torch.inf, self._zeros()
        weighted = self._zeros(self._call.base.sizes["Dv"])
        if sink is not None:
            maximum = self._per_row(sink).expand(self._shape)
            total = total + (maximum > -torch.inf)
            if sink_value is not None:
                weighted = weighted + self._per_row(sink_value)
        for block in self._visit.blocks:
            score, visible, value, pairs = self._block(block)
            score = score.masked_fill(~visible, -torch.inf)
            higher = torch.maximum(maximum, score.amax(-1))
            # A row that has seen nothing keeps a shift that is finite.
            shift = higher.masked_fill(higher == -torch.inf, 0.0)
            weights = torch.exp(score - shift[..., None])
            rescale = torch.exp(maximum - shift)
            total = total * rescale + weights.sum(-1)
            kept = self._dropped(weights, pairs)
            weighted = weighted * rescale[..., None] + combine(kept, visible, value)
            maximum = higher
        divisor = total.masked_fill(total == 0, 1.0)
        shift = maximum.masked_fill(maximum == -torch.inf, 0.0)
        return weighted / divisor[..., None], shift + torch.log(total)

    def _elementwise(self, normalizer: Elementwise) -> tuple[Tensor, Tensor]:
        total = self._zeros()
        weighted = self._zeros(self._call.base.sizes["Dv"])
        for block in self._visit.blocks:
            score, visible, value, pairs = self._block(block)
            weights = evaluate(normalizer.weight, dataclasses.replace(pairs, score=score))
            weights = weights.expand(visible.shape).masked_fill(~visible, 0.0)
            total = total + weights.sum(-1)
            kept = self._dropped(weights, pairs)
            weighted = weighted + combine(kept, visible, value)
        match normalizer.divisor:
            case None:
                return weighted, self._zeros()
            case str():
                divisor = total + normalizer.epsilon
            case expression:
                divisor = self._per_row(expression).expand(self._shape)
        safe = divisor.masked_fill(divisor == 0, 1.0)[..., None]
        return torch.where(divisor[..., None] == 0, 0.0, weighted / safe), divisor

    def _dropped(self, weights: Tensor, pairs: Environment) -> Tensor:
        """The weights as they multiply values."""
        kept = self._stage.kept
        return weights if kept is None else weights * evaluate(kept, pairs)

    def _zeros(self, *more: int) -> Tensor:
        return torch.zeros((*self._shape, *more), device=self._call.base.device)

    def _block(self, block: Block) -> tuple[Tensor, Tensor, Tensor, Environment]:
        """Scores, visibility and values of one block, and the environment of its pairs."""
        pairs, visible = self._call.pairs(self._stage, self._visit, block, self._queries)
        score = evaluate(self._stage.score, pairs).expand(visible.shape)
        keys = self._call.tensor(self._visit.problem.key_tokens(block.box).numbers)
        return score, visible, self._call.vectors(self._stage.value, self._visit, keys), pairs

    def _per_row(self, expression: Expression) -> Tensor:
        """A float or vector that does not vary with `j`, for every row."""
        value = evaluate(expression, self._environment)
        if isinstance(expression.type, Vector):
            return value.expand(*value.shape[:3], 1, value.shape[-1])[..., 0, :]
        return value.reshape((1,) * (4 - value.dim()) + value.shape)[..., 0]


def combine(weights: Tensor, visible: Tensor, value: Tensor) -> Tensor:
    """The weighted sum of values; what is hidden is left out, not multiplied by 0."""
    if torch.isfinite(value).all():
        return weights @ value
    seen = torch.where(visible[..., None], value[..., None, :, :], 0.0)
    return torch.einsum("...mn,...mnd->...md", weights, seen)
