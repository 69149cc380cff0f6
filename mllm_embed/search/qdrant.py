"""A Qdrant collection as a gallery, for those whose vectors outgrow one machine; and its upload from a store.

A point's number is made of the id, so that an upload that was interrupted goes on, and none stands twice. Its payload
is {"id": ..., "source": ..., "row": which row of a store it was, "metadata": {column: value}, "kept": its digest};
what made the vectors stands in the collection's metadata (Qdrant 1.16 and later), with the kinds of the columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..data.filters import Filter
from ..data.values import ids_of
from ..errors import ConfigError, DataError, UnknownIdError
from ..saving.provenance import VECTOR_FIELDS, check_same
from ..store.columns import Columns, ColumnSummary
from ..store.exact import Answer
from ..store.lookup import check_allow, check_page, check_queries
from ..store.vector_store import VectorStore
from .qdrant_columns import DIGEST, KEPT, QdrantColumns, digest_of, kept_payload, limits
from .qdrant_server import QDRANT_PREFIX, closed_on_error, connected, no_collection, number, payload_of, server_errors

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

__all__ = ["QDRANT_PREFIX", "QdrantGallery", "upload"]
_BATCH = 256
_PASSED = 10_000  # points that are passed over at a time, on the way to a page


class QdrantGallery:
    """A collection, as a `Gallery`. The search is Qdrant's: approximate on a server, exact in local mode."""

    def __init__(self, client: QdrantClient, collection: str):
        """Search a collection that there is.

        Raises:
            DataError: the server does not answer, or has no such collection, or one of vectors with names.
        """
        from qdrant_client import models

        self.client, self.collection = client, collection
        with server_errors(f"the collection {collection}"):
            if not client.collection_exists(collection):
                raise no_collection(collection)
            config = client.get_collection(collection).config
        vectors = config.params.vectors
        if not isinstance(vectors, models.VectorParams):
            raise DataError(f"the collection {collection} has no vectors of one kind: make it with `mllm-embed upload`")
        self.dimension: int = vectors.size
        self.columns = QdrantColumns(client, collection)
        self._provenance: dict[str, Any] = (getattr(config, "metadata", None) or {}).get("made_by", {})

    @classmethod
    def open(cls, place: str) -> QdrantGallery:
        """Open the collection at "qdrant:URL/COLLECTION" or "qdrant:FOLDER/COLLECTION".

        The environment's QDRANT_API_KEY is the server's key.

        Raises:
            ConfigError: the place is of another form, or qdrant-client is not installed.
            DataError: the server does not answer, there is no such storage, or no such collection.
        """
        client, collection = connected(place, make=False)
        with closed_on_error(client):
            return cls(client, collection)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the vectors, by the collection's metadata; empty where they do not say."""
        return self._provenance

    def __len__(self) -> int:
        """Return the number of points, as the server counts them."""
        with server_errors(f"the collection {self.collection}"):
            return self.client.count(self.collection, exact=True).count

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k points for each query, as `Gallery.nearest`."""
        from qdrant_client import models

        check_queries(self.dimension, queries, k, exclude)
        check_allow(allow)
        excluded: Sequence[Collection[str]] = exclude if exclude is not None else [()] * len(queries)
        # Qdrant takes a filter of unknown ids without a word
        self._points(set(chain(allow or (), *excluded)))
        with server_errors(f"the collection {self.collection}"):
            conditions = self.columns.conditions(where)
            asked = []
            for query, names in zip(queries, excluded, strict=True):
                may = limits(allow, names, conditions)
                asked.append(models.QueryRequest(query=query.tolist(), filter=may, limit=k, with_payload=["id"]))
            answers = self.client.query_batch_points(self.collection, asked)
        return [_answer(answer.points) for answer in answers]

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return those of some ids that are not there, in the order given."""
        found = self._found(ids)
        return [name for name in ids if number(name) not in found]

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Return where the pictures of rows lie, None where that is not known."""
        points = self._points(ids, payload=True)
        return [points[number(name)].payload.get("source") for name in ids]

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is kept beside the vectors of rows, as `Gallery.metadata`."""
        points = self._points(ids, payload=True)
        return [points[number(name)].payload.get(KEPT) or {} for name in ids]

    def summary(self) -> dict[str, ColumnSummary]:
        """Return what the columns hold, as `QdrantColumns.summary`."""
        with server_errors(f"the collection {self.collection}"):
            return self.columns.summary()

    def page(self, offset: int, limit: int, where: Filter | None = None) -> tuple[list[str], int]:
        """Return a page of ids, as `Gallery.page`, in the order of the points' numbers, which are made of the ids."""
        check_page(offset, limit)
        at: Any = None
        with server_errors(f"the collection {self.collection}"):
            may = limits(None, (), self.columns.conditions(where))
            total = self.client.count(self.collection, count_filter=may, exact=True).count
            if offset >= total:
                return [], total
            while offset:  # a collection knows no row by how many come before it
                some = min(offset, _PASSED)
                _, at = self.client.scroll(self.collection, may, limit=some, offset=at, with_payload=False)
                if at is None:
                    return [], total
                offset -= some
            points, _ = self.client.scroll(self.collection, may, limit=limit, offset=at, with_payload=["id"])
        return [payload_of(point)["id"] for point in points], total

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows, as `Gallery.add`."""
        ids = ids_of(ids)
        twice = next((name for name, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise DataError(f'the id "{twice}" is given twice')
        there = list(self._marks(ids))
        if there:
            raise DataError(f'the id "{there[0]}" is in the collection {self.collection} already: remove it first')
        sources = [None] * len(ids) if sources is None else sources
        columns = Columns.of([{}] * len(ids) if metadata is None else metadata)
        if len(columns) != len(ids):
            raise DataError(f"{len(ids)} ids do not fit the metadata of {len(columns)} rows")
        self._put(ids, np.asarray(vectors), sources, None, self._taken(columns).rows(range(len(ids))))

    def _taken(self, columns: Columns) -> Columns:
        """Return columns, of which the collection knows from now on."""
        with server_errors(f"the collection {self.collection}"):
            self.columns.take(columns)
        return columns

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        from qdrant_client import models

        gone = list(ids)
        self._points(gone)
        with server_errors(f"the collection {self.collection}"):
            self.client.delete(self.collection, models.PointIdsList(points=[number(name) for name in gone]), wait=True)

    def upload(self, store: VectorStore, show_progress: bool | None = None) -> int:
        """Make the collection hold what the store holds, and return how many points were sent.

        What is there already is not sent again, but for ids that have another vector now, or other values beside it,
        and what was removed from the store since goes: an upload that was interrupted is called again. Points that did
        not come from this store stay.

        Raises:
            ConfigError: the collection's vectors were made by something else.
            DataError: the server does not answer, or a column cannot be kept there.
        """
        check_same(self.provenance, store.provenance, VECTOR_FIELDS, f"the collection {self.collection}")
        columns = None if store.columns is None else self._taken(store.columns)
        alive, sent = store.alive, 0
        hide = None if show_progress is None else not show_progress
        with tqdm(total=len(store), desc="uploading", unit="row", disable=hide, mininterval=1) as bar:
            for first in range(0, len(store), _BATCH):
                rows = np.arange(first, min(first + _BATCH, len(store)))
                there = self._marks([store.ids[row] for row in rows])
                kept = [{} for _ in rows] if columns is None else columns.rows(rows)
                sent += self._send_new(store, rows[alive[rows]], dict(zip(rows.tolist(), kept, strict=True)), there)
                self._remove_gone(store, rows[~alive[rows]], there)
                bar.update(len(rows))
        return sent

    def _send_new(
        self,
        store: VectorStore,
        rows: np.ndarray,
        kept: Mapping[int, Mapping[str, Any]],
        there: Mapping[str, tuple[str | None, str | None]],
    ) -> int:
        """Send the rows [R] int64 of a store that are not there, or have another vector or other values there.

        Returns how many those are.
        """
        marks = {row: (store.mark(row), digest_of(kept[row])) for row in rows.tolist()}
        new = np.array([row for row, mark in marks.items() if there.get(store.ids[row]) != mark], np.int64)
        if len(new):
            some = new.tolist()
            ids, sources = [store.ids[row] for row in some], [store.sources[row] for row in some]
            self._put(ids, store.take(new), sources, [marks[row][0] for row in some], [kept[row] for row in some])
        return len(new)

    def _remove_gone(self, store: VectorStore, rows: np.ndarray, there: Collection[str]) -> None:
        """Remove what is there of the rows [R] int64 that a store has removed."""
        names = [store.ids[row] for row in rows]
        # an id may have come again, with another row
        gone = [name for name in names if name in there and name not in store.living]
        if gone:
            self.remove(gone)

    def _put(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None],
        marks: Sequence[str | None] | None,
        kept: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write points, in place of older ones of these ids; a mark tells whose vector of a store a point has."""
        from qdrant_client import models

        marks = marks or [None] * len(ids)
        with server_errors(f"the collection {self.collection}"):
            for at in range(0, len(ids), _BATCH):
                part = slice(at, at + _BATCH)
                rows = zip(ids[part], vectors[part], sources[part], marks[part], kept[part], strict=True)
                points = [
                    models.PointStruct(
                        id=number(name),
                        vector=vector.tolist(),
                        payload={"id": name, "source": source, "row": mark, **kept_payload(values)},
                    )
                    for name, vector, source, mark, values in rows
                ]
                self.client.upsert(self.collection, points, wait=True)

    def _marks(self, ids: Collection[str]) -> dict[str, tuple[str | None, str | None]]:
        """Return those of the ids that the collection has: the marks of vector and values, None where it has none."""
        with server_errors(f"the collection {self.collection}"):
            numbers = [number(name) for name in ids]
            found = self.client.retrieve(self.collection, numbers, with_payload=["id", "row", DIGEST])
        payloads = map(payload_of, found)
        return {payload["id"]: (payload.get("row"), payload.get(DIGEST)) for payload in payloads}

    def _points(self, ids: Collection[str], payload: bool = False) -> dict[str, Any]:
        """Return the points of ids by their numbers. Raises UnknownIdError for an id that is not there."""
        found = self._found(ids, payload)
        unknown = next((name for name in ids if number(name) not in found), None)
        if unknown is not None:
            raise UnknownIdError(f'the id "{unknown}" is not in the collection {self.collection}', unknown)
        return found

    def _found(self, ids: Collection[str], payload: bool = False) -> dict[str, Any]:
        """Return the points of those ids that are there, by their numbers."""
        found: dict[str, Any] = {}
        names = list(ids)
        with server_errors(f"the collection {self.collection}"):
            for at in range(0, len(names), _BATCH):
                some = [number(name) for name in names[at : at + _BATCH]]
                found |= {str(point.id): point for point in self.client.retrieve(self.collection, some, payload)}
        return found


def upload(store: VectorStore, place: str, show_progress: bool | None = None) -> tuple[QdrantGallery, int]:
    """Make the collection at `place`, as of `QdrantGallery.open`, hold what a store holds; made where it is not there.

    Returns:
        The collection, and how many points were sent.

    Raises:
        ConfigError: it holds vectors of another model or length.
        DataError: the server does not answer.
    """
    client, collection = connected(place)  # which says so where the client is not installed
    from qdrant_client import models

    with closed_on_error(client):
        with server_errors(place):
            if not client.collection_exists(collection):
                size = models.VectorParams(size=store.dimension, distance=models.Distance.COSINE)
                client.create_collection(collection, vectors_config=size, metadata={"made_by": dict(store.provenance)})
        gallery = QdrantGallery(client, collection)
        if gallery.dimension != store.dimension:
            raise ConfigError(
                f"{place} keeps vectors of {gallery.dimension} numbers, {store.folder} of {store.dimension}"
            )
        return gallery, gallery.upload(store, show_progress)


def _answer(points: Iterable[models.ScoredPoint]) -> Answer:
    return [(payload_of(point)["id"], point.score) for point in points]
