"""The mask and its blocks as a picture: what is computed, what is skipped, and why it is cheap.

A picture shows one head. Where the kernel takes the positions in another order than theirs (a
dilated mask, by residue class; a mask over a grid, in boxes of it), the picture shows the kernel's
order beside the natural one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attndsl.evaluate import Environment, evaluate
from attndsl.expression import BOOL, Binary, Expression, Unary
from attndsl.planner.block_map import Kind
from attndsl.planner.grids import tile_sides
from attndsl.planner.plan import Attend, Plan
from attndsl.planner.problems import Problem, problems
from attndsl.planner.visits import visits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

# Sight: dark for blocks without mask arithmetic, lighter where the mask is evaluated, a warm tint
# for the pairs that are computed and thrown away. Apart from each other in grey, too.
FULL_VISIBLE, PARTIAL_VISIBLE, PARTIAL_HIDDEN, EMPTY = "#1f4e79", "#6fa8dc", "#fbe3c8", "#ffffff"
GRID = "#c9ccd1"
_LARGEST_IMAGE = 1024  # pixels of the longer side; more pairs than these are averaged
_CHUNK = 1 << 22  # pairs of which the mask is evaluated at a time


@dataclass(frozen=True)
class HeadPicture:
    """The score matrix of one head in the order in which the kernel takes its positions.

    `rows` and `keys` are row and key numbers in that order. Block (m, n) covers
    `row_edges[m]:row_edges[m + 1]` of them by `key_edges[n]:key_edges[n + 1]`, and `kinds[m, n]`
    is its `Kind`. Over a grid, where every tile of queries has boxes of keys of its own, a block
    here is a single key for a tile. `visible` is the mask of every pair in the natural order.
    `blocks` counts the blocks that a kernel visits, and those that there are in all. `order` says
    how the kernel takes positions, if not in their order, and `part` which stage of a plan with
    several it shows.
    """

    head: int
    rows: Array
    keys: Array
    row_edges: Array
    key_edges: Array
    kinds: Array
    visible: Array
    blocks: Mapping[Kind, int]
    all_blocks: int
    order: str | None
    part: str = ""

    def count(self, kind: Kind) -> int:
        return self.blocks.get(kind, 0)

    @property
    def density(self) -> float:
        """The share of pairs that are visible."""
        return float(self.visible.mean()) if self.visible.size else 0.0


def head_pictures(
    plan: Plan,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Array],
    *,
    block_m: int,
    block_n: int,
    batch: int = 0,
    head: int = 0,
) -> tuple[HeadPicture, ...]:
    """What the plan does for one head at these sizes, which hold the axes' lengths too: a picture
    for every stage over pairs."""
    number = len(plan.attends)
    return tuple(
        _stage_picture(
            plan,
            stage,
            sizes,
            inputs,
            f"part {place} of {number}" if number > 1 else "",
            block_m=block_m,
            block_n=block_n,
            batch=batch,
            head=head,
        )
        for place, stage in enumerate(plan.attends, start=1)
    )


def _stage_picture(
    plan: Plan,
    stage: Attend,
    sizes: Mapping[str, int],
    inputs: Mapping[str, Array],
    part: str,
    *,
    block_m: int,
    block_n: int,
    batch: int,
    head: int,
) -> HeadPicture:
    base = Environment(sizes=sizes, axes=plan.attention.axes, inputs=inputs, clamp=True)
    rows: list[Array] = []
    keys: list[Array] = []
    row_edges, key_edges = [0], [0]
    all_blocks = 0
    first_blocks: dict[Problem, tuple[int, int]] = {}
    for problem in problems(stage, sizes, block_m):
        first_blocks[problem] = len(row_edges) - 1, len(key_edges) - 1
        tiles = problem.tiles(block_m)
        boxes = problem.boxes(block_n)
        all_blocks += tiles * len(boxes)
        for tile in range(tiles):
            rows.append(problem.queries(tile, block_m).numbers)
            row_edges.append(row_edges[-1] + rows[-1].size)
        for box in boxes:
            keys.append(problem.key_tokens(box).numbers)
            each = 1 if stage.grid is not None else max(1, keys[-1].size)
            key_edges += range(key_edges[-1] + each, key_edges[-1] + keys[-1].size + 1, each)
    if stage.stripes is not None:
        # The keys between the stripes come last, in a block that no tile visits.
        inside = np.concatenate([*keys, np.zeros(0, np.int64)])
        keys.append(np.setdiff1d(np.arange(sizes["Lk"]), inside))
        key_edges.append(sizes["Lk"])
    order = np.concatenate([*keys, np.zeros(0, np.int64)])
    place_of_key = np.empty(sizes["Lk"], np.int64)
    place_of_key[order] = np.arange(order.size)
    kinds = np.zeros((len(row_edges) - 1, len(key_edges) - 1), np.uint8)
    blocks = {Kind.PARTIAL: 0, Kind.FULL: 0}
    for visit in visits(stage, base, block_m, block_n):
        if batch in visit.batches and head in visit.heads:
            row, column = first_blocks[visit.problem]
            for block in visit.blocks:
                blocks[block.kind] += 1
                if stage.grid is not None:
                    seen = place_of_key[visit.problem.key_tokens(block.box).numbers]
                else:
                    seen = np.array([column + block.box[0][0] // block_n])
                kinds[row + visit.tile, seen] = block.kind
    return HeadPicture(
        head=head,
        rows=np.concatenate([*rows, np.zeros(0, np.int64)]),
        keys=order,
        row_edges=np.array(row_edges),
        key_edges=np.array(key_edges),
        kinds=kinds,
        visible=_visible(_mask_of(plan, stage), base, batch, head),
        blocks=blocks,
        all_blocks=all_blocks,
        order=_order(stage, len(first_blocks), block_m),
        part=part,
    )


def _order(stage: Attend, classes: int, block_m: int) -> str | None:
    """How the kernel takes the positions, in a few words."""
    if stage.grid is not None:
        sides = " × ".join(map(str, tile_sides(block_m, len(stage.grid.axes))))
        return f"in boxes of {sides}" + (f", {classes} classes" if classes > 1 else "")
    if stage.stripes is not None:
        return f"{stage.stripes.width} keys of every {stage.stripes.period} first"
    return None if stage.residue is None else f"by class mod {classes}"


def _mask_of(plan: Plan, stage: Attend) -> Expression:
    """The mask of a stage over the call's own positions (a stage may count within a class)."""
    if len(plan.attends) == 1:
        return plan.attention.mask
    last = plan.attend.mask
    if stage.partial is None:
        return last
    return Binary("and", plan.attention.mask, Unary("not", last, BOOL), BOOL)


