"""The plan: what will run, as a small graph of stages.

A plan is made for one attention with its parameters bound, and is independent of tile sizes,
lengths and dtypes. Stages name the buffers that they write; a stage depends on the stages whose
buffers it reads. Emitters turn one stage into one kernel.
"""

from __future__ import annotations

from attndsl.attention import Attention, Normalizer
from attndsl.expression import Expression, Kept, Scalar, Size
from attndsl.planner.block_map import BlockMap
from attndsl.planner.stripes import Stripes
from attndsl.records import dataclass


@dataclass(frozen=True)
class Buffer:
    """A float32 (or int32) array that a stage writes and later stages read.

    `dimensions` are expressions over sizes; kernels address it as contiguous, row-major.
    """

    name: str
    element: Scalar
    dimensions: tuple[Expression, ...]


@dataclass(frozen=True)
class Prepare:
    """Per-token work before scoring: `buffer[b, h, row, :] = element` for the query side,
    `buffer[b, g, j, :] = element` for the key side (`side` is `"query"` or `"key"`).

    `element` varies with `b h g i row` and `q`, or with `b g j`, `k` and `v`; operands in it are
    the vectors as the caller gave them. A key-side element that reads `h` has a buffer over query
    heads, `[B, H, Lk, …]`; `head_index` says which it is. A scalar element has a buffer
    without the last dimension: `buffer[b, h, row] = element`.
    """

    buffer: Buffer
    side: str
    element: Expression

    @property
    def head_index(self) -> str:
        """The index of the buffer's second dimension: `h`, or `g` for keys that heads share."""
        return "h" if self.buffer.dimensions[1] == Size("H") else "g"


@dataclass(frozen=True)
class Scan:
    """A running sum along the buffer's last dimension: `buffer[…, t] = buffer[…, t-1] + element`.

    The leading dimensions are indexed by `indices` (`b`, `h`, `g`), the last by `t`. With
    `from_end` it runs from the last element to the first. (The recurrent states of linear attention
    become a stage of their own beside this one.)
    """

    buffer: Buffer
    indices: tuple[str, ...]
    element: Expression
    from_end: bool = False


@dataclass(frozen=True)
class Source:
    """Where a vector per token is read from: the caller's `q`, `k`, `v`, or a prepared buffer.

    `start` and `size` select the elements `[start, start + size)`; expressions over sizes. A key
    or value buffer may have query heads in place of key heads (see `Prepare`).
    """

    name: str
    start: Expression
    size: Expression


@dataclass(frozen=True)
class Dot:
    """A matrix product between the query side and the key side of a tile: `DotResult(number)`
    in the stage's score is `sum_d query[b, h, row, d] * key[b, g, j, d]`."""

    query: Source
    key: Source


@dataclass(frozen=True)
class Partial:
    """Where a stage over a part of the pairs leaves its result, for the stage over the rest.

    `output` is `[B, H, Lq, Dv]` and `log_sum_exp` `[B, H, Lq]`, −∞ for a row that saw nothing. The
    next stage takes them as its sink and the sink's value, which is the merge of two softmaxes.
    """

    output: Buffer
    log_sum_exp: Buffer


@dataclass(frozen=True)
class GridAxis:
    """One axis of a grid: its residue classes, and where tiles of queries begin.

    `modulus` is None, or an int expression over sizes, at least 1 at run time. Tiles of queries
    begin at edges of groups of `period` queries where they can: `phase` (0 ... period - 1)
    says that a group begins at local coordinate `-phase`.

    `shift` is None, or an int expression over sizes by which the axis is rolled: its coordinates
    are then counted from `shift` on, around the end (see `Grid`). A rolled axis has no classes.
    """

    name: str
    modulus: Expression | None = None
    period: int = 1
    phase: int = 0
    shift: Expression | None = None


