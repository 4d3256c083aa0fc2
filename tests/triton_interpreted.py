"""Cases of the catalogue run under Triton's interpreter, in a process of their own.

Triton decides on import whether it interprets, and the tests of binaries need its compiler in the
same session. `Interpreter` is a worker process with `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from triton_calls import Comparison, Spoiled, compare, compare_text

VARIABLE = "TRITON_INTERPRET"
TIMEOUT = 300  # seconds a case may take on a busy machine


class Interpreter:
    """Runs functions of `triton_calls` in a process where Triton interprets."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(1, mp_context=context)
        # The worker inherits the environment when it starts, which is when it first has work.
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = "1"
        try:
            assert self.call(os.getenv, VARIABLE) == "1"
        finally:
            del os.environ[VARIABLE]
            if before is not None:
                os.environ[VARIABLE] = before

    def compare(self, case: str, shape: int, dtype: str) -> Comparison:
        """Case `case` of the catalogue at its shape number `shape`."""
        result: Comparison = self.call(compare, case, shape, dtype)
        return result

    def compare_text(
        self, text: str, dtype: str, spoiled: Sequence[Spoiled] = (), **sizes: Any
    ) -> Comparison:
        """The one attention of a spec, its inputs drawn at random; see `triton_calls`."""
        result: Comparison = self.call(compare_text, text, dtype, sizes, spoiled)
        return result

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns there; an error of its as an `AssertionError` with its text."""
        return self._executor.submit(_checked, function, *arguments).result(TIMEOUT)


def _checked(function: Callable[..., Any], *arguments: Any) -> Any:
    """An error as its text: some of Triton's cannot be sent from process to process."""
    try:
        return function(*arguments)
    except Exception as problem:
        text = "".join(traceback.format_exception(problem))
    raise AssertionError(text)
