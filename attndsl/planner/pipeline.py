"""Lowering and the passes, in order."""

from __future__ import annotations

from attndsl.attention import Attention
from attndsl.planner.lower import lower
from attndsl.planner.passes import PASSES
from attndsl.planner.plan import Plan


def plan(attention: Attention) -> Plan:
    """The verified plan of an attention whose parameters are bound.

    Raises `AttnError` A080 for a construct that no target compiles yet.
    """
    result = lower(attention)
    for improve in PASSES:
        result = improve(result)
    return result
