"""Naive implementations of the whole catalogue, one for every example.

Each is written from the formula in the mechanism's paper or code, as explicit sets, reshapes and
loops, and shares nothing with the compiler. `CASES` is what tests parametrise over.
"""

from __future__ import annotations

from . import grids, heads, normalizers, scores, sequence, tables
from .case import Call, Case, Shape

CASES: tuple[Case, ...] = (
    *sequence.CASES,
    *heads.CASES,
    *tables.CASES,
    *grids.CASES,
    *scores.CASES,
    *normalizers.CASES,
)

__all__ = ["CASES", "Call", "Case", "Shape"]
