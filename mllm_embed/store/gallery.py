"""Galleries: vectors that can be searched, behind one small interface.

Here are those that are searched exactly; one that is faster is in `index`, one on a server in `search.qdrant`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import DataError
from ..types import ImageLike
from ..vectors.matrix import Matrix
from .exact import MemoryRows, Pairs, StoreRows, exact
from .lookup import Allowed, excluded, near_id, row_numbers
from .vector_store import VectorStore

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
            allow: only these ids may answer; all by default. Ids that come again are not looked up again.
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
            DataError: the three differ in number, an id is given twice, a vector holds NaN, or there is no row at all.
        """
        if not len(ids):
            raise DataError("the gallery is empty: there is nothing to search")
        if vectors.ndim != 2:
            raise DataError(f"vectors of shape {vectors.shape} are no matrix: give one vector a row")
        if not len(ids) == len(pictures) == len(vectors):
            raise DataError(f"{len(ids)} ids, {len(pictures)} pictures and {len(vectors)} vectors do not fit together")
        self.provenance, self.dimension = dict(provenance or {}), vectors.shape[1]
        self._rows = MemoryRows(Matrix.of(np.empty((0, self.dimension)), "gallery"))
        self._row_of: dict[str, int] = {}
        self._pictures: dict[str, ImageLike | None] = {}
        self._allowed = Allowed()
        self.add(ids, vectors, pictures)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    @property
    def ids(self) -> list[str]:
        """The id of every row."""
        return list(self._row_of)

    @property
    def vectors(self) -> np.ndarray:
        """The vectors [N, D] float32, not to be written to: `add` and `remove` change what is searched."""
        return self._rows.matrix.values

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
        # ids are looked up before anything is ranked: a misspelt one must not pass for one that nothing found
        may = self._allowed.rows(self._numbers, self._names, self._alive, allow)
        pairs = excluded(self._numbers, exclude)
        return named(self._names, *exact(self._rows, queries, k, may, pairs))

    def sources(self, ids: Sequence[str]) -> list[ImageLike | None]:
        """Return the pictures of rows, as they were given."""
        self._numbers(ids)
        return [self._pictures[name] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[ImageLike | None] | None = None) -> None:
        """Add rows, [n, D] float32 of unit length. Raises DataError for an id that is there already, or for NaN."""
        new: dict[str, int] = {}
        for row, name in enumerate(ids, len(self)):
            if name in self._row_of or name in new:
                raise DataError(f'the gallery id "{name}" is given twice')
            new[name] = row
        pictures = dict(zip(ids, [None] * len(ids) if sources is None else sources, strict=True))
        if np.shape(vectors) != (len(new), self.dimension):
            raise DataError(
                f"{len(new)} ids do not fit vectors of shape {np.shape(vectors)}: give [n, {self.dimension}]"
            )
        old, more = self._rows.matrix, Matrix.of(vectors, "gallery")
        values = np.concatenate([old.values, more.values])  # of our own: what is given may change later
        self._hold(Matrix(values, np.concatenate([old.squares, more.squares])), [*self._row_of, *new])
        self._pictures |= pictures

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        gone = set(ids)
        self._numbers(sorted(gone))
        left = np.array([row for name, row in self._row_of.items() if name not in gone], np.int64)
        self._hold(self._rows.matrix[left], [name for name in self._row_of if name not in gone])
        self._pictures = {name: self._pictures[name] for name in self._row_of}

    def _hold(self, matrix: Matrix, names: list[str]) -> None:
        """Take rows [N] and their ids."""
        matrix.values.setflags(write=False)  # its lengths are known, and must stay right
        self._rows, self._names, self._alive = MemoryRows(matrix), names, np.ones(len(names), bool)
        self._row_of = {name: row for row, name in enumerate(names)}

    def _numbers(self, ids: Collection[str]) -> np.ndarray:
        """Return the numbers [n] int64 of rows. Raises DataError for the first id that is not in the gallery."""
        try:
            return row_numbers(self._row_of, ids)
        except KeyError as error:
            unknown = next(name for name in ids if name not in self._row_of)
            near = near_id(unknown, self._names)
            raise DataError(f'the id "{unknown}" is not in the gallery of {len(self)} pictures{near}') from error


class StoreGallery:
    """A store searched exactly, block by block: as much memory as a block takes. Equal scores come in row order.

    Rows are added to the store and removed from it.
    """

    def __init__(self, store: VectorStore):
        """Search a store."""
        self.store, self.dimension = store, store.dimension
        self.rows, self._allowed = StoreRows(store), Allowed()

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
        may, pairs = self._limits(queries, k, allow, exclude)
        return named(self.store.ids, *exact(self.rows, queries, k, may, pairs))

    def _limits(
        self,
        queries: np.ndarray,
        k: int,
        allow: Collection[str] | None,
        exclude: Sequence[Collection[str]] | None,
    ) -> tuple[np.ndarray | None, Pairs]:
        """Return which rows may answer, [N] bool or None for all, and the pairs that may not. Raises as `nearest`."""
        check_queries(self.dimension, queries, k, exclude)
        may = self._allowed.rows(self.store.positions, self.store.ids, self.store.alive, allow)
        if may is None and len(self) < len(self.store):
            may = self.store.alive
        return may, excluded(self.store.positions, exclude)

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Return where the pictures of rows lie, None where that is not known."""
        return [self.store.sources[self.store.position(name)] for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows to the store, as `VectorStore.add`."""
        self.store.add(ids, vectors, sources)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows from the store, as `VectorStore.remove`."""
        self.store.remove(ids)


def ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best k of answers, scores [Q, n] and rows [Q, n]; equal scores in order of the rows."""
    # no answer, -1, comes behind every row of the same score, -inf
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)[:, :k]
    queries = np.arange(len(rows))[:, None]
    return scores[queries, order], rows[queries, order]


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


def named(ids: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> list[Answer]:
    """Return scores [Q, k] and row numbers [Q, k] int64 as ids with their scores; -1 is no answer."""
    found = []
    for best, places in zip(scores.tolist(), rows.tolist(), strict=True):
        found.append([(ids[row], score) for score, row in zip(best, places, strict=True) if row >= 0])
    return found
