"""How long examples take to become GPU binaries, from the plan to the accepted tile.

    python benchmarks/compile_times.py                           every example, bf16
    python benchmarks/compile_times.py --example causal --target cuda:90 --dtype fp16
    python benchmarks/compile_times.py --direction backward --name compile-times-backward

Needs no GPU. Prints the slowest and writes `benchmarks/results/NAME.json`: processor seconds of
this process and of the assemblers that it starts, so that a busy machine counts little. A forward
is compiled as a whole, a backward stage by stage. Triton's cache is not used. Tiles that were
compiled and rejected are part of the time.
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from measure import RESULTS, Direction, machine, new_console, save
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from attndsl.codegen.program import Program
    from attndsl.runtime.triton_compile import Binaries

EXAMPLES = Path(__file__).parent.parent / "examples"
TARGETS = ["cuda:80", "cuda:86", "cuda:90", "hip:gfx942"]
SHOWN = 15


def seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(
    path: Path, target: str, dtype: str, head_dim: int, direction: Direction = Direction.FORWARD
) -> list[dict[str, Any]]:
    """One example for one target, a row for each program; Triton is imported already."""
    from attndsl.binding import bind
    from attndsl.codegen.program import DType, Specialization
    from attndsl.module import load_file
    from attndsl.planner import plan
    from attndsl.planner.pipeline import plan_backward
    from attndsl.runtime.triton_backward import stages_with_kernels
    from attndsl.runtime.triton_compile import candidates, stage_candidates

    attention = bind(load_file(path).attentions[path.stem])
    is_forward = direction is Direction.FORWARD
    specialization = Specialization(DType(dtype), head_dim, head_dim, log_sum_exp=is_forward)
    started = seconds()
    if is_forward:
        found = [candidates(plan(attention), specialization, target)]
    else:
        made = plan_backward(attention, by_side=True)
        found = [
            stage_candidates(made, number, specialization, target)
            for number in stages_with_kernels(made)
        ]
    planned = seconds()
    rows = []
    for programs in found:
        begun = seconds()
        row = {
            "example": path.stem,
            "direction": direction.value,
            "target": target,
            "dtype": dtype,
            "head_dim": head_dim,
            "plan_seconds": round(planned - started, 2),
        }
        tried = tried_of(programs)
        row |= {"kernel": tried[-1]["kernel"], "seconds": round(seconds() - begun, 2)}
        rows.append({**row, "candidates": tried})
    return rows


def tried_of(programs: Iterable[tuple[Program, Binaries]]) -> list[dict[str, Any]]:
    """The tiles that are compiled until one fits."""
    tried = []
    for program, binaries in programs:
        resources = [kernel.resources for kernel in binaries.kernels]
        tile = program.tile
        tried.append(
            {
                "kernel": program.entries[-1].function,
                "tile": [tile.block_m, tile.block_n, tile.warps, tile.stages],
                "fits": binaries.fit,
                "registers": max(one.registers for one in resources),
                "stack": max(one.stack for one in resources),
                "shared": max(one.shared for one in resources),
            }
        )
        if binaries.fit:
            break
    return tried


def show(rows: list[dict[str, Any]], console: Console) -> None:
    header = ("kernel", "target", "dtype", "D", "seconds", "rejected", "tile")
    table = Table(*header, title="slowest")
    for row in sorted(rows, key=lambda row: -row["seconds"])[:SHOWN]:
        rejected = sum(not one["fits"] for one in row["candidates"])
        block_m, block_n, warps, stages = row["candidates"][-1]["tile"]
        table.add_row(
            row["kernel"],
            row["target"],
            row["dtype"],
            str(row["head_dim"]),
            f"{row['seconds']:.2f}",
            str(rejected),
            f"{block_m}×{block_n}, {warps} warps, {stages} stages",
        )
    console.print(table)
    total = sum(len(row["candidates"]) > 1 for row in rows)
    spent = sum(row["seconds"] for row in rows)
    console.print(f"{len(rows)} programs in {spent:.1f} s; tiles were rejected for {total} of them")


def main(
    example: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="bf16, fp16; bf16 by default.")] = None,
    head_dim: Annotated[list[int] | None, typer.Option(help="64 and 128 by default.")] = None,
    name: Annotated[
        str, typer.Option(help="Of the file under benchmarks/results/.")
    ] = "compile-times",
    direction: Annotated[Direction, typer.Option(help="What is compiled.")] = Direction.FORWARD,
) -> None:
    """Measure, print the slowest, and record all."""
    console = new_console()
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
                measure(EXAMPLES / "causal.attn", where, kind, 64, direction)
                for size in head_dim or (64, 128):
                    for path in paths:
                        rows += measure(path, where, kind, size, direction)
                        # Kept after every row, so that a run that is cut short has its results.
                        save(name, result)
    show(rows, console)
    console.print(f"written to {RESULTS / name}.json")


if __name__ == "__main__":
    typer.run(main)
