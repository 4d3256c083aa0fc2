"""Timing of several callables in turn, and what is kept of it: JSON, a table and a plot.

Runs are interleaved, A B C A B C …, so that all meet the same machine at the same moments; what is
quoted is the median of the ratios round by round.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

RESULTS = Path(__file__).parent / "results"


class Direction(Enum):
    """What is measured."""

    FORWARD = "forward"
    BACKWARD = "backward"


def new_console() -> Console:
    """Of a terminal's width, or, in a file, wide enough for whole words."""
    return Console(width=None if sys.stdout.isatty() else 160)


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, finish: Callable[[], None]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of each first call, and of each of `rounds` later calls; `finish` waits for them."""

    def timed(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        finish()
        return time.perf_counter() - start

    first = {name: timed(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(run))
    return first, times


def ratio(times: Mapping[str, list[float]], peer: str, ours: str = "attndsl") -> float:
    """How many times as long the peer takes: the median over rounds."""
    pairs = zip(times[peer], times[ours], strict=True)
    return statistics.median(slow / fast for slow, fast in pairs)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    processor = platform.processor() or platform.machine()
    try:
        listing = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
        fields = dict(line.split(":", 1) for line in listing.splitlines() if ":" in line)
        processor = fields["Model name"].strip()
    except (OSError, subprocess.CalledProcessError, KeyError):
        pass
    found = {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def plot(name: str, rows: list[dict[str, Any]], peer: str) -> Path:
    """Bars of the speed-up over `peer`, one group a variant and one bar a problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    variants = list(dict.fromkeys(row["variant"] for row in rows))
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(11, 4.2), layout="constrained")
    width = 0.8 / len(problems)
    shades = pyplot.get_cmap("viridis")
    for number, problem in enumerate(problems):
        values = {
            row["variant"]: row["speed_up"].get(peer) for row in rows if row["problem"] == problem
        }
        places = [n + number * width - 0.4 + width / 2 for n in range(len(variants))]
        heights = [values.get(variant) or 0 for variant in variants]
        color = shades(number / max(len(problems) - 1, 1) * 0.9)
        axes.bar(places, heights, width, label=problem, color=color)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(variants)), variants, rotation=20, ha="right")
    axes.set_ylabel(f"times as fast as {peer}")
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
