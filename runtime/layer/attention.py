"""A spec as a module of torch: projections, and the spec's learned inputs as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attndsl.attention import Attention as Spec
from attndsl.attention import InputDeclaration
from attndsl.diagnostics import error
from attndsl.evaluate import evaluate_size
from attndsl.expression import Expression, Scalar, Size, Vector, walk
from attndsl.printing import text
from attndsl.runtime.dropout import check_dropout
from attndsl.runtime.kernel import Kernel
from attndsl.runtime.layer.arguments import check_data, check_embedded, check_kernel
from attndsl.runtime.layer.initial import Initial, initial_value
from attndsl.runtime.operands import needs_value
from attndsl.runtime.slices import check_slices
from attndsl.suggestions import suggestion

_LENGTHS = ("Lq", "Lk")


class Attention(nn.Module):
    """Attention of one spec, with or without projections around it.

    With `embed_dim`, it takes queries `[B, Lq, embed_dim]` and keys and values
    `[B, Lk, context_dim]` (the queries unless given), projects them to `num_heads` and
    `num_kv_heads` heads of `head_dim` (`embed_dim // num_heads` unless given), and projects the
    result back. `bias` adds biases to the projections. Without `embed_dim`, it takes and returns
    what the kernel does, `[B, H, L, D]`.

    Inputs of floats are parameters, `input_NAME`, and begin as `initial_value` says or as `initial`
    does: a tensor, a number or a function of the shape, by name. Inputs of bools and ints, floats
    with a dimension `B`, and those that `data` names come with each call, by their names. A
    parameter that has a dimension `Lk` or `Lq` needs `max_length`, and a call uses the part of it
    for the positions that it has. In training, pairs are dropped with the probability `dropout`, as
    by a kernel; the call's `seed` says which.

    Raises `AttnError` A104 for a learned input whose size is not known, A105 for sizes that do not
    fit together and for names that the spec does not have, A073 for vectors that are too short for
    the spec, and A06x for its parameters.
    """

    def __init__(
        self,
        kernel: Kernel,
        embed_dim: int | None = None,
        num_heads: int | None = None,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        context_dim: int | None = None,
        bias: bool = False,
        max_length: int | None = None,
        data: Iterable[str] = (),
        initial: Mapping[str, Initial] | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_kernel(kernel)
        check_dropout(dropout, None)
        self.dropout = dropout
        self.kernel = kernel.bind()
        spec = self.kernel.attention
        self.embed_dim, self.max_length, self.scale = embed_dim, max_length, scale
        self._context_dim = context_dim or embed_dim or 0
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.head_dim = _head_dim(spec, embed_dim, num_heads, self.num_kv_heads, head_dim)
        self._initial = dict(initial or {})
        passed = frozenset(data)
        _check_names(spec, passed, self._initial)
        self._learned = tuple(one for one in spec.inputs if _is_learned(one, passed))
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        for one in self._learned:
            parameter = nn.Parameter(torch.empty(self._shape(one), **place))
            self.register_parameter(f"input_{one.name}", parameter)
        if embed_dim is not None:
            self._add_projections(embed_dim, context_dim or embed_dim, bias, place)
        self._reset_inputs()

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        /,
        *,
        offset: int | None = None,
        grid: tuple[int, ...] | Mapping[str, int] | None = None,
        seed: int | Tensor | None = None,
        **data: Any,
    ) -> Tensor:
        """Attend to `key`, or to `query` itself, whose values are `value`, or `key` itself.

        `offset`, `grid` and `seed` are a kernel's; `data` holds the inputs that are not learned.
        Returns `[B, Lq, embed_dim]`, or `[B, H, Lq, Dv]` without projections. Raises `AttnError` as
        a kernel does, A104 for more positions than a learned input has, and A105 for one that is
        passed, and for options that a layer is built with.
        """
        check_data(self._spec, self._learned, data)
        key = query if key is None else key
        value = key if value is None else value
        if self.embed_dim is not None:
            check_embedded("query", query, self.embed_dim)
            check_embedded("key", key, self._context_dim)
            check_embedded("value", value, self._context_dim)
            query = self._heads(self.q_proj(query))
            key = self._heads(self.k_proj(key))
            value = self._heads(self.v_proj(value)) if self.v_proj is not None else value
        given = value if needs_value(self._spec) else None
        inputs = data | self._inputs_for_call(query.shape[2], key.shape[2], offset)
        options: dict[str, Any] = {"scale": self.scale, "offset": offset, "grid": grid}
        if self.training and self.dropout:
            options |= {"dropout": self.dropout, "seed": seed}
        output: Tensor = self.kernel(query, key, given, **options, **inputs)
        if self.embed_dim is None:
            return output
        projected: Tensor = self.out_proj(output.transpose(1, 2).flatten(2))
        return projected

    @property
    def inputs(self) -> dict[str, nn.Parameter]:
        """The learned inputs by the spec's names."""
        return {one.name: getattr(self, f"input_{one.name}") for one in self._learned}

    def reset_parameters(self) -> None:
        """Begin anew: projections as `nn.Linear` does, learned inputs as in a new layer."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        self._reset_inputs()

    def extra_repr(self) -> str:
        parameters = ", ".join(f"{name}={one}" for name, one in self.kernel.parameters.items())
        parts = [f"{self.kernel.name}({parameters})"]
        for name in ("embed_dim", "num_heads", "num_kv_heads", "head_dim", "max_length"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}={value}")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        if self._learned:
            shapes = (f"{name} {list(one.shape)}" for name, one in self.inputs.items())
            parts.append(f"learned: {', '.join(shapes)}")
        passed = [one.name for one in self._spec.inputs if one not in self._learned]
        if passed:
            parts.append(f"passed: {', '.join(passed)}")
        return ", ".join(parts)

    @property
    def _spec(self) -> Spec:
        return self.kernel.attention

    def _add_projections(
        self, width: int, context: int, bias: bool, place: Mapping[str, Any]
    ) -> None:
        assert self.num_heads is not None
        assert self.num_kv_heads is not None
        assert self.head_dim is not None
        sizes = {"D": self.head_dim, "Dv": self.head_dim}
        check_slices(self._spec, sizes)
        keys = self.num_kv_heads * self.head_dim
        self.q_proj = nn.Linear(width, self.num_heads * self.head_dim, bias, **place)
        self.k_proj = nn.Linear(context, keys, bias, **place)
        self.v_proj = nn.Linear(context, keys, bias, **place) if needs_value(self._spec) else None
        size = evaluate_size(_value_size(self._spec), sizes)
        self.out_proj = nn.Linear(self.num_heads * size, width, bias, **place)

    def _heads(self, projected: Tensor) -> Tensor:
        """`[B, L, H · D]` to `[B, H, L, D]`."""
        assert self.head_dim is not None
        return projected.view(*projected.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _shape(self, declaration: InputDeclaration) -> tuple[int, ...]:
        """Raises `AttnError` A104 where a size is not known before a call."""
        known = {
            "H": self.num_heads,
            "Hkv": self.num_kv_heads,
            "D": self.head_dim,
            "Dv": self.head_dim,
            "Lq": self.max_length,
            "Lk": self.max_length,
        }
        sizes = {name: size for name, size in known.items() if size is not None}
        return tuple(self._size(declaration, one, sizes) for one in declaration.dimensions)

    def _size(
        self, declaration: InputDeclaration, dimension: Expression, sizes: Mapping[str, int]
    ) -> int:
        name = declaration.name
        used = {node.name for node in walk(dimension) if isinstance(node, Size)}
        lengths = used & set(_LENGTHS)
        by_call = f'or pass it with each call: `data=["{name}"]`'
        if lengths and not isinstance(dimension, Size):
            message = f"`{name}` has a dimension `{text(dimension)}`, which a layer cannot cut"
            help = f"declare it by a parameter of the spec, {by_call}"
        elif lengths and self.max_length is None:
            message = f"`{name}` has a dimension `{text(dimension)}`, and lengths come with a call"
            help = f"say how long sequences get, `max_length=…`, {by_call}"
        elif missing := sorted(used - set(sizes)):
            named = {"H": "num_heads", "Hkv": "num_heads", "D": "head_dim", "Dv": "head_dim"}
            message = f"`{name}` has a dimension `{text(dimension)}`, which is not known"
            known = named.get(missing[0])
            way = f"give the layer `{known}`" if known else "declare it by a parameter of the spec"
            help = f"{way}, {by_call}"
        else:
            return evaluate_size(dimension, sizes)
        raise error("A104", message, declaration.span, label="declared here", help=help)

    def _reset_inputs(self) -> None:
        for name, parameter in self.inputs.items():
            shape = tuple(parameter.shape)
            begin = self._initial.get(name)
            begin = begin(shape) if callable(begin) and not isinstance(begin, Tensor) else begin
            begin = initial_value(self._spec, name, shape) if begin is None else begin
            if isinstance(begin, Tensor) and tuple(begin.shape) not in (shape, ()):
                raise error(
                    "A105",
                    f"`{name}` is {list(shape)} in this layer, and begins as {list(begin.shape)}",
                    help="a number or a function of the shape will do as well",
                )
            with torch.no_grad():
                parameter.copy_(begin if isinstance(begin, Tensor) else torch.full(shape, begin))

    def _inputs_for_call(
        self, query_length: int, key_length: int, offset: int | None
    ) -> dict[str, Tensor]:
        """Learned inputs, cut to the positions of a call."""
        start = key_length - query_length if offset is None else offset
        parts = {"Lk": (0, key_length), "Lq": (start, query_length)}
        result: dict[str, Tensor] = {}
        for one in self._learned:
            value: Tensor = getattr(self, f"input_{one.name}")
            for axis, dimension in enumerate(one.dimensions):
                if isinstance(dimension, Size) and dimension.name in parts:
                    first, count = parts[dimension.name]
                    self._check_length(one, first, count)
                    value = value.narrow(axis, first, count)
            result[one.name] = value
        return result

    def _check_length(self, declaration: InputDeclaration, first: int, count: int) -> None:
        assert self.max_length is not None
        if first < 0 or first + count > self.max_length:
            raise error(
                "A104",
                f"the call has positions {first} to {first + count - 1}, and `{declaration.name}` "
                f"was made for 0 to {self.max_length - 1}",
                declaration.span,
                label="declared here",
                help="build the layer with a larger `max_length`",
            )


def _head_dim(
    spec: Spec,
    embed_dim: int | None,
    heads: int | None,
    key_heads: int | None,
    head_dim: int | None,
) -> int | None:
    """Raises `AttnError` A105 for sizes that do not fit together."""
    if heads is not None and key_heads is not None and (key_heads < 1 or heads % key_heads):
        raise error("A105", f"{heads} heads cannot share {key_heads} heads of keys and values")
    if embed_dim is None or head_dim is not None:
        return head_dim
    if heads is None:
        raise error("A105", f"a layer of `{spec.name}` with projections needs `num_heads`")
    if embed_dim % heads:
        raise error(
            "A105",
            f"`embed_dim = {embed_dim}` is not a multiple of {heads} heads",
            help="say how wide a head is: `head_dim=…`",
        )
    return embed_dim // heads


def _check_names(spec: Spec, data: frozenset[str], initial: Mapping[str, Initial]) -> None:
    declared = {one.name for one in spec.inputs}
    learned = {one.name for one in spec.inputs if _is_learned(one, data)}
    for name in sorted({*data, *initial}):
        if name not in declared:
            known = ", ".join(f"`{one}`" for one in sorted(declared)) or "none"
            help = suggestion(name, declared) or f"its inputs: {known}"
            raise error("A105", f"`{spec.name}` has no input `{name}`", help=help)
    for name in sorted(set(initial) - learned):
        raise error("A105", f"`{name}` is passed with each call, and does not begin as anything")


def _is_learned(declaration: InputDeclaration, data: frozenset[str]) -> bool:
    """Floats are, but for those of one batch."""
    of_batch = any(
        isinstance(node, Size) and node.name == "B"
        for dimension in declaration.dimensions
        for node in walk(dimension)
    )
    return declaration.element is Scalar.FLOAT and not of_batch and declaration.name not in data


def _value_size(spec: Spec) -> Expression:
    """The size of what is weighted: `Dv`, or that of the values that the spec makes."""
    for name, prepared in spec.prepared:
        if name == "v" and isinstance(prepared.type, Vector):
            return prepared.type.size
    return Size("Dv")
