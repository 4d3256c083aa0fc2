"""What several commands take: a spec, parameters, a shape, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.diagnostics import error

if TYPE_CHECKING:
    import torch

    from attndsl.attention import Attention
    from attndsl.module import CheckedModule

SpecArgument = Annotated[Path, typer.Argument(metavar="SPEC", help="The .attn file.")]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--attention",
        "-a",
        metavar="NAME",
        help="Which attention of the file; needed where it has several.",
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="Bind a parameter; repeatable."),
]
GridOption = Annotated[
    str | None,
    typer.Option(
        metavar="H,W", help="Lengths of the axes, for a spec with `axes`; near square by default."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for other programs to read.")]
HeadDimOption = Annotated[int, typer.Option(metavar="D", min=1, help="The head dimension.")]
DtypeOption = Annotated[
    str | None, typer.Option(metavar="fp32|bf16|fp16", help="The type of q, k, v and the output.")
]
GradientOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="What has a gradient: q, k, v, an input of floats; repeatable. All of them if none.",
    ),
]
SHAPE_HELP = "Sizes: L, or Lq,Lk, or B,H,L,D, or by name: B=1,H=8,Hkv=2,Lq=1,Lk=4096,D=128,Dv=128."


@dataclass(frozen=True)
class Shape:
    """The sizes of a call. `Hkv`, `Lk` and `Dv` follow `H`, `Lq` and `D` unless they are given."""

    B: int
    H: int
    Hkv: int
    Lq: int
    Lk: int
    D: int
    Dv: int

    def sizes(self) -> dict[str, int]:
        """Every run-time size but the axes', with the default offset."""
        sizes = {field.name: int(getattr(self, field.name)) for field in fields(self)}
        return sizes | {"offset": self.Lk - self.Lq}

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


def parse_shape(text: str, *, batch: int = 1, heads: int = 4, head_dim: int = 64) -> Shape:
    """The shape that `--shape` says. Wrong usage where it says none (exit status 2)."""
    given: dict[str, int] = {}
    parts = [part.strip() for part in text.split(",")]
    if all("=" in part for part in parts):
        for part in parts:
            name, _, value = part.partition("=")
            given[name.strip()] = _positive(value, part)
        if "L" in given:
            given["Lq"] = given["Lk"] = given.pop("L")
        unknown = [name for name in given if name not in Shape.__dataclass_fields__]
        if unknown:
            raise typer.BadParameter(f"no size is called {unknown[0]!r}. {SHAPE_HELP}")
    else:
        names = {1: ("Lq",), 2: ("Lq", "Lk"), 4: ("B", "H", "Lq", "D")}.get(len(parts))
        if names is None:
            raise typer.BadParameter(f"{text!r} is no shape. {SHAPE_HELP}")
        given = {name: _positive(part, part) for name, part in zip(names, parts, strict=True)}
    if "Lq" not in given:
        if "Lk" not in given:
            raise typer.BadParameter(f"{text!r} has no length. {SHAPE_HELP}")
        given["Lq"] = given["Lk"]
    query_heads = given.get("H", heads)
    key_heads = given.get("Hkv", query_heads)
    if query_heads % key_heads:
        raise typer.BadParameter(f"H = {query_heads} is no multiple of Hkv = {key_heads}")
    dim = given.get("D", head_dim)
    return Shape(
        B=given.get("B", batch),
        H=query_heads,
        Hkv=key_heads,
        Lq=given["Lq"],
        Lk=given.get("Lk", given["Lq"]),
        D=dim,
        Dv=given.get("Dv", dim),
    )


def parse_tile(text: str) -> tuple[int, int]:
    """Queries and keys of a block, from `64,64` or `64`."""
    parts = [_positive(part, text) for part in re.split("[,x×]", text)]
    if len(parts) > 2:
        raise typer.BadParameter(f"{text!r} is not M,N", param_hint="--tile")
    return parts[0], parts[-1]


def with_operands(shape: Shape, arrays: Mapping[str, Any]) -> Shape:
    """The shape with the sizes that `q`, `k` and `v` from files have."""
    names = {
        "q": ("B", "H", "Lq", "D"),
        "k": ("B", "Hkv", "Lk", "D"),
        "v": ("B", "Hkv", "Lk", "Dv"),
    }
    sizes: dict[str, int] = {}
    for operand, dimensions in names.items():
        if operand in arrays:
            found = arrays[operand].shape
            if len(found) != 4:
                raise error(
                    "A073",
                    f"`{operand}` must have 4 dimensions, [{', '.join(dimensions)}], "
                    f"got {list(found)}",
                )
            sizes |= dict(zip(dimensions, found, strict=True))
    if "q" in arrays and "k" not in arrays:
        sizes = {"Hkv": sizes["H"], "Lk": sizes["Lq"]} | sizes
    return replace(shape, **sizes)