def varies_with_head(plan: Plan) -> bool:
    """Whether heads see different masks, so that one picture does not tell all."""
    from attndsl.expression import index_names

    return not index_names(plan.attention.mask).isdisjoint("hg")


def draw(pictures: Sequence[HeadPicture], path: Path, title: str) -> None:
    """Write the pictures side by side to a PNG, SVG or PDF file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels: list[tuple[HeadPicture, bool]] = []
    for picture in pictures:
        if picture.order is not None:
            panels.append((picture, False))
        panels.append((picture, True))
    figure = Figure(
        figsize=(3.4 * len(panels) + 0.3, 4.15 if len(panels) == 1 else 4.4), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (picture, with_blocks) in zip(axes, panels, strict=True):
        _draw_panel(place, picture, with_blocks)
        heading = []
        if len(pictures) > 1:
            heading.append(picture.part or f"head {picture.head}")
        if picture.order is not None:
            heading.append(
                f"as the kernel takes it, {picture.order}" if with_blocks else "the mask"
            )
        place.set_title(", ".join(heading), fontsize=8.5)
        place.set_ylabel("query" if place is axes[0] else "", fontsize=9)
        place.set_xlabel("key", fontsize=9)
    figure.suptitle(title, fontsize=10)
    labels = {
        FULL_VISIBLE: "full block",
        PARTIAL_VISIBLE: "partial block, visible",
        PARTIAL_HIDDEN: "partial block, hidden",
        EMPTY: "empty block, skipped",
    }
    figure.legend(
        handles=[
            Patch(facecolor=c, edgecolor="#8a8f98", lw=0.5, label=t) for c, t in labels.items()
        ],
        loc="outside lower center",
        ncols=2 if len(panels) == 1 else 4,
        fontsize=8,
        frameon=False,
        handlelength=1.0,
        handleheight=1.0,
    )
    figure.savefig(path, dpi=300)


def terminal(picture: HeadPicture, *, colours: bool, columns: int) -> str:
    """The blocks as characters, two for each block; blocks are merged until they fit."""
    kinds = picture.kinds
    merge = max(1, -(-2 * kinds.shape[1] // max(2, columns - 2)), -(-kinds.shape[0] // 48))
    lines = []
    for top in range(0, kinds.shape[0], merge):
        line = ""
        for left in range(0, kinds.shape[1], merge):
            line += _cell(kinds[top : top + merge, left : left + merge], colours)
        lines.append(line)
    return "\n".join(lines)


def _cell(part: Array, colours: bool) -> str:
    if (part == Kind.FULL).all():
        text, colour = "██", "38;5;24"
    elif (part == Kind.EMPTY).all():
        text, colour = "··", "38;5;250"
    else:
        text, colour = "▒▒", "38;5;74"
    return f"\033[{colour}m{text}\033[0m" if colours else text


def _visible(mask: Expression, base: Environment, batch: int, head: int) -> Array:
    """The mask of every pair of one head, a band of rows at a time."""
    sizes = base.sizes
    rows, keys = sizes["Lq"], sizes["Lk"]
    group = max(1, sizes["H"] // sizes["Hkv"])
    visible = np.empty((rows, keys), np.bool_)
    band = max(1, _CHUNK // max(1, keys))
    for start in range(0, rows, band):
        row = np.arange(start, min(start + band, rows)).reshape(-1, 1)
        indices: dict[str, Array] = {
            "b": np.array([[batch]]),
            "h": np.array([[head]]),
            "g": np.array([[head // group]]),
            "row": row,
            "i": row + sizes["offset"],
            "j": np.arange(keys).reshape(1, -1),
        }
        environment = Environment(
            indices, sizes, base.axes, inputs=base.inputs, clamp=True, scale=1.0
        )
        visible[start : start + len(row)] = evaluate(mask, environment)
    return visible


def _draw_panel(axes: Axes, picture: HeadPicture, with_blocks: bool) -> None:
    rows, keys = picture.visible.shape
    axes.imshow(
        _image(picture, with_blocks),
        extent=(0, keys, rows, 0),
        interpolation="nearest" if max(rows, keys) <= _LARGEST_IMAGE else "antialiased",
        aspect="equal",
    )
    if with_blocks and max(picture.kinds.shape) <= 128:
        width = 0.5 if max(picture.kinds.shape) <= 32 else 0.25
        axes.hlines(picture.row_edges, 0, keys, color=GRID, lw=width)
        axes.vlines(picture.key_edges, 0, rows, color=GRID, lw=width)
    axes.tick_params(labelsize=7.5, length=2.5, width=0.5)
    if with_blocks and picture.order is not None:
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        axes.set_xticks(_ticks(keys))
        axes.set_yticks(_ticks(rows))
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("#5a6069")


def _ticks(length: int) -> list[int]:
    """Quarters where they are whole, else a few round numbers."""
    if length % 4 == 0:
        return [length * quarter // 4 for quarter in range(5)]
    step = max(1, round(length / 4, -len(str(length)) + 2))
    return list(range(0, length + 1, int(step)))


def _image(picture: HeadPicture, with_blocks: bool) -> Array:
    """RGB of every pair, or of the averages of squares of pairs where there are too many."""
    palette = np.zeros((3, 2, 3), np.float32)
    palette[Kind.EMPTY] = [_rgb(EMPTY), _rgb("#d62728")]  # never: a visible pair was skipped
    palette[Kind.PARTIAL] = [_rgb(PARTIAL_HIDDEN), _rgb(PARTIAL_VISIBLE)]
    palette[Kind.FULL] = [_rgb("#d62728"), _rgb(FULL_VISIBLE)]
    if not with_blocks:
        plain = np.array([_rgb(EMPTY), _rgb(PARTIAL_VISIBLE)], np.float32)
        return _shrunk(plain[picture.visible.astype(np.uint8)])
    visible = picture.visible[np.ix_(picture.rows, picture.keys)].astype(np.uint8)
    kinds = np.repeat(picture.kinds, np.diff(picture.row_edges), axis=0)
    kinds = np.repeat(kinds, np.diff(picture.key_edges), axis=1)
    return _shrunk(palette[kinds, visible])


def _shrunk(image: Array) -> Array:
    factor = -(-max(image.shape[:2]) // _LARGEST_IMAGE)
    if factor == 1:
        return image
    rows, columns = (length // factor * factor for length in image.shape[:2])
    squares = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor, 3)
    averages: Array = squares.mean(axis=(1, 3))
    return averages


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue
