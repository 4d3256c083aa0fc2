"""The backward of a variant beside its peers', and a step of training: both directions together.

Gradients are taken of q, k, v and of every input of floats that the variant has; of SDPA's
`attn_mask` where a bias stands there. Compiled FlexAttention has no backward on CPUs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from measure import interleaved, ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._functorch import config as functorch
from variants import VARIANTS, Attention, Forms, Problem

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
FLEX = "FlexAttention"
SAME = "the same"
NONE_ON_CPUS = "has no backward on CPUs"

Run = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """How a machine measures. Each sample is of `repeats` calls, which `finish` waits for; `peak`
    gives the MiB that a run needs at most. Problems of `usual_heads` are named without them."""

    rounds: int
    repeats: int = 1
    finish: Callable[[], None] = lambda: None
    peak: Callable[[Run], float] | None = None
    usual_heads: int = 8
    flex: bool = False


@dataclass(frozen=True)
class Side:
    """One implementation: what it computes, and what of."""

    attention: Attention
    operands: tuple[Tensor, Tensor, Tensor]
    learned: tuple[Tensor, ...]
    out_gradient: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.operands, *self.learned]

    def step(self) -> tuple[Tensor, ...]:
        """Forward and backward; the gradients."""
        return torch.autograd.grad(self.attention(*self.operands), self.leaves, self.out_gradient)

    def backward(self) -> Run:
        """The backward alone, of a forward that is run now."""
        out = self.attention(*self.operands)
        return lambda: torch.autograd.grad(out, self.leaves, self.out_gradient, retain_graph=True)


def sides_of(problem: Problem, forms: Forms, flex: bool) -> dict[str, Side]:
    """By name, ours first; `forms` are learned."""
    q, k, v = (one.requires_grad_() for one in problem.operands())
    out_gradient = torch.randn_like(q)

    def side(attention: Attention, learned: list[Tensor]) -> Side:
        return Side(attention, (q, k, v), tuple(learned), out_gradient)

    sides = {
        "attndsl": side(forms.ours(), forms.learned_inputs),
        "SDPA": side(forms.sdpa(), forms.learned_biases),
    }
    if flex:
        # The graph of a compiled forward is differentiated again and again here.
        functorch.donated_buffer = False
        sides[FLEX] = side(forms.flex(problem), forms.learned_by_flex)
    return sides


def measure_backward(problem: Problem, variant: str, setting: Setting) -> dict[str, Any]:
    """One row of the table: first steps, medians and ratios, of the backward and of both ways.

    Where FlexAttention fails, the row says how, and has the others.
    """
    try:
        return _measure(problem, variant, setting)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as fault:
        if not setting.flex:
            raise
        failure = f"{type(fault).__name__}: {str(fault).partition(chr(10))[0]}"
    # What failed holds its tensors until here.
    row = _measure(problem, variant, replace(setting, flex=False))
    return {**row, "flex_failure": failure[:200]}


def _measure(problem: Problem, variant: str, setting: Setting) -> dict[str, Any]:
    forms: Forms = VARIANTS[variant](problem).learned()
    sides = sides_of(problem, forms, setting.flex)

    def repeated(run: Run) -> Run:
        def sample() -> None:
            for _ in range(setting.repeats):
                run()

        return sample

    def times_of(runs: Mapping[str, Run]) -> tuple[dict[str, float], dict[str, list[float]]]:
        samples = {name: repeated(run) for name, run in runs.items()}
        first, times = interleaved(samples, setting.rounds, setting.finish)
        return first, {
            name: [seconds / setting.repeats for seconds in each] for name, each in times.items()
        }

    first, steps = times_of({name: side.step for name, side in sides.items()})
    peaks = {}
    if setting.peak is not None:
        peaks = {name: setting.peak(side.step) for name, side in sides.items()}
    _, times = times_of({name: side.backward() for name, side in sides.items()})
    peers = [name for name in sides if name != "attndsl"]
    dtype = DTYPES[problem.dtype]
    row: dict[str, Any] = {
        "variant": variant,
        "dtype": dtype,
        "length": problem.length,
        "head_dim": problem.head_dim,
        "heads": problem.heads,
        "first_step_seconds": first,
        "median_seconds": {name: statistics.median(times[name]) for name in sides},
        "median_step_seconds": {name: statistics.median(steps[name]) for name in sides},
        "speed_up": {name: ratio(times, name) for name in peers},
        "step_speed_up": {name: ratio(steps, name) for name in peers},
        "peer_forms": {
            "SDPA": forms.sdpa_name,
            FLEX: forms.flex_name if setting.flex or problem.device.type != "cpu" else NONE_ON_CPUS,
        },
        "problem": f"{dtype} D{problem.head_dim} N{problem.length}",
    }
    if problem.heads != setting.usual_heads:
        row["problem"] += f" H{problem.heads}"
    if peaks:
        row["peak_mib"] = peaks
    if setting.flex and forms.flex_name == SAME:
        row["difference_from_flex"] = difference(sides["attndsl"].step(), sides[FLEX].step())
    if variant == "causal":
        pairs = problem.length * (problem.length + 1) / 2
        work = 10.0 * problem.batch * problem.heads * problem.head_dim * pairs
        row["gflops"] = work / row["median_seconds"]["attndsl"] / 1e9
    return row


def difference(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The greatest over gradients, each relative to its own norm."""
    pairs = [(one.double(), other.double()) for one, other in zip(ours, theirs, strict=True)]
    return max(
        float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))
        for one, other in pairs
    )


def show_backward(rows: list[dict[str, Any]], console: Console) -> None:
    """Times in ms, and how many times as long the peers take."""
    on_cpus = all(row["peer_forms"][FLEX] == NONE_ON_CPUS for row in rows)
    table = Table(
        *("problem", "variant", "backward", "× SDPA", "× Flex", "both ways", "× SDPA", "× Flex"),
        "note",
        caption=f"—: compiled {FLEX} {NONE_ON_CPUS}" if on_cpus else None,
    )
    for row in rows:
        cells = [row["problem"], row["variant"]]
        for times, speed_up in (
            ("median_seconds", "speed_up"),
            ("median_step_seconds", "step_speed_up"),
        ):
            cells.append(f"{row[times]['attndsl'] * 1e3:.3g} ms")
            for peer in ("SDPA", FLEX):
                known = row[speed_up].get(peer)
                cells.append("—" if known is None else f"{known:.2f}")
        table.add_row(*cells, "; ".join(_notes(row)))
    console.print(table)


def _notes(row: Mapping[str, Any]) -> list[str]:
    forms = row["peer_forms"]
    notes = [f"SDPA: {forms['SDPA']}"]
    if FLEX in row["speed_up"] and forms[FLEX] != SAME:
        notes.append(f"Flex: {forms[FLEX]}")
    if "flex_failure" in row:
        notes.append(f"Flex fails: {row['flex_failure']}")
    if "difference_from_flex" in row:
        notes.append(f"apart by {row['difference_from_flex']:.1e}")
    if "gflops" in row:
        notes.append(f"{row['gflops']:.0f} GFLOP/s")
    if "peak_mib" in row:
        notes.append(", ".join(f"{name} {mib:.0f} MiB" for name, mib in row["peak_mib"].items()))
    return notes
