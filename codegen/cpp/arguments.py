"""The argument block of one entry: what the kernel asks for, collected while it is emitted."""

from __future__ import annotations

from dataclasses import dataclass, field

from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.names import identifier
from attndsl.codegen.program import Argument, ArgumentKind
from attndsl.codegen.writer import Writer
from attndsl.dropout import DROPOUT_SIZES

ELEMENT_TYPES = {
    "fp32": "float",
    "bf16": "Bfloat16",
    "fp16": "Half",
    "int32": "int32_t",
    "bool": "uint8_t",
}


@dataclass
class Arguments:
    """One C++ struct. Pointers and strides come first, so that nothing is padded in between."""

    struct: str
    _names: dict[str, str] = field(default_factory=dict)
    _wide: dict[tuple[str, int], Argument] = field(default_factory=dict)
    _sizes: dict[str, Argument] = field(default_factory=dict)
    _scale: bool = False
    _written: set[str] = field(default_factory=set)

    def tensor(self, name: str, dtype: str, *, written: bool = False) -> str:
        """The pointer to a tensor's first element."""
        if written:
            self._written.add(name)
        argument = Argument(ArgumentKind.TENSOR, name, self._identifier(name), dtype=dtype)
        self._wide.setdefault((name, -1), argument)
        return f"arguments.{argument.identifier}"

    def stride(self, name: str, axis: int) -> str:
        """The stride of a tensor, counted in elements."""
        spelled = f"{self._identifier(name)}_stride_{axis}"
        argument = Argument(ArgumentKind.STRIDE, name, spelled, axis=axis)
        self._wide.setdefault((name, axis), argument)
        return f"arguments.{spelled}"

    def table(self, name: str) -> str:
        """A field of the block table."""
        self._wide.setdefault((name, -2), Argument(ArgumentKind.TABLE, name, name))
        return f"arguments.{name}"

    def size(self, name: str) -> str:
        """A run-time size; the kernel has it under this name."""
        spelled = name.replace(".", "_size_")
        if name in DROPOUT_SIZES:
            spelled = identifier(name, 0)
        self._sizes.setdefault(name, Argument(ArgumentKind.SIZE, name, spelled))
        return spelled

    def scale(self) -> str:
        self._scale = True
        return "scale"

    @property
    def collected(self) -> tuple[Argument, ...]:
        """In the order of the struct's fields."""
        scale = (Argument(ArgumentKind.SCALE, "scale", "scale"),) if self._scale else ()
        return (*self._wide.values(), *self._sizes.values(), *scale)

    def write_struct(self, w: Writer) -> None:
        with w.block(f"struct {self.struct} {{", "};"):
            for argument in self.collected:
                w.line(self._field(argument))

    def write_locals(self, w: Writer, body: str) -> None:
        """Local names for the sizes and the scale that `body` uses."""
        for argument in self._sizes.values():
            if argument.name != "threads" and uses(body, argument.identifier):
                w.line(f"const int32_t {argument.identifier} = arguments.{argument.identifier};")
        if uses(body, "scale"):
            w.line("const float scale = arguments.scale;")

    def _field(self, argument: Argument) -> str:
        match argument.kind:
            case ArgumentKind.TENSOR:
                constant = "" if argument.name in self._written else "const "
                return f"{constant}{ELEMENT_TYPES[argument.dtype]} *{argument.identifier};"
            case ArgumentKind.STRIDE:
                return f"int64_t {argument.identifier};"
            case ArgumentKind.TABLE:
                return f"const int32_t *{argument.identifier};"
            case ArgumentKind.SIZE:
                return f"int32_t {argument.identifier};"
        return f"float {argument.identifier};"

    def _identifier(self, name: str) -> str:
        return self._names.setdefault(name, identifier(name, len(self._names)))
