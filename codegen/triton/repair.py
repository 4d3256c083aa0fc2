"""Values that are not finite, in keys that the mask hides from some rows of a tile.

A hidden pair has weight 0, but the matrix product adds 0 · NaN = NaN, and 0 · infinity = NaN.
Testing the values of every tile would cost each step of the loop a reduction. What leaked is NaN
in the accumulators, though, and it stays there: so the sum over all PARTIAL blocks is tested once
for each program, and only where it holds a NaN are those blocks multiplied again, now leaving out
what is hidden. A NaN that some row sees comes out of that as NaN again.

Keys are then taken a few at a time: whatever the tile of the loops, this rare path must not be what
a kernel needs its registers for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.tokens import Chunk, Tokens
from attndsl.codegen.triton.values import Binding, Value, infix, spread

REPAIRED_KEYS = 32  # at most; fewer would lay out products anew, on AMD


@dataclass(frozen=True)
class WeightedTile:
    """Weights `[BLOCK_M, keys]`, and which pairs are visible; others have weight 0.

    `lanes` counts the keys, of which the first `count` are looked at; `number` is the number of one
    of them, for its address.
    """

    weights: str
    visible: Value
    lanes: str
    count: str
    number: Callable[[str], str]


def write_test(kernel: Kernel, accumulators: Sequence[str]) -> str:
    """The condition that some accumulator holds a NaN; infinities of both signs count as one."""
    sums = " + ".join(f"tl.sum({one}, 1)" for one in accumulators)
    test = kernel.assign("nan_test", Value(f"tl.sum({sums}, 0)")).text
    return f"{test} != {test}"


def write_product_of_visible(
    kernel: Kernel,
    tile: WeightedTile,
    values: Tokens,
    accumulators: Sequence[tuple[str, Chunk, str]],
) -> None:
    """Adds the tile's weighted values key by key, each to the rows that see it, in fp32.

    `accumulators` are names, their part of the value vector, and the lanes of that part.
    """
    with kernel.loop("key", f"for {{}} in tl.range(0, {tile.count}, num_stages=1):") as key:
        this = Value(f"{tile.lanes} == {key}", "n", Binding.COMPARE)
        chosen = kernel.assign("chosen", infix("&", Binding.AND, this, tile.visible))
        pairs = spread(chosen, "mn").text
        seen = kernel.assign("seen", Value(f"tl.max({pairs}.to(tl.int32), 1) != 0")).text
        weight = f"tl.sum(tl.where({pairs}, {tile.weights}, 0.0), 1)"
        weight = kernel.assign("weight", Value(weight)).text
        pointer = values.tile_pointer(tile.number(key))
        pointer = kernel.assign("value_pointer", Value(pointer)).text
        for output, chunk, lanes in accumulators:
            exists = ""
            if chunk.used != chunk.width:
                exists = f", mask=tl.arange(0, {chunk.width}) < {chunk.used}, other=0.0"
            row = f"tl.load({pointer} + {lanes}{exists})"
            row = kernel.assign("value", Value(row)).text
            shown = f"tl.where({seen}[:, None], {row}[None, :], 0.0).to(tl.float32)"
            kernel.line(f"{output} += {weight}[:, None] * {shown}")
