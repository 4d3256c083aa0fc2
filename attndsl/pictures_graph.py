"""The stages of a plan as a graph: in lines of text, or drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attndsl.planner.plan import Plan

if TYPE_CHECKING:
    import networkx
    from matplotlib.axes import Axes

_COLOURS = {
    "stage": "#1f4e79",
    "operand": "#ffffff",
    "input": "#fbe3c8",
    "buffer": "#d6e6f5",
    "output": "#ffffff",
}
_COLUMN, _ROW = 2.0, 0.62  # inches between centres
_WIDTH, _HEIGHT = 1.45, 0.36


def outline(plan: Plan) -> str:
    """One line for every stage: what it reads and what it writes."""
    from attndsl.planner.graph import plan_graph

    graph = plan_graph(plan)
    lines = []
    for node, facts in graph.nodes(data=True):
        if facts["kind"] == "stage":
            reads, writes = (
                ", ".join(graph.nodes[one]["label"] for one in ends)
                for ends in (graph.predecessors(node), graph.successors(node))
            )
            lines.append(f"{reads}  →  [{facts['label']}]  →  {writes}")
    return "\n".join(lines)


def draw_graph(plan: Plan, path: Path) -> None:
    """Write the graph to a PNG, SVG or PDF file, from the caller's tensors to the outputs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from attndsl.planner.graph import plan_graph

    graph = plan_graph(plan)
    places = _places(graph)
    columns = 1 + max(x for x, _ in places.values())
    rows = max(y for _, y in places.values()) - min(y for _, y in places.values()) + 1
    figure = Figure(figsize=(columns * _COLUMN + 0.2, rows * _ROW + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title(plan.attention.name, fontsize=10)
    middle = max(y for _, y in places.values()) + min(y for _, y in places.values())
    centres = {node: (x * _COLUMN, -(y - middle / 2) * _ROW) for node, (x, y) in places.items()}
    for source, target in graph.edges:
        _arrow(axes, centres[source], centres[target])
    for node, facts in graph.nodes(data=True):
        _box(axes, centres[node], facts["label"], facts["kind"])
    xs, ys = zip(*centres.values(), strict=True)
    axes.set_xlim(min(xs) - _WIDTH * 0.62, max(xs) + _WIDTH * 0.62)
    axes.set_ylim(min(ys) - _HEIGHT, max(ys) + _HEIGHT)
    axes.set_aspect("equal")
    figure.savefig(path, dpi=300)


def _places(graph: networkx.DiGraph[str]) -> dict[str, tuple[float, float]]:
    """Column and row of every node: columns by the longest way from a source, rows centred.

    What is read only late stands right before its reader, so that arrows stay short.
    """
    import networkx

    columns: dict[str, int] = {}
    order = list(networkx.topological_sort(graph))
    for node in order:
        columns[node] = 1 + max(
            (columns[before] for before in graph.predecessors(node)), default=-1
        )
    for node in reversed(order):
        readers = [columns[after] for after in graph.successors(node)]
        if readers and not list(graph.predecessors(node)):
            columns[node] = min(readers) - 1
    places: dict[str, tuple[float, float]] = {}
    for column in sorted(set(columns.values())):
        members = [node for node in order if columns[node] == column]
        members.sort(key=lambda node: _height(node, graph, places))
        for row, node in enumerate(members):
            places[node] = column, row - (len(members) - 1) / 2
    return places


def _height(
    node: str, graph: networkx.DiGraph[str], places: dict[str, tuple[float, float]]
) -> float:
    """Where the node's sources stand on average, so that few arrows cross."""
    rows = [places[before][1] for before in graph.predecessors(node) if before in places]
    return sum(rows) / len(rows) if rows else 0.0


def _box(axes: Axes, centre: tuple[float, float], label: str, kind: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = centre
    rounding = 0.05 if kind == "stage" else _HEIGHT / 2
    axes.add_patch(
        FancyBboxPatch(
            (x - _WIDTH / 2, y - _HEIGHT / 2),
            _WIDTH,
            _HEIGHT,
            boxstyle=f"round,pad=0,rounding_size={rounding}",
            facecolor=_COLOURS[kind],
            edgecolor="#1f4e79" if kind != "input" else "#b9814a",
            linewidth=0.8,
        )
    )
    colour = "white" if kind == "stage" else "#20242a"
    family = "sans-serif" if kind == "stage" else "monospace"
    axes.text(x, y, label, ha="center", va="center", fontsize=7.5, color=colour, family=family)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            (start[0] + _WIDTH / 2, start[1]),
            (end[0] - _WIDTH / 2, end[1]),
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.8,
            color="#5a6069",
            shrinkA=0,
            shrinkB=1,
        )
    )
