"""What can be searched: vectors behind one small interface, exact here, faster in `index` and elsewhere in `qdrant`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .errors import DataError
from .ranking import top_k
from .store import SHARD_ROWS, VectorStore

Answer = list[tuple[str, float]]
"""Ids with their cosines, best first."""


class Gallery(Protocol):
    """Vectors that can be found, and what made them."""

    dimension: int

    @property
    def made_by(self) -> Mapping[str, Any]:
        """Of the vectors, as `MLLMEmbedder.made_by`; empty where that is not known."""
        ...

    def __len__(self) -> int:
        """Rows that can be found."""
        ...

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """The best k rows for each query, fewer in a small gallery.

        Args:
            queries: [Q, D] float32 of unit length.
            k: answers a query.
            allow: only these ids may answer; all by default.
            exclude: for each query the ids that may not.

        Raises DataError for an id that is not there, k < 1, and queries of another length or with NaN.
        """
        ...

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Where the pictures of rows lie, as `sources.picture_at` reads it; None where that is not known."""
        ...

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows: [n, D] float32 of unit length. Raises DataError for an id that is there already."""
        ...

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        ...


class StoreGallery:
    """A store searched exactly, block by block: as much memory as a block takes. Equal scores come in row order."""

    def __init__(self, store: VectorStore):
        self.store, self.dimension = store, store.dimension

    @property
    def made_by(self) -> Mapping[str, Any]:
        return self.store.made_by

    def __len__(self) -> int:
        return len(self.store.living)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """As `Gallery.nearest`."""
        left_out = excluded_rows(self.store, queries, k, exclude)
        rows = np.flatnonzero(self.store.alive) if allow is None else allowed_rows(self.store, allow)
        scores, found = exact(self.store, queries, k, rows, left_out)
        return answers(self.store, scores, found)

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        return [self.store.sources[self.store.position(name)] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        self.store.add(ids, vectors, sources)

    def remove(self, ids: Iterable[str]) -> None:
        self.store.remove(ids)


def exact(
    store: VectorStore, queries: np.ndarray, k: int, rows: np.ndarray, exclude: Sequence[Collection[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of some rows for each query, by exact scores.

    Args:
        store: where the rows are.
        queries: [Q, D] float32.
        k: answers a query.
        rows: [R] int64 numbers of the rows that may answer, in order.
        exclude: for each query numbers of rows that may not.

    Returns:
        scores [Q, k] float64, -inf where there is no answer; row numbers [Q, k] int64, -1 there.
    """
    scores, found = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(store), SHARD_ROWS):
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + SHARD_ROWS)]
        if not len(here):
            continue
        whole = len(here) == min(SHARD_ROWS, len(store) - first)
        block = store.rows(first, first + SHARD_ROWS) if whole else store.take(here)
        place = {row: at for at, row in enumerate(here.tolist())} if any(exclude) else {}
        out = [{place[row] for row in rows_out if row in place} for rows_out in exclude]
        best, at = top_k(queries, block, min(k, len(here)), out)
        new = np.where(at >= 0, here[at], -1)
        scores, found = merged((scores, found), (np.where(at >= 0, best, -np.inf), new), k)
    return scores, found


def merged(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of two sets of answers, scores [Q, n] and rows [Q, n]; equal scores in the order of the rows."""
    scores, rows = (np.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def excluded_rows(
    store: VectorStore, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None
) -> list[set[int]]:
    """The numbers of the rows that may not answer each query; what is asked is checked on the way."""
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    if queries.ndim != 2 or queries.shape[1] != store.dimension:
        raise DataError(f"queries of shape {queries.shape} do not fit vectors of {store.dimension} numbers")
    if not np.isfinite(queries).all():
        raise DataError("a query holds NaN or infinite numbers: nothing can be near it")
    if exclude is None:
        return [set() for _ in queries]
    if len(exclude) != len(queries):
        raise DataError(f"exclude has {len(exclude)} entries for {len(queries)} queries")
    return [{store.position(name) for name in names} for names in exclude]


def allowed_rows(store: VectorStore, allow: Collection[str]) -> np.ndarray:
    """[R] int64: the numbers of the rows with these ids, in order. Raises DataError for none, or an unknown one."""
    if not len(allow):
        raise DataError("allow names no id: nothing could be found")
    return np.array(sorted({store.position(name) for name in allow}), np.int64)


def answers(store: VectorStore, scores: np.ndarray, rows: np.ndarray) -> list[Answer]:
    """Rows [Q, k] and their scores as ids with cosines; -1 is no answer."""
    return [
        [(store.ids[row], score) for score, row in zip(best, found, strict=True) if row >= 0]
        for best, found in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
