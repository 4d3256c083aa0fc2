"""`attndsl show`: a spec at every stage of its way to a kernel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from attndsl.cli import options


def show(
    spec: options.SpecArgument,
    plan: Annotated[
        bool, typer.Option("--plan", help="The stages that will run, and the block map.")
    ] = False,
    backward: Annotated[
        bool, typer.Option("--backward", help="What computes its gradients: derived formulas.")
    ] = False,
    triton: Annotated[bool, typer.Option("--triton", help="The Triton source, for GPUs.")] = False,
    cpp: Annotated[bool, typer.Option("--cpp", help="The C++ source, for CPUs.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="The stages as a graph; a picture with -o.")
    ] = False,
    ast: Annotated[bool, typer.Option("--ast", help="The syntax tree.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="For --graph: a .png, .svg or .pdf."),
    ] = None,
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    target: Annotated[str, typer.Option(help="For --triton: whose configuration.")] = "cuda:90",
    head_dim: options.HeadDimOption = 64,
    dtype: options.DtypeOption = None,
) -> None:
    """Show what a spec becomes: its meaning, tree, plan, graph, or source for a target.

    Without an option it prints the spec as the checker understood it, with definitions written out
    and every default shown.

    Examples:

        attndsl show gemma2.attn

        attndsl show gemma2.attn --plan --param window=1024

        attndsl show gemma2.attn --backward

        attndsl show gemma2.attn --cpp --dtype fp32

        attndsl show rope.attn --graph -o stages.svg
    """
    if output is not None and not graph:
        raise typer.BadParameter("only --graph writes a file", param_hint="--output")
    if ast:
        print(_tree_of(spec))
    if ast and not (plan or backward or triton or cpp or graph):
        return
    chosen = options.choose(options.load_spec(spec), attention)
    if not (plan or backward or triton or cpp or graph):
        from attndsl.printing import describe

        print(describe(chosen), end="")
        return
    bound = options.bound(chosen, param)
    if plan:
        from attndsl.planner import plan as make_plan

        print(make_plan(bound))
    if backward:
        from attndsl.planner.pipeline import plan_backward

        print(plan_backward(bound))
    if graph:
        _show_graph(bound, output)
    for wanted, name, default in ((triton, target, "bf16"), (cpp, "cpu", "fp32")):
        if wanted:
            from attndsl.runtime.compilation import emit, specialize
            from attndsl.runtime.targets import parse_target

            specialization = specialize(bound, head_dim, None, dtype or default)
            print(emit(bound, specialization, parse_target(name))[1].text, end="")


def _show_graph(bound: Any, output: Path | None) -> None:
    from attndsl.planner import plan as make_plan

    if output is None:
        from attndsl.pictures_graph import outline

        print(outline(make_plan(bound)))
        return
    from attndsl.pictures_graph import draw_graph

    options.make_parent(output)
    draw_graph(make_plan(bound), output)
    print(output)


def _tree_of(path: Path) -> str:
    from attndsl.diagnostics import error
    from attndsl.parsing import parse
    from attndsl.source import Source

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error("A043", f"cannot read `{path}`: {problem}") from None
    return "\n".join(_tree_lines("", parse(Source(text, str(path), path)), 0))


def _tree_lines(label: str, node: Any, depth: int) -> list[str]:
    """One line for every node, its plain values beside its class, its parts below it."""
    indent = "  " * depth
    prefix = f"{label}: " if label else ""
    if isinstance(node, tuple):
        return [line for child in node for line in _tree_lines(label, child, depth)]
    if not dataclasses.is_dataclass(node):
        return [f"{indent}{prefix}{node!r}"]
    plain, parts = [], []
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if field.name == "span" or value is None or value == ():
            continue
        if _has_nodes(value):
            parts.append((field.name, value))
        else:
            shown = ".".join(value) if field.name == "parts" else repr(value)
            plain.append(shown if field.name in ("parts", "value") else f"{field.name}={shown}")
    lines = [f"{indent}{prefix}{type(node).__name__} {' '.join(plain)}".rstrip()]
    for name, value in parts:
        lines += _tree_lines(name, value, depth + 1)
    return lines


def _has_nodes(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_has_nodes, value))
    return dataclasses.is_dataclass(value)