@dataclass(frozen=True)
class Grid:
    """Tokens taken in boxes of the grid that the spec's axes span, in the order of the axes.

    A tile of BLOCK_M queries is a box with the sides `tile_sides(BLOCK_M, number of axes)`, and so
    is a block of BLOCK_N keys (`grids.py`). For an axis let n be its length `Size("axis.NAME")`, m
    its modulus (1 if None), s the side of a query tile, and p = `tile_pitch(s, period)`, which is s
    where the period is 1.

    Problems. For every choice of one residue r = 0 … m-1 an axis, row-major over the axes, there is
    an independent problem. Local coordinate c of class r is coordinate `r + m * c` of the axis.
    Keys have `0 <= c < n'` with n' = `Size("local.axis.NAME")` = max(0, ceil((n - r) / m)).

    Queries. Along every axis but the first queries have the coordinates y0 = 0 … y1 = n-1. Along
    the first they have y0 = offset // inner … y1 = (offset + Lq - 1) // inner, where inner is the
    product of the other axes' lengths (0 … n-1 if Lq = Lk). Of Lq = 0 there is no tile.

    Query tiles. With t0 = (y0 // m + phase) // p and t1 = (y1 // m + phase) // p there are
    `t1 - t0 + 1` tiles along an axis, the same number for every class; tile numbers are row-major
    over the axes. Lanes are row-major over the sides. Lane offset o of tile t is local coordinate
    `c = (t0 + t) * p - phase + o`; it exists where `o < p` and `y0 <= r + m * c <= y1`. (Without
    classes, groups and missing queries that is `c = t * s + o`, for `c < n`.) The query at these
    coordinates has position i, row-major over the axes' lengths (not the local ones), and row
    `i - offset`; it exists where all its coordinates do and `0 <= row < Lq`.

        i_first = max((t0 + t) * p - phase, ceil((y0 - r) / m))
        i_last  = min((t0 + t) * p - phase + p - 1, floor((y1 - r) / m))

    A tile with `i_last < i_first` along some axis is empty and does nothing.

    Key blocks. The axis' `Window` says that the tile sees the local coordinates `[first, last)`.
    Let `side` be the side of a block of keys. Block K along an axis, for 0 <= K and
    K * side < last - first, holds the local coordinates `first + K * side + o`, o = 0 … side-1; the
    blocks of a tile are all combinations of those of each axis. Keys exist where all their
    coordinates do (`c < n'`); key j is row-major over the axes' lengths. A block is FULL where it
    lies within `[full_first, full_last)` along every axis; then all its keys exist. Other blocks
    are PARTIAL: the mask is evaluated, which hides what lies past a window. Where the map has
    conditions (see `Product`), these say which of the blocks are visited, and which are FULL.

    Rolled axes. Local coordinate c, `0 <= c < n`, is coordinate `(c + shift) mod n` (floored). It
    exists for queries as for keys: such an axis has y0 = 0 and y1 = n-1 in all formulas above. The
    first axis, if rolled, is gone through once for each lap = offset // inner // n …
    (offset + Lq - 1) // inner // n, of which there is one unless queries lie outside the keys:
    tile t along it is tile `t mod tiles` of lap number `t // tiles`, with tiles as above, and its
    queries have the coordinate `lap * n + (c + shift) mod n`.

    In the stage's score, mask and normaliser `Coordinate("i", NAME)` and `Coordinate("j", NAME)`
    are local coordinates, `Index("residue.NAME")` is r (only for axes with a modulus),
    `Size("axis.NAME")` is n and `Size("local.axis.NAME")` n'. `Index("i")`, `Index("j")`,
    `Index("row")`, `Size("Lq")`, `Size("Lk")` and `Size("offset")` are the call's.
    The bounds of windows are over `Index("i_first")`, `Index("i_last")`, the heads and the same
    sizes and residues.
    """

    axes: tuple[GridAxis, ...]


