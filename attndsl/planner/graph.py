"""A plan as a graph of stages and of the tensors between them, for pictures and for questions such
as "what depends on this input"."""

from __future__ import annotations

from collections.abc import Iterator

import networkx

from attndsl.attention import Elementwise, Softmax
from attndsl.expression import Expression, Operand, Read, walk
from attndsl.planner.block_map import Table, bounds
from attndsl.planner.plan import (
    ROW_RESULTS,
    Attend,
    Fold,
    PairStage,
    PairSums,
    Plan,
    Prepare,
    Scan,
    Source,
    Stage,
    written_buffers,
)

OUTPUTS = ("out", "log_sum_exp")


def plan_graph(plan: Plan) -> networkx.DiGraph[str]:
    """A directed acyclic graph. Nodes are named `stage 0`, `q`, `slope`, `q_prepared`, `out` …
    A backward begins with the forward's results, too, and ends with gradients.

    Every node has a `kind` (`"stage"`, `"operand"`, `"input"`, `"buffer"` or `"output"`) and a
    `label` to draw. Edges run from what is read to the stage that reads it, and on to what that
    stage writes.
    """
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    kinds = dict.fromkeys("qkv", "operand") | {
        declared.name: "input" for declared in plan.attention.inputs
    }
    labels: dict[str, str] = {}
    for name, buffer in plan.gradients:  # two that the score adds up have one
        before = f"{labels[buffer]}, " if buffer in labels else ""
        labels[buffer] = f"{before}{name}.gradient"
    if plan.gradients:
        kinds |= dict.fromkeys((OUTPUTS[0], f"{OUTPUTS[0]}.gradient", *ROW_RESULTS), "operand")
    for number, stage in enumerate(plan.stages):
        here = f"stage {number}"
        graph.add_node(here, kind="stage", label=_label(stage))
        for name in sorted(reads(stage)):
            graph.add_node(name, kind=kinds[name], label=labels.get(name, name))
            graph.add_edge(name, here)
        for name in writes(stage):
            kinds[name] = "output" if name in (*OUTPUTS, *labels) else "buffer"
            graph.add_node(name, kind=kinds[name], label=labels.get(name, name))
            graph.add_edge(here, name)
    return graph


def reads(stage: Stage) -> frozenset[str]:
    """The tensors that a stage reads: operands, inputs and buffers."""
    names = {
        node.name
        for expression in expressions(stage)
        for node in walk(expression)
        if isinstance(node, (Read, Operand))
    }
    if isinstance(stage, PairStage):
        names |= {source.name for source in _sources(stage)}
        match stage.block_map:
            case Table(inputs=inputs):
                names |= set(inputs)
    if isinstance(stage, Fold):
        names |= {addend.name for addend in stage.addends}
    return frozenset(names)


def writes(stage: Stage) -> tuple[str, ...]:
    """The tensors that a stage writes."""
    buffers = written_buffers(stage)
    if buffers:
        return tuple(buffer.name for buffer in buffers)
    assert isinstance(stage, Attend)
    return OUTPUTS if isinstance(stage.normalizer, Softmax) else OUTPUTS[:1]


def expressions(stage: Stage) -> Iterator[Expression]:
    """Every expression that a stage evaluates, the bounds of its block map among them."""
    match stage:
        case Prepare(element=element) | Scan(element=element):
            yield element
        case Attend():
            yield stage.score
            yield stage.mask
            if stage.kept is not None:
                yield stage.kept
            match stage.normalizer:
                case Softmax(sink, value):
                    yield from (one for one in (sink, value) if one is not None)
                case Elementwise(weight, divisor, _):
                    yield weight
                    if divisor is not None and not isinstance(divisor, str):
                        yield divisor
            yield from _places(stage)
        case PairSums(sums=sums, elements=elements, mask=mask):
            yield mask
            for one in sums:
                yield from (value for value, _ in one.terms)
            for each in elements:
                yield from (each.value, *each.indices)
            yield from _places(stage)
        case Fold(terms=terms):
            for term in terms:
                yield from (term.value, *term.indices)


def _places(stage: PairStage) -> Iterator[Expression]:
    yield from bounds(stage.block_map)
    if stage.grid is not None:
        for axis in stage.grid.axes:
            yield from (one for one in (axis.modulus, axis.shift) if one is not None)


def _sources(stage: PairStage) -> Iterator[Source]:
    for dot in stage.dots:
        yield from (dot.query, dot.key)
    for _, source in stage.vectors:
        yield source
    if isinstance(stage, Attend):
        yield stage.value
        return
    for one in stage.sums:
        yield from (source for _, source in one.terms if source is not None)


def _label(stage: Stage) -> str:
    match stage:
        case Prepare(buffer=buffer):
            return f"prepare {buffer.name}"
        case Scan(buffer=buffer):
            return f"scan {buffer.name}"
        case PairSums():
            return "sum over pairs"
        case Fold(buffer=buffer):
            return f"fold into {buffer.name}"
        case Attend(partial=None):
            return "attend"
    return "attend, in part"
