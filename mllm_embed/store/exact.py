"""Exact search: the best rows of a matrix in memory or of a store, whatever may and may not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ..vectors.best import Best
from ..vectors.matrix import Matrix
from .vector_store import BLOCK_ROWS, StoreShard, VectorStore

Answer = list[tuple[str, float]]
"""Ids with their cosines, best first."""
Pairs = tuple[np.ndarray, np.ndarray]
"""Queries and numbers of rows that may not answer them, as two int64 arrays of one length."""
_SPARSE = 4  # rows are picked out where less than a fourth of all may answer: copying one costs as reading three does
_SMALL = 4096  # rows of shards that are read together with others


class Rows(Protocol):
    """Rows that were looked at, by their numbers from 0."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """Yield all rows in order: the number of the first, and the rows."""
        ...

    def take(self, numbers: np.ndarray) -> Matrix:
        """Return the rows of these numbers [n] int64, in their order."""
        ...


class MemoryRows:
    """Rows of a matrix."""

    def __init__(self, matrix: Matrix):
        """Hold a matrix."""
        self.matrix = matrix

    def __len__(self) -> int:
        """As `Rows.__len__`."""
        return len(self.matrix)

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """As `Rows.blocks`."""
        yield 0, self.matrix

    def take(self, numbers: np.ndarray) -> Matrix:
        """As `Rows.take`."""
        return self.matrix[numbers]


class StoreRows:
    """Rows of a store as it is at the moment, removed ones too; each is looked at once."""

    def __init__(self, store: VectorStore):
        """Read a store."""
        self.store = store
        self._looked: dict[tuple[int, tuple[StoreShard, ...]], Matrix] = {}

    def __len__(self) -> int:
        """As `Rows.__len__`."""
        return len(self.store)

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """As `Rows.blocks`; a block of float32 rows is a view of their file."""
        looked, self._looked = self._looked, {}
        first = 0
        for shards in _together(self.store.shards):
            key, last = (first, shards), first + sum(shard.rows for shard in shards)
            matrix = looked.get(key)
            if matrix is None or not len(matrix.values):
                values = self.store.rows(first, last)
                matrix = Matrix.of(values, "store") if matrix is None else Matrix(values, matrix.squares)
            yield first, matrix
            # a view costs no memory; what is decoded for each search keeps the lengths of its rows alone
            view = len(shards) == 1 and self.store.dtype == np.float32
            self._looked[key] = matrix if view else Matrix(matrix.values[:0], matrix.squares)
            first = last

    def take(self, numbers: np.ndarray) -> Matrix:
        """As `Rows.take`."""
        return Matrix.of(self.store.take(numbers), "store")


def exact(
    rows: Rows, queries: np.ndarray, k: int, may: np.ndarray | None = None, exclude: Pairs | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of the rows for each query, by exact scores, equal ones in order of the rows.

    Args:
        rows: N of them.
        queries: [Q, D] float32.
        k: answers a query.
        may: [N] bool, which rows may answer; None for all.
        exclude: pairs that may not.

    Returns:
        scores [Q, k] float32, -inf where there is no answer; numbers of rows [Q, k] int64, -1 there. k is cut to the
        number of rows that may answer any query.
    """
    if len(queries) == 1 and exclude is not None and len(exclude[1]) * 2 > len(rows):
        may, exclude = _without(len(rows), may, exclude[1]), None  # so that few rows may be left, to be picked out
    count = len(rows) if may is None else int(np.count_nonzero(may))
    nothing = np.empty(0, np.int64)
    best = Best(Matrix.of(queries, "queries"), min(k, count), exclude or (nothing, nothing))
    for block, numbers, here in _answering(rows, may, count) if count else ():
        best.see(block, numbers, here)
    return best.result()


def ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of answers, scores [Q, n] and rows [Q, n]; equal scores in order of the rows."""
    # no answer, -1, comes behind every row of the same score, -inf
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
    queries = np.arange(len(rows))[:, None]
    return scores[queries, order], rows[queries, order]


def named(ids: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> list[Answer]:
    """Return scores [Q, k] and row numbers [Q, k] int64 as ids with their scores; -1 is no answer."""
    found = []
    for best, places in zip(scores.tolist(), rows.tolist(), strict=True):
        found.append([(ids[row], score) for score, row in zip(best, places, strict=True) if row >= 0])
    return found


def _answering(
    rows: Rows, may: np.ndarray | None, count: int
) -> Iterator[tuple[Matrix, np.ndarray, np.ndarray | None]]:
    """Yield all rows that may answer, `count` of them: blocks of rows, their numbers, and which of them, as `Best`."""
    if may is not None and count * _SPARSE < len(rows):
        numbers = np.flatnonzero(may)
        for at in range(0, count, BLOCK_ROWS):
            some = numbers[at : at + BLOCK_ROWS]
            yield rows.take(some), some, None
        return
    for first, block in rows.blocks():
        here = None if may is None else may[first : first + len(block)]
        if here is None or here.any():
            yield block, np.arange(first, first + len(block)), None if here is None or here.all() else here


def _without(rows: int, may: np.ndarray | None, numbers: np.ndarray) -> np.ndarray:
    left = np.ones(rows, bool) if may is None else may.copy()
    left[numbers] = False
    return left


def _together(shards: tuple[StoreShard, ...]) -> Iterator[tuple[StoreShard, ...]]:
    """Yield shards in order: a large one alone, as it can be read as it lies, small ones as many as make a block."""
    some: list[StoreShard] = []
    for shard in shards:
        large = shard.rows >= _SMALL
        if some and (large or sum(other.rows for other in some) + shard.rows > BLOCK_ROWS):
            yield tuple(some)
            some = []
        if large:
            yield (shard,)
        elif shard.rows:
            some.append(shard)
    if some:
        yield tuple(some)
