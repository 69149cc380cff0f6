"""Galleries: vectors that can be searched, behind one small interface.

Here are those that are searched exactly; one that is faster is in `index`, those on servers are in `search`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..data.filters import Filter
from ..errors import DataError, UnknownIdError
from ..types import ImageLike
from ..vectors.matrix import Matrix
from .columns import Columns, ColumnSummary
from .exact import Answer, MemoryRows, Pairs, Rows, StoreRows, exact, named
from .lookup import Allowed, Kept, both, check_queries, excluded, grown, near_id, page_of, row_numbers, values_of
from .vector_store import VectorStore


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
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query, fewer in a small gallery.

        Args:
            queries: [Q, D] float32 of unit length.
            k: answers a query.
            allow: only these ids may answer; all by default. Ids that come again are not looked up again.
            exclude: for each query the ids that may not.
            where: only rows that fit it may answer, those of `allow` too; all by default.

        Raises:
            UnknownIdError, InputError: an id that is not there; a filter that does not fit the columns.
            DataError: k < 1, or queries of another length or with NaN.
        """
        ...

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return those of some ids that are not there, in the order given."""
        ...

    def sources(self, ids: Sequence[str]) -> Sequence[ImageLike | None]:
        """Return the pictures of rows, or where they lie as `sources.picture_at` reads it; None where neither is known.

        Raises UnknownIdError for an id that is not there.
        """
        ...

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is kept beside the vectors of rows, by the names of the columns; what a row lacks is left out.

        Raises UnknownIdError for an id that is not there.
        """
        ...

    def summary(self) -> dict[str, ColumnSummary]:
        """Return what the columns hold that are kept beside the vectors; empty where none are."""
        ...

    def page(self, offset: int, limit: int, where: Filter | None = None) -> tuple[list[str], int]:
        """Return the ids of up to `limit` rows after the first `offset`, and how many rows there are.

        The order is that of the rows, where the gallery has one, and always the same until rows come or go.

        Args:
            offset: 0 or more.
            limit: 1 or more.
            where: only rows that fit it are shown and counted.

        Raises:
            DataError: an offset or limit that is less, or a filter as of `nearest`.
        """
        ...

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows.

        Args:
            ids: [n].
            vectors: [n, D] float32 of unit length.
            sources: [n], where their pictures lie.
            metadata: [n], what is kept beside them, as `Columns.of` takes it.

        Raises:
            DataError: an id is there already, or metadata cannot be kept; nothing is added then.
        """
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
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ):
        """Hold N vectors in memory.

        Args:
            ids: [N], each once.
            vectors: [N, D] float32 of unit length.
            pictures: [N], as paths or loaded.
            provenance: what made the vectors, where that is known.
            metadata: [N], what is kept beside them to filter by, as `Columns.of` takes it.

        Raises:
            DataError: these differ in number, an id is given twice, a vector holds NaN, there is no row at all, or
                metadata cannot be kept.
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
        self._allowed, self._kept = Allowed(), Kept()
        self._columns: Columns | None = None
        self.add(ids, vectors, pictures, metadata)

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
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query by exact scores, as `Gallery.nearest`."""
        check_queries(self.dimension, queries, k, exclude)
        # ids are looked up before anything is ranked: a misspelt one must not pass for one that nothing found
        may = self._allowed.rows(self._numbers, self._names, self._alive, allow)
        may = both(may, self._kept.fit(self._columns, self._alive, where))
        pairs = excluded(self._numbers, exclude)
        return named(self._names, *exact(self._rows, queries, k, may, pairs))

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return those of some ids that are not there, in the order given."""
        return [name for name in ids if name not in self._row_of]

    def sources(self, ids: Sequence[str]) -> list[ImageLike | None]:
        """Return the pictures of rows, as they were given."""
        self._numbers(ids)
        return [self._pictures[name] for name in ids]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is kept beside the vectors of rows, as `Gallery.metadata`."""
        return values_of(self._columns, self._numbers(ids))

    def summary(self) -> dict[str, ColumnSummary]:
        """Return what the columns hold, as `Gallery.summary`."""
        return self._kept.summary(self._columns, self._alive)

    def page(self, offset: int, limit: int, where: Filter | None = None) -> tuple[list[str], int]:
        """Return a page of ids, as `Gallery.page`."""
        fit = self._kept.fit(self._columns, self._alive, where)
        return page_of(self._names, self._alive if fit is None else fit, offset, limit)

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[ImageLike | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows, as `Gallery.add`; their pictures may be given as such. Raises DataError for NaN, too."""
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
        columns = grown(self._columns, len(self), metadata, len(new))
        values = np.concatenate([old.values, more.values])  # of our own: what is given may change later
        self._hold(Matrix(values, np.concatenate([old.squares, more.squares])), [*self._row_of, *new], columns)
        self._pictures |= pictures

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        gone = set(ids)
        self._numbers(sorted(gone))
        left = np.array([row for name, row in self._row_of.items() if name not in gone], np.int64)
        columns = None if self._columns is None else self._columns.take(left)
        self._hold(self._rows.matrix[left], [name for name in self._row_of if name not in gone], columns)
        self._pictures = {name: self._pictures[name] for name in self._row_of}

    def _hold(self, matrix: Matrix, names: list[str], columns: Columns | None) -> None:
        """Take rows [N], their ids and what is kept of them."""
        matrix.values.setflags(write=False)  # its lengths are known, and must stay right
        self._rows, self._names, self._alive = MemoryRows(matrix), names, np.ones(len(names), bool)
        self._row_of, self._columns = {name: row for row, name in enumerate(names)}, columns

    def _numbers(self, ids: Collection[str]) -> np.ndarray:
        """Return the numbers [n] int64 of rows. Raises UnknownIdError for the first id that is not in the gallery."""
        try:
            return row_numbers(self._row_of, ids)
        except KeyError as error:
            unknown = next(name for name in ids if name not in self._row_of)
            told = f'the id "{unknown}" is not in the gallery of {len(self)} pictures{near_id(unknown, self._names)}'
            raise UnknownIdError(told, unknown) from error


