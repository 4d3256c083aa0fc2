"""`attndsl explain`: what a diagnostic code means, or what a spec costs and why."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli import options
from attndsl.cli.samples import InputOption

if TYPE_CHECKING:
    from attndsl.planner.cost import Cost

# Dense 16-bit operations a second, and bytes a second, as the makers of these GPUs state them.
MACHINES = {
    "cuda:80": ("A100", 312e12, 2.0e12),
    "cuda:90": ("H100", 989e12, 3.35e12),
    "hip:gfx942": ("MI300X", 1307e12, 5.3e12),
}


def explain(
    subject: Annotated[
        str, typer.Argument(metavar="CODE|SPEC", help="A code such as A012, or a .attn file.")
    ],
    shape: Annotated[str, typer.Option(metavar="SIZES", help=options.SHAPE_HELP)] = "1,1,8192,64",
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    grid: options.GridOption = None,
    given: InputOption = None,
    tile: Annotated[
        str, typer.Option(metavar="M,N", help="Queries and keys of a block.")
    ] = "64,64",
    json: options.JsonOption = False,
) -> None:
    """Explain a diagnostic code, or what running a spec takes and what bounds it.

    For a spec: the strategy and why it was chosen, the blocks visited, operations, bytes, and
    whether arithmetic or memory is the limit.

    Examples:

        attndsl explain A012

        attndsl explain gemma2.attn --shape 1,16,65536,128 --param window=1024
    """
    if re.fullmatch(r"[Aa]\d{3}", subject):
        _explain_code(subject.upper())
        return
    from attndsl.cli import samples
    from attndsl.planner import plan as make_plan
    from attndsl.planner.cost import cost

    sizes = options.parse_shape(shape, heads=1)
    block_m, block_n = options.parse_tile(tile)
    bound = options.bound(options.choose(options.load_spec(Path(subject)), attention), param)
    plan = make_plan(bound)
    numbers = sizes.sizes() | options.axis_sizes(bound, grid, sizes.Lk)
    inputs = samples.with_files(bound, samples.inputs(bound, numbers), samples.read_files(given))
    found = cost(plan, numbers, block_m=block_m, block_n=block_n, inputs=inputs)
    if json:
        from attndsl.cli.output import show_json

        show_json(_facts(found))
        return
    print(f"{bound.name}  {sizes}\n")
    for note in plan.notes:
        print(f"{note}\n")
    print(found)
    print(f"\n{_bounds(found)}")


def _explain_code(code: str) -> None:
    from attndsl.codes import CODES
    from attndsl.codes import explain as explanation

    text = explanation(code)
    if text is None:
        near = difflib.get_close_matches(code, CODES, 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise typer.BadParameter(f"there is no code {code}{hint}", param_hint="CODE")
    print(text)


def _bounds(found: Cost) -> str:
    from attndsl.cli.output import table

    rows = []
    for target, (machine, flops, bandwidth) in MACHINES.items():
        arithmetic = found.matrix_flops / flops
        memory = found.least_bytes / bandwidth
        limit = "arithmetic" if arithmetic >= memory else "memory"
        rows.append([f"{target} ({machine})", _time(arithmetic), _time(memory), limit])
    header = ["at peak on", "matrix products", "moving tensors once", "bound by"]
    return table(header, rows)


def _facts(found: Cost) -> dict[str, Any]:
    return {
        "attention": found.plan.attention.name,
        "notes": [*found.plan.notes, *found.notes],
        "sizes": dict(found.sizes),
        "tile": list(found.tile),
        "full_blocks": found.blocks.full,
        "partial_blocks": found.blocks.partial,
        "all_pairs": found.all_pairs,
        "visited_pairs": found.pairs,
        "visible_pairs": found.visible_pairs,
        "matrix_flops": found.matrix_flops,
        "other_operations": found.other_operations,
        "least_bytes": found.least_bytes,
        "moved_bytes": found.moved_bytes,
    }


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.2g} ns"
