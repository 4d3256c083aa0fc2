"""A spec bound and given tensors on a device, as `bench` and `tune` call it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attndsl.attention import Attention
from attndsl.cli import options, samples

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class SampledCall:
    """`numbers` are the sizes by name, `grid` the lengths of the axes, or None without axes."""

    bound: Attention
    sizes: options.Shape
    numbers: dict[str, int]
    where: torch.device
    q: Tensor
    k: Tensor
    v: Tensor
    inputs: dict[str, Tensor]
    grid: dict[str, int] | None


def sampled_call(
    spec: Path,
    shape: str,
    attention: str | None,
    param: list[str] | None,
    given: list[str] | None,
    grid: str | None,
    dtype: str | None,
    device: str,
) -> SampledCall:
    """Read the command's options; what no file gives is random."""
    import torch

    from attndsl.runtime.compilation import specialize
    from attndsl.runtime.operands import TORCH_DTYPES

    sizes = options.parse_shape(shape)
    bound = options.bound(options.choose(options.load_spec(spec), attention), param)
    files = samples.read_files(given)
    sizes = options.with_operands(sizes, files)
    numbers = sizes.sizes() | options.axis_sizes(bound, grid, sizes.Lk)
    arrays = samples.operands(numbers) | {n: files[n] for n in "qkv" if n in files}
    inputs = samples.with_files(bound, samples.inputs(bound, numbers), files)
    element = TORCH_DTYPES[specialize(bound, sizes.D, sizes.Dv, dtype or "fp32").dtype]
    where = options.device(device)
    q, k, v = (torch.as_tensor(arrays[name]).to(where, element) for name in "qkv")
    tensors = {name: torch.as_tensor(value).to(where) for name, value in inputs.items()}
    lengths = {name.removeprefix("axis."): n for name, n in numbers.items() if "axis." in name}
    return SampledCall(bound, sizes, numbers, where, q, k, v, tensors, lengths or None)
