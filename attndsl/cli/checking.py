"""What `attndsl check` does, apart from how its arguments are read: quick enough for an editor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attndsl.diagnostics import AttnError, Diagnostic, Severity


def check_specs(paths: Sequence[Path], *, json: bool) -> int:
    """Check every file and print what is wrong; 1 if anything is, else 0."""
    from attndsl.cli.output import show_diagnostic, show_json

    reports = []
    for path in paths:
        attentions, diagnostics = _check(path)
        reports.append(_report(path, attentions, diagnostics))
        if json:
            continue
        for diagnostic in diagnostics:
            show_diagnostic(diagnostic)
        if reports[-1]["ok"]:
            print(f"{path}: {', '.join(attentions)}: ok")
    if json:
        show_json(reports)
    return 0 if all(report["ok"] for report in reports) else 1


def _check(path: Path) -> tuple[list[str], tuple[Diagnostic, ...]]:
    """The attentions of a file, none where it has errors, and all that is to be said of it."""
    from attndsl.module import load_file, load_text

    try:
        from_stdin = str(path) == "-"
        checked = load_text(sys.stdin.read(), "<stdin>") if from_stdin else load_file(path)
    except AttnError as problem:
        return [], problem.diagnostics
    return list(checked.attentions), checked.warnings


def _report(
    path: Path, attentions: list[str], diagnostics: tuple[Diagnostic, ...]
) -> dict[str, Any]:
    from attndsl.cli.output import diagnostic_as_json

    return {
        "file": str(path),
        "ok": all(one.severity is not Severity.ERROR for one in diagnostics),
        "attentions": attentions,
        "diagnostics": [diagnostic_as_json(one) for one in diagnostics],
    }
