"""The name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, candidates: Iterable[str]) -> str | None:
    """`did you mean …?` for the candidate that is spelt most alike, if one is."""
    pool = sorted(set(candidates))
    close = get_close_matches(name, pool, n=1, cutoff=0.6)
    if not close:
        close = [word for word in pool if word.lower() == name.lower()]
    return f"did you mean `{close[0]}`?" if close else None
