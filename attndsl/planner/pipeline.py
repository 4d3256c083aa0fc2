"""Lowering and the passes, in order."""

from __future__ import annotations

from attndsl.attention import Attention
from attndsl.planner.plan import Plan


def plan(attention: Attention) -> Plan:
    """The verified plan of an attention whose parameters are bound.

    Raises `AttnError` A080 for a construct that no target compiles yet.
    """
    # Checking a spec uses the planner's algebra, and should not wait for the passes.
    from attndsl.planner.lower import lower
    from attndsl.planner.passes import PASSES
    from attndsl.planner.verify import verify

    result = lower(attention)
    verify(result)
    for improve in PASSES:
        improved = improve(result)
        if improved is not result:
            verify(improved)
        result = improved
    return result
