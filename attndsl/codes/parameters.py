"""A06x: binding parameters."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

_SPEC = '''
module = attndsl.parse(
    """
    attention local(window: int where window > 0) {
        mask = causal and i - j < window
    }
    """
)
'''

CODES: dict[str, CodeEntry] = {
    "A060": CodeEntry(
        title="a parameter without a value",
        explanation="""\
A parameter that has no default gets its value when the kernel is bound, and only once.""",
        wrong=_SPEC + "module.local(q, k, v)\n",
        right=_SPEC + "module.local(q, k, v, window=8)\n",
        language="python",
    ),
    "A061": CodeEntry(
        title="a parameter that the spec does not have",
        explanation="""\
Parameters are bound by the names in the spec's parentheses. Tensors are inputs, and are
passed with the call.""",
        wrong=_SPEC + "module.local(window=8, windw=8)\n",
        right=_SPEC + "module.local(window=8)\n",
        language="python",
    ),
    "A062": CodeEntry(
        title="a parameter of another type",
        explanation="""\
A `bool` parameter takes a bool, an `int` an int of 32 bits, a `float` a finite int or
float.""",
        wrong=_SPEC + "module.local(window=8.5)\n",
        right=_SPEC + "module.local(window=8)\n",
        language="python",
    ),
    "A063": CodeEntry(
        title="a parameter out of bounds",
        explanation="""\
The spec bounds the parameter with `where`, and this value, or the default itself, breaks
the bound.""",
        wrong=_SPEC + "module.local(window=0)\n",
        right=_SPEC + "module.local(window=1)\n",
        language="python",
    ),
}
