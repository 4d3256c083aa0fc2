"""Where the tokens of a tile lie: which queries are its lanes, and which keys its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from attndsl.codegen.cpp.arguments import Arguments
from attndsl.codegen.cpp.block_loops import write_block_loops
from attndsl.codegen.cpp.expressions import Expressions
from attndsl.codegen.cpp.layout import uses
from attndsl.codegen.cpp.scope import Level, Text
from attndsl.codegen.writer import Writer
from attndsl.expression import Expression, Size
from attndsl.planner.block_map import BlockMap


class Places(Protocol):
    """`spelled` are the names that the stage's expressions have for places; `parameters` is what
    `attend_tile` takes beside the head, and `passed` what it is called with; `absorb` are the
    parameters of the function over one block; `members` belong to the scratch block."""

    support: set[str]
    expressions: Expressions

    @property
    def parameters(self) -> str: ...

    @property
    def passed(self) -> str: ...

    @property
    def members(self) -> tuple[str, ...]: ...

    @property
    def absorb(self) -> str: ...

    @property
    def spelled(self) -> Mapping[Expression, Text]: ...

    def write_functions(self, w: Writer) -> None:
        """Functions that the tile and the entry point call."""

    def write_extent(self, w: Writer, body: str) -> None:
        """The tile's place; `body` is what follows."""

    def write_windows(self, w: Writer) -> None:
        """What the tile and its columns may see, as far as loops and products need it."""

    def write_positions(self, w: Writer, used: set[str], lanes: str) -> None:
        """Arrays over the columns for the indices in `used` and what `lanes` refers to."""

    def write_lane_positions(self, w: Writer, used: set[str]) -> None:
        """Fill them in, inside a loop over `column`."""

    def write_block_start(self, w: Writer) -> None:
        """The keys of a block: the first lines of `absorb`."""

    def write_key(self, w: Writer, used: set[str], body: str) -> None:
        """The indices of key `key` of the block."""

    def write_blocks(self, w: Writer) -> None:
        """Call `absorb` for every block."""

    def write_tiles(self, w: Writer) -> None:
        """`tiles`: how many tiles of queries a head has, in each residue class."""

    def write_key_blocks(self, w: Writer) -> None:
        """`blocks`: blocks of keys that a head has at most, in each residue class, if they have
        numbers."""

    def write_tasks(self, w: Writer) -> None:
        """`tasks`: how many tiles there are, for all heads."""

    def write_task(self, w: Writer) -> None:
        """`head`, and what else `passed` refers to, of `task`."""


@dataclass
class LinePlaces:
    """Tiles of consecutive rows, of the whole sequence or of a residue class: `residue` is the
    modulus where each class of positions is a problem of its own."""

    arguments: Arguments
    residue: int | None
    block_map: BlockMap
    expressions: Expressions = field(init=False)
    support: set[str] = field(default_factory=set)
    absorb: str = "int32_t block, auto kind"

    @property
    def members(self) -> tuple[str, ...]:
        return ()

    @property
    def spelled(self) -> Mapping[Expression, Text]:
        return {
            Size(f"local.{name}"): Text(f"class_{name}", Level.UNIFORM)
            for name in ("Lq", "Lk", "offset")
        }

    @property
    def parameters(self) -> str:
        return "int32_t tile" + ("" if self.residue is None else ", int32_t residue")

    def write_functions(self, w: Writer) -> None:
        pass

    def write_extent(self, w: Writer, body: str) -> None:
        w.line("const int32_t start = tile * BLOCK_M;")
        if self.residue is None:
            w.line("const int32_t rows = minimum(BLOCK_M, Lq - start);")
        else:
            self._write_class(w, self.residue)
        if uses(body, "i_first") or uses(body, "i_last"):
            w.line(f"const int32_t i_first = start + {self._offset}, i_last = i_first + rows - 1;")

    def _write_class(self, w: Writer, modulus: int) -> None:
        self.support.add("floor_divide")
        w.comment(
            f"Positions congruent to `residue` modulo {modulus}: "
            "the class's own lengths and offset."
        )
        up = modulus - 1
        w.line(f"const int32_t class_row = floor_modulo(residue - offset, {modulus});")
        w.line(
            f"const int32_t class_Lq = class_row < Lq ? (Lq - class_row + {up}) / {modulus} : 0;"
        )
        w.line(f"const int32_t class_Lk = residue < Lk ? (Lk - residue + {up}) / {modulus} : 0;")
        w.line(
            f"const int32_t class_offset = floor_divide(class_row + offset - residue, {modulus});"
        )
        w.line("const int32_t rows = minimum(BLOCK_M, class_Lq - start);")
        w.line("if (rows <= 0) return;")

    @property
    def _offset(self) -> str:
        return "offset" if self.residue is None else "class_offset"

    def write_windows(self, w: Writer) -> None:
        pass

    def write_positions(self, w: Writer, used: set[str], lanes: str) -> None:
        for position in ("i", "row"):
            if position in used:
                w.line(f"Ints {position}[COLUMNS];")

    def write_lane_positions(self, w: Writer, used: set[str]) -> None:
        if not used & {"i", "row"}:
            return
        w.comment("Lanes past the last query repeat it.")
        w.line(
            "const Ints number = start + minimum(lane_numbers() + column * LANES, ints(rows - 1));"
        )
        if "row" in used:
            w.line("row[column] = number;")
        if "i" in used:
            w.line(f"i[column] = number + {self._offset};")

    def write_block_start(self, w: Writer) -> None:
        length = "Lk" if self.residue is None else "class_Lk"
        w.line("const int32_t first_key = block * BLOCK_N;")
        w.line(f"const int32_t keys = partial ? minimum(BLOCK_N, {length} - first_key) : BLOCK_N;")

    def write_key(self, w: Writer, used: set[str], body: str) -> None:
        if uses(body, "j"):
            w.line("const int32_t j = first_key + key;")

    def write_blocks(self, w: Writer) -> None:
        write_block_loops(w, self.block_map, self.expressions)

    def write_tiles(self, w: Writer) -> None:
        rows = "static_cast<int64_t>(arguments.Lq)"
        if self.residue is not None:
            w.line(f"const int64_t class_rows = ({rows} + {self.residue - 1}) / {self.residue};")
            rows = "class_rows"
        w.line(f"const int64_t tiles = ({rows} + BLOCK_M - 1) / BLOCK_M;")

    def write_key_blocks(self, w: Writer) -> None:
        keys = f"static_cast<int64_t>({self.arguments.size('Lk')})"
        if self.residue is not None:
            keys = f"({keys} + {self.residue - 1}) / {self.residue}"
        w.line(f"const int64_t blocks = ({keys} + BLOCK_N - 1) / BLOCK_N;")

    def write_tasks(self, w: Writer) -> None:
        self.write_tiles(w)
        classes = "" if self.residue is None else f"{self.residue} * "
        w.line(f"const int64_t tasks = {classes}tiles * heads;")
        w.comment("Neighbouring tasks share a head, whose keys stay in a cache; its last tiles,")
        w.comment("which see most keys under a causal mask, come first.")

    def write_task(self, w: Writer) -> None:
        w.line("const int32_t tile = static_cast<int32_t>(tiles - 1 - task % tiles);")
        if self.residue is None:
            w.line("const int64_t head = task / tiles;")
            return
        w.line(f"const int32_t residue = static_cast<int32_t>(task / tiles % {self.residue});")
        w.line(f"const int64_t head = task / tiles / {self.residue};")

    @property
    def passed(self) -> str:
        return "tile" + ("" if self.residue is None else ", residue")