def device(name: str) -> torch.device:
    """The torch device of that name. Raises `AttnError` A081 where there is none."""
    import torch

    try:
        found = torch.device(name)
    except RuntimeError:
        raise typer.BadParameter(f"{name!r} is no device", param_hint="--device") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise error(
            "A081",
            f"there is no GPU for `{name}` on this machine",
            help="run on the CPU, or compile for it with `attndsl compile --target`",
        )
    return found


def make_parent(path: Path) -> None:
    """Make the folder that a file goes into. Raises `AttnError` A097 where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise error("A097", f"`{path.parent}` cannot be made: {problem.strerror}") from None


def axis_sizes(attention: Attention, grid: str | None, length: int) -> dict[str, int]:
    """`axis.NAME` sizes whose product is `length`: as given, or as near square as there is."""
    if not attention.axes:
        if grid is not None:
            raise error("A077", f"`{attention.name}` has no axes, so it takes no grid")
        return {}
    if grid is None:
        lengths = _near_square(length, len(attention.axes))
    else:
        lengths = [_positive(part, grid) for part in re.split("[,x×]", grid)]
    product = 1
    for one in lengths:
        product *= one
    if len(lengths) != len(attention.axes) or product != length:
        listed = ", ".join(attention.axes)
        raise error(
            "A077",
            f"the grid {' × '.join(map(str, lengths))} does not hold {length} tokens on the axes "
            f"{listed}",
            help="give one length for each axis; their product is the number of keys",
        )
    return {f"axis.{axis}": length for axis, length in zip(attention.axes, lengths, strict=True)}


def load_spec(path: Path) -> CheckedModule:
    """The checked file, `-` for standard input; its warnings are shown. Raises `AttnError`."""
    import sys

    from attndsl.cli.output import show_diagnostic
    from attndsl.module import load_file, load_text

    checked = load_text(sys.stdin.read(), "<stdin>") if str(path) == "-" else load_file(path)
    for warning in checked.warnings:
        show_diagnostic(warning)
    return checked


def choose(checked: CheckedModule, name: str | None) -> Attention:
    """The attention of that name, or the only one. Wrong usage where that is not clear."""
    listed = ", ".join(checked.attentions)
    if name is None:
        if len(checked.attentions) == 1:
            return next(iter(checked.attentions.values()))
        if not checked.attentions:
            raise error("A040", "the file has no attention")
        raise typer.BadParameter(f"the file has several; choose with --attention: {listed}")
    if name not in checked.attentions:
        raise typer.BadParameter(f"the file has no attention {name!r}; it has {listed}")
    return checked.attentions[name]


def bound(attention: Attention, params: list[str] | None) -> Attention:
    """The attention with `--param` values and defaults bound. Raises `AttnError` A06x."""
    from attndsl.binding import bind

    return bind(attention, **_given_values(params))


def values(attention: Attention, params: list[str] | None) -> dict[str, bool | int | float]:
    """The value of every parameter: given, or the default."""
    defaults = {one.name: one.default for one in attention.parameters if one.default is not None}
    return defaults | _given_values(params)


def _given_values(params: list[str] | None) -> dict[str, bool | int | float]:
    given: dict[str, bool | int | float] = {}
    for param in params or ():
        name, equals, value = param.partition("=")
        if not equals:
            raise typer.BadParameter(f"{param!r} is not NAME=VALUE", param_hint="--param")
        given[name.strip()] = _value(value.strip())
    return given


def _value(text: str) -> bool | int | float:
    if text in ("True", "true", "False", "false"):
        return text in ("True", "true")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{text!r} is neither a number nor a bool", param_hint="--param")


def _positive(text: str, whole: str) -> int:
    if not text.strip().isdecimal() or int(text) == 0:
        raise typer.BadParameter(f"{text.strip()!r} in {whole!r} is not a positive number")
    return int(text)


def _near_square(length: int, axes: int) -> list[int]:
    """`axes` factors of `length`, each as near as can be to the root of what is left."""
    lengths = []
    for left in range(axes, 1, -1):
        wanted = length ** (1 / left)
        divisors = (n for n in range(1, min(length, 100_000) + 1) if length % n == 0)
        best = min(divisors, key=lambda divisor: abs(divisor - wanted))
        lengths.append(best)
        length //= best
    return [*lengths, length]
