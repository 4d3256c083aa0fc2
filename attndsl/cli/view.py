"""`attndsl view`: the mask and its blocks as a picture."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from attndsl.cli import options
from attndsl.cli.samples import InputOption

LONGEST = 8192


def view(
    spec: options.SpecArgument,
    shape: Annotated[str, typer.Option(metavar="SIZES", help=options.SHAPE_HELP)] = "512",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A .png, .svg or .pdf file; else the terminal."
        ),
    ] = None,
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    grid: options.GridOption = None,
    given: InputOption = None,
    tile: Annotated[
        str, typer.Option(metavar="M,N", help="Queries and keys of a block.")
    ] = "64,64",
    head: Annotated[
        list[int] | None,
        typer.Option(help="Which head; repeatable. All, up to 4, where they differ."),
    ] = None,
) -> None:
    """Draw the mask of a spec and the blocks that its kernel visits.

    Dark blocks are full: they run without the mask. Light ones are partial: the mask is evaluated,
    and what it hides is work thrown away. White ones are never touched.

    Examples:

        attndsl view window.attn

        attndsl view window.attn --shape 1024 --param width=100 -o mask.svg

        attndsl view neighborhood2d.attn --shape 256 --grid 16,16 -o mask.png
    """
    from attndsl.cli import samples
    from attndsl.pictures import draw, head_pictures, terminal, varies_with_head
    from attndsl.planner import plan as make_plan

    sizes = options.parse_shape(shape)
    if max(sizes.Lq, sizes.Lk) > LONGEST:
        raise typer.BadParameter(f"a picture of more than {LONGEST} positions shows nothing")
    if output is not None and output.suffix not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter("the file must end in .png, .svg or .pdf", param_hint="--output")
    block_m, block_n = options.parse_tile(tile)
    bound = options.bound(options.choose(options.load_spec(spec), attention), param)
    plan = make_plan(bound)
    numbers = sizes.sizes() | options.axis_sizes(bound, grid, sizes.Lk)
    inputs = samples.with_files(bound, samples.inputs(bound, numbers), samples.read_files(given))
    heads = head or (range(min(sizes.H, 4)) if varies_with_head(plan) else [0])
    if any(number not in range(sizes.H) for number in heads):
        raise typer.BadParameter(f"there are {sizes.H} heads, from 0", param_hint="--head")
    pictures = [
        picture
        for number in heads
        for picture in head_pictures(
            plan, numbers, inputs, block_m=block_m, block_n=block_n, head=number
        )
    ]
    if output is not None:
        options.make_parent(output)
        draw(pictures, output, _title(bound.name, param, sizes, tile))
        print(output)
        return
    from attndsl.cli.output import use_colours

    columns = shutil.get_terminal_size().columns
    for picture in pictures:
        if len(pictures) > 1:
            print(picture.part or f"head {picture.head}")
        print(terminal(picture, colours=use_colours(sys.stdout), columns=columns))
        print(_summary(picture))


def _title(name: str, param: list[str] | None, sizes: options.Shape, tile: str) -> str:
    settings = "".join(f", {one.replace('=', ' = ')}" for one in param or ())
    lengths = f"L = {sizes.Lq}" if sizes.Lq == sizes.Lk else f"Lq = {sizes.Lq}, Lk = {sizes.Lk}"
    return f"{name}{settings}\n{lengths}, blocks of {tile.replace(',', ' × ')}"


def _summary(picture: object) -> str:
    from attndsl.pictures import HeadPicture
    from attndsl.planner.block_map import Kind

    assert isinstance(picture, HeadPicture)
    full, partial = picture.count(Kind.FULL), picture.count(Kind.PARTIAL)
    empty = max(0, picture.all_blocks - full - partial)
    return (
        f"██ {full} full, ▒▒ {partial} partial, ·· {empty} empty blocks; "
        f"{picture.density:.1%} of the pairs are visible"
    )
