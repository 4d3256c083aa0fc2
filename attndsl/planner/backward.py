"""The backward of a plan: stages that compute gradients, derived from those of the forward.

With s the score of a pair, w its weight as it multiplies the value v, O the output of a row and dO
its gradient, the chain rule gives, for every visible pair,

    softmax      w = exp(s - lse)        ds = w * (dO·v - delta)       delta = dO·O - dlse
    elementwise  w = weight(s) / c       dweight = (dO·v - delta) / c  delta = dO·O if c is the sum
                                                                               of weights, else 0

where lse is the row's log-sum-exp (sinks included), dlse its gradient and c the divisor, 1 if there
is none. A sink is one more key of score `sink`. With dropout, a pair that is multiplied by c has
c * (dO·v) in place of dO·v, and w * c in place of w where dv is summed up; its delta stays, as O is
the output with dropout. All else is differentiation by symbols of the
score, of what is prepared per token, and of scans; sums over pairs become one stage, `PairSums`.
(For softmax: Dao et al., "FlashAttention" (2022), appendix B.2.)

Contract: takes the plan that `lower` makes, before any pass. The stages of the forward that prepare
tokens and scan are run again: what they write is read by the derived ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import reduce

from attndsl.attention import Elementwise, Softmax
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    BOOL,
    FLOAT,
    Binary,
    Call,
    DotResult,
    Expression,
    Index,
    Literal,
    Matrix,
    Operand,
    Read,
    Scalar,
    ScoreValue,
    Select,
    Size,
    Vector,
    index_names,
    substitute,
    walk,
)
from attndsl.planner import algebra
from attndsl.planner.balance import Balance, Slope
from attndsl.planner.derivative import adjoints, placed
from attndsl.planner.floats import ONE, ZERO, filled, minus, negative, over, plus, times
from attndsl.planner.graph import reads
from attndsl.planner.plan import (
    ROW_RESULTS,
    SIZE_OF_INDEX,
    TOKEN_INDICES,
    Attend,
    Buffer,
    Dot,
    ElementSum,
    Fold,
    FoldTerm,
    PairSum,
    PairSums,
    Plan,
    Prepare,
    Scan,
    Source,
    Stage,
    written_buffers,
)
from attndsl.planner.separate import Side, side_of

OUT, OUT_GRADIENT = (Operand(name, Vector(Size("Dv"))) for name in ("out", "out.gradient"))
_ROW = (Index("b"), Index("h"), Index("row"))
LOG_SUM_EXP = Read("log_sum_exp", _ROW, FLOAT)
LOG_SUM_EXP_GRADIENT = Read("log_sum_exp.gradient", _ROW, FLOAT)
DIVISOR = Read("weights.sum", _ROW, FLOAT)
# Nothing in float32 is greater, so that exp(score - this) is 0 whatever the score.
_GREATEST = 3.0e38
_NOUGHT: Expression = Literal(0)
_OF_OUT = Source(OUT_GRADIENT.name, _NOUGHT, Size("Dv"))


def differentiate(
    plan: Plan, wanted: Iterable[str] | None = None, *, log_sum_exp_gradient: bool = False
) -> Plan:
    """The plan of the backward of `plan`, which `lower` has made.

    It reads the forward's tensors, its results `out` and, for softmax, `log_sum_exp`, for weights
    divided by their sum, `weights.sum`, and the gradients `out.gradient` and, if asked for,
    `log_sum_exp.gradient`. `wanted` are the names whose gradients are computed: `q`, `k`, `v` and
    inputs of floats; all of them where it is None.
    """
    return _Backward(plan, wanted, log_sum_exp_gradient).plan()


def differentiable_names(plan: Plan) -> tuple[str, ...]:
    """What a plan has gradients of, in the order of a call: operands, then inputs of floats."""
    read = set().union(*map(reads, plan.stages))
    operands = [name for name in ("q", "k", "v") if name in read]
    inputs = [one.name for one in plan.attention.inputs if one.element is Scalar.FLOAT]
    return (*operands, *inputs)


# Whose sum over pairs: a tensor's name, the side of its tokens, and which of its elements.
_Target = tuple[str, str, Expression, Expression | None]


class _Backward:
    """Collects, from the scores back to the tensors, what their gradients are sums of."""

    def __init__(
        self, plan: Plan, wanted: Iterable[str] | None, log_sum_exp_gradient: bool
    ) -> None:
        self._forward, self._attend = plan, plan.attend
        self._with_log_sum_exp = log_sum_exp_gradient
        self._inputs = {one.name: one for one in plan.attention.inputs}
        self._prepares = {
            stage.buffer.name: stage for stage in plan.stages if isinstance(stage, Prepare)
        }
        self._scans = {stage.buffer.name: stage for stage in plan.stages if isinstance(stage, Scan)}
        self._taken = {"q", "k", "v", "out", *ROW_RESULTS}
        self._taken |= {*self._inputs, *self._prepares, *self._scans}
        self._needed = set(differentiable_names(plan) if wanted is None else wanted)
        for name, scan in self._scans.items():
            if self._reads_needed(scan.element):
                self._needed.add(name)
        for name, prepare in self._prepares.items():
            if self._reads_needed(prepare.element):
                self._needed.add(name)
        self._rows: list[Stage] = []
        self._pair_sums: list[PairSum] = []
        self._sums: dict[_Target, list[tuple[Expression, Source | None]]] = {}
        self._elements: list[ElementSum] = []
        self._folds: dict[str, list[FoldTerm]] = {}
        self._addends: dict[str, list[Buffer]] = {}
        self._tokens: dict[str, list[tuple[str, Expression]]] = {}
        self._balance: Balance | None = None
        self._surplus: Expression | None = None
        self._excesses: dict[str, Expression] = {}

    def plan(self) -> Plan:
        self._differentiate_pairs()
        pairs = self._pair_stage()
        self._differentiate_prepared()
        after = self._differentiate_scans()
        gradients: list[tuple[str, str]] = []
        for name in differentiable_names(self._forward):
            if name in self._needed:
                stages, buffer = self._gradient(name)
                after += stages
                if buffer is not None:
                    gradients.append((name, buffer))
        before = [one for one in self._forward.stages if not isinstance(one, Attend)]
        stages = _used([*before, *self._rows, *pairs, *after], {name for _, name in gradients})
        return Plan(self._forward.attention, tuple(stages), (), tuple(gradients))

    def _reads_needed(self, expression: Expression) -> bool:
        names = {node.name for node in walk(expression) if isinstance(node, (Read, Operand))}
        return not names.isdisjoint(self._needed)

    # Pairs -----------------------------------------------------------------------------------

    def _differentiate_pairs(self) -> None:
        attend = self._attend
        of_value: Expression = DotResult(len(attend.dots))
        if attend.kept is not None:
            of_value = times(attend.kept, of_value)
        match attend.normalizer:
            case Softmax(sink, sink_value):
                weight, of_score = self._softmax(of_value, sink, sink_value)
                output = attend.score
            case Elementwise():
                weight, of_score = self._elementwise(attend.normalizer, of_value)
                output = self._weight(attend.normalizer)
            case _:
                raise InternalError("no backward for this normaliser")
        if attend.value.name in self._needed:
            if attend.kept is not None:
                weight = times(weight, attend.kept)
            self._add_sum(
                attend.value, "key", weight, Source(OUT_GRADIENT.name, _NOUGHT, Size("Dv"))
            )
        for leaf, adjoint in adjoints(output, of_score, self._is_leaf).items():
            self._add_pair(leaf, adjoint)

    def _softmax(
        self, of_value: Expression, sink: Expression | None, sink_value: Expression | None
    ) -> tuple[Expression, Expression]:
        """The weight of a pair, and the adjoint of its score."""
        seen = Binary(">", LOG_SUM_EXP, Literal(-_GREATEST), BOOL)
        shift = self._per_row("shift", Select(seen, LOG_SUM_EXP, Literal(_GREATEST), FLOAT))
        delta: Expression = Call("dot", (OUT_GRADIENT, OUT), FLOAT)
        if self._with_log_sum_exp:
            delta = minus(delta, LOG_SUM_EXP_GRADIENT)
        delta = self._per_row("delta", delta)
        weight = _exp(minus(self._attend.score, shift))
        of_score = times(weight, minus(of_value, delta))
        of_row: Expression = ZERO
        if self._with_log_sum_exp:
            of_row = Select(seen, LOG_SUM_EXP_GRADIENT, ZERO, FLOAT)
        if sink is not None:
            sunk = _exp(minus(sink, shift))
            of_sink_value: Expression = ZERO
            if sink_value is not None:
                of_sink_value = Call("dot", (OUT_GRADIENT, sink_value), FLOAT)
                self._add_row(sink_value, times(sunk, OUT_GRADIENT))
            of_sink = times(sunk, minus(of_sink_value, delta))
            self._add_row(sink, of_sink)
            of_row = minus(of_row, of_sink)
        slopes = adjoints(self._attend.score, ONE, self._is_leaf)
        self._balance = Balance(weight, of_score, slopes, of_row)
        return weight, of_score

    def _elementwise(
        self, normalizer: Elementwise, of_value: Expression
    ) -> tuple[Expression, Expression]:
        """The weight of a pair as it multiplies a value, and the adjoint of the weight as it is
        before the division."""
        weight = self._weight(normalizer)
        divisor = normalizer.divisor
        if divisor is None:
            return weight, of_value
        by_sum = isinstance(divisor, str)
        by = DIVISOR if isinstance(divisor, str) else divisor
        is_zero = Binary("==", by, ZERO, BOOL)
        inverse = self._per_row("inverse", Select(is_zero, ZERO, over(ONE, by), FLOAT))
        of_output: Expression = Call("dot", (OUT_GRADIENT, OUT), FLOAT)
        if by_sum:
            of_value = minus(of_value, self._per_row("delta", of_output))
        else:
            self._add_row(by, negative(times(inverse, of_output)))
        return times(inverse, weight), times(inverse, of_value)

    def _weight(self, normalizer: Elementwise) -> Expression:
        """A pair's weight before the division, over what its score is made of."""
        scores: dict[Expression, Expression] = {ScoreValue(): self._attend.score}
        return substitute(normalizer.weight, scores)

    def _per_row(self, stem: str, element: Expression) -> Expression:
        """A read of what is computed once per query."""
        buffer = Buffer(self._name(stem), Scalar.FLOAT, (Size("B"), Size("H"), Size("Lq")))
        self._rows.append(Prepare(buffer, "query", element))
        return Read(buffer.name, _ROW, FLOAT)

    def _is_leaf(self, node: Expression) -> bool:
        return isinstance(node, (DotResult, Operand, Read))

    def _add_pair(self, leaf: Expression, adjoint: Expression) -> None:
        """A leaf of the score: what its sums over pairs are."""
        match leaf:
            case DotResult(number):
                dot = self._attend.dots[number]
                if dot.query.name in self._needed:
                    self._add_sum(dot.query, "query", adjoint, dot.key)
                if dot.key.name in self._needed:
                    self._add_sum(dot.key, "key", adjoint, dot.query)
            case Operand(name, type) if name in self._needed:
                side = "query" if name == "q" else "key"
                self._add_sum(Source(name, _NOUGHT, type.size), side, adjoint, None)
            case Read(name) if name in self._prepares and name in self._needed:
                size = leaf.type.size if isinstance(leaf.type, Vector) else None
                side = self._prepares[name].side
                self._sums.setdefault((name, side, _NOUGHT, size), []).append((adjoint, None))
                slope = self._slope(leaf) if side == "query" and size is None else None
                if slope is not None and self._has_needed_reads(name):
                    self._excesses[name] = slope.whole(self._excess(leaf, slope))
            case Read(name) if name in self._needed:
                self._add_read(leaf, adjoint)

    def _add_sum(self, target: Source, side: str, value: Expression, source: Source | None) -> None:
        key = target.name, side, target.start, target.size
        self._sums.setdefault(key, []).append((value, source))

    def _add_read(self, leaf: Read, adjoint: Expression) -> None:
        """An element of an input or a scan: summed over one side and then folded, if that side's
        tokens decide which element it is."""
        side = reduce(lambda known, index: known | side_of(index), leaf.indices, Side.NEITHER)
        if side is Side.BOTH or isinstance(leaf.type, Matrix):
            buffer = Buffer(self._name(f"{leaf.name}_sum"), Scalar.FLOAT, self._shape(leaf.name))
            self._elements.append(ElementSum(buffer, leaf.indices, adjoint))
            self._addends.setdefault(leaf.name, []).append(buffer)
            return
        names = frozenset().union(*map(index_names, leaf.indices))
        token_side = "query" if side is not Side.KEY else "key heads" if "h" in names else "key"
        size = leaf.type.size if isinstance(leaf.type, Vector) else None
        slope = self._slope(leaf) if token_side == "query" and size is None else None
        if slope is not None and self._balance is not None:
            found = self._sum_of_row(f"{leaf.name}_sum", times(self._balance.of_score, slope.part))
            excess = self._excess(leaf, slope)
            self._add_fold(leaf, token_side, slope.whole(minus(found, excess)))
            return
        buffer = self._token_buffer(f"{leaf.name}_sum", token_side, size)
        self._pair_sums.append(PairSum(buffer, _of_pair(token_side), ((adjoint, None),)))
        self._add_fold(leaf, token_side, _read_token(buffer, token_side))

    def _slope(self, leaf: Read) -> Slope | None:
        """How a softmax's score depends on a leaf; None where that is not by scores."""
        return None if self._balance is None else self._balance.slope(leaf)

    def _excess(self, leaf: Read, slope: Slope) -> Expression:
        """What the sum over a row of `ds` times a slope's part is too much by."""
        assert self._balance is not None
        if self._surplus is None:
            found = self._sum_of_row("ds_sum", self._balance.of_score)
            self._surplus = minus(found, self._balance.of_row)
        weighted = times(self._balance.weight, slope.part)
        return times(self._surplus, self._sum_of_row(f"{leaf.name}_mean", weighted))

    def _sum_of_row(self, stem: str, value: Expression) -> Expression:
        """A read of the sum over the keys that a query sees."""
        buffer = self._token_buffer(stem, "query", None)
        self._pair_sums.append(PairSum(buffer, "query", ((value, None),)))
        return _read_token(buffer, "query")

    def _has_needed_reads(self, prepared: str) -> bool:
        element = self._prepares[prepared].element
        leaves = adjoints(element, ONE, self._is_leaf)
        return any(isinstance(one, Read) and one.name in self._needed for one in leaves)

    def _add_fold(self, leaf: Read, side: str, value: Expression) -> None:
        self._folds.setdefault(leaf.name, []).append(FoldTerm(side, value, leaf.indices))

    def _pair_stage(self) -> list[Stage]:
        """The one stage over pairs, of which the sums for one part of one tensor share a buffer."""
        for (name, side, start, size), terms in self._sums.items():
            token_side = side
            if side == "key" and name in self._prepares and self._prepares[name].head_index == "h":
                token_side = "key heads"
            buffer = self._token_buffer(f"{name}_sum", token_side, size)
            self._pair_sums.append(PairSum(buffer, side, tuple(terms)))
            whole = self._width(name)
            part = _read_token(buffer, token_side)
            if size is not None and whole is not None:
                part = placed(part, start, algebra.add(start, size), Vector(whole))
            self._tokens.setdefault(name, []).append((token_side, part))
        attend = self._attend
        dots = (*attend.dots, Dot(_OF_OUT, attend.value))
        if not self._pair_sums and not self._elements:
            return []
        return [
            PairSums(
                dots,
                tuple(self._pair_sums),
                tuple(self._elements),
                attend.score if isinstance(attend.normalizer, Softmax) else None,
                attend.mask,
                attend.vectors,
                attend.block_map,
            )
        ]

    # Tokens ----------------------------------------------------------------------------------

    def _add_row(self, output: Expression, adjoint: Expression) -> None:
        """What is computed once per query besides scores: sinks and divisors."""
        for leaf, own in adjoints(output, adjoint, self._is_leaf).items():
            assert isinstance(leaf, Read)
            if leaf.name in self._prepares and leaf.name in self._needed:
                self._tokens.setdefault(leaf.name, []).append(("query", own))
            elif leaf.name in self._needed:
                self._add_fold(leaf, "query", own)

    def _differentiate_prepared(self) -> None:
        """From vectors and floats that were prepared per token to what they were made of."""
        for name, prepare in self._prepares.items():
            if name not in self._tokens:
                continue
            (side,) = {side for side, _ in self._tokens[name]}
            own = _total(self._tokens[name])
            for leaf, adjoint in adjoints(prepare.element, own, self._is_leaf).items():
                if isinstance(leaf, Operand) and leaf.name in self._needed:
                    self._tokens.setdefault(leaf.name, []).append((side, adjoint))
            # Not for operands, which other sums over the same row are added to: what is too much
            # in one is in the others as well, and where scores gather, most of it cancels.
            own = minus(own, self._excesses.get(name, ZERO))
            for leaf, adjoint in adjoints(prepare.element, own, self._is_leaf).items():
                if isinstance(leaf, Read) and leaf.name in self._needed:
                    self._add_fold(leaf, side, adjoint)

    def _differentiate_scans(self) -> list[Stage]:
        stages: list[Stage] = []
        for name, scan in self._scans.items():
            if name not in self._folds and name not in self._addends:
                continue
            stages += self._fold(name, buffer := self._gradient_buffer(name))
            place = tuple(map(Index, (*scan.indices, "t")))
            running = dataclasses.replace(buffer, name=self._name(f"{name}_suffix"))
            stages.append(Scan(running, scan.indices, Read(buffer.name, place, FLOAT), True))
            own = Read(running.name, place, FLOAT)
            for leaf, adjoint in adjoints(scan.element, own, self._is_leaf).items():
                if isinstance(leaf, Read) and leaf.name in self._needed:
                    self._add_fold(leaf, f"scan {name}", adjoint)
        return stages

    # Tensors ---------------------------------------------------------------------------------

    def _gradient(self, name: str) -> tuple[list[Stage], str | None]:
        """The last stages for a tensor, and the buffer of its gradient; None where it has none."""
        if name in self._inputs:
            if name not in self._folds and name not in self._addends:
                return [], None
            if name not in self._folds and len(self._addends[name]) == 1:
                return [], self._addends[name][0].name
            buffer = self._gradient_buffer(name)
            return self._fold(name, buffer), buffer.name
        parts = self._tokens.get(name)
        if parts is None:
            return [], None
        own_side = "query" if name == "q" else "key"
        match parts:
            case [(side, Read(buffer_name))] if side == own_side:
                return [], buffer_name
        type = Vector(self._width(name) or Size("D"))
        buffer = self._token_buffer(f"{name}_gradient", own_side, type.size)
        sides = {side for side, _ in parts}
        if sides == {own_side}:
            return [Prepare(buffer, own_side, filled(_total(parts), type))], buffer.name
        # Query heads that share a key head each have a part of its gradient.
        stages: list[Stage] = []
        terms: list[FoldTerm] = []
        indices = tuple(map(Index, TOKEN_INDICES[own_side]))
        for side in sorted(sides):
            part = self._token_buffer(f"{name}_part", side, type.size)
            total = _total([one for one in parts if one[0] == side])
            stages.append(Prepare(part, _of_pair(side), filled(total, type)))
            terms.append(FoldTerm(side, _read_token(part, side), indices))
        return [*stages, Fold(buffer, tuple(terms))], buffer.name

    def _fold(self, name: str, buffer: Buffer) -> list[Stage]:
        terms = tuple(self._folds.get(name, ()))
        return [Fold(buffer, terms, tuple(self._addends.get(name, ())))]

    def _shape(self, name: str) -> tuple[Expression, ...]:
        if name in self._inputs:
            return self._inputs[name].dimensions
        return self._scans[name].buffer.dimensions

    def _gradient_buffer(self, name: str) -> Buffer:
        return Buffer(self._name(f"{name}_gradient"), Scalar.FLOAT, self._shape(name))

    def _width(self, name: str) -> Expression | None:
        """How many elements a tensor has per token; None where it has one float."""
        if name in self._prepares:
            type = self._prepares[name].element.type
            return type.size if isinstance(type, Vector) else None
        return Size("Dv") if name == "v" else Size("D")

    def _token_buffer(self, stem: str, side: str, size: Expression | None) -> Buffer:
        dimensions = tuple(Size(SIZE_OF_INDEX[index]) for index in TOKEN_INDICES[side])
        last = () if size is None else (size,)
        return Buffer(self._name(stem), Scalar.FLOAT, (*dimensions, *last))

    def _name(self, stem: str) -> str:
        """A name that nothing else has."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def _exp(operand: Expression) -> Expression:
    return Call("exp", (operand,), FLOAT)


def _of_pair(side: str) -> str:
    """The side of a pair that a token is on."""
    return side.split()[0]


def _read_token(buffer: Buffer, side: str) -> Expression:
    type = Vector(buffer.dimensions[-1]) if len(buffer.dimensions) > 3 else FLOAT
    return Read(buffer.name, tuple(map(Index, TOKEN_INDICES[side])), type)


def _total(parts: Iterable[tuple[str, Expression]]) -> Expression:
    return reduce(plus, (part for _, part in parts))


def _used(stages: list[Stage], wanted: set[str]) -> list[Stage]:
    """Those stages that write what is wanted, or what such a stage reads."""
    kept: list[Stage] = []
    for stage in reversed(stages):
        if any(buffer.name in wanted for buffer in written_buffers(stage)):
            kept.append(stage)
            wanted = wanted | reads(stage)
    return kept[::-1]
