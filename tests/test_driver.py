"""Binaries are handed to a GPU's driver as it expects them; the driver here only takes notes."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attndsl.codegen.program import (
    Argument,
    ArgumentKind,
    DType,
    Entry,
    Program,
    Specialization,
    Tile,
)
from attndsl.diagnostics import AttnError
from attndsl.expression import Literal, Size
from attndsl.runtime import driver
from attndsl.runtime.driver import Api, DriverProgram, pack
from attndsl.runtime.manifest import Kernel


class Driver(SimpleNamespace):
    """Answers 0 to everything, unless told otherwise, and keeps what it was called with."""

    def __init__(self, status: int = 0):
        super().__init__(calls=[], status=status)

    def __getattr__(self, name: str) -> Any:
        def answer(*arguments: Any) -> int:
            self.calls.append((name, arguments))
            return self.status

        return answer


@pytest.mark.parametrize(
    ("prefix", "shared", "names"),
    [
        ("cu", 1000, ["cuModuleLoadData", "cuModuleGetFunction"]),
        ("cu", 60_000, ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"]),
        ("hip", 60_000, ["hipModuleLoadData", "hipModuleGetFunction"]),
    ],
)
def test_loading(prefix: str, shared: int, names: list[str]) -> None:
    driver = Driver()
    Api(driver, prefix).load(b"\x7fELF\0image", "kernel", shared)  # type: ignore[arg-type]
    assert [name for name, _ in driver.calls] == names
    assert driver.calls[0][1][1] == b"\x7fELF\0image"
    assert driver.calls[1][1][2] == b"kernel"
    if len(names) == 3:
        assert driver.calls[2][1][1:] == (8, 60_000)


@pytest.mark.parametrize(
    ("prefix", "name"), [("cu", "cuLaunchKernel"), ("hip", "hipModuleLaunchKernel")]
)
def test_launching(prefix: str, name: str) -> None:
    driver = Driver()
    seen: list[bytes] = []

    def launch(*arguments: Any) -> int:
        # The bytes lie in memory for as long as the call lasts.
        seen.extend(
            ctypes.string_at(arguments[9][number], size) for number, size in ((0, 8), (1, 4))
        )
        driver.calls.append((name, arguments))
        return 0

    setattr(driver, name, launch)
    arguments = [
        pack(Argument(ArgumentKind.STRIDE, "q", "q_stride", 1), 2**40),
        pack(Argument(ArgumentKind.SIZE, "Lq", "Lq"), 77),
    ]
    function = ctypes.c_void_p(1234)
    Api(driver, prefix).launch(function, (5, 6, 7), 256, 1024, 99, arguments)  # type: ignore[arg-type]
    ((_, given),) = driver.calls
    assert given[0] is function
    assert [one.value for one in given[1:9]] == [5, 6, 7, 256, 1, 1, 1024, 99]
    assert given[10] is None
    assert seen == [(2**40).to_bytes(8, "little"), (77).to_bytes(4, "little")]


def test_a_refusal_is_reported() -> None:
    with pytest.raises(AttnError, match=r"A093.*`cuModuleLoadData` with status 209"):
        Api(Driver(209), "cu").load(b"", "kernel", 0)  # type: ignore[arg-type]


def test_arguments_as_bytes() -> None:
    kinds = ((ArgumentKind.SCALE, 0.5, b"\0\0\0?"), (ArgumentKind.SIZE, -1, b"\xff" * 4))
    for kind, value, data in kinds:
        assert pack(Argument(kind, "x", "x"), value) == data


def launched(entry: Entry, out: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the driver is told to start, for a program of one kernel: a grid and its arguments."""
    started: list[Any] = []

    class Taking:
        def load(self, image: bytes, symbol: str, dynamic_shared: int) -> str:
            return symbol

        def launch(self, function: str, grid: Any, *rest: Any) -> None:
            started.append((function, grid, rest[-1]))

    monkeypatch.setattr(driver, "driver_api", Taking)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    stream = SimpleNamespace(cuda_stream=1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    specialization = Specialization(DType.FLOAT32, 16, 16)
    program = Program("cuda:90", "", (entry,), (), specialization, Tile(64, 32))
    kernel = Kernel(entry.function, "x.cubin", 5, (), symbol="kernel_0", warps=4, warp_size=32)
    loaded = DriverProgram(program, {entry.function: (kernel, b"image")})
    loaded.launch({"out": out}, {"B": 2, "Lq": 7}, 0.5)
    return started


def test_a_kernel_is_launched_for_each_of_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = tuple(Argument(ArgumentKind.SIZE, name, name) for name in ("turn", "Lq"))
    entry = Entry(2, "near_sum", arguments, (Size("B"),), turns=Literal(3))
    started = launched(entry, torch.zeros(1, 1, 7, 16), monkeypatch)
    nothing = (0).to_bytes(8, "little")
    assert started == [
        (
            "kernel_0",
            (2, 1, 1),
            [turn.to_bytes(4, "little"), (7).to_bytes(4, "little"), nothing, nothing],
        )
        for turn in range(3)
    ]


@pytest.mark.parametrize(("over_pairs", "writes"), [(False, 0), (True, 1)])
def test_only_a_forward_brings_its_output_back(
    over_pairs: bool, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backward reads `out`, which autograd keeps, from a copy of it where it is not aligned."""
    out = torch.zeros(1, 1, 8, 17)[..., 1:]
    before = out._version
    argument = Argument(ArgumentKind.TENSOR, "out", "out", dtype="fp32")
    entry = Entry(0, "prepare", (argument,), (Size("B"),), over_pairs)
    (started,) = launched(entry, out, monkeypatch)
    assert int.from_bytes(started[2][0], "little") != out.data_ptr()
    assert out._version - before == writes
