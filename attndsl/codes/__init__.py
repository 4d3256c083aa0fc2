"""Every diagnostic code, explained: what `attndsl explain CODE` prints.

Codes are kept by decade: `A01x` (names) in `names.py`, `A02x` (types) in `types.py`, and so on. A
test asserts that every code that the source raises has an entry, and that its examples are true.
"""

from __future__ import annotations

from textwrap import indent

from attndsl.codes import (
    analysis,
    calls,
    environment,
    indices,
    integrations,
    names,
    parameters,
    structure,
    syntax,
    targets,
    types,
)
from attndsl.codes.entry import CodeEntry

__all__ = ["CODES", "CodeEntry", "explain"]

CODES: dict[str, CodeEntry] = {
    **syntax.CODES,
    **names.CODES,
    **types.CODES,
    **indices.CODES,
    **structure.CODES,
    **analysis.CODES,
    **parameters.CODES,
    **calls.CODES,
    **targets.CODES,
    **environment.CODES,
    **integrations.CODES,
}


def explain(code: str) -> str | None:
    """The explanation of a code as plain text, or None for a code that does not exist."""
    entry = CODES.get(code.upper())
    if entry is None:
        return None
    return "\n".join(
        [
            f"{code.upper()}: {entry.title}",
            "",
            entry.explanation.strip(),
            "",
            "wrong:",
            "",
            indent(entry.wrong.strip("\n"), "    "),
            "",
            "right:",
            "",
            indent(entry.right.strip("\n"), "    "),
        ]
    )