@dataclass(frozen=True)
class Attend:
    """Tiles of the score matrix, absorbed by an associative merge.

    `score` is a float over indices, sizes, reads (of inputs, scan buffers and prepared buffers) and
    `DotResult`s. A prepared scalar is `Read(buffer, (b, h, row))` or `Read(buffer, (b, g, j))`.
    Vector arithmetic that does not separate into query side and key side stays in it as `Operand`s,
    `Read` vectors (of inputs, or of prepared buffers: the same indices, typed a vector) and
    `dot`/`sum` calls and is evaluated pair by pair. `Operand`s there are the caller's vectors, as
    `vectors` lists them.

    A sink and a divisor are scalars without vector arithmetic; a sink's value is a `Read` vector.

    The last stage of a plan writes `out` and `log_sum_exp`, and its `partial` is None. A stage
    before it covers other pairs of the same score matrix and writes the buffers of its `partial`.

    `residue` is None, or a literal m > 1: positions are then taken one residue class modulo m at a
    time. The kernel runs m independent problems, r = 0 … m-1 (one more dimension of the grid,
    beside batch and head). In problem r

        first row       row0         = (r - offset) mod m            (floored)
        its rows        local.Lq     = max(0, ceil((Lq - row0) / m))
        its keys        local.Lk     = max(0, ceil((Lk - r) / m))
        its offset      local.offset = (row0 + offset - r) / m       (exact)

    local row row' is row `row0 + m * row'` of q and of the outputs, local key j' is row
    `r + m * j'` of k and v, and `i' = row' + local.offset`. For a kernel: move the base pointers
    by row0 and r rows, multiply the row strides by m, and use the local lengths and offset in place
    of the global ones for tiles, tails and `i_first`, `i_last`.

    Score, mask, normaliser and block map are already written over i' and j' (`Index("i")` and
    `Index("j")` here) and `Index("residue")` for r, and never over `row`: a `Read` in them has the
    global row as its index, `r + m * i' - offset`. `Size("Lq")`, `Size("Lk")` and `Size("offset")`
    in them are the global ones, `Size("local.Lk")` and its like those of the class.

    `grid` is None, or says that tokens are taken in boxes of a grid (see `Grid`); then the block
    map is a `Product`.

    `stripes` is None, or says that the stage is over the keys of some stripes alone (see
    `Stripes`); the block map is `Ranges`. Blocks of keys are then blocks of *numbers* of such keys,
    `0 <= x < local.Lk` with `Size("local.Lk")` = `stripes.keys`: block K holds the numbers
    `BLOCK_N * K …`, and a FULL one has no number past the last. Key number x is row
    `stripes.position(x)` of k, v and of buffers over keys, which lies within `Lk` wherever x does
    within `local.Lk`. Score and mask are over `Index("j")`, as ever the position in the call, here
    `stripes.position(x)`. Queries are those of any stage.

    A stage has at most one of a residue, a grid and stripes.

    `kept` is None, or what the weight of a pair is multiplied by as it multiplies the value: not
    where weights are summed up, and not a sink's.
    """

    dots: tuple[Dot, ...]
    score: Expression
    mask: Expression
    value: Source
    vectors: tuple[tuple[str, Source], ...]
    normalizer: Normalizer
    block_map: BlockMap
    residue: Expression | None = None
    grid: Grid | None = None
    stripes: Stripes | None = None
    partial: Partial | None = None
    kept: Kept | None = None


@dataclass(frozen=True)
class PairSum:
    """`buffer[b, head, token] = sum of value * vector` over the visible pairs of the token.

    `side` is `"query"` (a sum over keys) or `"key"` (a sum over queries, and over the query heads
    that share a key head where the buffer is over key heads). Each term is a value over pairs and
    the vector of the other side that it multiplies; without a vector the value itself is summed up,
    a float or a vector as the buffer's last dimension says.
    """

    buffer: Buffer
    side: str
    terms: tuple[tuple[Expression, Source | None], ...]


@dataclass(frozen=True)
class ElementSum:
    """`buffer[indices] = sum of value` over the visible pairs that read this element of an input.

    `buffer` has the input's dimensions, and `indices` are those of the read, over `b h g i j row`;
    `value` is a float, or a vector or matrix for the dimensions that are not indexed.
    """

    buffer: Buffer
    indices: tuple[Expression, ...]
    value: Expression


@dataclass(frozen=True)
class PairSums:
    """Sums over the visible pairs of the score matrix, each a number or a vector of a token, or an
    element of an input: what a backward has in place of `Attend`.

    `dots`, `vectors`, `mask`, `block_map`, `residue`, `grid` and `stripes` are as in `Attend`. What
    hidden pairs hold takes no part in any sum. `score` is that of a forward whose weights are the
    exponentials of it: a kernel has to round it as the forward's did.

    `tiles` says which tokens tiles are of. It is `"query"`, as in `Attend`, or `"key"`: then there
    are only sums of keys, and a tile of BLOCK_M keys goes through blocks of BLOCK_N queries. Its
    block map is transposed. `Ranges` have bounds over `Index("j_first")` and `Index("j_last")`, the
    positions of the tile's first and last existing key, and name blocks of rows, within
    `[0, ceil(Lq / BLOCK_N)]`; of a FULL one all queries exist. A `Table` lists such blocks for each
    tile of keys. With a residue positions and rows are those of the class. With stripes, tiles
    are of the numbers of keys, `j_first` and `j_last` the positions that these have, and a block
    may be PARTIAL for keys that lie between the stripes. There is no grid.
    """

    dots: tuple[Dot, ...]
    sums: tuple[PairSum, ...]
    elements: tuple[ElementSum, ...]
    score: Expression | None
    mask: Expression
    vectors: tuple[tuple[str, Source], ...]
    block_map: BlockMap
    residue: Expression | None = None
    grid: Grid | None = None
    stripes: Stripes | None = None
    tiles: str = "query"


