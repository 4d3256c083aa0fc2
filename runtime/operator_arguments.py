"""The arguments of `attndsl::attend`: their order, their types in its schema and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

from torch import Tensor

from attndsl.diagnostics import error
from attndsl.runtime.options import Options


class Arguments(NamedTuple):
    """What `attend` takes, each with its type in the operator's schema.

    `inputs` are in the order in which the spec declares them. The seed of dropout is a tensor, one
    int64, that the caller has drawn.
    """

    spec: Annotated[str, "str"]
    q: Annotated[Tensor, "Tensor"]
    k: Annotated[Tensor, "Tensor"]
    v: Annotated[Tensor | None, "Tensor?"]
    inputs: Annotated[Sequence[Tensor], "Tensor[]"]
    cu_seqlens: Annotated[Tensor | None, "Tensor?"]
    cu_seqlens_k: Annotated[Tensor | None, "Tensor?"]
    scale: Annotated[float | None, "float?"]
    offset: Annotated[int | None, "SymInt?"]
    grid: Annotated[Sequence[int] | None, "SymInt[]?"]
    dropout: Annotated[float | None, "float?"] = None
    seed: Annotated[Tensor | None, "Tensor?"] = None

    @classmethod
    def schema(cls) -> str:
        """As torch writes the arguments of an operator."""
        hints = get_type_hints(cls, include_extras=True)
        return ", ".join(
            f"{hints[name].__metadata__[0]} {name}"
            + ("=None" if name in cls._field_defaults else "")
            for name in cls._fields
        )

    @property
    def operands(self) -> dict[str, Tensor | None]:
        return {"q": self.q, "k": self.k, "v": self.v}

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All that may have a gradient."""
        return self.q, self.k, self.v, *self.inputs

    @property
    def options(self) -> Options:
        """Raises `AttnError` A079 where pairs are dropped without a seed."""
        if self.dropout and self.seed is None:
            raise error("A079", "`attend` needs a `seed` with `dropout`", help="draw one for both")
        return Options(
            scale=self.scale,
            offset=self.offset,
            grid=None if self.grid is None else tuple(self.grid),
            dropout=self.dropout,
            seed=self.seed,
            cu_seqlens=self.cu_seqlens,
            cu_seqlens_k=self.cu_seqlens_k,
        )

    def with_tensors(self, named: Mapping[str, Any], inputs: Sequence[str]) -> Arguments:
        """The same call of other tensors, the inputs by these names."""
        return self._replace(
            q=named["q"], k=named["k"], v=named["v"], inputs=[named[name] for name in inputs]
        )
