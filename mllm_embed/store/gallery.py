"""Galleries: vectors that can be searched, behind one small interface.

Here are those that are searched exactly; one that is faster is in `index`, one on a server in `search.qdrant`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from ..types import ImageLike
from ..vectors.ranking import top_k
from .vector_store import BLOCK_ROWS, VectorStore

Answer = list[tuple[str, float]]
"""Ids with their cosines, best first."""


class Gallery(Protocol):
    """Vectors that can be searched, and what made them."""

    dimension: int

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the vectors, as `MLLMEmbedder.provenance`; empty where that is not known."""
        ...

    def __len__(self) -> int:
        """Return the number of rows that can be found."""
        ...

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query, fewer in a small gallery.

        Args:
            queries: [Q, D] float32 of unit length.
            k: answers a query.
            allow: only these ids may answer; all by default.
            exclude: for each query the ids that may not.

        Raises:
            DataError: an id that is not there, k < 1, or queries of another length or with NaN.
        """
        ...

    def sources(self, ids: Sequence[str]) -> Sequence[ImageLike | None]:
        """Return the pictures of rows, or where they lie as `sources.picture_at` reads it; None where neither is known.

        Raises:
            DataError: an id is not there.
        """
        ...

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows, [n, D] float32 of unit length. Raises DataError for an id that is there already."""
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
        """Hold N vectors in memory.

        Args:
            ids: [N], each once.
            vectors: [N, D] float32 of unit length.
            pictures: [N], as paths or loaded.
            provenance: what made the vectors, where that is known.

        Raises:
            DataError: the three differ in number, an id is given twice, or there is no row at all.
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
        """Return the number of rows."""
        return len(self.ids)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query by exact scores, as `Gallery.nearest`."""
        check_queries(self.dimension, queries, k, exclude)
        check_allow(allow)
        row_of = {name: row for row, name in enumerate(self.ids)}
        exclude = exclude or [()] * len(queries)
        # ids are looked up before anything is ranked: a misspelt one must not pass for one that nothing found
        self._check_known(chain(allow or (), *exclude))
        never = set() if allow is None else set(row_of.values()).difference(row_of[name] for name in allow)
        excluded = [never.union(map(row_of.__getitem__, names)) for names in exclude]
        return named(self.ids, *top_k(queries, self.vectors, k, excluded))

    def sources(self, ids: Sequence[str]) -> list[ImageLike | None]:
        """Return the pictures of rows, as they were given."""
        return [self._pictures[name] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[ImageLike | None] | None = None) -> None:
        """Add rows, [n, D] float32 of unit length. Raises DataError for an id that is there already."""
        there = set(self.ids)
        for name in ids:
            if name in there:
                raise DataError(f'the gallery id "{name}" is given twice')
            there.add(name)
        self.ids += ids
        self._pictures |= dict(zip(ids, sources or [None] * len(ids), strict=True))
        self.vectors = np.concatenate([self.vectors, np.asarray(vectors, np.float32)])

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        gone = set(ids)
        self._check_known(sorted(gone))
        left = [row for row, name in enumerate(self.ids) if name not in gone]
        self.ids, self.vectors = [self.ids[row] for row in left], self.vectors[left]

    def _check_known(self, ids: Iterable[str]) -> None:
        """Raise DataError for the first id that is not in the gallery."""
        known = set(self.ids)
        unknown = next((name for name in ids if name not in known), None)
        if unknown is not None:
            raise DataError(f'the id "{unknown}" is not in the gallery of {len(self.ids)} pictures')


