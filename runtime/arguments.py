"""What a call passes, checked against what the spec declares, before any kernel runs.

Every complaint names the argument, what was expected (as the spec says it, and in numbers), and
what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.attention import Attention
from attndsl.codegen.program import DType
from attndsl.diagnostics import error
from attndsl.dropout import Dropout
from attndsl.records import dataclass
from attndsl.runtime.choices import axis_sizes, check_log_sum_exp, offset_of, scale_of
from attndsl.runtime.dropout import check_dropout
from attndsl.runtime.inputs import check_inputs, check_names
from attndsl.runtime.operands import (
    check_devices,
    check_dtypes,
    check_ranks,
    operand_sizes,
    operand_tensors,
)
from attndsl.runtime.options import DEFAULTS, Options
from attndsl.runtime.slices import check_slices

# What kernels read each element type as.
BUFFER_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int32": torch.int32,
}
_GREATEST_POSITION = 2**31 - 1


@dataclass(frozen=True)
class Call:
    """A checked call. `sizes` holds every run-time size; `conversions` the inputs whose dtype is
    not what kernels read. `dropout` is what it drops, for a plan that drops pairs. `packed`: it is
    on packed sequences, all tokens as if they were one sequence's."""

    dtype: DType
    device: torch.device
    sizes: Mapping[str, int]
    scale: float
    conversions: tuple[tuple[str, torch.dtype], ...]
    dropout: Dropout | None = None
    packed: bool = False

    @property
    def launch_sizes(self) -> Mapping[str, int]:
        """All that a kernel takes as sizes."""
        return self.sizes if self.dropout is None else {**self.sizes, **self.dropout.sizes}


def check_call(
    attention: Attention,
    operands: Mapping[str, object],
    inputs: Mapping[str, object],
    options: Options = DEFAULTS,
) -> Call:
    """Check one call of a bound attention. Raises `AttnError` A070 to A079.

    Sizes may be symbols, of a graph that is being made.
    """
    check_names(attention, inputs)
    tensors = operand_tensors(attention, operands)
    check_ranks(tensors)
    dtype = check_dtypes(tensors)
    check_devices(tensors["q"].device, tensors)
    sizes = operand_sizes(attention, tensors)
    sizes["offset"] = offset_of(options.offset, sizes)
    sizes |= axis_sizes(attention, options.grid, sizes["Lk"])
    for name, size in sizes.items():
        if abs(size) > _GREATEST_POSITION:
            raise error("A079", f"`{name}` is {size}, but positions are 32-bit integers")
    if options.return_lse:
        check_log_sum_exp(attention)
    check_dropout(options.dropout, options.seed)
    check_slices(attention, sizes)
    conversions = check_inputs(attention, inputs, sizes, tensors["q"].device)
    return Call(
        dtype=dtype,
        device=tensors["q"].device,
        sizes=sizes,
        scale=scale_of(options.scale, sizes["D"]),
        conversions=conversions,
    )


def converted(inputs: Mapping[str, Any], call: Call) -> dict[str, Tensor]:
    """The inputs as kernels read them. Raises `AttnError` A079 for integers past 32 bits."""
    result = dict(inputs)
    for name, dtype in call.conversions:
        value = result[name]
        if not isinstance(value, Tensor):
            result[name] = torch.tensor(value, dtype=dtype, device=call.device)
            continue
        narrow = value.to(dtype)
        if value.dtype == torch.int64 and not torch.equal(narrow.to(torch.int64), value):
            wide = value[narrow.to(torch.int64) != value].flatten()[0].item()
            raise error("A079", f"`{name}` holds {wide}, which does not fit into 32 bits")
        result[name] = narrow
    return result
