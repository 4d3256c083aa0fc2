"""What a name of the language is in Python: editors know it, and nothing computes with it."""

from __future__ import annotations

from typing import NoReturn

from attndsl.diagnostics import AttnError, error


def outside_kernel(name: str) -> AttnError:
    """What using a name of the language outside a kernel raises."""
    return error(
        "A007",
        f"`{name}` of the attention language was used outside a kernel",
        help="it has a meaning only in the body of a function with `@attndsl.kernel` or"
        " `@attndsl.define`",
    )


class Value:
    """Something that has a value for each pair of a query and a key. It has none in Python."""

    def __init__(self, name: str, doc: str = ""):
        self.name = name
        self.__doc__ = doc

    def __repr__(self) -> str:
        return f"<`{self.name}` of the attention language>"

    def __getattr__(self, axis: str) -> Value:
        if axis.startswith("_"):  # Python's own questions about an object
            raise AttributeError(axis)
        raise outside_kernel(f"{self.name}.{axis}")

    def _raise(self, *_: object) -> NoReturn:
        raise outside_kernel(self.name)

    def __getitem__(self, index: object) -> Value:
        self._raise(index)

    def __bool__(self) -> bool:
        self._raise()

    def __float__(self) -> float:
        self._raise()

    def __int__(self) -> int:
        self._raise()

    def __abs__(self) -> Value:
        self._raise()

    def __neg__(self) -> Value:
        self._raise()

    def __add__(self, other: Operand) -> Value:
        self._raise(other)

    def __sub__(self, other: Operand) -> Value:
        self._raise(other)

    def __mul__(self, other: Operand) -> Value:
        self._raise(other)

    def __truediv__(self, other: Operand) -> Value:
        self._raise(other)

    def __floordiv__(self, other: Operand) -> Value:
        self._raise(other)

    def __mod__(self, other: Operand) -> Value:
        self._raise(other)

    def __pow__(self, other: Operand) -> Value:
        self._raise(other)

    __radd__ = __add__
    __rsub__ = __sub__
    __rmul__ = __mul__
    __rtruediv__ = __truediv__
    __rfloordiv__ = __floordiv__
    __rmod__ = __mod__
    __rpow__ = __pow__

    def __lt__(self, other: Operand) -> Value:
        self._raise(other)

    def __le__(self, other: Operand) -> Value:
        self._raise(other)

    def __gt__(self, other: Operand) -> Value:
        self._raise(other)

    def __ge__(self, other: Operand) -> Value:
        self._raise(other)


Operand = Value | bool | int | float
# What a pattern over all axes takes: one value for all of them, or one for each.
PerAxis = Operand | tuple[Operand, ...]