class StoreGallery:
    """A store searched exactly, block by block: as much memory as a block takes. Equal scores come in row order.

    Rows are added to the store and removed from it.
    """

    def __init__(self, store: VectorStore):
        """Search a store."""
        self.store, self.dimension = store, store.dimension

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the vectors of the store."""
        return self.store.provenance

    def __len__(self) -> int:
        """Return the number of rows that are alive."""
        return len(self.store.living)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query by exact scores, as `Gallery.nearest`."""
        excluded = excluded_rows(self.store, queries, k, exclude)
        rows = np.flatnonzero(self.store.alive) if allow is None else allowed_rows(self.store, allow)
        return named(self.store.ids, *exact(self.store, queries, k, rows, excluded))

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Return where the pictures of rows lie, None where that is not known."""
        return [self.store.sources[self.store.position(name)] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows to the store, as `VectorStore.add`."""
        self.store.add(ids, vectors, sources)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows from the store, as `VectorStore.remove`."""
        self.store.remove(ids)


def exact(
    store: VectorStore, queries: np.ndarray, k: int, rows: np.ndarray, exclude: Sequence[Collection[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of some rows for each query, by exact scores.

    Args:
        store: where the rows are.
        queries: [Q, D] float32.
        k: answers a query.
        rows: [R] int64 numbers of the rows that may answer, in order.
        exclude: for each query numbers of rows that may not.

    Returns:
        scores [Q, k] float64, -inf where there is no answer; row numbers [Q, k] int64, -1 there.
    """
    best = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(store), BLOCK_ROWS):
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + BLOCK_ROWS)]
        if len(here):
            best = merged(best, _exact_in_block(store, first, queries, k, here, exclude), k)
    return best


def _exact_in_block(
    store: VectorStore,
    first: int,
    queries: np.ndarray,
    k: int,
    rows: np.ndarray,
    exclude: Sequence[Collection[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k for each query, as `exact`, of rows that lie in the block that begins with row `first`."""
    whole = len(rows) == min(BLOCK_ROWS, len(store) - first)
    block = store.rows(first, first + BLOCK_ROWS) if whole else store.take(rows)  # a whole block is read as it lies
    place = {row: at for at, row in enumerate(rows.tolist())} if any(exclude) else {}
    scores, at = top_k(queries, block, min(k, len(rows)), [_found_in(place, numbers) for numbers in exclude])
    return np.where(at >= 0, scores, -np.inf), np.where(at >= 0, rows[at], -1)


def _found_in(place: Mapping[int, int], rows: Iterable[int]) -> list[int]:
    return [place[row] for row in rows if row in place]


def merged(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of two sets of answers, scores [Q, n] and rows [Q, n]; equal scores in order of the rows."""
    scores, rows = (np.concatenate(pair, axis=1) for pair in zip(one, other, strict=True))
    # no answer, -1, comes behind every row of the same score, -inf
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def excluded_rows(
    store: VectorStore, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None
) -> list[set[int]]:
    """Return the numbers of the rows that may not answer each query.

    Raises:
        DataError: as `check_queries`, and for an id that is not there.
    """
    check_queries(store.dimension, queries, k, exclude)
    if exclude is None:
        return [set() for _ in queries]
    return [set(map(store.position, names)) for names in exclude]


def check_queries(dimension: int, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None) -> None:
    """Raise DataError for what no gallery can answer.

    Args:
        dimension: D, of the gallery.
        queries: [Q, D] float32 without NaN.
        k: at least 1.
        exclude: [Q], or None.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise DataError(f"queries of shape {queries.shape} do not fit vectors of {dimension} numbers")
    if not np.isfinite(queries).all():
        raise DataError("a query holds NaN or infinite numbers: nothing can be near it")
    if exclude is not None and len(exclude) != len(queries):
        raise DataError(f"exclude has {len(exclude)} entries for {len(queries)} queries")


def check_allow(allow: Collection[str] | None) -> None:
    """Raise DataError where no id at all may answer; None allows all."""
    if allow is not None and not len(allow):
        raise DataError("allow names no id: nothing could be found")


def allowed_rows(store: VectorStore, allow: Collection[str]) -> np.ndarray:
    """Return the row numbers [R] int64 of these ids, in order. Raises DataError for none, or an unknown one."""
    check_allow(allow)
    return np.array(sorted({store.position(name) for name in allow}), np.int64)


def named(ids: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> list[Answer]:
    """Return scores [Q, k] and row numbers [Q, k] int64 as ids with their scores; -1 is no answer."""
    found = []
    for best, places in zip(scores.tolist(), rows.tolist(), strict=True):
        found.append([(ids[row], score) for score, row in zip(best, places, strict=True) if row >= 0])
    return found
