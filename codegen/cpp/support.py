"""The pieces of C++ that kernels are built on, and which need which.

They are files of their own in `support/`; a program's text holds those that it uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files

# In the order in which they stand in a program, each with the pieces it is written with.
_PIECES: dict[str, tuple[str, ...]] = {
    "vectors": (),
    "half_types": (),
    "bfloat16": ("half_types",),
    "half": ("half_types",),
    "floor_divide": (),
    "floor_divide_floats": (),
    "integers": (),
    "gather": (),
    "reciprocal": (),
    "exp2": (),
    "exp": ("exp2",),
    "log": (),
    "sqrt": (),
    "rsqrt": ("sqrt",),
    "tanh": ("exp2", "reciprocal"),
    "sigmoid": ("exp2", "reciprocal"),
    "softplus": ("exp", "log"),
    "erf": ("exp2",),
    "reduce_angle": (),
    "sin": ("reduce_angle",),
    "cos": ("reduce_angle",),
    "power": ("exp", "log"),
    "floor": (),
    "sign": (),
    "transpose": (),
    "convert": (),
    "tile": (),
    "seen": ("tile",),
    "weights": ("seen",),
    "guard": ("seen",),
    "dropout": ("seen",),
    "large_pages": (),
    "key_sums": ("tile", "gather", "large_pages"),
    "pair_sums": ("tile", "transpose", "gather"),
    "diagonals": ("tile", "gather"),
    "diagonal_rows": ("diagonals", "key_sums", "guard"),
    "gather_rows": ("tile",),
    "grid": ("gather_rows", "floor_divide"),
    "stripes": ("gather_rows",),
    "bfloat16_pairs": ("tile", "weights", "transpose", "guard", "convert", "bfloat16", "exp2"),
    "short_sigmoid": ("sigmoid", "bfloat16_pairs"),
    "bfloat16_matrix": ("bfloat16_pairs",),
    "bfloat16_dot": ("bfloat16_pairs",),
    "bfloat16_converted": ("bfloat16_pairs",),
    "bfloat16_sums": (
        *("bfloat16_matrix", "bfloat16_dot", "bfloat16_converted"),
        *("bfloat16_pairs", "key_sums", "guard"),
    ),
    "pair_tile": ("transpose", "gather"),
    "keys_as_lanes": ("transpose",),
    "bfloat16_rows": ("keys_as_lanes", "bfloat16"),
}


@cache
def _text(name: str) -> str:
    return (files(__package__) / "support" / f"{name}.h").read_text(encoding="utf-8").strip()


def support_text(used: Iterable[str]) -> str:
    """The pieces named in `used` and all that they need, each once."""
    needed: set[str] = {"vectors"}
    waiting = list(used)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += _PIECES[name]
    return "\n\n".join(_text(name) for name in _PIECES if name in needed)