ROW_RESULTS = ("log_sum_exp", "weights.sum", "log_sum_exp.gradient")
"""What a backward may read of a forward's results beside vectors: float32 `[B, H, Lq]`. As nothing
that a spec declares has a dot in its name, or the names of results, none of these is taken."""

TOKEN_INDICES = {"query": ("b", "h", "row"), "key": ("b", "g", "j"), "key heads": ("b", "h", "j")}
"""The sides that tokens are on, and their indices: keys are also seen by each query head."""
SIZE_OF_INDEX = {"b": "B", "h": "H", "g": "Hkv", "row": "Lq", "j": "Lk"}


@dataclass(frozen=True)
class FoldTerm:
    """A value for every token of one side, and which element of the result it is added to.

    `side` is one of `TOKEN_INDICES`, or `"scan NAME"` for the indices of that scan, the last of
    which is `t`. `indices` are over these, `g` and `i`.
    """

    side: str
    value: Expression
    indices: tuple[Expression, ...]


@dataclass(frozen=True)
class Fold:
    """`buffer[indices] = sum of the terms' values` over all tokens, and of `addends`, which are
    buffers of the same dimensions: the gradient of what many tokens read. An index out of range is
    that of a token which nothing visible reads."""

    buffer: Buffer
    terms: tuple[FoldTerm, ...]
    addends: tuple[Buffer, ...] = ()


PairStage = Attend | PairSums
"""The stages over tiles of the score matrix: they have a mask, a block map and matrix products."""


def is_transposed(stage: PairStage) -> bool:
    """Whether its tiles are of keys."""
    return isinstance(stage, PairSums) and stage.tiles == "key"


Stage = Prepare | Scan | Attend | PairSums | Fold


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which they run, and why they were chosen.

    `gradients` is empty for a forward; for a backward it says which buffer is the gradient of what
    (`q`, `k`, `v`, an input).
    """

    attention: Attention
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()
    gradients: tuple[tuple[str, str], ...] = ()

    @property
    def attend(self) -> Attend:
        """The last stage, which writes the outputs."""
        return self.attends[-1]

    @property
    def attends(self) -> tuple[Attend, ...]:
        """The stages over pairs; together they cover the score matrix, no pair twice."""
        return tuple(stage for stage in self.stages if isinstance(stage, Attend))

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """What stages write for later ones, in the order in which it is written."""
        return tuple(buffer for stage in self.stages for buffer in written_buffers(stage))

    def __str__(self) -> str:
        """The plan as readable text."""
        from attndsl.planner.text import plan_text

        return plan_text(self)


def written_buffers(stage: Stage) -> tuple[Buffer, ...]:
    """The buffers that a stage writes; none for the last, which writes the outputs."""
    match stage:
        case Prepare(buffer=buffer) | Scan(buffer=buffer) | Fold(buffer=buffer):
            return (buffer,)
        case PairSums(sums=sums, elements=elements):
            return (*(one.buffer for one in sums), *(one.buffer for one in elements))
        case Attend(partial=Partial(output, log_sum_exp)):
            return output, log_sum_exp
    return ()


def token_grid(term: FoldTerm, backward: Plan) -> tuple[tuple[str, ...], tuple[Expression, ...]]:
    """The indices of a term's tokens, and how many there are of each."""
    if term.side in TOKEN_INDICES:
        names = TOKEN_INDICES[term.side]
        return names, tuple(Size(SIZE_OF_INDEX[name]) for name in names)
    scan = next(
        stage
        for stage in backward.stages
        if isinstance(stage, Scan) and stage.buffer.name == term.side.removeprefix("scan ")
    )
    return (*scan.indices, "t"), scan.buffer.dimensions
