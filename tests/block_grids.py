"""Brute force for block maps: the kind of every block from the mask of every pair."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from naive import Case, Shape

from attndsl.evaluate import Environment, evaluate
from attndsl.expression import Expression, Read, index_names, walk
from attndsl.planner.block_map import Kind, Table


def table_for(mask: Expression) -> Table:
    """The block table of a mask, whether it needs one or not."""
    reads = sorted({node.name for node in walk(mask) if isinstance(node, Read)})
    return Table(index_names(mask) & frozenset("bhg"), tuple(reads))


def sizes_of_case(case: Case, shape: Shape) -> dict[str, int]:
    """All that the mask of an example may ask for."""
    sizes = {
        "B": shape.batch,
        "H": shape.heads,
        "Hkv": shape.key_heads,
        "Lq": shape.queries,
        "Lk": shape.keys,
        "offset": shape.keys - shape.queries if shape.offset is None else shape.offset,
    }
    axes = case.call(shape).axes(case.load().axes) or {}
    return {**sizes, **{f"axis.{name}": length for name, length in axes.items()}}


def pairs(
    mask: Expression,
    sizes: Mapping[str, int],
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    axes: tuple[str, ...] = (),
    batch: int = 0,
    head: int = 0,
) -> np.ndarray:
    """The mask over every pair, bool[Lq, Lk]."""
    queries, keys = sizes["Lq"], sizes["Lk"]
    group = sizes.get("H", 1) // sizes.get("Hkv", sizes.get("H", 1))
    row = np.arange(queries, dtype=np.int64)[:, None]
    environment = Environment(
        indices={
            "row": row,
            "i": row + sizes["offset"],
            "j": np.arange(keys, dtype=np.int64)[None, :],
            "b": np.asarray(batch),
            "h": np.asarray(head),
            "g": np.asarray(head // group),
        },
        sizes=sizes,
        axes=axes,
        inputs=dict(inputs or {}),
        clamp=True,
    )
    return np.broadcast_to(evaluate(mask, environment), (queries, keys)).astype(bool)


def kinds(visible: np.ndarray, block_m: int, block_n: int) -> np.ndarray:
    """The kind of every block: EMPTY, PARTIAL or FULL, uint8[query blocks, key blocks]."""
    queries, keys = visible.shape
    grid = np.zeros((-(-queries // block_m), -(-keys // block_n)), np.uint8)
    for row, column in np.ndindex(grid.shape):
        block = visible[row * block_m :, column * block_n :][:block_m, :block_n]
        whole = (column + 1) * block_n <= keys
        if block.any():
            grid[row, column] = Kind.FULL if whole and block.all() else Kind.PARTIAL
    return grid


def is_sound(found: np.ndarray, exact: np.ndarray) -> bool:
    """No visible pair in an EMPTY block, no hidden one in a FULL one."""
    missed = (found == Kind.EMPTY) & (exact != Kind.EMPTY)
    unmasked = (found == Kind.FULL) & (exact != Kind.FULL)
    return not (missed | unmasked).any()
