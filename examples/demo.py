"""The tour that `make demo` takes: compile, run, compare, time, draw."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attndsl
from attndsl.cli import main as attndsl_command

SPEC = Path(__file__).with_name("gemma2.attn")
BUILD = Path("build/demo")
WINDOW, CAP = 1024, 50.0
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def command(*arguments: str) -> None:
    """Show a command and run it in this process; a failing one ends the demo."""
    print(f"\n$ attndsl {' '.join(arguments)}", flush=True)
    status = attndsl_command(list(arguments))
    if status:
        sys.exit(status)


def flex(length: int) -> Callable[..., torch.Tensor]:
    """FlexAttention's form of the same variant, compiled."""

    def score_mod(score, b, h, i, j):
        return CAP * torch.tanh(score / CAP)

    def mask_mod(b, h, i, j):
        return (i >= j) & (i - j < WINDOW)

    mask = create_block_mask(mask_mod, None, None, length, length, device="cpu")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, score_mod=score_mod, block_mask=mask)


def compare(length: int = 4096, rounds: int = 7) -> None:
    """Time the kernel beside its peers, interleaved, on tensors [1, 8, length, 64] in float32."""
    q, k, v = (torch.randn(1, 8, length, 64) for _ in range(3))
    runs: dict[str, Callable[..., torch.Tensor]] = {
        "attndsl": attndsl.load(SPEC).gemma2(window=WINDOW, cap=CAP),
        "SDPA, causal (no softcap, no window)": lambda q, k, v: scaled_dot_product_attention(
            q, k, v, is_causal=True
        ),
        "FlexAttention, compiled": flex(length),
    }
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        start = time.perf_counter()
        run(q, k, v)
        first[name] = time.perf_counter() - start
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(q, k, v)
            times[name].append(time.perf_counter() - start)
    ours = statistics.median(times["attndsl"])
    print(f"\nq, k, v: [1, 8, {length}, 64] float32, {torch.get_num_threads()} threads")
    print(f"{'':38}{'first call':>12}{'median':>12}{'speed-up of attndsl':>22}")
    for name in runs:
        median = statistics.median(times[name])
        print(f"{name:38}{first[name]:>10.2f} s{median * 1e3:>9.1f} ms{median / ours:>20.1f} x")


def main() -> None:
    targets = [part for target in ("cuda:90", "hip:gfx942", "cpu") for part in ("--target", target)]
    command("show", str(SPEC), "--plan")
    command("compile", str(SPEC), "-o", str(BUILD), "--head-dim", "64", "--dtype", "bf16", *targets)
    command("run", str(SPEC), "--shape", "1,8,600,64", "--param", "window=128")
    command(
        "view", str(SPEC), "--shape", "512", "--param", "window=128", "-o", str(BUILD / "mask.png")
    )
    compare()


if __name__ == "__main__":
    main()