class StoreGallery:
    """A store searched exactly, block by block: as much memory as a block takes. Equal scores come in row order.

    Rows are added to the store and removed from it.
    """

    def __init__(self, store: VectorStore):
        """Search a store."""
        self.store, self.dimension = store, store.dimension
        self.rows: Rows = StoreRows(store)
        self._allowed, self._kept = Allowed(), Kept()

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
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query by exact scores, as `Gallery.nearest`."""
        may, pairs = self._limits(queries, k, allow, exclude, where)
        return named(self.store.ids, *exact(self.rows, queries, k, may, pairs))

    def _limits(
        self,
        queries: np.ndarray,
        k: int,
        allow: Collection[str] | None,
        exclude: Sequence[Collection[str]] | None,
        where: Filter | None,
    ) -> tuple[np.ndarray | None, Pairs]:
        """Return which rows may answer, [N] bool or None for all, and the pairs that may not. Raises as `nearest`."""
        check_queries(self.dimension, queries, k, exclude)
        may = self._allowed.rows(self.store.positions, self.store.ids, self.store.alive, allow)
        may = both(may, self._fit(where))
        if may is None and len(self) < len(self.store):
            may = self.store.alive
        return may, excluded(self.store.positions, exclude)

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return those of some ids that are not there, in the order given."""
        return [name for name in ids if name not in self.store.living]

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Return where the pictures of rows lie, None where that is not known."""
        return [self.store.sources[self.store.position(name)] for name in ids]

    def _fit(self, where: Filter | None) -> np.ndarray | None:
        """Return which rows are alive and fit a filter, [N] bool; None where nothing is asked."""
        return self._kept.fit(self.store.columns, self.store.alive, where) if where else None

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is kept beside the vectors of rows, as `Gallery.metadata`."""
        return values_of(self.store.columns, self.store.positions(ids))

    def summary(self) -> dict[str, ColumnSummary]:
        """Return what the columns of the store hold, as `Gallery.summary`."""
        return self._kept.summary(self.store.columns, self.store.alive)

    def page(self, offset: int, limit: int, where: Filter | None = None) -> tuple[list[str], int]:
        """Return a page of ids in the order of the rows, as `Gallery.page`."""
        fit = self._fit(where)
        return page_of(self.store.ids, self.store.alive if fit is None else fit, offset, limit)

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows to the store, as `VectorStore.add`."""
        self.store.add(ids, vectors, sources, metadata)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows from the store, as `VectorStore.remove`."""
        self.store.remove(ids)
