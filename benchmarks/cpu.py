"""CPU kernels beside SDPA and compiled FlexAttention, interleaved in one process.

    python benchmarks/cpu.py                         everything: about an hour, mostly compilation
    python benchmarks/cpu.py --dtype fp32 --length 2048 --variant causal --variant ALiBi
    python benchmarks/cpu.py --direction backward --name cpu-backward

Prints medians of ratios and writes `NAME.json` and `NAME.png` under `benchmarks/results/`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import memory
import torch
import typer
from measure import RESULTS, Direction, interleaved, machine, new_console, plot, ratio, save
from rich.console import Console
from rich.table import Table
from training import Setting, measure_backward, show_backward
from variants import VARIANTS, Forms, Problem

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MEMORY_LENGTH = 16384
SIDE = 2048  # of the square sgemm that speeds are compared with


FIRST_CALL = """
import sys, time, torch
start = time.perf_counter()
import attndsl
kernel = attndsl.load(sys.argv[1]).causal()
q = torch.randn(1, 8, 256, 64)
kernel(q, q, q)
print(time.perf_counter() - start)
"""


def measure(problem: Problem, variant: str, rounds: int, flex: bool) -> dict[str, Any]:
    """One row of the table: first calls, medians and ratios."""
    forms: Forms = VARIANTS[variant](problem)
    q, k, v = problem.operands()
    square = torch.randn(SIDE, SIDE)
    peers: dict[str, Any] = {"attndsl": forms.ours(), "SDPA": forms.sdpa()}
    if flex:
        peers["FlexAttention"] = forms.flex(problem)
    runs: dict[str, Callable[[], Any]] = {
        name: (lambda attention=attention: attention(q, k, v)) for name, attention in peers.items()
    }
    runs["sgemm"] = lambda: square @ square
    with torch.no_grad():
        first, times = interleaved(runs, rounds, lambda: None)
    row: dict[str, Any] = {
        "variant": variant,
        "dtype": "fp32" if problem.dtype == torch.float32 else "bf16",
        "length": problem.length,
        "head_dim": problem.head_dim,
        "first_call_seconds": {name: first[name] for name in peers},
        "median_seconds": {name: statistics.median(times[name]) for name in runs},
        "speed_up": {name: ratio(times, name) for name in peers if name != "attndsl"},
        "peer_forms": {"SDPA": forms.sdpa_name, "FlexAttention": forms.flex_name},
    }
    row["problem"] = f"{row['dtype']} D{row['head_dim']} N{row['length']}"
    if variant == "causal":
        pairs = problem.length * (problem.length + 1) / 2
        work = 4.0 * problem.batch * problem.heads * problem.head_dim * pairs
        row["gflops"] = work / row["median_seconds"]["attndsl"] / 1e9
        # work / time over 2 n³ / sgemm's time, round by round
        row["fraction_of_sgemm"] = ratio(times, "sgemm") * work / (2 * SIDE**3)
    return row


def decode(dtype: str, head_dim: int, key_heads: int, rounds: int) -> dict[str, Any]:
    """One query against 8192 keys."""
    forms = Forms("full")
    attention = forms.ours()
    q = torch.randn(1, 8, 1, head_dim, dtype=DTYPES[dtype])
    k, v = (torch.randn(1, key_heads, 8192, head_dim, dtype=DTYPES[dtype]) for _ in "kv")
    runs: dict[str, Callable[[], Any]] = {
        "attndsl": lambda: attention(q, k, v),
        "SDPA": lambda: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, enable_gqa=key_heads != 8
        ),
    }
    with torch.no_grad():
        _, times = interleaved(runs, rounds, lambda: None)
    return {
        "dtype": dtype,
        "head_dim": head_dim,
        "key_heads": key_heads,
        "median_seconds": {name: statistics.median(times[name]) for name in runs},
        "speed_up": ratio(times, "SDPA"),
    }


def first_calls() -> dict[str, float]:
    """Seconds from `import attndsl` to the first result, torch imported: never seen, and cached."""
    spec = Path(__file__).parent.parent / "examples" / "causal.attn"
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"ATTNDSL_CACHE": cache}
        # Python compiles modules once, wherever nobody tells it not to.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", FIRST_CALL, str(spec)]

        def once() -> float:
            run = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            return float(run.stdout)

        return {
            "never_seen_seconds": once(),
            "cached_seconds": statistics.median(once() for _ in range(5)),
        }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("problem", "variant", "attndsl", "× SDPA", "× FlexAttention", "note")
    for row in rows:
        forms = row["peer_forms"]
        notes = [f"SDPA: {forms['SDPA']}"]
        if forms["FlexAttention"] != "the same":
            notes.append(f"Flex: {forms['FlexAttention']}")
        if "gflops" in row:
            share = row["fraction_of_sgemm"]
            notes.append(f"{row['gflops']:.0f} GFLOP/s, {share:.2f} of sgemm")
        speed_up = row["speed_up"]
        flex = f"{speed_up['FlexAttention']:.2f}" if "FlexAttention" in speed_up else "—"
        table.add_row(
            row["problem"],
            row["variant"],
            f"{row['median_seconds']['attndsl'] * 1e3:.1f} ms",
            f"{speed_up['SDPA']:.2f}",
            flex,
            "; ".join(notes),
        )
    console.print(table)


def peaks(head_dims: Sequence[int], console: Console) -> list[dict[str, Any]]:
    """MiB of a step of training at `MEMORY_LENGTH` tokens, beside the operands."""
    found = []
    for size in head_dims:
        row: dict[str, Any] = {"length": MEMORY_LENGTH, "head_dim": size, "dtype": "fp32"}
        row["peak_mib"] = {peer: memory.peak_of(peer, MEMORY_LENGTH, size) for peer in memory.PEERS}
        console.print("peak memory of a causal step, 8 heads:", row)
        found.append(row)
    return found


def main(
    variant: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="fp32, bf16; both by default.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="2048 and 8192 by default.")] = None,
    head_dim: Annotated[list[int] | None, typer.Option(help="64 and 128 by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    flex: Annotated[bool, typer.Option(help="Compile and time FlexAttention.")] = True,
    name: Annotated[str, typer.Option(help="Of the files under benchmarks/results/.")] = "cpu",
    direction: Annotated[Direction, typer.Option(help="What is measured.")] = Direction.FORWARD,
    heads: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Measure, print a table, and record it."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    console = new_console()
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {"machine": machine(), "direction": direction.value, "rows": rows}
    head_dims = head_dim or (64, 128)
    is_forward = direction is Direction.FORWARD
    if is_forward:
        result["first_call"] = first_calls()
        console.print(result["machine"], result["first_call"])
        result["decode"] = [
            decode(kind, size, key_heads, 51)
            for kind in dtype or DTYPES
            for size in head_dims
            for key_heads in (8, 2)
        ]
        console.print("decode, 8 heads, Lq 1, Lk 8192:", result["decode"])
    else:
        console.print(result["machine"])
        result["memory"] = peaks(head_dims, console)
    table = show if is_forward else show_backward
    for kind in dtype or DTYPES:
        for size in head_dims:
            for tokens in length or (2048, 8192):
                for chosen in variant or VARIANTS:
                    problem = Problem(1, heads, tokens, size, DTYPES[kind], torch.device("cpu"))
                    if is_forward:
                        rows.append(measure(problem, chosen, rounds, flex))
                    else:
                        rows.append(measure_backward(problem, chosen, Setting(rounds)))
                    table(rows[-1:], console)
                    # Kept after every row, so that a run that is cut short has its results.
                    save(name, result)
    table(rows, console)
    if not is_forward:
        plot(name, rows, "SDPA")
    elif flex:
        plot(name, rows, "FlexAttention")
    console.print(f"written to {RESULTS / name}.json")


if __name__ == "__main__":
    typer.run(main)
