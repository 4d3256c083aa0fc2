"""The kernel of a stage that sums up, over pairs, for the elements of one input.

What all queries read, such as a table of biases by distance, gets something from every tile. Each
program has numbers of its own for what it adds, and takes one tile a turn (see `turns.py`); the
runtime adds up the programs' numbers. Where an element belongs to one pair of every head, its place
in the result is a program's own, and heads that share it take turns.

Within a tile, pairs that read one element are added up for one element after another. All sums
have a fixed order, so that results do not vary from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attndsl.codegen.program import DType, Specialization, Tile
from attndsl.codegen.triton.arrange import arrange
from attndsl.codegen.triton.constants import integer
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.pair_tiles import PairTiles
from attndsl.codegen.triton.places import Block, KeyTile
from attndsl.codegen.triton.reads import address, clamped
from attndsl.codegen.triton.reductions import lane_index, padded
from attndsl.codegen.triton.scalarize import element
from attndsl.codegen.triton.tokens import TRITON_TYPES
from attndsl.codegen.triton.turns import FewTiles, OwnElements, Turns
from attndsl.codegen.triton.values import Value, spread
from attndsl.diagnostics import InternalError
from attndsl.expression import (
    INT,
    Binary,
    Call,
    Expression,
    Index,
    Literal,
    Matrix,
    Read,
    Scalar,
    Vector,
    index_names,
)
from attndsl.planner.block_map import Kind
from attndsl.planner.distance import DISTANCE, by_distance, tells_distances_apart
from attndsl.planner.own_elements import is_of_pairs, own_axes
from attndsl.planner.plan import Buffer, PairSums
from attndsl.planner.simplify import simplify

_SMALLEST_PRODUCT = 16  # of a matrix product, along each side
# Programs that each head has at a time, over all residue classes if there are not more of these.
PARTS = 8


def turns_of(stage: PairSums, specialization: Specialization) -> Turns:
    """How the kernel's programs go through tiles and heads."""
    (one,) = stage.elements
    if is_of_pairs(one):
        return OwnElements(own_axes(one).names)
    classes = 1 if stage.residue is None else integer(stage.residue, specialization)
    return FewTiles(max(1, PARTS // classes))


def parts_of(stage: PairSums, programs: Expression) -> Buffer | None:
    """Where programs leave their parts of the sums, `[B, H, programs of a head, …]`, of which
    there are `programs` in all; None where they add to the result itself. The last dimensions are
    those along which heads meet, and those of the element."""
    (one,) = stage.elements
    if is_of_pairs(one):
        return None
    dimensions = one.buffer.dimensions
    own = {axis for axis, _ in own_axes(one).own}
    rest = (size for axis, size in enumerate(dimensions) if axis not in own)
    return Buffer(f"{one.buffer.name}.parts", one.buffer.element, (programs, *rest))


class ElementSumWriter:
    """Writes the stage of one `ElementSum` into a kernel. `parts` is None where there are none."""

    def __init__(
        self,
        kernel: Kernel,
        stage: PairSums,
        parts: Buffer | None,
        *,
        tile: Tile,
        comments: dict[str, str],
    ):
        self.kernel, self.stage, self.parts = kernel, stage, parts
        (self.one,) = stage.elements
        turns = turns_of(stage, kernel.specialization)
        self.tiles = PairTiles(kernel, stage, tile=tile, comments=comments, turns=turns)
        self.places = self.tiles.places
        self._block = tile.block_m, tile.block_n
        self._base = self._exists = self._key_of = ""

    def write(self) -> None:
        """The whole body of the kernel."""
        kernel, places = self.kernel, self.places
        places.write_program()
        self.tiles.load_own()
        self.tiles.find_own()
        self.tiles.find_other()
        self._exists = kernel.assign("row_exists", Value(places.row_exists(), "m")).text
        if self.parts is not None:
            pointer = kernel.tensor(self.parts.name, "fp32")
            start = f"{pointer} + tl.cast(tl.program_id(0), tl.int64)"
            for size in self.parts.dimensions[1:]:
                start += f" * {kernel.value(size).atom}"
            self._base = kernel.assign("part", Value(start)).text
        for kind in (Kind.PARTIAL, Kind.FULL):
            if places.has(kind):
                places.write_loop(kind, self._add_tile)

    def _add_tile(self, kind: Kind, block: Block) -> None:
        kernel = self.kernel
        tile = self.places.begin_tile(kind, block)
        self.tiles.write_products(tile, self.tiles.present(kind, tile))
        counts = f"{self._exists}[:, None]"
        if kind is Kind.PARTIAL:
            counts = f"{spread(self.tiles.visible(tile), 'mn').text} & {counts}"
        shape = f"[{kernel.extents['m']}, {kernel.extents['n']}]"
        counts = kernel.assign("counts", Value(f"tl.broadcast_to({counts}, {shape})", "mn")).text
        if self.parts is None:
            self._add_in_place(counts)
        else:
            self._add_to_part(counts, tile)
        kernel.line("tl.debug_barrier()  # before another thread reads what is stored here")

    # Elements of pairs -----------------------------------------------------------------------

    def _add_in_place(self, counts: str) -> None:
        kernel, one = self.kernel, self.one
        array = kernel.arrays[one.buffer.name]
        with self._elements() as trailing:
            value = self._value(one.value, trailing, counts)
            place = address(kernel, array, (*one.indices, *trailing))
            place = kernel.assign("places", place)
            before = f"tl.load({place.text}, mask={counts}, other=0.0)"
            kernel.line(f"tl.store({place.text}, {before} + {value}, mask={counts})")

    # Elements of tables ----------------------------------------------------------------------

    def _add_to_part(self, counts: str, tile: KeyTile) -> None:
        kernel = self.kernel
        factors = _factors(self.one.value)
        side = "" if factors is None else self._side(factors[1])
        index = self._by_distance()
        if index is not None and isinstance(self.one.value.type, Scalar):
            value = self._value(self.one.value, (), counts)
            self._add_diagonals(value, None, index, counts, tile)
            return
        if index is not None and factors is not None and side == "m":
            value = self._value(factors[0], (), counts)
            self._add_diagonals(value, factors[1], index, counts, tile)
            return
        numbers = self._numbers()
        if factors is not None and len(side) == 1:
            value = self._value(factors[0], (), counts)
            with self._each_number(numbers, counts) as (number, chosen):
                self._add_vector(value, factors[1], side, number, chosen)
            return
        with self._elements() as trailing:
            value = self._value(self.one.value, trailing, counts)
            within, count = "", 1
            for index, size in zip(trailing, self._trailing(), strict=True):
                within = f"({within}) * {size} + " if within else ""
                within += kernel.value(index).text
                count *= size
            with self._each_number(numbers, counts) as (number, chosen):
                picked = f"tl.where({chosen}, {value}, 0.0)" if chosen else value
                total = kernel.assign("total", Value(f"tl.sum(tl.sum({picked}, 1), 0)")).text
                place = " + ".join([self._base, *_scaled(number, count), *([within] * (count > 1))])
                self._add(place, total)

    def _add(self, place: str, summand: str, mask: str = "") -> None:
        place = self.kernel.assign("place", Value(place)).text
        self.kernel.line(f"tl.store({place}, tl.load({place}{mask}) + {summand}{mask})")

    def _add_vector(
        self, value: str, vector: Expression, side: str, number: str, chosen: str
    ) -> None:
        """The sum of `value * vector` over the chosen pairs; the vector is one side's tokens'."""
        kernel = self.kernel
        picked = f"tl.where({chosen}, {value}, 0.0)" if chosen else value
        axis = 1 if side == "m" else 0
        weights = kernel.assign("factors", Value(f"tl.sum({picked}, {axis})", side)).text
        (size,) = self._trailing()
        vectors = self._vectors(vector, size)
        total = f"tl.sum({weights}[:, None] * {vectors}, 0)"
        total = kernel.assign("total", Value(total, "d")).text
        lanes = f"tl.arange(0, {padded(size)})"
        mask = f", mask={lanes} < {size}" if padded(size) != size else ""
        place = " + ".join([self._base, *_scaled(number, size), lanes])
        self._add(place, total, mask)

    def _vectors(self, vector: Expression, size: int) -> str:
        """The vectors of a side's tokens. What is not finite in them is in the values of all pairs
        that see it too, and adds nothing to others."""
        kernel = self.kernel
        leaf = Index("vectors of elements")
        kernel.extents["d"] = str(padded(size))
        one = simplify(element(vector, lane_index(kernel, size)))
        with kernel.at_depth(kernel.depth_of(one)):
            if leaf not in kernel.scope.known:
                whole = kernel.assign("vectors", kernel.value(one))
                finite = f'tl.abs({whole.text}) < float("inf")'
                text = f"tl.where({finite}, {whole.text}, 0.0)"
                kernel.define(leaf, kernel.assign("vectors", Value(text, whole.axes)))
            return kernel.scope.known[leaf].text

    def _side(self, vector: Expression) -> str:
        """The axes of a vector's tokens: one of the tile's two sides, or both."""
        names = index_names(vector)
        return ("m" if names & {"i", "row"} else "") + ("n" if "j" in names else "")

    def _by_distance(self) -> Expression | None:
        """The one index along which pairs meet, if it follows from their distance, and lanes of a
        tile are tokens that follow one another."""
        others = own_axes(self.one).others
        if len(others) != 1 or self.stage.grid is not None or self.stage.stripes is not None:
            return None
        trailing = self._trailing()
        if trailing and padded(trailing[0]) < _SMALLEST_PRODUCT:
            return None
        return by_distance(self.one.indices[others[0]])

    def _add_diagonals(
        self,
        value: str,
        vector: Expression | None,
        index: Expression,
        counts: str,
        tile: KeyTile,
    ) -> None:
        """Sums along diagonals, all pairs of one distance in one lane; then of the lanes that are
        about one element. With a vector, of products with those of queries."""
        kernel = self.kernel
        diagonals, sheared = self._sheared(value)
        size = 1
        total = f"tl.sum({sheared}, 0)"
        if vector is not None:
            (size,) = self._trailing()
            kind, precision = _multiplied(kernel.specialization.dtype)
            vectors = f"{self._vectors(vector, size)}.to({kind})"
            total = f"tl.dot({sheared}.T.to({kind}), {vectors}{precision})"
        total = kernel.assign("totals", Value(total)).text
        first = kernel.value(Index("i_first")).text
        start = f"{first} - {tile.start} - {self._block[1] - 1}"
        distance = kernel.assign("distance", Value(f"{start} + {diagonals}", "d"))
        kernel.define(DISTANCE, distance)
        (axis,) = own_axes(self.one).others
        length = kernel.arrays[self.one.buffer.name].dimensions[axis]
        lanes = f"tl.arange(0, {padded(size)})"
        if tells_distances_apart(index):
            number = kernel.assign("numbers", kernel.value(index)).text
            exists = f"({number} >= 0) & ({number} < {kernel.value(length).atom})"
            place = f"{self._base} + {number}"
            if vector is not None:
                place = f"{self._base} + ({number}[:, None] * {size} + {lanes}[None, :])"
                exists = f"({exists})[:, None] & ({lanes} < {size})[None, :]"
            self._add(place, total, f", mask={exists}")
            return
        number = kernel.assign("lane_numbers", kernel.value(clamped(index, length))).text
        with self._each_number(self._numbers(), counts) as (one, _):
            chosen = f"{number} == {one}"
            if vector is None:
                of_one = f"tl.sum(tl.where({chosen}, {total}, 0.0), 0)"
                self._add(f"{self._base} + {one}", of_one)
            else:
                of_one = f"tl.sum(tl.where(({chosen})[:, None], {total}, 0.0), 0)"
                mask = f", mask={lanes} < {size}" if padded(size) != size else ""
                self._add(f"{self._base} + {one} * {size} + {lanes}", of_one, mask)

    def _sheared(self, value: str) -> tuple[str, str]:
        """The names of the lanes of diagonals, 0 for the farthest key of the first query, and of
        the tile's pairs moved to these lanes, 0 where a diagonal has none."""
        kernel = self.kernel
        block_m, block_n = self._block
        leaf = Index("diagonals")
        with kernel.at_depth(0):
            if leaf not in kernel.scope.known:
                lanes = Value(f"tl.arange(0, {padded(block_m + block_n - 1)})", "d")
                diagonals = kernel.assign("diagonals", lanes)
                kernel.define(leaf, diagonals)
                key = f"tl.arange(0, BLOCK_M)[:, None] + {block_n - 1} - {diagonals.text}[None, :]"
                self._key_of = kernel.assign("key_of_diagonal", Value(key)).text
        diagonals = kernel.value(leaf)
        key = self._key_of
        moved = f"tl.gather({value}, tl.minimum(tl.maximum({key}, 0), {block_n - 1}), 1)"
        inside = f"({key} >= 0) & ({key} < {block_n})"
        sheared = kernel.assign("sheared", Value(f"tl.where({inside}, {moved}, 0.0)"))
        return diagonals.text, sheared.text

    def _numbers(self) -> str:
        """The name of the number of every pair's element among those of the head; empty where there
        is one only."""
        kernel, one = self.kernel, self.one
        number: Expression | None = None
        for axis in own_axes(one).others:
            size = kernel.arrays[one.buffer.name].dimensions[axis]
            index = clamped(one.indices[axis], size)
            if number is not None:
                index = Binary("+", Binary("*", number, size, INT), index, INT)
            number = index
        if number is None:
            return ""
        value = kernel.value(arrange(number, kernel.axes_of))
        shape = f"[{kernel.extents['m']}, {kernel.extents['n']}]"
        whole = f"{spread(value, 'mn').text} + tl.zeros({shape}, tl.int32)"
        return kernel.assign("numbers", Value(whole, "mn")).text

    @contextmanager
    def _each_number(self, numbers: str, counts: str) -> Iterator[tuple[str, str]]:
        """Inside, one element's number and the condition for its pairs; both empty for all pairs,
        where there is one element."""
        kernel = self.kernel
        if not numbers:
            yield "", ""
            return
        least = f"tl.min(tl.min(tl.where({counts}, {numbers}, 2147483647), 1), 0)"
        most = f"tl.max(tl.max(tl.where({counts}, {numbers}, -1), 1), 0)"
        least, most = (
            kernel.assign(*one).text for one in (("least", Value(least)), ("most", Value(most)))
        )
        header = f"for {{}} in tl.range({least}, {most} + 1, num_stages=1):"
        with kernel.loop("number", header) as number:
            yield number, f"{numbers} == {number}"

    # Values ----------------------------------------------------------------------------------

    def _trailing(self) -> tuple[int, ...]:
        """The dimensions of an element."""
        specialization = self.kernel.specialization
        match self.one.value.type:
            case Vector(size):
                return (integer(size, specialization),)
            case Matrix(rows, columns):
                return integer(rows, specialization), integer(columns, specialization)
        return ()

    @contextmanager
    def _elements(self) -> Iterator[tuple[Expression, ...]]:
        """Inside loops over the element's own elements, if it has any: their indices."""
        sizes = self._trailing()
        if not sizes:
            yield ()
            return
        kernel = self.kernel
        with kernel.loop("row", f"for {{}} in range({sizes[0]}):") as row:
            indices = (Index(f"element {row}"),)
            kernel.define(indices[0], Value(row))
            if len(sizes) == 1:
                yield indices
                return
            with kernel.loop("column", f"for {{}} in range({sizes[1]}):") as column:
                kernel.define(Index(f"element {column}"), Value(column))
                yield (*indices, Index(f"element {column}"))

    def _value(self, value: Expression, trailing: tuple[Expression, ...], counts: str) -> str:
        """The name of one element of a value, for every pair; 0 where it does not count."""
        kernel = self.kernel
        if trailing:
            value = simplify(_element(value, trailing))
        value = arrange(value, kernel.axes_of)
        kernel.share([value])
        text = self.tiles.masked(value, Value(counts, "mn"))
        return kernel.assign("summands", Value(text, "mn")).text


def _element(value: Expression, indices: tuple[Expression, ...]) -> Expression:
    match value:
        case Call("outer", (left, right)):
            row, column = indices
            return _product(element(left, row), element(right, column))
    if len(indices) == 1:
        return element(value, indices[0])
    match value:
        case Read(name=name, indices=own, type=Matrix()):
            return Read(name, (*own, *indices), Scalar.FLOAT)
    raise InternalError("a matrix that is no product of two vectors")


def _product(left: Expression, right: Expression) -> Expression:
    return Binary("*", left, right, Scalar.FLOAT)


def _factors(value: Expression) -> tuple[Expression, Expression] | None:
    """A vector as a float times another; None where it is no such product."""
    if not isinstance(value.type, Vector):
        return None
    match value:
        case Binary("*", left, right) if isinstance(left.type, Scalar):
            inner = _factors(right) or (Literal(1.0), right)
            return _times(left, inner[0]), inner[1]
        case Binary("*", left, right) if isinstance(right.type, Scalar):
            inner = _factors(left) or (Literal(1.0), left)
            return _times(inner[0], right), inner[1]
    return None


def _times(left: Expression, right: Expression) -> Expression:
    if Literal(1.0) in (left, right):
        return left if right == Literal(1.0) else right
    return _product(left, right)


def _scaled(number: str, count: int) -> list[str]:
    if not number:
        return []
    return [number if count == 1 else f"{number} * {count}"]


def _multiplied(dtype: DType) -> tuple[str, str]:
    """The type in which values of pairs are multiplied by vectors, and how exactly. Gradients of
    scores have no bounds that half precision keeps, and tf32 has as many digits."""
    match dtype:
        case DType.FLOAT16:
            return "tl.float32", ', input_precision="tf32"'
        case DType.FLOAT32:
            return "tl.float32", ', input_precision="ieee"'
    return TRITON_TYPES[dtype], ""
