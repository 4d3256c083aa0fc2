"""Where the vectors of a tile lie: in the caller's tensors, or in buffers that a stage wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attndsl.codegen.cpp.arguments import ELEMENT_TYPES, Arguments
from attndsl.codegen.cpp.constants import constant
from attndsl.codegen.cpp.reads import DTYPES, Array
from attndsl.codegen.program import DType, Specialization
from attndsl.diagnostics import InternalError, error
from attndsl.expression import OPERANDS, QUERY_OPERANDS, Size
from attndsl.planner.plan import Source


@dataclass(frozen=True)
class Place:
    """`pointer` to the first token's vector, `stride` from token to token, and the element type."""

    pointer: str
    stride: str
    element: str


@dataclass
class Sources:
    """`residue` is the modulus where positions are taken class by class. `scattered_queries`,
    `scattered_keys`: the tokens of a tile, or of a block, lie anywhere; a place is then that of
    token 0, and tables say which rows are meant."""

    arguments: Arguments
    specialization: Specialization
    arrays: Mapping[str, Array]
    residue: int | None
    scattered_queries: bool = False
    scattered_keys: bool = False
    converted_width: int = 0
    used_support: set[str] = field(default_factory=set)

    @property
    def query_token(self) -> str:
        """The row of the tile's first query."""
        return "start" if self.residue is None else f"(class_row + {self.residue} * start)"

    @property
    def rows(self) -> str:
        """The rows of the lanes, as functions that load and store columns take them."""
        return "queries.rows" if self.scattered_queries else "rows"

    @property
    def key_token(self) -> str:
        return "first_key" if self.residue is None else f"(residue + {self.residue} * first_key)"

    def query(self, source: Source) -> Place:
        """The vectors of the tile's queries, from its first."""
        return self._place(source, None if self.scattered_queries else self.query_token, "h")

    def key(self, source: Source) -> Place:
        """The vectors of a block's keys, from its first."""
        return self._place(source, None if self.scattered_keys else self.key_token, "g")

    def key_vector(self, source: Source) -> str:
        """The vector of key `key` of a block."""
        place = self.key(source)
        number = "scratch.keys.numbers[key]" if self.scattered_keys else "key"
        return f"{place.pointer} + {number} * {place.stride}"

    def token(self, name: str, token: str, head: str) -> Place:
        """The caller's vectors from a token on; `head` is the index of their head."""
        return self._at(name, self.specialization.dtype.value, token, head)

    def buffer(self, name: str, token: str | None, head: str) -> Place:
        """The elements of a buffer, to be written, from a token on."""
        self.arguments.tensor(name, DTYPES[self.arrays[name].element], written=True)
        return self._at(name, DTYPES[self.arrays[name].element], token, head)

    def size(self, source: Source) -> int:
        """How many elements are taken of each vector."""
        known = constant(source.size, self.specialization)
        if known is None:
            raise error(
                "A085",
                "a vector whose length is not known before the call is not supported on cpu",
                source.size.span,
                help="a vector's length may use D, Dv and parameters",
            )
        return known

    def converted(self, size: int) -> None:
        """Note that a tile of vectors of this size has to be kept as floats."""
        self.used_support.add("convert")
        self.converted_width = max(self.converted_width, size)

    def dtype(self, source: Source) -> str:
        """The element type of the tensor that the vectors are read from."""
        if source.name in OPERANDS:
            return self.specialization.dtype.value
        array = self.arrays.get(source.name)
        if array is None:
            raise InternalError(f"the plan reads `{source.name}`, which nothing writes")
        return DTYPES[array.element]

    def is_per_query_head(self, source: Source) -> bool:
        """Whether a source of keys or values has one vector per query head, not per shared head."""
        array = self.arrays.get(source.name)
        return array is not None and array.dimensions[1] != Size("Hkv")

    def _place(self, source: Source, token: str | None, head: str) -> Place:
        name, dtype = source.name, self.dtype(source)
        if name in OPERANDS:
            head = "h" if name in QUERY_OPERANDS else "g"
        else:
            head = "h" if self.is_per_query_head(source) else "g"
        start = constant(source.start, self.specialization)
        if start is None:
            raise InternalError("a slice that starts at a place unknown before the call")
        place = self._at(name, dtype, token, head)
        if start:
            place = replace(place, pointer=f"{place.pointer} + {start}")
        if self.residue is not None:
            place = replace(place, stride=f"{self.residue} * {place.stride}")
        return place

    def _at(self, name: str, dtype: str, token: str | None, head: str) -> Place:
        a = self.arguments
        pointer = (
            f"{a.tensor(name, dtype)} + b * {a.stride(name, 0)} + {head} * {a.stride(name, 1)}"
        )
        if token is not None:
            pointer += f" + {token} * {a.stride(name, 2)}"
        self._need(dtype)
        return Place(pointer, a.stride(name, 2), ELEMENT_TYPES[dtype])

    def _need(self, dtype: str) -> None:
        if dtype == DType.BFLOAT16.value:
            self.used_support.add("bfloat16")
        elif dtype == DType.FLOAT16.value:
            self.used_support.add("half")
