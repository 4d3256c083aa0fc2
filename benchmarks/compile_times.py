"""How long examples take to become GPU binaries, from the plan to the accepted tile.

    python benchmarks/compile_times.py                           every example, bf16
    python benchmarks/compile_times.py --example causal --target cuda:90 --dtype fp16

Needs no GPU. Prints the slowest and writes `benchmarks/results/compile-times.json`: processor
seconds of this process and of the assemblers that it starts, so that a busy machine counts little.
Triton's cache is not used. Tiles that were compiled and rejected are part of the time.
"""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from measure import RESULTS, machine, save
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).parent.parent / "examples"
TARGETS = ["cuda:80", "cuda:86", "cuda:90", "hip:gfx942"]
SHOWN = 15


def seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(path: Path, target: str, dtype: str, head_dim: int) -> dict[str, Any]:
    """One example for one target; Triton is imported already."""
    from attndsl.binding import bind
    from attndsl.codegen.program import DType, Specialization
    from attndsl.module import load_file
    from attndsl.planner import plan
    from attndsl.runtime.triton_compile import candidates

    attention = bind(load_file(path).attentions[path.stem])
    specialization = Specialization(DType(dtype), head_dim, head_dim, log_sum_exp=True)
    started = seconds()
    tried = []
    for program, binaries in candidates(plan(attention), specialization, target):
        resources = [kernel.resources for kernel in binaries.kernels]
        tile = program.tile
        tried.append(
            {
                "tile": [tile.block_m, tile.block_n, tile.warps, tile.stages],
                "fits": binaries.fit,
                "registers": max(one.registers for one in resources),
                "stack": max(one.stack for one in resources),
                "shared": max(one.shared for one in resources),
            }
        )
        if binaries.fit:
            break
    return {
        "example": path.stem,
        "target": target,
        "dtype": dtype,
        "head_dim": head_dim,
        "seconds": round(seconds() - started, 2),
        "candidates": tried,
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("example", "target", "dtype", "D", "seconds", "rejected", "tile", title="slowest")
    for row in sorted(rows, key=lambda row: -row["seconds"])[:SHOWN]:
        rejected = sum(not one["fits"] for one in row["candidates"])
        block_m, block_n, warps, stages = row["candidates"][-1]["tile"]
        table.add_row(
            row["example"],
            row["target"],
            row["dtype"],
            str(row["head_dim"]),
            f"{row['seconds']:.2f}",
            str(rejected),
            f"{block_m}×{block_n}, {warps} warps, {stages} stages",
        )
    console.print(table)
    total = sum(len(row["candidates"]) > 1 for row in rows)
    console.print(f"{len(rows)} binaries; tiles were rejected for {total} of them")


def main(
    example: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bf16, fp16; bf16 by default.")] = None,
    head_dim: Annotated[list[int] | None, typer.Option(help="64 and 128 by default.")] = None,
    name: Annotated[
        str, typer.Option(help="Of the file under benchmarks/results/.")
    ] = "compile-times",
) -> None:
    """Measure, print the slowest, and record all."""
    console = Console()
    paths = [EXAMPLES / f"{one}.attn" for one in example or ()] or sorted(EXAMPLES.glob("*.attn"))
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TRITON_CACHE_DIR"] = directory
        os.environ["TRITON_ALWAYS_COMPILE"] = "1"
        import triton

        rows: list[dict[str, Any]] = []
        result = {"machine": {**machine(), "triton": triton.__version__}, "rows": rows}
        for kind in dtype or ("bf16",):
            for where in target or TARGETS:
                # What each target's first compilation sets up is no example's own.
                measure(EXAMPLES / "causal.attn", where, kind, 64)
                for size in head_dim or (64, 128):
                    for path in paths:
                        rows.append(measure(path, where, kind, size))
                        # Kept after every row, so that a run that is cut short has its results.
                        save(name, result)
    show(rows, console)
    console.print(f"written to {RESULTS / name}.json")


if __name__ == "__main__":
    typer.run(main)
