"""`attndsl show`: a spec at every stage of its way to a kernel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli import options

if TYPE_CHECKING:
    from attndsl.attention import Attention
    from attndsl.planner.plan import Plan


def show(
    spec: options.SpecArgument,
    plan: Annotated[
        bool, typer.Option("--plan", help="The stages that will run, and the block map.")
    ] = False,
    backward: Annotated[
        bool,
        typer.Option(
            "--backward",
            help="What computes its gradients: --plan of it unless another view is asked for.",
        ),
    ] = False,
    triton: Annotated[bool, typer.Option("--triton", help="The Triton source, for GPUs.")] = False,
    cpp: Annotated[bool, typer.Option("--cpp", help="The C++ source, for CPUs.")] = False,
    graph: Annotated[
        bool, typer.Option("--graph", help="The stages as a graph; a picture with -o.")
    ] = False,
    ast: Annotated[bool, typer.Option("--ast", help="The syntax tree of the whole file.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="For --graph: a .png, .svg or .pdf."),
    ] = None,
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    gradient: options.GradientOption = None,
    target: Annotated[
        str | None, typer.Option(help="For --triton: whose configuration; cuda:90 unless given.")
    ] = None,
    head_dim: Annotated[
        int | None,
        typer.Option(
            metavar="D", min=1, help="For --triton and --cpp: the head dimension; 64 unless given."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|bf16|fp16",
            help="For --triton and --cpp: the type of q, k, v and the output.",
        ),
    ] = None,
) -> None:
    """Show what a spec becomes: its meaning, tree, plan, graph, or source for a target.

    Without an option it prints the spec as the checker understood it, with definitions written out
    and every default shown. With --backward, what is asked for is that of the gradients; on a GPU
    each of its stages has a source of its own.

    Examples:

        attndsl show gemma2.attn

        attndsl show gemma2.attn --plan --param window=1024

        attndsl show gemma2.attn --backward

        attndsl show alibi.attn --backward --triton --gradient slope

        attndsl show gemma2.attn --cpp --dtype fp32

        attndsl show rope.attn --graph -o stages.svg
    """
    _check_usage(
        (("--output", output), graph, "only --graph writes a file"),
        (("--gradient", gradient), backward, "only --backward has gradients"),
        (("--target", target), triton, "only --triton has a target"),
        (("--head-dim", head_dim), triton or cpp, "only --triton and --cpp depend on it"),
        (("--dtype", dtype), triton or cpp, "only --triton and --cpp depend on it"),
    )
    made = plan or backward or triton or cpp or graph
    if ast:
        if not made:
            reason = "the tree is that of the whole file, as it is written"
            _check_usage(
                (("--param", param), False, reason), (("--attention", attention), False, reason)
            )
        print(_tree_of(spec))
        if not made:
            return
    chosen = options.choose(options.load_spec(spec), attention)
    if not made:
        from attndsl.printing import describe

        print(describe(options.bound(chosen, param) if param else chosen), end="")
        return
    bound = options.bound(chosen, param)
    view = _View(bound, backward, tuple(gradient or ()), by_side=triton)
    if plan or (backward and not (triton or cpp or graph)):
        print(view.plan)
    if graph:
        _show_graph(view.plan, output)
    if triton:
        print(view.source("triton", target or "cuda:90", head_dim or 64, dtype or "bf16"), end="")
    if cpp:
        print(view.source("cpp", "cpu", head_dim or 64, dtype or "fp32"), end="")


def _check_usage(*rules: tuple[tuple[str, object], bool, str]) -> None:
    """An option that would change nothing is a mistake (exit status 2)."""
    for (name, value), allowed, reason in rules:
        if value is not None and not allowed:
            raise typer.BadParameter(reason, param_hint=name)


@dataclass(frozen=True)
class _View:
    """What is shown of a bound attention: its forward, or its backward for the `gradients` that are
    named. `by_side` is the form of a backward's plan that kernels for GPUs have."""

    attention: Attention
    backward: bool
    gradients: tuple[str, ...]
    by_side: bool

    @cached_property
    def plan(self) -> Plan:
        if not self.backward:
            from attndsl.planner import plan

            return plan(self.attention)
        from attndsl.runtime.backward import backward_plan, check_depends, gradients_of

        wanted = gradients_of(self.attention, self.gradients)
        made = backward_plan(self.attention, wanted, False, False, by_side=self.by_side)
        check_depends(made, wanted)
        return made

    def source(self, language: str, target: str, head_dim: int, dtype: str) -> str:
        from attndsl.runtime.kernel import Kernel
        from attndsl.runtime.targets import parse_target

        if parse_target(target).language != language:
            raise typer.BadParameter(
                f"`{target}` has no Triton source: see --cpp", param_hint="--target"
            )
        gradients = self.gradients if self.backward else None
        return Kernel(self.attention).source(
            target, head_dim=head_dim, dtype=dtype, gradients=gradients
        )


def _show_graph(plan: Plan, output: Path | None) -> None:
    if output is None:
        from attndsl.pictures_graph import outline

        print(outline(plan))
        return
    from attndsl.pictures_graph import draw_graph

    options.make_parent(output)
    draw_graph(plan, output)
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
