"""Attention dropout: which pairs it keeps, as a function of (seed, b, h, i, j).

After normalisation each pair's weight is multiplied by 1 / (1 - p), or by 0 where the pair is
dropped. What rows are divided by, their log-sum-exp and the weight of a sink are those without
dropout. A pair is kept where a word of Philox-4x32-10 is at least p * 2^32: its key is the seed,
its counter (j // 4, i, h, b), and j % 4 says which of the four words is the pair's. As i and j are
positions, the pairs that are dropped depend neither on tiles nor on who computes them.

The generator is that of Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3"
(2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from attndsl.records import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray  # slow to import

Array: TypeAlias = "NDArray[Any]"

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
# Neighbouring keys that share a call of the generator, which gives four words.
WORDS = 4
THRESHOLD, SEED_LOW, SEED_HIGH = "dropout.threshold", "dropout.seed_low", "dropout.seed_high"
FIRST_BATCH = "dropout.first_batch"
DROPOUT_SIZES = THRESHOLD, SEED_LOW, SEED_HIGH, FIRST_BATCH
"""The run-time sizes that tell a kernel what to drop: 32-bit words, passed as signed numbers."""

_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Dropout:
    """What one call drops: `probability` is p, from 0 to less than 1, and `seed` has 64 bits.

    `first_batch` is the number that counts as b for the call's first batch: a part of a batch, on
    its own, then drops what the whole would.
    """

    probability: float
    seed: int
    first_batch: int = 0

    @property
    def threshold(self) -> int:
        """Pairs whose word is below it are dropped."""
        return min(math.ceil(self.probability * 2**32), _LOW)

    @property
    def factor(self) -> float:
        """What the weight of a pair that is kept is multiplied by: p counts as `threshold`."""
        return 2**32 / (2**32 - self.threshold)

    @property
    def sizes(self) -> Mapping[str, int]:
        """As kernels take it."""
        words = {
            THRESHOLD: self.threshold,
            SEED_LOW: self.seed & _LOW,
            SEED_HIGH: self.seed >> 32 & _LOW,
            FIRST_BATCH: self.first_batch,
        }
        return {name: _signed(word) for name, word in words.items()}

    def kept(self, b: Array, h: Array, i: Array, j: Array) -> Array:
        """Float64: the factor of every pair, 0 where it is dropped. The indices broadcast."""
        counter = j // WORDS, i, h, b + self.first_batch
        words = philox(counter, (self.seed & _LOW, self.seed >> 32 & _LOW))
        word = np.choose(np.broadcast_to(j % WORDS, words[0].shape), words)
        return np.where(word >= self.threshold, self.factor, 0.0)


def philox(counter: Sequence[Array], key: tuple[int, int]) -> list[Array]:
    """The four words of Philox-4x32-10, as uint64, for counters of which the low 32 bits count."""
    words = [
        np.asarray(word).astype(np.uint64) & np.uint64(_LOW)
        for word in np.broadcast_arrays(*counter)
    ]
    for number in range(ROUNDS):
        first, second = (
            word * np.uint64(by) for word, by in zip(words[::2], MULTIPLIERS, strict=True)
        )
        keys = [
            np.uint64((part + number * step) & _LOW)
            for part, step in zip(key, KEY_STEPS, strict=True)
        ]
        words = [
            second >> np.uint64(32) ^ words[1] ^ keys[0],
            second & np.uint64(_LOW),
            first >> np.uint64(32) ^ words[3] ^ keys[1],
            first & np.uint64(_LOW),
        ]
    return words


def _signed(word: int) -> int:
    """The 32-bit number of the same bits."""
    return word - 2**32 if word >= 2**31 else word
