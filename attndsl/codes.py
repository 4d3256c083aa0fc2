"""Every diagnostic code, explained: what `attndsl explain CODE` prints.

`wrong` gives the diagnostic and `right` does not; both are checked by a test. Where an example is a
spec it is `.attn` text; where the fault lies in a call or in the machine it is Python or a shell
command, which the entry's `language` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent


@dataclass(frozen=True)
class CodeEntry:
    """What a code means. `title` fits on a line; `explanation` is prose of a few lines.

    `language` is `"attn"` for a spec that a test checks as it stands, `"python"` for a call (with
    `q`, `k`, `v` at hand), `"shell"` for a command.
    """

    title: str
    explanation: str
    wrong: str
    right: str
    language: str = "attn"


def explain(code: str) -> str | None:
    """The explanation of a code as plain text, or None for a code that does not exist."""
    entry = CODES.get(code.upper())
    if entry is None:
        return None
    return "\n".join(
        [
            f"{code.upper()}: {entry.title}",
            "",
            entry.explanation.strip(),
            "",
            "wrong:",
            "",
            indent(entry.wrong.strip("\n"), "    "),
            "",
            "right:",
            "",
            indent(entry.right.strip("\n"), "    "),
        ]
    )


CODES: dict[str, CodeEntry] = {
    "A012": CodeEntry(
        title="unknown name",
        explanation="""\
A name in an expression is an index (`b h g i j row`), a size (`B H Hkv Lq Lk D Dv`), `scale`,
one of `q k v`, a parameter, an input, a `let`, or a definition of this file, of an imported one,
or of the standard patterns. This one is none of them; often it is a slip of the keyboard, and
the diagnostic suggests the nearest name.""",
        wrong="""
attention local(window: int = 256) {
    mask = causal and i - j < windw
}
""",
        right="""
attention local(window: int = 256) {
    mask = causal and i - j < window
}
""",
    ),
    "A078": CodeEntry(
        title="a visible pair reads an input out of range",
        explanation="""\
An index of an input lies outside its dimension for a pair that the mask leaves visible. Kernels
clamp such an index, so that hidden pairs may compute what they like; for a visible pair the result
would be an arbitrary element, and the reference reports it. Hide the pairs in the mask, bound the
index with `min` and `max`, or pass a tensor that is large enough.""",
        wrong='''
module = attndsl.parse(
    """
    attention local(window: int = 8) {
        input bias: float[H, window]
        score = dot(q, k) * scale + bias[h, i - j]
        mask = causal
    }
    """
)
module.local(q, k, v, bias=torch.zeros(4, 8))
''',
        right='''
module = attndsl.parse(
    """
    attention local(window: int = 8) {
        input bias: float[H, window]
        score = dot(q, k) * scale + bias[h, i - j]
        mask = causal and i - j < window
    }
    """
)
module.local(q, k, v, bias=torch.zeros(4, 8))
''',
        language="python",
    ),
}
