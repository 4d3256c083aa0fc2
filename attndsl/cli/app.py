"""The commands, each registered from the file of its name."""

from __future__ import annotations

from typing import Annotated

import typer

import attndsl
from attndsl.cli.bench import bench
from attndsl.cli.cache import app as cache_app
from attndsl.cli.check import check
from attndsl.cli.compile import compile
from attndsl.cli.env import env
from attndsl.cli.explain import explain
from attndsl.cli.run import run
from attndsl.cli.show import show
from attndsl.cli.tune import tune
from attndsl.cli.view import view

app = typer.Typer(
    name="attndsl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"attndsl {attndsl.__version__}")
        raise typer.Exit


@app.callback()
def attndsl_command(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """A compiler for attention: say what a variant computes, get kernels for GPUs and CPUs.

    A spec is a few lines of text, say in window.attn:

        attention window(width: int = 256) {
            mask = causal and i - j < width
        }

    Then **attndsl check window.attn** finds mistakes, **attndsl view window.attn** draws the mask,
    **attndsl run window.attn** runs a kernel and compares it with the definition, and
    **attndsl compile window.attn -o build** makes binaries.

    Exit status: 0 fine, 1 your spec or input is wrong, 2 wrong usage, 70 a bug of ours.
    """


for command in (compile, check, show, view, run, explain, bench, tune, env):
    app.command()(command)
app.add_typer(cache_app, name="cache")
