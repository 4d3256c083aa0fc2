"""What is known about one code."""

from __future__ import annotations

from attndsl.records import dataclass


@dataclass(frozen=True)
class CodeEntry:
    """What a code means. `title` fits on a line; `explanation` is prose of a few lines.

    `wrong` gives the diagnostic and `right` does not. `language` is `"attn"` for specs that a test
    checks as they stand, `"python"` for code that it runs (with `attndsl`, `torch` and tensors
    `q`, `k`, `v` of `[2, 4, 16, 8]` at hand), `"shell"` for commands, which are not run.
    """

    title: str
    explanation: str
    wrong: str
    right: str
    language: str = "attn"
