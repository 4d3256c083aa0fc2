"""The plan: what will run, as a small graph of stages.

A plan is made for one attention with its parameters bound, and is independent of tile sizes,
lengths and dtypes. Stages name the buffers that they write; a stage depends on the stages whose
buffers it reads. Emitters turn one stage into one kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.attention import Attention, Normalizer
from attndsl.expression import Expression, Scalar
from attndsl.planner.block_map import BlockMap


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

    `element` is a vector over `b h i row` and `q`, or over `b g j`, `k` and `v`; operands in it are
    the vectors as the caller gave them.
    """

    buffer: Buffer
    side: str
    element: Expression


@dataclass(frozen=True)
class Scan:
    """A running sum along the buffer's last dimension: `buffer[…, t] = buffer[…, t-1] + element`.

    The leading dimensions are indexed by `indices` (`b`, `h`, `g`), the last by `t`. (The recurrent
    states of linear attention become a stage of their own beside this one.)
    """

    buffer: Buffer
    indices: tuple[str, ...]
    element: Expression


@dataclass(frozen=True)
class Source:
    """Where a vector per token is read from: the caller's `q`, `k`, `v`, or a prepared buffer.

    `start` and `size` select the elements `[start, start + size)`; expressions over sizes.
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
class Attend:
    """Tiles of the score matrix, absorbed by an associative merge.

    `score` is a float over indices, sizes, reads (of inputs and scan buffers) and `DotResult`s.
    Vector arithmetic that does not separate into query side and key side stays in it as `Operand`s,
    `Read` vectors and `dot`/`sum` calls and is evaluated pair by pair. `Operand("q")` there is
    read from `vectors["q"]`.

    `residue` is None, or an integer m > 0: positions are then taken one residue class modulo m at a
    time. The kernel runs m independent problems; in problem r the positions are `r + m * i'`, and
    score, mask and block map are already written over `i'`, `j'` (still called `i`, `j`) and
    `Index("residue")` for r.
    """

    dots: tuple[Dot, ...]
    score: Expression
    mask: Expression
    value: Source
    vectors: tuple[tuple[str, Source], ...]
    normalizer: Normalizer
    block_map: BlockMap
    residue: Expression | None = None


Stage = Prepare | Scan | Attend


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which they run, and why they were chosen."""

    attention: Attention
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def attend(self) -> Attend:
        return next(stage for stage in self.stages if isinstance(stage, Attend))
