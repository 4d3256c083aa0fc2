"""Which of the kernels of one name honours what a layer asks for.

A choice looks at names, numbers and the mask's pattern, never into a tensor: in a graph it is a
constant. There, whether a batch is padded and whether sequences are packed is not known. A kernel
that honours neither still runs, and the graph then checks on every call that there is nothing of
the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from attndsl.diagnostics import AttnError, Diagnostic, error
from attndsl.expression import Size
from attndsl.runtime.graph_constants import constant_of_graph
from attndsl.runtime.integrations.agreement import disagreement
from attndsl.runtime.integrations.masks import Pattern, unknown
from attndsl.runtime.integrations.requests import Given, Source
from attndsl.runtime.kernel import Kernel
from attndsl.suggestions import suggestion

# What `own_mask` replaces.
_OF_MASK = ("sliding_window", "attention_chunk_size", "documents")
_SAID = {
    "first_token": ("left",),
    "last_token": ("right",),
    "padding": ("left", "right", "holes"),
}


class Choice(NamedTuple):
    """A kernel, by its number among those of a name, and how it is called.

    `parameters` are those to which the call gives values, and `inputs` those that it fills: name,
    number of dimensions, and whether the last of them is `Lk`. `assumed` is what a graph must not
    find in its tensors (see `Keys.has`), and what it says if it does.
    """

    number: int
    parameters: tuple[str, ...]
    inputs: tuple[tuple[str, int, bool], ...]
    assumed: tuple[tuple[str, str], ...]


class Wish(NamedTuple):
    """What a call asks for, as far as it decides on a kernel. `asked` is by what must be honoured,
    `found` what each parameter or input would read; tensors are `Given`. `pattern` holds the
    arguments of one."""

    layer: str
    asked: tuple[tuple[str, Any], ...]
    found: tuple[tuple[str, Any], ...]
    pattern: tuple[Any, ...] | None
    heads: tuple[int, int]
    in_graph: bool


class Chooser:
    """The kernels of one name and where they read what from; see `register`."""

    def __init__(
        self,
        name: str,
        kernels: tuple[Kernel, ...],
        reads: Mapping[str, Source],
        defaults: Mapping[str, Source],
        ignore: frozenset[str],
        own_mask: bool,
    ) -> None:
        if not kernels:
            raise error("A101", f"`{name}` is registered without a kernel")
        declared = {one for kernel in kernels for one in _names(kernel)}
        for wrong in (one for one in reads if one not in declared):
            raise error(
                "A101",
                f"no kernel of `{name}` has a parameter or input `{wrong}`",
                help=suggestion(wrong, declared)
                or f"they have {', '.join(f'`{one}`' for one in sorted(declared)) or 'none'}",
            )
        self._kernels, self._given = kernels, frozenset(reads)
        self._ignore, self._own_mask = ignore, own_mask
        every = {**defaults, **reads}
        self.sources: dict[str, Source] = {one: every.get(one, one) for one in sorted(declared)}
        # Parameters that no layer need give a value: their defaults will do.
        self._free = frozenset(one for one in declared if one not in every)
        self._disagreements: dict[tuple[Kernel, Pattern, tuple[int, int]], str | None] = {}

    @constant_of_graph
    def choose(self, *wish: Any) -> tuple[Any, ...]:
        """The first kernel that honours the `Wish`, as a `Choice`; both are plain tuples, for
        graphs. Raises `AttnError` A100 or A102, of the kernel that lacks least."""
        wanted = Wish(*wish)
        found = [self._judged(number, wanted) for number in range(len(self._kernels))]
        for choice, faults in found:
            if not faults and not choice.assumed:
                return tuple(choice)
        for choice, faults in found:
            if not faults:
                return tuple(choice)
        raise AttnError(min((faults for _, faults in found), key=len))

    def _judged(self, number: int, wish: Wish) -> tuple[Choice, list[Diagnostic]]:
        """A kernel for a wish, and what it does not honour of it."""
        kernel, found = self._kernels[number], dict(wish.found)
        parameters: dict[str, Any] = {}
        inputs: set[str] = set()
        honoured = set(self._ignore) | (set(_OF_MASK) if self._own_mask else set())
        faults: list[Diagnostic] = []
        unbound = {one.name for one in kernel.attention.parameters}
        for name in _names(kernel):
            source, value = self.sources[name], found[name]
            if isinstance(source, str) and (value is not None or name in kernel.parameters):
                honoured.add(source)
            if name in kernel.parameters:
                if value is not None and value != kernel.parameters[name]:
                    faults.append(_bound_otherwise(kernel, name, source, value, wish.layer))
            elif value is None:
                if name not in unbound or name not in self._free:
                    faults.append(_not_passed(kernel, name, source, wish.layer))
            elif name not in unbound:
                inputs.add(name)
            elif isinstance(value, Given):
                faults.append(_no_number(kernel, name, value, wish.layer))
            else:
                parameters[name] = value
        sources = {self.sources[name] for name in inputs}
        assumed: list[tuple[str, str]] = []
        for name, value in wish.asked:
            if (name in honoured and name != "padding") or name in self._ignore:
                continue
            missing = _unsaid(value, sources) if name == "padding" else (name,)
            if not missing:
                continue
            shown = ", ".join(missing) if name == "padding" else value
            fault = _not_honoured(kernel, name, shown, wish.layer)
            if wish.in_graph and name in ("padding", "documents"):
                assumed += [(one, str(AttnError([fault]))) for one in missing]
            else:
                faults.append(fault)
        if not faults and wish.pattern is not None and not self._own_mask:
            pattern = Pattern(*wish.pattern)
            if any(what == "documents" for what, _ in assumed):
                pattern = pattern._replace(documents=False)
            faults += self._faults_of_mask(kernel.bind(**parameters), pattern, wish)
        filled = tuple(
            (one.name, len(one.dimensions), _is_of_keys(one))
            for one in kernel.attention.inputs
            if one.name in inputs
        )
        return Choice(number, tuple(parameters), filled, tuple(assumed)), faults

    def _faults_of_mask(self, kernel: Kernel, pattern: Pattern, wish: Wish) -> list[Diagnostic]:
        if pattern.documents and pattern.chunk is not None:
            # Chunks are then counted from each document's first token.
            return [unknown("chunks inside of packed documents")]
        known = kernel, pattern, wish.heads
        if known not in self._disagreements:
            sources = {one.name: self.sources[one.name] for one in kernel.attention.inputs}
            self._disagreements[known] = disagreement(
                kernel.attention, pattern, sources, wish.heads
            )
        found = self._disagreements[known]
        if found is None:
            return []
        return [
            Diagnostic(
                "A102",
                f"the mask of `{kernel.name}` is not the one that `{wish.layer}` asks for, "
                f"{pattern}",
                kernel.attention.mask.span or kernel.attention.span,
                found,
                "if the spec's mask is to replace the model's, register it with `own_mask=True`",
            )
        ]


def _names(kernel: Kernel) -> list[str]:
    """Every parameter, bound or not, and every input."""
    unbound = [one.name for one in kernel.attention.parameters]
    return [*kernel.parameters, *unbound, *(one.name for one in kernel.attention.inputs)]


def _unsaid(padding: frozenset[str], sources: set[Source]) -> tuple[str, ...]:
    """The padding of which inputs of these sources say nothing."""
    said = {one for source, kinds in _SAID.items() if source in sources for one in kinds}
    return tuple(sorted(padding - said))


def _is_of_keys(declaration: Any) -> bool:
    last = declaration.dimensions[-1] if declaration.dimensions else None
    return isinstance(last, Size) and last.name == "Lk"


def _not_passed(kernel: Kernel, name: str, source: Source, layer: str) -> Diagnostic:
    return Diagnostic(
        "A100",
        f"`{name}` of `{kernel.name}` reads `{source}`, which `{layer}` does not pass",
        help="register a second kernel, for such layers, behind this one",
    )


def _no_number(kernel: Kernel, name: str, given: Given, layer: str) -> Diagnostic:
    return Diagnostic(
        "A100",
        f"`{layer}` passes {given.value} for `{name}`, and a parameter of `{kernel.name}` is a "
        "number",
        help=f"declare `{name}` as an input of the spec",
    )


def _bound_otherwise(
    kernel: Kernel, name: str, source: Source, found: object, layer: str
) -> Diagnostic:
    shown = found.value if isinstance(found, Given) else found
    return Diagnostic(
        "A100",
        f"`{layer}` passes `{source} = {shown}`, and `{kernel.name}` is bound to "
        f"`{name} = {kernel.parameters[name]}`",
        help=f"leave `{name}` unbound: each layer then gives it a value",
    )


def _not_honoured(kernel: Kernel, name: str, value: object, layer: str) -> Diagnostic:
    shown = "" if isinstance(value, Given) else f" = {value}"
    match name:
        case "padding":
            message = f"the batch is padded ({value}), and `{kernel.name}` reads no padding there"
            help = (
                "give it `input first: int[B]` and `input last: int[B]`, the positions of the "
                "first and the last token, or `input present: bool[B, Lk]`"
            )
        case "output_attentions":
            message = f"`{layer}` wants attention weights, and kernels never make them"
            help = "use the `eager` implementation for it"
        case _:
            message = f"`{layer}` passes `{name}{shown}`, of which `{kernel.name}` has nothing"
            help = (
                f'say which parameter or input has it, `reads={{"…": "{name}"}}`, or do without '
                f'it on purpose, `ignore=["{name}"]`'
            )
    return Diagnostic("A100", message, help=help)
