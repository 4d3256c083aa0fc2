"""`attndsl bench`: a kernel beside PyTorch's own, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from attndsl.cli import options
from attndsl.cli.samples import InputOption


def bench(
    spec: options.SpecArgument,
    shape: Annotated[str, typer.Option(metavar="SIZES", help=options.SHAPE_HELP)] = "1,8,2048,64",
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    given: InputOption = None,
    grid: options.GridOption = None,
    dtype: options.DtypeOption = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Timed calls of each.")] = 11,
    flex: Annotated[
        bool, typer.Option("--flex/--no-flex", help="Compile FlexAttention, which takes a while.")
    ] = True,
    json: options.JsonOption = False,
) -> None:
    """Time a spec's kernel beside SDPA and FlexAttention.

    Calls are interleaved, so that all meet the same machine; the table shows medians. SDPA with its
    causal mask is shown as a yardstick even where the spec computes something else.

    Examples:

        attndsl bench gemma2.attn --shape 1,8,4096,64 --param window=1024

        attndsl bench causal.attn --dtype bf16 --device cuda
    """
    from attndsl.cli import peers
    from attndsl.cli.sampled import sampled_call
    from attndsl.runtime.kernel import Kernel

    call = sampled_call(spec, shape, attention, param, given, grid, dtype, device)
    bound, sizes, numbers, where = call.bound, call.sizes, call.numbers, call.where
    q, k, v, tensors = call.q, call.k, call.v, call.inputs
    kernel = Kernel(bound)
    named: dict[str, Any] = {"grid": call.grid, **tensors}
    runs: dict[str, Callable[[], Any] | None] = {
        "attndsl": lambda: kernel(q, k, v, **named),
        "SDPA, causal": peers.sdpa_causal(q, k, v),
        "SDPA, attn_mask": peers.sdpa_masked(bound, q, k, v, tensors, numbers),
    }
    if flex:
        runs["FlexAttention"] = peers.flex(bound, q, k, v, tensors, numbers, sizes.D**-0.5)
    results = _measure({name: run for name, run in runs.items() if run}, rounds, where)
    ours = results["attndsl"]["median_seconds"]
    for result in results.values():
        result["speed_up"] = result["median_seconds"] / ours
    missing = [name for name, run in runs.items() if run is None]
    if json:
        from attndsl.cli.output import show_json

        shown = {"attention": bound.name, "shape": str(sizes), "dtype": dtype}
        show_json(shown | {"results": results, "not_expressible": missing})
        return
    _show(bound.name, sizes, dtype or "fp32", str(where), results, missing)


def _show(
    name: str,
    sizes: options.Shape,
    dtype: str,
    where: str,
    results: dict[str, dict[str, float]],
    missing: list[str],
) -> None:
    import torch

    from attndsl.cli.output import table

    threads = f", {torch.get_num_threads()} threads" if where == "cpu" else ""
    print(f"{name}  {sizes}  {dtype} on {where}{threads}\n")
    rows = [
        [
            peer,
            f"{result['first_call_seconds']:.2f} s",
            f"{result['median_seconds'] * 1e3:.3f} ms",
            f"{result['speed_up']:.2f}×",
        ]
        for peer, result in results.items()
    ]
    print(table(["", "first call", "median", "time of attndsl"], rows))
    for peer in missing:
        print(f"{peer} cannot express it")


def _measure(
    runs: dict[str, Callable[[], Any]], rounds: int, where: Any
) -> dict[str, dict[str, float]]:
    """First call and median of the later ones, interleaved."""
    import torch

    def timed(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return time.perf_counter() - start

    with torch.no_grad():
        first = {name: timed(run) for name, run in runs.items()}
        for run in runs.values():
            timed(run)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(timed(run))
    return {
        name: {
            "first_call_seconds": first[name],
            "median_seconds": statistics.median(times[name]),
        }
        for name in runs
    }
