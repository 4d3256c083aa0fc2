"""`attndsl compile`: binaries for any target, on any machine."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attndsl.cli import options

if TYPE_CHECKING:
    from attndsl.runtime.manifest import Manifest


def compile(
    spec: options.SpecArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; build/NAME unless given."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", help="cpu, cuda:80, cuda:90, hip:gfx942 …; repeatable. cpu if none."
        ),
    ] = None,
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    head_dim: options.HeadDimOption = 64,
    value_dim: Annotated[
        int | None, typer.Option(metavar="DV", min=1, help="The values' dimension, if not D.")
    ] = None,
    dtype: options.DtypeOption = "bf16",
    return_lse: Annotated[
        bool, typer.Option("--lse", help="Write the log-sum-exp of every row, too.")
    ] = False,
    direction: Annotated[
        str,
        typer.Option(metavar="forward|both", help="With both, the artifact is differentiable."),
    ] = "forward",
    gradient: options.GradientOption = None,
    json: options.JsonOption = False,
) -> None:
    """Compile a spec ahead of time: readable source and a binary for every target.

    No GPU is needed. The folder holds the sources, the binaries, plan.txt, and manifest.json with
    registers, stack, shared memory, tile and launch parameters; attndsl.load_artifact(DIR) runs it
    without compiling anything. Lengths, batch and head counts stay free.

    With --direction both it holds the backward, too, and calls on tensors that require gradients
    are differentiable. --gradient leaves out what needs no gradient, such as a table that is fixed.

    Examples:

        attndsl compile gemma2.attn -o build --target cuda:90 --target cpu --head-dim 128

        attndsl compile alibi.attn -t hip:gfx942 --dtype fp16

        attndsl compile alibi.attn --direction both --gradient q --gradient k --gradient v
    """
    from attndsl.runtime.ahead import compile_artifact

    chosen = options.choose(options.load_spec(spec), attention)
    bound = options.bound(chosen, param)
    artifact = compile_artifact(
        bound,
        tuple(target or ("cpu",)),
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype or "bf16",
        return_lse=return_lse,
        parameters=options.values(chosen, param),
        direction=direction,
        gradients=gradient,
        on_target=_announce,
    )
    place = output or Path("build") / bound.name
    artifact.save(place)
    if json:
        from attndsl.cli.output import show_json

        show_json(dataclasses.asdict(artifact.manifest))
        return
    print(_report(artifact.manifest))
    print(f"\n{place}/")


def _announce(target: str) -> None:
    """Say what takes a while, where a person is watching."""
    if sys.stderr.isatty():
        print(f"compiling for {target} …", file=sys.stderr)


def _report(manifest: Manifest) -> str:
    """Tile, launch parameters and resources of every kernel."""
    from attndsl.cli.output import table

    header = ["", "tile", "warps", "stages", "registers", "stack", "shared", "binary"]
    rows = []
    for build in manifest.targets:
        for program in build.programs:
            tile = f"{program.tile['block_m']} × {program.tile['block_n']}"
            for kernel in program.kernels:
                numbers = (
                    *(kernel.warps, kernel.stages),
                    *(kernel.registers, kernel.stack, kernel.shared),
                )
                rows.append(
                    [
                        f"{build.target} {kernel.function}",
                        tile,
                        *("" if number is None else str(number) for number in numbers),
                        f"{kernel.size / 1000:.0f} KB",
                    ]
                )
    return table(header, rows)
