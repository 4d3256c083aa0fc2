"""What benchmarks measure is what they say, and they begin and end as they should: no test is of a
speed. FlexAttention has no backward on CPUs; here torch traces it, and runs it as plain torch."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
VARIANTS = (
    *("causal", "window 256", "ALiBi", "softcap", "documents", "dilated", "per-pair bias"),
    *("sigmoid", "neighborhood 2-D", "sink"),
)
# Learned inputs that FlexAttention reads, one that it does not, a table, and another formula.
QUICK = {"ALiBi", "per-pair bias", "sink", "documents", "sigmoid"}


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import training

    return training


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention with a backward: inductor has none for CPUs, torch's own formulas have."""
    flex_attention = sys.modules["torch.nn.attention.flex_attention"]
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def problem(training: ModuleType, heads: int = 2) -> Any:
    return training.Problem(1, heads, 64, 16, torch.float32, torch.device("cpu"))


def test_the_variants_are_those_of_the_tests(training: ModuleType) -> None:
    assert tuple(training.VARIANTS) == VARIANTS


@pytest.mark.parametrize(
    "variant",
    [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow, id=one) for one in VARIANTS],
)
def test_gradients_agree_with_those_of_flex_attention(
    training: ModuleType, traced: None, variant: str
) -> None:
    torch.manual_seed(0)
    setting = training.Setting(rounds=1, flex=True)
    row = training.measure_backward(problem(training), variant, setting)
    assert "flex_failure" not in row
    assert row["median_seconds"].keys() == {"attndsl", "SDPA", "FlexAttention"}
    assert row["speed_up"].keys() == row["step_speed_up"].keys() == {"SDPA", "FlexAttention"}
    if row["peer_forms"]["FlexAttention"] == "the same":
        assert 0 < row["difference_from_flex"] < 1e-5
    else:
        assert "difference_from_flex" not in row
    json.dumps(row)


def test_what_is_learned(training: ModuleType) -> None:
    """By each implementation, beside q, k and v."""
    expected = {
        "ALiBi": ((2,), None, (2,)),
        "per-pair bias": ((2, 64, 64), (1, 2, 64, 64), (2, 64, 64)),
        "sink": ((2,), None, None),
    }
    for variant, makes in training.VARIANTS.items():
        forms = makes(problem(training)).learned()
        found = (forms.learned_inputs, forms.learned_biases, forms.learned_by_flex)
        shapes = tuple(
            tuple(one.shape)
            for learned in found
            for one in learned[:1] or [None]
            if one is not None
        )
        wanted = tuple(shape for shape in expected.get(variant, ()) if shape is not None)
        assert shapes == wanted, variant
        assert all(len(learned) < 2 for learned in found)


def test_a_difference_is_relative_to_each_gradient(training: ModuleType) -> None:
    ours, theirs = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    small = training.difference((ours, ours), (ours, theirs))
    assert small == pytest.approx(0.5 / (3**2 + 4.5**2) ** 0.5)
    assert training.difference((1000 * ours,), (1000 * theirs,)) == pytest.approx(small)


