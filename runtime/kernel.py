"""The callable that a spec becomes: bind parameters, then call it on tensors.

A kernel is compiled when it is first called for a device, dtype and head dimension. Nothing is
rebuilt for other lengths, batch sizes or head counts.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from attndsl.attention import Attention
from attndsl.diagnostics import error
from attndsl.records import dataclass
from attndsl.runtime.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from attndsl.codegen.program import Tile
    from attndsl.planner.cost import Cost
    from attndsl.planner.plan import Plan
    from attndsl.runtime.arguments import Call
    from attndsl.runtime.artifact import Artifact
    from attndsl.runtime.autotune import TuningResult
    from attndsl.runtime.backward import Backward
    from attndsl.runtime.backward_tuning import BackwardTuning, Tiles
    from attndsl.runtime.calls import Calls
    from attndsl.runtime.execution import Execution


# Graphs speak of a kernel by a name that is a constant of theirs.
_NUMBERS = itertools.count()
_KERNELS: WeakValueDictionary[str, Kernel] = WeakValueDictionary()


def kernel_called(identity: str) -> Kernel:
    """The living kernel of that `identity`."""
    return _KERNELS[identity]


def _kernel(attention: Attention, parameters: Mapping[str, Any]) -> Kernel:
    """For `pickle`, which calls without keywords."""
    return Kernel(attention, parameters=parameters)


def _is_traced() -> bool:
    """Whether a graph is being made of the call, as under `torch.compile`."""
    torch = sys.modules.get("torch")  # binding a parameter needs no torch
    return torch is not None and torch.compiler.is_compiling()


@dataclass(frozen=True)
class CostedPlan:
    """A plan and what one call of it costs; both print."""

    plan: Plan
    cost: Cost

    def __str__(self) -> str:
        return f"{self.plan}\n\n{self.cost}"


class Kernel:
    """An attention that can be called on torch tensors.

    A kernel whose attention has parameters is bound by calling it with them, `gemma2(window=1024)`,
    or all at once with tensors, `gemma2(q, k, v, window=1024)`; those that are left out take their
    defaults. What a bound kernel computes, see `__call__`.
    """

    def __init__(self, attention: Attention, *, parameters: Mapping[str, Any] | None = None):
        self.attention = attention
        self.parameters: Mapping[str, bool | int | float] = dict(parameters or {})
        self._parameter_names = frozenset(one.name for one in attention.parameters)
        self._bound: dict[tuple[tuple[str, type, Any], ...], Kernel] = {}
        self._calls: Calls | None = None
        # Of this object alone, so that a graph is not used for another kernel in its place.
        self.identity = f"{attention.name} {next(_NUMBERS)}"
        _KERNELS[self.identity] = self
        self._executions: dict[Any, Execution] = {}
        self._backwards: dict[Any, Backward] = {}
        self._tuned: dict[Any, Tiles] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.attention.name

    @property
    def is_bound(self) -> bool:
        """Whether every parameter has its value."""
        return self.attention.is_bound

    def bind(self, **parameters: bool | int | float) -> Kernel:
        """The kernel with its parameters bound: those given, and the others' defaults.

        Raises `AttnError` A06x for a parameter that is unknown, missing or out of bounds.
        """
        if self.is_bound and not parameters:
            return self
        if self.is_bound and self.parameters:
            raise error(
                "A060",
                f"the parameters of `{self.name}` are bound already",
                help="bind the module's kernel again; this one stays as it is",
            )
        key = tuple((name, type(value), value) for name, value in sorted(parameters.items()))
        try:
            known = self._bound.get(key)
        except TypeError:  # a value that no parameter can have, as `bind` will say
            known = None
        if known is None:
            from attndsl.binding import bind

            values = {
                one.name: one.default
                for one in self.attention.parameters
                if one.default is not None
            } | parameters
            known = Kernel(bind(self.attention, **parameters), parameters=values)
            self._bound[key] = known
        return known

    def __call__(
        self,
        q: Any = None,
        k: Any = None,
        v: Any = None,
        *,
        scale: float | None = None,
        offset: int | None = None,
        grid: tuple[int, ...] | Mapping[str, int] | None = None,
        return_lse: bool = False,
        dropout: float | None = None,
        seed: int | None = None,
        cu_seqlens: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        **named: Any,
    ) -> Any:
        """Compute the attention, or bind parameters where no tensors are given.

        `q` is `[B, H, Lq, D]`, `k` `[B, Hkv, Lk, D]`, `v` `[B, Hkv, Lk, Dv]` with H a multiple of
        Hkv: float32, float16 or bfloat16, on one device, with any strides. `v` may be left out
        where the spec makes it of `k`. The spec's inputs are passed by name. `scale` replaces
        1/sqrt(D); `offset` is the position of query row 0, Lk - Lq unless given; `grid` gives the
        length of each of the spec's axes.

        `dropout` is the probability with which a pair is dropped: its weight, after normalisation,
        counts 0 then, and 1 / (1 - dropout) times itself otherwise; the log-sum-exp stays. Which
        pairs these are is a function of (seed, b, h, i, j), the same on every target (see
        `attndsl.dropout`). `seed` is an int of 64 bits, or a tensor that holds one; without it,
        torch's default generator on the CPU draws one.

        Returns `[B, H, Lq, Dv]` in q's dtype; with `return_lse` also the log-sum-exp of every row,
        float32 `[B, H, Lq]`, −∞ for a row that sees nothing.

        Sequences of different lengths come packed, one after the other, as `q` `[T, H, D]`, `k`
        `[T, Hkv, D]` and `v` `[T, Hkv, Dv]` with `cu_seqlens`, int32 `[sequences + 1]`: where each
        begins, and where the last ends (`cu_seqlens_k` for keys, where they differ). Then inputs
        are packed as they are declared, without a batch: `[B, H, Lk]` is `[H, T]`. So are the
        results, `[T, H, Dv]` and `[H, T]`. Or they come as nested tensors of jagged layout,
        `[B, H, j, D]`, and so do the results. Either way each is attended to alone.

        Under `torch.compile` and `torch.export`, autocast (which casts q, k and v, as it does for
        SDPA), `torch.func`, and on fake tensors, a call is the operator `attndsl::attend`.

        Raises `AttnError` A06x to A09x. Differentiable in q, k, v and every input of floats:
        kernels compute the gradients, or torch does, where there is no C++ compiler. There are no
        second derivatives and no forward mode (A086).
        """
        if q is None and k is None and v is None:
            if _is_traced():
                return partial(self, **named)
            if not self._is_call(named):
                return self.bind(**named)
        options = Options(scale, offset, grid, return_lse, dropout, seed, cu_seqlens, cu_seqlens_k)
        return self.call(q, k, v, options, named)

    def call(self, q: Any, k: Any, v: Any, options: Options, named: dict[str, Any]) -> Any:
        """A call on tensors, with its options in one place; see `__call__`."""
        if _is_traced():
            from attndsl.runtime.operator_call import attend

            return attend(self, q, k, v, options, named)
        if self._parameter_names:
            parameters = {name: named.pop(name) for name in self._parameter_names & named.keys()}
            return self.bind(**parameters).call(q, k, v, options, named)
        return (self._calls or self.calls)(q, k, v, options, named)

    @property
    def calls(self) -> Calls:
        """What takes the calls of this bound kernel."""
        if self._calls is None:
            from attndsl.runtime.backward import Backwards
            from attndsl.runtime.calls import Calls

            self._calls = Calls(
                self.attention,
                self._execution_for,
                Backwards(self._backward_for),
                operator=self._by_operator,
            )
        return self._calls

    @cached_property
    def spec(self) -> str:
        """The spec as text, with parameters bound and definitions written out.

        Raises `AttnError` A080 for what no target compiles yet.
        """
        from attndsl.printing import describe
        from attndsl.runtime.compilation import plan_of

        if self._ready_attention.later:
            plan_of(self._ready_attention)
        return describe(self._ready_attention)

    def plan(self, **sizes: int) -> Plan | CostedPlan:
        """What will run; it prints as readable text.

        With sizes (`Lq=8192, Lk=8192` and any of `B H Hkv D Dv`, and `axis.NAME` for axes) what
        that costs as well.
        """
        from attndsl.runtime.compilation import plan_of

        plan = plan_of(self._ready_attention)
        if not sizes:
            return plan
        from attndsl.planner.cost import cost

        return CostedPlan(plan, cost(plan, sizes))

    def source(
        self,
        target: str = "cpu",
        *,
        head_dim: int = 64,
        value_dim: int | None = None,
        dtype: str = "fp32",
        return_lse: bool = False,
        dropout: bool = False,
        tile: Tile | None = None,
        gradients: Iterable[str] | None = None,
    ) -> str:
        """The emitted source: C++ for `"cpu"` or `"cpp"`, Triton for `"triton"`, `"cuda:90"` …

        With `gradients` that of the backward, for these names or, where it is empty, for all.
        """
        from attndsl.runtime.compilation import emit, specialize
        from attndsl.runtime.targets import parse_target

        where = parse_target({"cpp": "cpu", "triton": "cuda:90"}.get(target, target))
        attention = self._ready_attention
        made = specialize(
            attention, head_dim, value_dim, dtype, return_lse=return_lse, dropout=dropout
        )
        if gradients is None:
            return emit(attention, made, where, tile)[1].text
        from attndsl.runtime.backward import emit_backward, gradients_of, source_of

        return source_of(*emit_backward(attention, made, where, gradients_of(attention, gradients)))

    def artifact(
        self,
        *targets: str,
        head_dim: int = 64,
        value_dim: int | None = None,
        dtype: str = "bf16",
        return_lse: bool = False,
        direction: str = "forward",
        gradients: Iterable[str] | None = None,
    ) -> Artifact:
        """Compile ahead of time for targets (`"cpu"` unless given); see `attndsl.compile`."""
        from attndsl.runtime.ahead import compile_artifact

        return compile_artifact(
            self._ready_attention,
            targets or ("cpu",),
            head_dim=head_dim,
            value_dim=value_dim,
            dtype=dtype,
            return_lse=return_lse,
            parameters=self.bind().parameters,
            direction=direction,
            gradients=gradients,
        )

    def tune(self, q: Any, k: Any, v: Any = None, **named: Any) -> TuningResult:
        """Measure the tiles that could suit such calls, and keep the best for them on disk.

        Takes what a call takes. See `attndsl.runtime.autotune`.
        """
        from attndsl.runtime.autotune import tune

        bound = self.bind(
            **{name: named.pop(name) for name in self._parameter_names & named.keys()}
        )
        options = {name: named.pop(name) for name in ("scale", "offset", "grid") if name in named}
        result = tune(bound.attention, q, k, v, named, Options(**options))
        # What was prepared for these shapes has the tile of before.
        bound._calls = None
        return result

    def tune_backward(self, q: Any, k: Any, v: Any = None, **named: Any) -> BackwardTuning:
        """As `tune`, for the backward: of what requires a gradient, or of all that may have one.

        See `attndsl.runtime.backward_tuning`.
        """
        from attndsl.runtime.backward_tuning import tune

        bound = self.bind(
            **{name: named.pop(name) for name in self._parameter_names & named.keys()}
        )
        options = {name: named.pop(name) for name in ("scale", "offset", "grid") if name in named}
        result = tune(bound.attention, q, k, v, named, Options(**options))
        bound._tuned = {}
        return result

    def forget_tables(self) -> None:
        """Build block lists anew at the next call: needed only after a tensor that the mask reads
        was changed on a GPU by a kernel that torch does not know of."""
        for execution in self._executions.values():
            execution.forget_tables()
        for backward in self._backwards.values():
            backward.forget_tables()

    def __copy__(self) -> Kernel:
        return self

    def __deepcopy__(self, memo: object) -> Kernel:
        """Itself: it never changes, and a module's copy shares what is compiled."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _kernel, (self.attention, dict(self.parameters))

    def __repr__(self) -> str:
        if not self.is_bound:
            from attndsl.printing import parameter_text

            listed = ", ".join(map(parameter_text, self.attention.parameters))
            return f"<attndsl kernel {self.name}({listed}), not bound>"
        values = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        inputs = ", ".join(one.name for one in self.attention.inputs)
        return f"<attndsl kernel {self.name}({values}){f' of {inputs}' if inputs else ''}>"

    @cached_property
    def _ready_attention(self) -> Attention:
        return self.bind().attention

    def _is_call(self, named: Mapping[str, Any]) -> bool:
        """Whether inputs are named, so that it is the tensors that were forgotten."""
        return any(one.name in named for one in self.attention.inputs)

    def _by_operator(
        self, q: Any, k: Any, v: Any, options: Options, inputs: Mapping[str, Any]
    ) -> Any:
        from attndsl.runtime.operator_call import attend

        return attend(self, q, k, v, options, inputs)

    def _execution_for(self, call: Call, return_lse: bool) -> Execution:
        """What runs such a call: there is one for every device, dtype and head dimension."""
        from attndsl.runtime.autotune import best_tile
        from attndsl.runtime.compilation import compile_for, launches_at_once, specialize
        from attndsl.runtime.targets import device_target

        target = device_target(call.device)
        sizes, drops = call.sizes, call.dropout is not None
        packed = call.packed and launches_at_once(self.attention, target, dropout=drops)
        specialization = specialize(
            self.attention,
            sizes["D"],
            sizes["Dv"],
            call.dtype,
            return_lse=return_lse,
            dropout=drops,
            packed=packed,
        )
        # What is tuned are kernels for one sequence.
        tile = None if packed else best_tile(self.attention, specialization, target, call)
        # By device and not by target: a GPU's driver loads a binary for one GPU.
        key = call.device, specialization, tile
        with self._lock:
            execution = self._executions.get(key)
            if execution is None:
                execution = compile_for(self.attention, specialization, target, tile)
                self._executions[key] = execution
        return execution

    def _backward_for(
        self, call: Call, wanted: tuple[str, ...], log_sum_exp_gradient: bool
    ) -> Backward:
        """What computes these gradients; made when it is first asked for."""
        from attndsl.runtime.backward import backward_for
        from attndsl.runtime.backward_tuning import best_tiles
        from attndsl.runtime.compilation import specialize
        from attndsl.runtime.targets import device_target

        target, sizes = device_target(call.device), call.sizes
        specialization = specialize(
            self.attention,
            sizes["D"],
            sizes["Dv"],
            call.dtype,
            dropout=call.dropout is not None,
            packed=call.packed,
        )
        tiles: tuple[tuple[int, Tile], ...] = ()
        if not call.packed:
            tiles = best_tiles(self.attention, specialization, target, wanted, call, self._tuned)
        key = call.device, specialization, wanted, log_sum_exp_gradient, tiles
        with self._lock:
            backward = self._backwards.get(key)
            if backward is None:
                backward = backward_for(
                    self.attention,
                    specialization,
                    target,
                    wanted,
                    log_sum_exp_gradient=log_sum_exp_gradient,
                    tiles=dict(tiles),
                )
                self._backwards[key] = backward
        return backward
