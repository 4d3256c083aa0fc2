"""The command `attndsl`: what each subcommand does stands in the file of its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

USER_ERROR, USAGE_ERROR, OUR_BUG, INTERRUPTED = 1, 2, 70, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 is fine, 1 means that the user's spec or input is wrong, 2 wrong usage, 70 a bug of ours.
    """
    from attndsl.diagnostics import AttnError

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except AttnError as problem:
        from attndsl.cli.output import show_diagnostic

        for diagnostic in problem.diagnostics:
            show_diagnostic(diagnostic)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        # Whatever reaches this place is a fault that no command foresaw.
        from attndsl.cli.bug import report

        report(problem, given)
        return OUR_BUG


def _run(arguments: list[str]) -> int:
    plain = [argument for argument in arguments[1:] if argument != "--json"]
    if arguments[:1] == ["check"] and plain and not any(one.startswith("-") for one in plain):
        # Editors call this at every keystroke: it does without the machinery of the others.
        from pathlib import Path

        from attndsl.cli.checking import check_specs

        return check_specs([Path(one) for one in plain], json="--json" in arguments)
    from attndsl.cli.app import app

    try:
        app(arguments, prog_name="attndsl")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
