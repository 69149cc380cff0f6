"""Sets of vectors as one vector each, whose inner products are about the MaxSim of the sets (MUVERA, arXiv 2405.19504).

A fixed dimensional encoding (section 2 of the paper, and google/graph-mining, sketching/point_cloud) cuts space by
random planes (SimHash). A query's block of a partition is the sum of its vectors that lie there, a document's their
mean or, where none does, its vector that lies on the wrong side of the fewest planes. So each query vector meets a mean
of some vectors of the document, mostly of those near to it. That is never more than the best of them: without
projections a product is at most the MaxSim of the sets (`maxsim`; the paper's Chamfer similarity), and by theorem 2.1
it falls short of it by epsilon at most in expectation, with about log(vectors) / epsilon planes. Projections shorten
encodings, and err to both sides.

What is ours: numbers of partitions are plain binary, which changes only the order of blocks; encodings are divided by
the root of the repetitions, and a query's by the number of its vectors, so that a product is about `maxsim`, which is a
mean, and not a multiple of it; seeds are numpy's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError
from .multi import MultiVectors

_VALUES = 1 << 22  # numbers of a table at a time: 32 MB of int64
_MOST_PLANES = 16


@dataclass(frozen=True)
class FDE:
    """What an encoding is: the same for queries and documents that are to be compared.

    Args:
        dimension: numbers of each vector in a set.
        planes: random planes of a repetition, which make 2^planes partitions (k_sim); 0 to 16.
        repetitions: with planes and projections of their own (R_reps).
        projected: numbers that a vector is projected to before it is summed, by random signs (d_proj); None leaves it.
        final: numbers that the whole is projected to, by a count sketch (d_final); None leaves it.
        seed: of all that is random.

    Raises:
        ConfigError: a number is out of its bounds; it names which.
    """

    dimension: int
    planes: int = 5
    repetitions: int = 20
    projected: int | None = None
    final: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where a number is out of its bounds."""
        if not 0 <= self.planes <= _MOST_PLANES:
            raise ConfigError(f"FDE: planes must be between 0 and {_MOST_PLANES}, not {self.planes}")
        for name in ("dimension", "repetitions", "projected", "final"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"FDE: {name} must be at least 1, not {value}")

    @property
    def partitions(self) -> int:
        """The number of partitions of a repetition."""
        return 1 << self.planes

    @property
    def width(self) -> int:
        """The numbers of an encoding."""
        return self.final or self.repetitions * self.partitions * (self.projected or self.dimension)

    def queries(self, sets: MultiVectors) -> np.ndarray:
        """Return the encodings [N, width] float32 of queries; zeros for one without vectors.

        Raises DataError for vectors of another length than `dimension`.
        """
        return self._encoded(sets, False) / np.maximum(sets.counts, 1).astype(np.float32)[:, None]

    def documents(self, sets: MultiVectors) -> np.ndarray:
        """Return the encodings [N, width] float32 of documents; zeros for one without vectors.

        Raises DataError for vectors of another length than `dimension`.
        """
        return self._encoded(sets, True)

    def _encoded(self, sets: MultiVectors, document: bool) -> np.ndarray:
        values, starts = sets.values, sets.starts
        if values.shape[1] != self.dimension:
            raise DataError(f"the encoding is of vectors of {self.dimension} numbers, not of {values.shape[1]}")
        found = np.zeros((len(starts) - 1, self.width), np.float32)
        for repetition, (planes, projection) in enumerate(self._random()):
            target, signs = self._final(repetition)
            for first, last in self._together(starts):
                some = values[starts[first] : starts[last]]
                blocks = self._blocks(some, starts[first : last + 1] - starts[first], planes, projection, document)
                if signs is None:
                    found[first:last, target] = blocks
                else:
                    np.add.at(found[first:last].T, target, (blocks * signs).T)
        return found / np.float32(self.repetitions**0.5)

    def _blocks(
        self,
        values: np.ndarray,
        starts: np.ndarray,
        planes: np.ndarray,
        projection: np.ndarray | None,
        document: bool,
    ) -> np.ndarray:
        """Return the blocks [N, partitions x projected] of one repetition."""
        sets, parts = len(starts) - 1, self.partitions
        codes = ((values @ planes) > 0) @ (1 << np.arange(self.planes))
        inside = values if projection is None else values @ projection
        places = np.repeat(np.arange(sets), np.diff(starts)) * parts + codes  # set and partition of each vector
        order = np.argsort(places, kind="stable")
        kept, begins, counts = np.unique(places[order], return_index=True, return_counts=True)
        blocks = np.zeros((sets * parts, inside.shape[1]), np.float32)
        if len(kept):
            blocks[kept] = np.add.reduceat(inside[order], begins, axis=0)
        if document:
            blocks[kept] /= counts[:, None]
            empty = np.setdiff1d(np.repeat(np.diff(starts) > 0, parts).nonzero()[0], kept, assume_unique=True)
            blocks[empty] = inside[_nearest(codes, starts, parts).ravel()[empty]]
        return blocks.reshape(sets, -1)

    def _random(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield planes [D, planes] and the inner projection [D, projected] float32, or None, of each repetition."""
        for repetition in range(self.repetitions):
            rng = np.random.default_rng([self.seed, repetition])
            planes = rng.standard_normal((self.dimension, self.planes)).astype(np.float32)
            if self.projected is None:
                yield planes, None
            else:
                signs = rng.choice(np.array([-1, 1], np.float32), (self.dimension, self.projected))
                yield planes, signs / np.float32(self.projected**0.5)

    def _final(self, repetition: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return where the numbers of a repetition's blocks go, and with a final projection each one's sign."""
        size = self.partitions * (self.projected or self.dimension)
        if self.final is None:
            return np.arange(repetition * size, (repetition + 1) * size), None
        rng = np.random.default_rng([self.seed, self.repetitions, repetition])
        return rng.integers(self.final, size=size), rng.choice(np.array([-1, 1], np.float32), size)

    def _together(self, starts: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield runs of sets, by the first and the one behind the last, whose tables fit in memory."""
        first = 0
        while first < len(starts) - 1:
            most = starts[first] + _VALUES // self.partitions
            last = int(np.searchsorted(starts, most, side="right")) - 1
            wide = _VALUES // (self.partitions * (self.projected or self.dimension))
            last = max(first + 1, min(last, first + wide))
            yield first, last
            first = last


def _nearest(codes: np.ndarray, starts: np.ndarray, parts: int) -> np.ndarray:
    """Return for each set and partition the vector on the wrong side of the fewest planes, the first of such.

    Args:
        codes: [M] int64, the partition of each vector.
        starts: [N + 1] int64, of which no two are equal but those of empty sets.
        parts: how many partitions there are.

    Returns:
        [N, parts] int64, vectors' numbers; 0 for an empty set.
    """
    wrong = np.bitwise_count(codes[:, None] ^ np.arange(parts)).astype(np.int64)
    filled = np.flatnonzero(np.diff(starts))
    nearest = np.zeros((len(starts) - 1, parts), np.int64)
    if len(filled):
        keys = wrong * len(codes) + np.arange(len(codes))[:, None]
        nearest[filled] = np.minimum.reduceat(keys, starts[filled], axis=0) % len(codes)
    return nearest
