"""The passes in the order in which they run, each a function from plan to plan.

Every pass takes a valid plan and gives a valid one that computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

from attndsl.planner.passes.simplify_expressions import simplify_expressions
from attndsl.planner.plan import Plan

PASSES: tuple[Callable[[Plan], Plan], ...] = (simplify_expressions,)
