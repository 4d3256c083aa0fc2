"""What a layer is given, checked before its projections see it: torch's own complaints would speak
of matrices that the caller never made."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attndsl.attention import Attention as Spec
from attndsl.attention import InputDeclaration
from attndsl.diagnostics import error
from attndsl.runtime.kernel import Kernel
from attndsl.runtime.options import Options
from attndsl.runtime.words import array_help, dtype_name, kind_of, shape_of


def check_kernel(kernel: object) -> None:
    """Raises `AttnError` A105."""
    if not isinstance(kernel, Kernel):
        raise error(
            "A105",
            f"a layer is made of a kernel, got {kind_of(kernel)}",
            help="a module has kernels by their names: `attndsl.load(…).NAME`",
        )


def check_embedded(name: str, tensor: object, width: int) -> None:
    """`[B, L, width]`, of floats. Raises `AttnError` A070, A073 or A074."""
    if not isinstance(tensor, Tensor):
        raise error(
            "A070",
            f"`{name}` must be a torch tensor [B, L, {width}], got {kind_of(tensor)}",
            help=array_help(tensor),
        )
    if tensor.is_nested:
        raise error(
            "A070",
            f"`{name}` is a nested tensor, and a layer with projections takes [B, L, {width}]",
            help="pad it, and say so by an input of the spec; or build the layer without "
            "`embed_dim`",
        )
    if tensor.dim() != 3 or tensor.shape[2] != width:
        raise error(
            "A073",
            f"`{name}` must be [B, L, {width}], got {shape_of(tensor)}",
            help="a single sequence is a batch of one: `unsqueeze(0)`"
            if tensor.dim() == 2
            else f"build the layer for it: `embed_dim` and `context_dim` are {width} unless given"
            if tensor.dim() == 3
            else None,
        )
    if not tensor.is_floating_point():
        raise error(
            "A074",
            f"`{name}` must hold floats, got {dtype_name(tensor.dtype)}",
            help="tokens go through an embedding first: `torch.nn.Embedding`",
        )


def check_data(
    spec: Spec, learned: tuple[InputDeclaration, ...], data: Mapping[str, object]
) -> None:
    """Raises `AttnError` A105 for what a call of a layer does not take."""
    declared = {one.name for one in spec.inputs}
    for name in data:
        if name in Options._fields and name not in declared:
            raise error("A105", f"`{name}` is not passed to a layer", help=_option_help(name))
    for one in learned:
        if one.name in data:
            raise error(
                "A105",
                f"`{one.name}` is a parameter of this layer, and is not passed",
                one.span,
                label="declared here",
                help=f'to pass it with each call, build the layer with `data=["{one.name}"]`',
            )


def _option_help(name: str) -> str:
    if name in ("dropout", "scale"):
        return f"the layer is built with it: `attndsl.nn.Attention(…, {name}=…)`"
    return "call the kernel for it: `layer.kernel(q, k, v, …)`"
