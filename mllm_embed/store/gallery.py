"""What can be searched: vectors behind one small interface, exact here, faster in `index` and elsewhere in `qdrant`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from ..types import ImageLike
from ..vectors.ranking import top_k
from .vector_store import SHARD_ROWS, VectorStore

Answer = list[tuple[str, float]]
"""Ids with their cosines, best first."""


class Gallery(Protocol):
    """Vectors that can be found, and what made them."""

    dimension: int

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Of the vectors, as `MLLMEmbedder.provenance`; empty where that is not known."""
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

    def sources(self, ids: Sequence[str]) -> Sequence[ImageLike | None]:
        """The pictures of rows, or where they lie as `sources.picture_at` reads it; None where that is not known."""
        ...

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows: [n, D] float32 of unit length. Raises DataError for an id that is there already."""
        ...

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        ...


class MemoryGallery:
    """Vectors in memory, searched exactly. Equal scores come in the order given."""

    def __init__(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        pictures: Sequence[ImageLike],
        provenance: Mapping[str, Any] | None = None,
    ):
        """Keep them: [N, D] float32 for N ids and their pictures, as paths or loaded.

        Raises DataError for numbers that differ, an id given twice, no row at all.
        """
        if not len(ids):
            raise DataError("the gallery is empty: there is nothing to search")
        if not len(ids) == len(pictures) == len(vectors):
            raise DataError(f"{len(ids)} ids, {len(pictures)} pictures and {len(vectors)} vectors do not fit together")
        self.provenance, self.dimension = dict(provenance or {}), vectors.shape[1]
        self.ids: list[str] = []
        self._pictures: dict[str, ImageLike | None] = {}
        self.vectors = np.empty((0, self.dimension), np.float32)
        self.add(ids, vectors, pictures)

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """As `Gallery.nearest`."""
        check_queries(self.dimension, queries, k, exclude)
        if allow is not None and not len(allow):
            raise DataError("allow names no id: nothing could be found")
        place = {name: at for at, name in enumerate(self.ids)}
        self._known([name for names in (allow or (), *(exclude or ())) for name in names])
        never = set() if allow is None else {place[name] for name in self.ids if name not in set(allow)}
        left_out = [never | {place[name] for name in names} for names in exclude or [()] * len(queries)]
        scores, rows = top_k(queries, self.vectors, k, left_out)
        return [
            [(self.ids[row], score) for score, row in zip(best, found, strict=True) if row >= 0]
            for best, found in zip(scores.tolist(), rows.tolist(), strict=True)
        ]

    def sources(self, ids: Sequence[str]) -> list[ImageLike | None]:
        return [self._pictures[name] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[ImageLike | None] | None = None) -> None:
        there = set(self.ids)
        for name in ids:
            if name in there:
                raise DataError(f'the gallery id "{name}" is given twice')
            there.add(name)
        self.ids += ids
        self._pictures |= dict(zip(ids, sources or [None] * len(ids), strict=True))
        self.vectors = np.concatenate([self.vectors, np.asarray(vectors, np.float32)])

    def remove(self, ids: Iterable[str]) -> None:
        gone = set(ids)
        self._known(sorted(gone))
        kept = [at for at, name in enumerate(self.ids) if name not in gone]
        self.ids, self.vectors = [self.ids[at] for at in kept], self.vectors[kept]

    def _known(self, ids: Sequence[str]) -> None:
        known = set(self.ids)
        unknown = next((name for name in ids if name not in known), None)
        if unknown is not None:
            raise DataError(f'the id "{unknown}" is not in the gallery of {len(self.ids)} pictures')


class StoreGallery:
    """A store searched exactly, block by block: as much memory as a block takes. Equal scores come in row order."""

    def __init__(self, store: VectorStore):
        self.store, self.dimension = store, store.dimension

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.store.provenance

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
    check_queries(store.dimension, queries, k, exclude)
    if exclude is None:
        return [set() for _ in queries]
    return [{store.position(name) for name in names} for names in exclude]


def check_queries(dimension: int, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None) -> None:
    """Raises DataError for what no gallery of vectors of `dimension` numbers can answer."""
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise DataError(f"queries of shape {queries.shape} do not fit vectors of {dimension} numbers")
    if not np.isfinite(queries).all():
        raise DataError("a query holds NaN or infinite numbers: nothing can be near it")
    if exclude is not None and len(exclude) != len(queries):
        raise DataError(f"exclude has {len(exclude)} entries for {len(queries)} queries")


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
