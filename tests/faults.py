"""What the checker says about a spec, in a form that tests compare."""

from __future__ import annotations

import pytest

from attndsl.diagnostics import AttnError, Diagnostic
from attndsl.module import load_text


def faults(spec: str) -> tuple[Diagnostic, ...]:
    """The diagnostics of a spec that is wrong."""
    with pytest.raises(AttnError) as caught:
        load_text(spec)
    return caught.value.diagnostics


def fault(spec: str) -> Diagnostic:
    """The diagnostic of a spec that is wrong in one place."""
    (found,) = faults(spec)
    return found


def marked(spec: str) -> tuple[str, int, int]:
    """A spec without its `«…»`, and the offsets that these enclosed."""
    start, end = spec.index("«"), spec.index("»") - 1
    return spec.replace("«", "").replace("»", ""), start, end


def assert_fault(spec: str, code: str, help: str | None = None) -> None:
    """The spec's one fault has this code, lies exactly at `«…»`, and its help says `help`."""
    plain, start, end = marked(spec)
    found = fault(plain)
    assert found.span is not None
    assert (found.code, found.span.start, found.span.end) == (code, start, end), str(found)
    if help is not None:
        assert help in (found.help or ""), str(found)
