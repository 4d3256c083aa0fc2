"""GPU kernels beside SDPA and compiled FlexAttention, interleaved in one process.

    python benchmarks/gpu.py                         everything
    python benchmarks/gpu.py --length 8192 --variant causal --variant ALiBi
    python benchmarks/gpu.py --direction backward --name gpu-backward

Prints medians of ratios and how far the results lie apart, and writes `NAME.json` and `NAME.png`
under `benchmarks/results/`. A backward is of q, k, v and every input of floats, alone and together
with its forward, with the memory that both need. Needs a GPU of NVIDIA or AMD that torch sees.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from measure import RESULTS, Direction, interleaved, machine, new_console, plot, ratio, save
from rich.console import Console
from rich.table import Table
from torch import Tensor
from training import SAME, Setting, measure_backward, show_backward
from variants import VARIANTS, Forms, Problem

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
HEADS = 16
REPEATS = 10  # calls in one sample: a single short kernel is lost in the time of its launch


def measure(problem: Problem, variant: str, rounds: int, flex: bool) -> dict[str, Any]:
    """One row of the table: first calls, medians, ratios, and differences of the results."""
    forms: Forms = VARIANTS[variant](problem)
    q, k, v = problem.operands()
    attentions: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "attndsl": forms.ours(),
        "SDPA": forms.sdpa(),
    }
    if flex:
        attentions["FlexAttention"] = forms.flex(problem)

    def repeated(attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(REPEATS):
                attention(q, k, v)

        return run

    runs = {name: repeated(attention) for name, attention in attentions.items()}
    with torch.no_grad():
        first, times = interleaved(runs, rounds, torch.cuda.synchronize)
        difference = None
        if flex and forms.flex_name == SAME:
            ours, theirs = (attentions[name](q, k, v) for name in ("attndsl", "FlexAttention"))
            difference = (ours.float() - theirs.float()).abs().max().item()
    row: dict[str, Any] = {
        "variant": variant,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype is problem.dtype),
        "length": problem.length,
        "head_dim": problem.head_dim,
        "first_call_seconds": first,
        "median_seconds": {name: statistics.median(times[name]) / REPEATS for name in runs},
        "speed_up": {name: ratio(times, name) for name in runs if name != "attndsl"},
        "peer_forms": {"SDPA": forms.sdpa_name, "FlexAttention": forms.flex_name},
        "difference_from_flex": difference,
    }
    row["problem"] = f"{row['dtype']} D{row['head_dim']} N{row['length']}"
    if variant == "causal":
        pairs = problem.length * (problem.length + 1) / 2
        work = 4.0 * problem.batch * problem.heads * problem.head_dim * pairs
        row["teraflops"] = work / row["median_seconds"]["attndsl"] / 1e12
    return row


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("problem", "variant", "attndsl", "× SDPA", "× FlexAttention", "note")
    for row in rows:
        forms, speed_up = row["peer_forms"], row["speed_up"]
        notes = [f"SDPA: {forms['SDPA']}"]
        if forms["FlexAttention"] != SAME:
            notes.append(f"Flex: {forms['FlexAttention']}")
        if row["difference_from_flex"] is not None:
            notes.append(f"apart by {row['difference_from_flex']:.1e}")
        if "teraflops" in row:
            notes.append(f"{row['teraflops']:.0f} TFLOP/s")
        table.add_row(
            row["problem"],
            row["variant"],
            f"{row['median_seconds']['attndsl'] * 1e3:.3f} ms",
            f"{speed_up['SDPA']:.2f}",
            f"{speed_up['FlexAttention']:.2f}" if "FlexAttention" in speed_up else "—",
            "; ".join(notes),
        )
    console.print(table)


def peak_mib(run: Callable[[], Any]) -> float:
    """What a run needs at most beside what is there before it, results included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main(
    variant: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bf16, fp16; bf16 by default.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="2048, 8192 and 32768.")] = None,
    head_dim: Annotated[list[int] | None, typer.Option(help="64 and 128 by default.")] = None,
    heads: Annotated[int, typer.Option(min=1)] = HEADS,
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    flex: Annotated[bool, typer.Option(help="Compile and time FlexAttention.")] = True,
    name: Annotated[str, typer.Option(help="Of the files under benchmarks/results/.")] = "gpu",
    direction: Annotated[Direction, typer.Option(help="What is measured.")] = Direction.FORWARD,
) -> None:
    """Measure, print a table, and record it."""
    console = new_console()
    if not torch.cuda.is_available():
        console.print("torch sees no GPU here, so there is nothing to measure")
        raise typer.Exit(1)
    torch.manual_seed(0)
    device = torch.device("cuda")
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "machine": machine(),
        "direction": direction.value,
        "rows": rows,
        "skipped": skipped,
    }
    console.print(result["machine"])
    is_forward = direction is Direction.FORWARD
    table = show if is_forward else show_backward
    setting = Setting(rounds, REPEATS, torch.cuda.synchronize, peak_mib, HEADS, flex)
    for kind in dtype or ("bf16",):
        for size in head_dim or (64, 128):
            for tokens in length or (2048, 8192, 32768):
                for chosen in variant or VARIANTS:
                    problem = Problem(1, heads, tokens, size, DTYPES[kind], device)
                    try:
                        if is_forward:
                            rows.append(measure(problem, chosen, rounds, flex))
                        else:
                            rows.append(measure_backward(problem, chosen, setting))
                        table(rows[-1:], console)
                    except torch.cuda.OutOfMemoryError:
                        # A bias for every pair of 32768 tokens is 64 GB.
                        skipped.append({"variant": chosen, "length": tokens, "head_dim": size})
                        console.print(f"{chosen}, {tokens} tokens: out of the GPU's memory")
                    torch.cuda.empty_cache()
                    # Kept after every row, so that a run that is cut short has its results.
                    save(name, result)
    table(rows, console)
    if rows:
        plot(name, rows, "FlexAttention" if flex else "SDPA")
    console.print(f"written to {RESULTS / name}.json")


if __name__ == "__main__":
    typer.run(main)
