"""`attndsl check`: diagnostics, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attndsl.cli.checking import check_specs
from attndsl.cli.options import JsonOption


def check(
    specs: Annotated[
        list[Path], typer.Argument(metavar="SPEC…", help="The .attn files; - reads from stdin.")
    ],
    json: JsonOption = False,
) -> None:
    """Check specs and print what is wrong with them.

    Nothing is compiled. An error must be mended; a warning is about something legal that is
    probably not meant; *attndsl explain CODE* says more about any of them.

    Examples:

        attndsl check gemma2.attn

        attndsl check --json examples/*.attn
    """
    if check_specs(specs, json=json):
        raise typer.Exit(1)
