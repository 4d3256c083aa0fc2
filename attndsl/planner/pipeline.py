"""Lowering and the passes, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attndsl.attention import Attention
from attndsl.planner.plan import Plan


def plan(attention: Attention, *, dropout: bool = False) -> Plan:
    """The verified plan of an attention whose parameters are bound; with `dropout` one that drops
    pairs, as its calls say.

    Raises `AttnError` A080 for a construct that no target compiles yet.
    """
    # Checking a spec uses the planner's algebra, and should not wait for the passes.
    from attndsl.planner.lower import lower
    from attndsl.planner.passes import PASSES

    return _improved(lower(attention, dropout=dropout), PASSES)


def plan_backward(
    attention: Attention,
    wanted: Iterable[str] | None = None,
    *,
    log_sum_exp_gradient: bool = False,
    dropout: bool = False,
    by_side: bool = False,
) -> Plan:
    """The plan of the backward, for the gradients of `wanted`; see `backward.differentiate`.

    With `by_side` every stage over pairs sums over one side alone, as kernels for GPUs do."""
    from attndsl.planner.backward import differentiate
    from attndsl.planner.lower import lower
    from attndsl.planner.passes import BACKWARD_PASSES, BACKWARD_PASSES_BY_SIDE

    forward = lower(attention, dropout=dropout)
    result = differentiate(forward, wanted, log_sum_exp_gradient=log_sum_exp_gradient)
    # The output may well depend on nothing that is wanted.
    passes = BACKWARD_PASSES_BY_SIDE if by_side else BACKWARD_PASSES
    return _improved(result, passes) if result.gradients else result


def _improved(plan: Plan, passes: Iterable[Callable[[Plan], Plan]]) -> Plan:
    """After all passes, the plan verified between them."""
    from attndsl.planner.verify import verify

    verify(plan)
    for improve in passes:
        improved = improve(plan)
        if improved is not plan:
            verify(improved)
        plan = improved
    return plan
