"""A spec as an attention implementation of `transformers`.

`register` enters one or several kernels under a name. A layer of a model then says with each call
what it wants: by keywords (`sliding_window`, `softcap`, `s_aux` …) and by its mask. The first
kernel that honours all of it runs; if none does, the call is refused, with the name of what is not
honoured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from attndsl.attention import InputDeclaration
from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.expression import Size
from attndsl.records import dataclass
from attndsl.runtime.integrations.agreement import disagreement
from attndsl.runtime.integrations.masks import KeyMask, Keys, Pattern, key_mask
from attndsl.runtime.kernel import Kernel
from attndsl.suggestions import suggestion

Source = str | Tensor | bool | int | float | Callable[[torch.nn.Module], Any]

# Where the ready-made specs, and most that are written for a model, have their numbers from.
READS: Mapping[str, Source] = {
    "window": "sliding_window",
    "cap": "softcap",
    "sink": "s_aux",
    "chunk": "attention_chunk_size",
    "present": "padding",
    "first": "first_token",
    "last": "last_token",
    "doc": "documents",
}

# What `own_mask` replaces.
_OF_MASK = ("sliding_window", "attention_chunk_size", "documents")
# Keywords that say nothing of what attention computes. (Positions are in q and k already; where
# sequences are packed, the mask says so.)
_NEUTRAL = frozenset(
    {
        *("cache_position", "is_causal", "num_items_in_batch", "output_hidden_states"),
        *("output_router_logits", "past_key_values", "position_embeddings", "position_ids"),
        *("return_dict", "use_cache"),
    }
)


def register(
    name: str,
    *kernels: Kernel,
    reads: Mapping[str, Source] | None = None,
    ignore: Iterable[str] = (),
    own_mask: bool = False,
) -> None:
    """Make `attn_implementation=name` run these kernels, whichever first honours a layer's call.

    `reads` says where a parameter or an input has its value from: a keyword that the model's layers
    pass (`"sliding_window"`, `"softcap"`, `"s_aux"`, `"position_bias"` …), one of `"padding"` (bool
    `[B, Lk]`, true for tokens), `"first_token"`, `"last_token"` (int `[B]`, positions),
    `"documents"` (int `[B, Lk]`) and `"attention_chunk_size"`, a function of the layer, or a value.
    Names that are in none of the kernels are an error, except for those of `READS`, which stand for
    themselves unless `reads` says otherwise. An input that `reads` leaves out reads the keyword of
    its own name. A kernel whose parameter reads a keyword that a layer does not pass is not for
    that layer.

    Whatever else a model asks for is refused (A100), unless `ignore` names it. A kernel's mask must
    be the one that the model asks for (A102); `own_mask` says that it replaces the model's on
    purpose, so that only padding still has to be honoured.

    Raises `AttnError` A101 for a name that no kernel has, and for a call without a kernel.
    """
    implementation = Implementation(name, kernels, reads or {}, frozenset(ignore), own_mask)
    AttentionInterface.register(name, implementation)
    AttentionMaskInterface.register(name, key_mask)


@dataclass(frozen=True)
class Request:
    """What one call of a layer asks for. `asked` holds what must be honoured, by name; `keys` is
    None where the mask is not one of ours."""

    layer: torch.nn.Module
    device: torch.device
    asked: Mapping[str, Any]
    keys: Keys | None

    @staticmethod
    def of(
        layer: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        attention_mask: Tensor | None,
        keywords: Mapping[str, Any],
    ) -> Request:
        """Raises `AttnError` A102 where a keyword and the mask say different things."""
        shape = query.shape[0], query.shape[2], key.shape[2]
        asked = {
            name: value
            for name, value in keywords.items()
            if name not in _NEUTRAL and not _is_off(value)
        }
        if getattr(getattr(layer, "config", None), "output_attentions", False):
            asked["output_attentions"] = True
        if attention_mask is not None and not isinstance(attention_mask, KeyMask):
            return Request(layer, key.device, asked | {"attention_mask": attention_mask}, None)
        if attention_mask is None:
            # No mask was made: `transformers` then goes by this flag, as it does for SDPA.
            causal = keywords.get("is_causal")
            causal = getattr(layer, "is_causal", True) if causal is None else causal
            pattern = Pattern(causal=bool(causal))
            return Request(layer, key.device, asked, Keys(pattern, shape, device=key.device))
        keys = attention_mask.keys
        if keys.shape != shape:
            raise error(
                "A102",
                f"`{type(layer).__name__}` has scores [B, Lq, Lk] = {list(shape)}, and its mask "
                f"was made for {list(keys.shape)}",
            )
        window, passed = keys.pattern.window, asked.get("sliding_window")
        # A window to both sides is a distance in the mask, and counts the query in the keyword.
        counted = window if keys.pattern.causal or window is None else window + 1
        if passed is not None and passed not in (window, counted):
            raise error(
                "A102",
                f"`{type(layer).__name__}` passes `sliding_window = {passed}`, and its mask is "
                f"{keys.pattern}",
            )
        of_mask = {
            "sliding_window": window,
            "attention_chunk_size": keys.pattern.chunk,
            "documents": None if keys.document is None else keys.document.to(key.device),
            "padding": keys.padding or None,
        }
        asked |= {name: value for name, value in of_mask.items() if value is not None}
        return Request(layer, key.device, asked, keys)

    @property
    def name(self) -> str:
        return type(self.layer).__name__


def _is_off(value: object) -> bool:
    """Whether a keyword asks for nothing."""
    if isinstance(value, Tensor):
        return value.numel() == 0
    return value is None or value is False or (type(value) is float and value == 0.0)


class Implementation:
    """The kernels of one name: called by every layer whose model uses it."""

    def __init__(
        self,
        name: str,
        kernels: tuple[Kernel, ...],
        reads: Mapping[str, Source],
        ignore: frozenset[str],
        own_mask: bool,
    ) -> None:
        if not kernels:
            raise error("A101", f"`{name}` is registered without a kernel")
        declared = {one for kernel in kernels for one in _names(kernel)}
        for unknown in (one for one in reads if one not in declared):
            raise error(
                "A101",
                f"no kernel of `{name}` has a parameter or input `{unknown}`",
                help=suggestion(unknown, declared)
                or f"they have {', '.join(f'`{one}`' for one in sorted(declared)) or 'none'}",
            )
        self._kernels = kernels
        self._reads = {**READS, **reads}
        self._ignore, self._own_mask = ignore, own_mask
        self._disagreements: dict[tuple[Kernel, Pattern, int, int], str | None] = {}

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float | None = 0.0,
        **keywords: Any,
    ) -> tuple[Tensor, None]:
        """The signature that `transformers` calls: `[B, H, L, D]` in, `[B, Lq, H, Dv]` out."""
        request = Request.of(module, query, key, attention_mask, keywords)
        kernel, inputs = self._chosen(request, query.shape[1], key.shape[1])
        length = key.shape[2]
        if isinstance(attention_mask, KeyMask) and attention_mask.shape[3] < length:
            inputs = _cut(kernel, inputs, length, attention_mask.shape[3])
            length = attention_mask.shape[3]
            key, value = key[:, :, :length], value[:, :, :length]
        output = kernel(query, key, value, scale=scaling, dropout=dropout or None, **inputs)
        return output.transpose(1, 2).contiguous(), None

    def _chosen(
        self, request: Request, heads: int, key_heads: int
    ) -> tuple[Kernel, dict[str, Any]]:
        """The first kernel that honours the request, bound, and its inputs. Raises `AttnError`
        A100 or A102, of the kernel that lacks least."""
        refusals: list[list[Diagnostic]] = []
        for kernel in self._kernels:
            parameters, inputs, faults = self._values(kernel, request)
            if not faults:
                bound = kernel.bind(**parameters)
                fault = self._fault_of_mask(bound, request, heads, key_heads)
                if fault is None:
                    return bound, inputs
                faults = [fault]
            refusals.append(faults)
        raise AttnError(min(refusals, key=len))

    def _values(
        self, kernel: Kernel, request: Request
    ) -> tuple[dict[str, Any], dict[str, Any], list[Diagnostic]]:
        """Parameters and inputs of a kernel for a request, and what it does not honour."""
        parameters: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        honoured = set(self._ignore) | (set(_OF_MASK) if self._own_mask else set())
        faults: list[Diagnostic] = []
        unbound = {one.name for one in kernel.attention.parameters}
        for name in _names(kernel):
            source = self._reads.get(name, name)
            found = _value(source, request)
            if isinstance(source, str) and (found is not None or name in kernel.parameters):
                honoured.add(source)
            if name in kernel.parameters:
                if found is not None and found != kernel.parameters[name]:
                    faults.append(_bound_otherwise(kernel, name, source, found, request))
            elif found is not None:
                (parameters if name in unbound else inputs)[name] = found
            elif name not in unbound or name in self._reads:
                faults.append(_not_passed(kernel, name, source, request))
        for name, value in request.asked.items():
            if name == "padding" and name not in self._ignore:
                sources = {self._reads.get(one, one) for one in inputs}
                met = not _lacks(value, {one for one in sources if isinstance(one, str)})
            else:
                met = name in honoured
            if not met:
                faults.append(_not_honoured(kernel, name, value, request))
        for declaration in kernel.attention.inputs:
            if declaration.name in inputs:
                inputs[declaration.name] = _fitted(declaration, inputs[declaration.name])
        return parameters, inputs, faults

    def _fault_of_mask(
        self, kernel: Kernel, request: Request, heads: int, key_heads: int
    ) -> Diagnostic | None:
        if request.keys is None or self._own_mask:
            return None
        pattern = request.keys.pattern
        known = kernel, pattern, heads, key_heads
        if known not in self._disagreements:
            sources = {
                one.name: self._reads.get(one.name, one.name) for one in kernel.attention.inputs
            }
            self._disagreements[known] = disagreement(
                kernel.attention, pattern, sources, (heads, key_heads)
            )
        found = self._disagreements[known]
        if found is None:
            return None
        return Diagnostic(
            "A102",
            f"the mask of `{kernel.name}` is not the one that `{request.name}` asks for, {pattern}",
            kernel.attention.mask.span or kernel.attention.span,
            found,
            "if the spec's mask is to replace the model's, register it with `own_mask=True`",
        )


def _names(kernel: Kernel) -> list[str]:
    """Every parameter, bound or not, and every input."""
    unbound = [one.name for one in kernel.attention.parameters]
    return [*kernel.parameters, *unbound, *(one.name for one in kernel.attention.inputs)]


def _value(source: Source, request: Request) -> Any:
    """What a source is worth in a call, or None."""
    if callable(source) and not isinstance(source, Tensor):
        return source(request.layer)
    if not isinstance(source, str):
        return source
    keys = request.keys
    if keys is not None:
        match source:
            case "padding":
                return keys.present.to(request.device)
            case "first_token":
                return keys.first.to(request.device)
            case "last_token":
                return keys.last.to(request.device)
            case "documents" if keys.document is None:
                return torch.zeros_like(keys.present, dtype=torch.int32, device=request.device)
    return request.asked.get(source)


def _lacks(padding: frozenset[str], sources: set[str]) -> bool:
    """Whether inputs of these sources leave some padding unsaid."""
    said = {"left"} if "first_token" in sources else set()
    said |= {"right"} if "last_token" in sources else set()
    return "padding" not in sources and not padding <= said


def _fitted(declaration: InputDeclaration, value: Any) -> Any:
    """Without leading dimensions of 1, over which `transformers` broadcasts and the spec not."""
    if isinstance(value, Tensor):
        while value.dim() > len(declaration.dimensions) and value.shape[0] == 1:
            value = value[0]
    return value


def _cut(kernel: Kernel, inputs: Mapping[str, Any], length: int, written: int) -> dict[str, Any]:
    """The inputs for the keys of a static cache that are written: a last dimension `Lk` is cut."""
    result = dict(inputs)
    for declaration in kernel.attention.inputs:
        value, dimensions = inputs[declaration.name], declaration.dimensions
        last = dimensions[-1] if dimensions else None
        if isinstance(last, Size) and last.name == "Lk" and value.shape[-1] == length:
            result[declaration.name] = value[..., :written]
    return result


def _not_passed(kernel: Kernel, name: str, source: Source, request: Request) -> Diagnostic:
    return Diagnostic(
        "A100",
        f"`{name}` of `{kernel.name}` reads `{source}`, which `{request.name}` does not pass",
        help="register a second kernel, for such layers, behind this one",
    )


def _bound_otherwise(
    kernel: Kernel, name: str, source: Source, found: object, request: Request
) -> Diagnostic:
    return Diagnostic(
        "A100",
        f"`{request.name}` passes `{source} = {found}`, and `{kernel.name}` is bound to "
        f"`{name} = {kernel.parameters[name]}`",
        help=f"leave `{name}` unbound: each layer then gives it a value",
    )


def _not_honoured(kernel: Kernel, name: str, value: object, request: Request) -> Diagnostic:
    shown = "" if isinstance(value, Tensor) else f" = {value}"
    match name:
        case "padding":
            assert isinstance(value, frozenset)
            where = ", ".join(sorted(value))
            message = f"the batch is padded ({where}), and `{kernel.name}` reads no padding there"
            help = (
                "give it `input first: int[B]` and `input last: int[B]`, the positions of the "
                "first and the last token, or `input present: bool[B, Lk]`"
            )
        case "output_attentions":
            message = f"`{request.name}` wants attention weights, and kernels never make them"
            help = "use the `eager` implementation for it"
        case _:
            message = (
                f"`{request.name}` passes `{name}{shown}`, of which `{kernel.name}` has nothing"
            )
            help = (
                f'say which parameter or input has it, `reads={{"…": "{name}"}}`, or do without '
                f'it on purpose, `ignore=["{name}"]`'
            )
    return Diagnostic("A100", message, help=help)
