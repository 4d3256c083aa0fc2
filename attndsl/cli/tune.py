"""`attndsl tune`: find the best tile for a spec on this machine, and keep it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from attndsl.cli import options
from attndsl.cli.samples import InputOption

if TYPE_CHECKING:
    from attndsl.codegen.program import Tile
    from attndsl.runtime.autotune import TuningResult


def tune(
    spec: options.SpecArgument,
    shape: Annotated[str, typer.Option(metavar="SIZES", help=options.SHAPE_HELP)] = "1,8,2048,64",
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    given: InputOption = None,
    grid: options.GridOption = None,
    dtype: options.DtypeOption = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    direction: Annotated[
        str,
        typer.Option(metavar="forward|backward", help="Which of the two has its tiles measured."),
    ] = "forward",
    gradient: options.GradientOption = None,
    json: options.JsonOption = False,
) -> None:
    """Measure the tiles that could suit a spec, and keep the best for later calls.

    Candidates come from the plan; those whose binaries spill or do not fit are left out. The result
    holds for this spec, device, dtype and class of lengths (to the next power of two), in every
    process that shares the cache. Without tuning a default is used that suits most. With
    --direction backward it is the tiles of the backward, for the gradients that --gradient names.

    Examples:

        attndsl tune gemma2.attn --shape 1,8,4096,64 --param window=1024

        attndsl tune alibi.attn --direction backward --gradient q --gradient k --gradient v
    """
    from attndsl.cli.output import show_json
    from attndsl.cli.sampled import sampled_call
    from attndsl.runtime import autotune, backward_tuning
    from attndsl.runtime.options import Options

    if direction not in ("forward", "backward"):
        raise typer.BadParameter("it is forward or backward", param_hint="--direction")
    if gradient and direction == "forward":
        raise typer.BadParameter("only --direction backward has gradients", param_hint="--gradient")
    call = sampled_call(spec, shape, attention, param, given, grid, dtype, device)
    bound, where = call.bound, call.where

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=json or not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"tuning {bound.name}", total=None)

        def advanced(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        arguments = (bound, call.q, call.k, call.v, call.inputs, Options(grid=call.grid))
        result: autotune.TuningResult | backward_tuning.BackwardTuning
        if direction == "forward":
            result = autotune.tune(*arguments, on_progress=advanced)
        else:
            named = None if gradient is None else tuple(gradient)
            result = backward_tuning.tune(*arguments, gradients=named, on_progress=advanced)
    if json:
        show_json(result.as_json())
        return
    print(f"{bound.name}  {call.sizes}  {dtype or 'fp32'} on {where}")
    if isinstance(result, autotune.TuningResult):
        print(f"\n{_table(result, where.type)}")
        return
    print(f"the backward, of {', '.join(result.gradients)}")
    for part, measured in result.parts:
        print(f"\n{part.name}\n{_table(measured, where.type)}")


def _table(result: TuningResult, device: str) -> str:
    from attndsl.cli.output import table

    rows = [
        [
            _tile(one.tile, device),
            "" if one.seconds is None else f"{one.seconds * 1e3:.3f} ms",
            "kept" if one.tile == result.best else one.reason or "",
        ]
        for one in result.measurements
    ]
    return table(["tile", "median", ""], rows)


def _tile(tile: Tile, device: str) -> str:
    block = f"{tile.block_m} × {tile.block_n}"
    return block if device == "cpu" else f"{block}, {tile.warps} warps, {tile.stages} stages"
