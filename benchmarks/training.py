"""The backward of a variant beside SDPA's, and a step of training: forward and backward together.

Gradients are taken of q, k, v and of every input of floats that the variant has; of SDPA's
`attn_mask` where a bias stands there. Compiled FlexAttention has no backward on CPUs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, ratio
from variants import VARIANTS, Attention, Forms, Problem


def measure_backward(problem: Problem, variant: str, rounds: int) -> dict[str, Any]:
    """One row of the table: first calls, medians and ratios, of the backward and of both ways."""
    forms: Forms = VARIANTS[variant](problem).learned()
    operands = [one.requires_grad_() for one in problem.operands()]
    out_gradient = torch.randn_like(operands[0])
    attentions: dict[str, tuple[Attention, list[torch.Tensor]]] = {
        "attndsl": (forms.ours(), [*operands, *forms.learned_inputs]),
        "SDPA": (forms.sdpa(), [*operands, *forms.learned_biases]),
    }

    def step(name: str) -> Callable[[], Any]:
        attention, leaves = attentions[name]
        return lambda: torch.autograd.grad(attention(*operands), leaves, out_gradient)

    def backward(name: str) -> Callable[[], Any]:
        attention, leaves = attentions[name]
        out = attention(*operands)
        return lambda: torch.autograd.grad(out, leaves, out_gradient, retain_graph=True)

    first, steps = interleaved({name: step(name) for name in attentions}, rounds, lambda: None)
    _, times = interleaved({name: backward(name) for name in attentions}, rounds, lambda: None)
    row: dict[str, Any] = {
        "variant": variant,
        "dtype": "fp32" if problem.dtype == torch.float32 else "bf16",
        "length": problem.length,
        "head_dim": problem.head_dim,
        "heads": problem.heads,
        "first_step_seconds": first,
        "median_seconds": {name: statistics.median(times[name]) for name in attentions},
        "median_step_seconds": {name: statistics.median(steps[name]) for name in attentions},
        "speed_up": {"SDPA": ratio(times, "SDPA")},
        "step_speed_up": {"SDPA": ratio(steps, "SDPA")},
        "peer_forms": {"SDPA": forms.sdpa_name, "FlexAttention": "has no backward on CPUs"},
    }
    row["problem"] = f"{row['dtype']} D{row['head_dim']} N{row['length']}"
    if problem.heads != 8:
        row["problem"] += f" H{problem.heads}"
    if variant == "causal":
        pairs = problem.length * (problem.length + 1) / 2
        work = 10.0 * problem.batch * problem.heads * problem.head_dim * pairs
        row["gflops"] = work / row["median_seconds"]["attndsl"] / 1e9
    return row
