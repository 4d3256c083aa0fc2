"""Identifiers of an emitted file. Names in a spec are untrusted text; identifiers are not."""

from __future__ import annotations

import keyword
import re

# Words that an emitted kernel uses with their Python or Triton meaning.
_TAKEN = frozenset({*keyword.kwlist, *keyword.softkwlist, "tl", "triton", "range", "float", "int"})


class Names:
    """Hands out identifiers that are valid, readable and different from one another."""

    def __init__(self, taken: frozenset[str] = frozenset()):
        self._used = set(_TAKEN | taken)

    @property
    def used(self) -> frozenset[str]:
        return frozenset(self._used)

    def fresh(self, wanted: str) -> str:
        """`wanted` as an identifier; with a number where that is taken already."""
        base = re.sub(r"[^A-Za-z0-9_]", "_", wanted).strip("_") or "name"
        if base[0].isdigit():
            base = f"n{base}"
        base = base[:60]
        candidate, number = base, 2
        while candidate in self._used:
            candidate = f"{base}_{number}"
            number += 1
        self._used.add(candidate)
        return candidate

    def release(self, names: list[str]) -> None:
        """These names may be given again: the block that they were given in is over."""
        self._used.difference_update(names)
