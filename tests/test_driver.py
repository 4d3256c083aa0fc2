"""Binaries are handed to a GPU's driver as it expects them; the driver here only takes notes."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from attndsl.codegen.program import Argument, ArgumentKind
from attndsl.diagnostics import AttnError
from attndsl.runtime.driver import Api, pack


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
