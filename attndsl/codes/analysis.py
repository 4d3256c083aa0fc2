"""A05x: what analysis finds in a spec that is otherwise fine."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

CODES: dict[str, CodeEntry] = {
    "A056": CodeEntry(
        title="declared and never used",
        explanation="""\
A parameter, an input or a `let` takes no part in the result. Often the formula should have
used it; otherwise leave it out, so that callers need not pass it. This is a warning.""",
        wrong="""
attention local(window: int = 256) {
    let near = i - j < window
    mask = causal
}
""",
        right="""
attention local(window: int = 256) {
    let near = i - j < window
    mask = causal and near
}
""",
    ),
}
