"""Block lists of packed sequences: those of one sequence after those of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from attndsl.planner.block_map import BlockTable
from attndsl.runtime.packed_arguments import PackedCall, Place, part

if TYPE_CHECKING:
    from attndsl.runtime.block_tables import BlockTables


def packed_tables(
    lists: BlockTables,
    call: PackedCall,
    arrays: Mapping[str, Tensor],
    places: Mapping[str, Place | None],
) -> Mapping[str, Tensor]:
    """The lists of all sequences as kernels for them take it (`codegen/triton/sequences.py`).

    They are built sequence by sequence, and kept for the lengths and what the mask reads.
    """
    from attndsl.runtime.block_tables import on_device

    def build(read: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        known: dict[tuple[int, int], BlockTable] = {}
        tables = []
        for number, lengths in enumerate(call.lengths):
            table = known.get(lengths)
            if table is None:
                sizes = call.alone(number).sizes
                if 0 in lengths:
                    tokens = lengths[1] if lists.transposed else lengths[0]
                    table = _of_nothing(-(-tokens // lists.rows), sizes["H"])
                else:
                    own = {
                        name: part(one, places[name], call.bounds, number)
                        for name, one in read.items()
                    }
                    table = lists.build(own, sizes)
                if not read:  # then sequences of one length have the same lists
                    known[lengths] = table
            tables.append(table)
        return on_device(joined(tables), call.whole.device)

    sizes = tuple(sorted(call.whole.sizes.items()))
    return lists.kept_or_built(arrays, (sizes, call.bounds, call.offset), build)


def _of_nothing(tiles: int, heads: int) -> BlockTable:
    """No tile has a block."""
    none = np.zeros(0, np.int32)
    offsets = np.zeros(tiles + 1, np.int32)
    return BlockTable(tiles, np.zeros(heads, np.int32), offsets, none, offsets, none)


def joined(tables: list[BlockTable]) -> BlockTable:
    """One table whose `map_index` has the line of the first tile of each sequence and head."""
    lines = [len(one.partial_offsets) - 1 for one in tables]
    firsts = np.cumsum([0, *lines[:-1]])
    maps = [
        one.map_index * one.query_blocks + first for one, first in zip(tables, firsts, strict=True)
    ]

    def offsets(every: list[np.ndarray]) -> np.ndarray:
        counts = [np.diff(one) for one in every]
        return np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))

    return BlockTable(
        sum(lines),
        np.concatenate(maps),
        offsets([one.partial_offsets for one in tables]),
        np.concatenate([one.partial_blocks for one in tables]),
        offsets([one.full_offsets for one in tables]),
        np.concatenate([one.full_blocks for one in tables]),
    )
