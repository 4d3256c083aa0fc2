"""`attndsl run`: run a kernel, and compare it with what the spec means."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli import options
from attndsl.cli.samples import InputOption
from attndsl.diagnostics import InternalError

if TYPE_CHECKING:
    from torch import Tensor

    from attndsl.attention import Attention

_LARGEST_REFERENCE = 1 << 26  # pairs
# More than this, relative to the largest output, is no rounding: the kernel is wrong.
_ALLOWED = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}


def run(
    spec: options.SpecArgument,
    shape: Annotated[str, typer.Option(metavar="SIZES", help=options.SHAPE_HELP)] = "1,4,256,64",
    attention: options.NameOption = None,
    param: options.ParamOption = None,
    given: InputOption = None,
    grid: options.GridOption = None,
    dtype: options.DtypeOption = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    scale: Annotated[float | None, typer.Option(help="In place of 1/sqrt(D).")] = None,
    offset: Annotated[
        int | None, typer.Option(help="The position of query row 0, in place of Lk - Lq.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For the random tensors.")] = 0,
    save: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE.npy", help="Keep the output.")
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Run a spec's kernel on random tensors or your own, and compare it with the reference.

    The reference is the definition, run densely in float64. Beside the error stands what rounding
    the exact answer to the output's type costs alone.

    Examples:

        attndsl run gemma2.attn --shape 1,8,600,64 --param window=128

        attndsl run alibi.attn --input slope=slope.npy --dtype bf16

        attndsl run documents.attn --shape B=2,H=8,Hkv=2,Lq=100,Lk=300,D=64
    """
    import numpy as np

    from attndsl.cli import samples

    sizes = options.parse_shape(shape)
    bound = options.bound(options.choose(options.load_spec(spec), attention), param)
    files = samples.read_files(given)
    sizes = options.with_operands(sizes, files)
    numbers = sizes.sizes() | options.axis_sizes(bound, grid, sizes.Lk)
    if offset is not None:
        numbers["offset"] = offset
    arrays = samples.operands(numbers, seed) | {n: files[n] for n in "qkv" if n in files}
    inputs = samples.with_files(bound, samples.inputs(bound, numbers, seed), files)

    import torch

    from attndsl.runtime.compilation import specialize
    from attndsl.runtime.kernel import Kernel
    from attndsl.runtime.operands import TORCH_DTYPES

    element = TORCH_DTYPES[specialize(bound, sizes.D, sizes.Dv, dtype or "fp32").dtype]
    where = options.device(device)
    q, k, v = (torch.as_tensor(arrays[name]).to(where, element) for name in "qkv")
    tensors = {name: torch.as_tensor(value).to(where) for name, value in inputs.items()}
    lengths = {name.removeprefix("axis."): n for name, n in numbers.items() if "axis." in name}
    kernel = Kernel(bound)
    named: dict[str, Any] = {"scale": scale, "offset": offset, "grid": lengths or None, **tensors}
    seconds: list[float] = []
    with torch.no_grad():
        for _ in range(4):
            start = time.perf_counter()
            out = kernel(q, k, v, **named)
            if out.is_cuda:
                torch.cuda.synchronize(where)
            seconds.append(time.perf_counter() - start)
    if save is not None:
        np.save(save, out.float().cpu().numpy())
    facts: dict[str, Any] = {
        "attention": bound.name,
        "shape": {name: numbers[name] for name in ("B", "H", "Hkv", "Lq", "Lk", "D", "Dv")},
        "dtype": dtype or "fp32",
        "device": str(where),
        "first_call_seconds": seconds[0],
        "call_seconds": min(seconds[1:]),
    }
    if sizes.B * sizes.H * sizes.Lq * sizes.Lk <= _LARGEST_REFERENCE:
        exact = _exact(bound, (q, k, v), inputs, scale, offset, lengths)
        facts |= _errors(out.cpu(), exact, dtype or "fp32")
    _show(facts, sizes, json)
    if not facts.get("agrees", True):
        raise InternalError(
            f"the kernel of `{bound.name}` is off by {facts['largest_error']:.2e} at {sizes}"
        )


def _exact(
    attention: Attention,
    operands: tuple[Tensor, Tensor, Tensor],
    inputs: Mapping[str, Any],
    scale: float | None,
    offset: int | None,
    lengths: Mapping[str, int],
) -> Any:
    from attndsl import reference

    q, k, v = (tensor.double().cpu().numpy() for tensor in operands)
    return reference.run(
        attention, q, k, v, inputs, scale=scale, offset=offset, axes=lengths
    ).output


def _errors(out: Tensor, exact: Any, dtype: str) -> dict[str, Any]:
    """The largest error, and what rounding the exact answer to the output's type costs alone."""
    import torch

    right = torch.as_tensor(exact)
    error = float((out.double() - right).abs().max())
    rounding = float((right.to(out.dtype).double() - right).abs().max())
    allowed = _ALLOWED[dtype] * max(1.0, float(right.abs().max()))
    return {
        "largest_error": error,
        "rounding_error": rounding,
        "agrees": error <= allowed,
    }


def _show(facts: dict[str, Any], sizes: options.Shape, json: bool) -> None:
    if json:
        from attndsl.cli.output import show_json

        show_json(facts)
        return
    print(f"{facts['attention']}  {sizes}  {facts['dtype']} on {facts['device']}")
    first, later = facts["first_call_seconds"], facts["call_seconds"]
    print(f"first call {first:.3f} s, then {later * 1e3:.3f} ms")
    if "largest_error" in facts:
        print(
            f"largest error against the float64 reference {facts['largest_error']:.1e}; rounding "
            f"the exact answer to {facts['dtype']} alone costs {facts['rounding_error']:.1e}"
        )
    else:
        print("not compared: too large for the reference, which holds every pair in float64")
