"""Numbers to try a spec on: random ones, or those of `.npy` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.diagnostics import error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attndsl.attention import Attention, InputDeclaration

    Array = NDArray[Any]

InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=FILE.npy",
        help="An input, or q, k or v, from a file; the others are random. Repeatable.",
    ),
]
# The kinds of NumPy's dtypes that suit an element type.
_KINDS = {"bool": "b", "int": "iu", "float": "f"}


def operands(sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Normal `q`, `k` and `v` in float32."""
    import numpy as np

    random = np.random.default_rng(seed)
    shapes = {
        "q": ("B", "H", "Lq", "D"),
        "k": ("B", "Hkv", "Lk", "D"),
        "v": ("B", "Hkv", "Lk", "Dv"),
    }
    return {
        name: random.standard_normal([sizes[size] for size in shape], dtype=np.float32)
        for name, shape in shapes.items()
    }


def inputs(attention: Attention, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """An array for every input of a bound attention, of a kind that its type suggests."""
    import numpy as np

    random = np.random.default_rng(seed + 1)
    return {one.name: _sample(one, sizes, random) for one in attention.inputs}


def read_files(given: list[str] | None) -> dict[str, Array]:
    """The arrays of `--input NAME=FILE.npy`. Raises `AttnError` A097 for what cannot be read."""
    import numpy as np

    arrays: dict[str, Array] = {}
    for item in given or ():
        name, equals, path = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not NAME=FILE.npy", param_hint="--input")
        try:
            # Never unpickled: a file of numbers runs no code.
            arrays[name] = np.load(Path(path), allow_pickle=False)
        except (OSError, ValueError, EOFError) as problem:
            raise error(
                "A097",
                f"`{path}` cannot be read as an array: {problem}",
                help="write it with `numpy.save`",
            ) from None
    return arrays


def with_files(
    attention: Attention, made: dict[str, Array], files: Mapping[str, Array]
) -> dict[str, Array]:
    """The sampled inputs, replaced by those of files. Raises `AttnError` A072, A074 or A073."""
    declared = {one.name: one for one in attention.inputs}
    for name, array in files.items():
        if name in ("q", "k", "v"):
            continue
        if name not in declared:
            listed = ", ".join(f"`{one}`" for one in declared) or "none"
            raise error(
                "A072", f"`{attention.name}` has no input `{name}`", help=f"its inputs: {listed}"
            )
        one, expected = declared[name], made[name].shape
        if array.dtype.kind not in _KINDS[str(one.element)]:
            raise error(
                "A074",
                f"`{name}` is {one.element}, got {array.dtype}",
                one.span,
                label="declared here",
            )
        if array.shape != expected:
            raise error(
                "A073",
                f"`{name}` has shape {list(expected)} in this call, got {list(array.shape)}",
                one.span,
                label="declared here",
            )
        made = made | {name: array}
    return made


def _sample(
    declaration: InputDeclaration, sizes: Mapping[str, int], random: np.random.Generator
) -> Array:
    import numpy as np

    from attndsl.evaluate import evaluate_size
    from attndsl.expression import Scalar

    shape = [evaluate_size(dimension, sizes) for dimension in declaration.dimensions]
    match declaration.element:
        case Scalar.BOOL:
            return random.random(shape) < 0.5
        case Scalar.INT if _runs_over_tokens(declaration):
            # Numbers that rise along the sequence, as those of documents or segments do.
            steps = random.random(shape) < min(1.0, 4.0 / max(1, shape[-1]))
            return np.cumsum(steps, axis=-1, dtype=np.int32)
        case Scalar.INT:
            return random.integers(0, max(1, sizes["Lk"]), shape, dtype=np.int32)
    return np.asarray(random.standard_normal(shape), np.float32)


def _runs_over_tokens(declaration: InputDeclaration) -> bool:
    from attndsl.expression import Size, walk

    return any(
        isinstance(node, Size) and node.name in ("Lq", "Lk")
        for dimension in declaration.dimensions[-1:]
        for node in walk(dimension)
    )
