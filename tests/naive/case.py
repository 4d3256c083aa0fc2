"""What a case of the catalogue is: an example, how to call it, and what must come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attndsl.attention import Attention

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]


@dataclass(frozen=True)
class Shape:
    """The sizes of one call. `grid` holds the axes' lengths in the spec's order; their product is
    `keys`. `offset` is the position of query row 0, None for `keys - queries`."""

    queries: int
    keys: int
    batch: int = 2
    heads: int = 4
    key_heads: int = 2
    width: int = 16
    value_width: int = 16
    grid: tuple[int, ...] | None = None
    offset: int | None = None

    def __str__(self) -> str:
        grid = "" if self.grid is None else "=" + "x".join(map(str, self.grid))
        offset = "" if self.offset is None else f"@{self.offset}"
        return (
            f"B{self.batch}H{self.heads}/{self.key_heads}-{self.queries}x{self.keys}{grid}{offset}"
            f"-D{self.width}/{self.value_width}"
        )


@dataclass(frozen=True)
class Call:
    """The arguments of one call, float64 (inputs: bool, int64 or float64).

    `v` is None where the spec makes the values of the keys.
    """

    q: Array
    k: Array
    v: Array | None
    inputs: Inputs
    parameters: Mapping[str, Any]
    scale: float
    shape: Shape

    @property
    def offset(self) -> int:
        """The position of query row 0."""
        default = self.shape.keys - self.shape.queries
        return default if self.shape.offset is None else self.shape.offset

    def floats(self) -> dict[str, Array]:
        """What can have a gradient, by name."""
        operands = {"q": self.q, "k": self.k} | ({} if self.v is None else {"v": self.v})
        inputs = {name: array for name, array in self.inputs.items() if array.dtype == np.float64}
        return {**operands, **inputs}

    def replaced(self, tensors: Mapping[str, Any]) -> Call:
        """The same call with other tensors of floats: arrays, or what torch differentiates."""
        operands = {name: one for name, one in tensors.items() if name in ("q", "k", "v")}
        inputs = {name: one for name, one in tensors.items() if name not in operands}
        return dataclasses.replace(self, **operands, inputs={**self.inputs, **inputs})

    def axes(self, names: tuple[str, ...]) -> dict[str, int] | None:
        """The lengths of the axes by name, as `reference.run` takes them."""
        return None if self.shape.grid is None else dict(zip(names, self.shape.grid, strict=True))


def no_inputs(shape: Shape, random: np.random.Generator) -> Inputs:
    return {}


Formula = Callable[[Call], Tensor]

SQUARE = Shape(77, 77)
TALL = Shape(37, 101, width=32, value_width=24)
DECODE = Shape(1, 90, batch=1, heads=6, key_heads=3)
SHAPES = (SQUARE, TALL, DECODE)
LARGE = Shape(333, 450, batch=1)


@dataclass(frozen=True)
class Case:
    """An example with parameters bound, the shapes it is tried at, and its naive implementation.

    `formula` gives the output, `[B, H, Lq, Dv]`, in the dtype of the call, and torch differentiates
    it. `scale` is what the call passes, as a
    function of the shape; None leaves the default. `variant` tells several cases of
    one example. `large` is a shape of several tiles, for tests of blocks; it is in no list of
    shapes because dense implementations are slow at it.
    """

    example: str
    formula: Formula
    parameters: Mapping[str, Any] = field(default_factory=dict)
    make_inputs: Callable[[Shape, np.random.Generator], Inputs] = no_inputs
    shapes: tuple[Shape, ...] = SHAPES
    large: Shape = LARGE
    scale: Callable[[Shape], float] | None = None
    passes_value: bool = True
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.example}-{self.variant}" if self.variant else self.example

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.example}.attn"

    def load(self) -> Attention:
        """The example's attention with the case's parameters bound."""
        from attndsl.binding import bind
        from attndsl.module import load_file

        attentions = load_file(self.path).attentions
        return bind(attentions[self.example], **self.parameters)

    def call(self, shape: Shape | None = None, seed: int = 0) -> Call:
        """Arguments for one call at `shape` (the first one of the case by default)."""
        shape = self.shapes[0] if shape is None else shape
        random = np.random.default_rng(seed)
        keys = (shape.batch, shape.key_heads, shape.keys)
        return Call(
            q=random.normal(size=(shape.batch, shape.heads, shape.queries, shape.width)),
            k=random.normal(size=(*keys, shape.width)),
            v=random.normal(size=(*keys, shape.value_width)) if self.passes_value else None,
            inputs=self.make_inputs(shape, random),
            parameters=self.parameters,
            scale=shape.width**-0.5 if self.scale is None else self.scale(shape),
            shape=shape,
        )

    def naive(self, call: Call) -> Array:
        """The output, float64 `[B, H, Lq, Dv]`."""
        return self.formula(call).numpy()

    def gradients(
        self, call: Call, out_gradient: Array, dtype: torch.dtype = torch.float64
    ) -> dict[str, Array]:
        """What torch's autograd makes of the formula, computed in `dtype`, by name, in float64."""
        floats = {
            name: torch.from_numpy(array).to(dtype).requires_grad_()
            for name, array in call.floats().items()
        }
        out = self.formula(call.replaced(floats))
        assert out.dtype == dtype
        if not out.requires_grad:
            return {name: np.zeros(one.shape) for name, one in floats.items()}
        found = torch.autograd.grad(
            out,
            list(floats.values()),
            torch.from_numpy(out_gradient).to(dtype),
            materialize_grads=True,
        )
        return {name: one.double().numpy() for name, one in zip(floats, found, strict=True)}

    def __str__(self) -> str:
        return self.name


def on(shape: Shape, **changes: Any) -> Shape:
    """`shape` with some sizes changed."""
    return dataclasses.replace(shape, **changes)
