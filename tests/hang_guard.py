"""A guard against what would run for ever, for texts and sizes that are made to be slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Even a crowded machine needs a few seconds only.
LIMIT_SECONDS = 120


@contextmanager
def ends() -> Iterator[None]:
    """Raise `TimeoutError` in what is still running at the limit."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