def test_samples_are_of_repeated_calls(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by one second for each gradient: calls take one each, whatever `finish`
    has to wait for."""
    calls, waits, now = [], [], [0.0]

    def grad(*arguments: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        calls.append(options)
        now[0] += 1
        return ()

    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    setting = training.Setting(
        *(2, 5, lambda: waits.append(now[0])),
        peak=lambda run: float(len(run())),
        usual_heads=2,
    )
    row = training.measure_backward(problem(training), "causal", setting)
    assert row["median_seconds"] == row["median_step_seconds"] == {"attndsl": 1.0, "SDPA": 1.0}
    assert row["first_step_seconds"] == {"attndsl": 5.0, "SDPA": 5.0}
    assert row["peak_mib"] == {"attndsl": 0.0, "SDPA": 0.0}
    # Two implementations, a first sample and two more, of both directions and of the backward.
    assert len(waits) == 2 * 3 * 2
    assert sum("retain_graph" in options for options in calls) == 2 * 3 * 5
    assert row["problem"] == "fp32 D16 N64"
    assert row["gflops"] == pytest.approx(10 * 2 * 16 * 64 * 65 / 2 / 1e9)


def test_a_peer_that_fails_is_named(training: ModuleType) -> None:
    """As FlexAttention does on a CPU."""
    row = training.measure_backward(
        problem(training), "causal", training.Setting(rounds=1, flex=True)
    )
    assert row["flex_failure"].startswith("NotImplementedError: FlexAttention does not support")
    assert row["speed_up"].keys() == {"SDPA"}
    shown = io.StringIO()
    training.show_backward([row], Console(file=shown, width=300))
    assert "Flex fails: NotImplementedError" in shown.getvalue()


def test_a_fault_of_ours_is_none_of_a_peers(training: ModuleType) -> None:
    odd = training.Problem(1, 2, 64, 16, torch.float64, torch.device("cpu"))
    with pytest.raises(Exception, match="A074"):
        training.measure_backward(odd, "causal", training.Setting(rounds=1, flex=True))


def test_the_table_of_backwards(training: ModuleType) -> None:
    row = {
        "problem": "bf16 D64 N2048",
        "variant": "ALiBi",
        "median_seconds": {"attndsl": 0.00125},
        "median_step_seconds": {"attndsl": 0.002},
        "speed_up": {"SDPA": 1.5, "FlexAttention": 2.25},
        "step_speed_up": {"SDPA": 1.75, "FlexAttention": 3.0},
        "peer_forms": {"SDPA": "causal", "FlexAttention": "the same"},
        "difference_from_flex": 0.004,
        "peak_mib": {"attndsl": 24.0, "SDPA": 32.0},
    }
    shown = io.StringIO()
    training.show_backward([row], Console(file=shown, width=300))
    for text in ("1.25 ms", "2 ms", "1.50", "2.25", "1.75", "3.00", "apart by 4.0e-03", "24 MiB"):
        assert text in shown.getvalue()
    assert "no backward" not in shown.getvalue()


def test_peak_memory_is_beside_what_is_there(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated, greatest = [10 * 2**20], [0]

    def run() -> None:
        greatest[0] = max(greatest[0], allocated[0] + 3 * 2**20)

    def reset() -> None:
        greatest[0] = allocated[0]

    greatest[0] = 500 * 2**20  # of what ran before
    for name, function in {
        "synchronize": lambda: None,
        "memory_allocated": lambda: allocated[0],
        "max_memory_allocated": lambda: greatest[0],
        "reset_peak_memory_stats": reset,
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    assert gpu.peak_mib(run) == 3.0


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("script", ["gpu.py", "cpu.py", "compile_times.py"])
def test_help_names_the_directions(script: str) -> None:
    shown = run(script, "--help")
    assert shown.returncode == 0
    assert "--direction" in shown.stdout
    assert "backward" in shown.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_nothing_to_measure() -> None:
    shown = run("gpu.py", "--direction", "backward")
    assert shown.returncode == 1
    assert "torch sees no GPU" in shown.stdout


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_run_of_gpu_is_recorded(
    gpu: ModuleType, direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows that another has measured, one of which is out of memory."""

    def measured(*arguments: Any) -> dict[str, Any]:
        made, variant = arguments[:2]
        if variant == "per-pair bias":
            raise torch.cuda.OutOfMemoryError
        seconds = {"attndsl": 1.0, "SDPA": 2.0, "FlexAttention": 3.0}
        speed_up = {"SDPA": 2.0, "FlexAttention": 3.0}
        return {
            "problem": f"bf16 D{made.head_dim} N{made.length}",
            "variant": variant,
            "median_seconds": seconds,
            "median_step_seconds": seconds,
            "speed_up": speed_up,
            "step_speed_up": speed_up,
            "peer_forms": {"SDPA": "causal", "FlexAttention": "the same"},
            "difference_from_flex": None,
        } | ({"difference_from_flex": 0.0} if direction == "backward" else {})

    import measure

    name: dict[str, Callable[..., Any]] = {
        "forward": {"measure": measured},
        "backward": {"measure_backward": measured},
    }[direction]
    for function, stand_in in name.items():
        monkeypatch.setattr(gpu, function, stand_in)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    gpu.main(
        ["ALiBi", "per-pair bias"],
        *(["bf16"], [512], [64]),
        name="test",
        direction=gpu.Direction(direction),
    )
    recorded = json.loads((tmp_path / "test.json").read_text())
    assert recorded["direction"] == direction
    assert recorded["machine"]["gpu"] == "a GPU"
    assert [row["variant"] for row in recorded["rows"]] == ["ALiBi"]
    assert recorded["skipped"] == [{"variant": "per-pair bias", "length": 512, "head_dim": 64}]
    assert (tmp_path / "test.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton cannot compile where it interprets"
)
def test_compile_times_of_a_backward_are_of_its_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import compile_times

    examples = BENCHMARKS.parent / "examples"
    both = {
        direction: compile_times.measure(
            examples / "causal.attn", "cuda:90", "bf16", 64, compile_times.Direction(direction)
        )
        for direction in ("forward", "backward")
    }
    names = {direction: [row["kernel"] for row in rows] for direction, rows in both.items()}
    assert names["forward"] == ["causal"]
    assert names["backward"] == [
        *("causal_prepare_shift", "causal_prepare_delta", "causal_queries", "causal_keys"),
    ]
    for rows in both.values():
        for row in rows:
            assert row["candidates"][-1]["fits"]
            assert row["candidates"][-1]["registers"] > 0
    shown = io.StringIO()
    compile_times.show(both["backward"], Console(file=shown, width=200))
    assert "causal_keys" in shown.getvalue()
    assert "4 programs in " in shown.getvalue()
