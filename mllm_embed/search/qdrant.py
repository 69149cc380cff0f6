"""A Qdrant collection as a gallery, for those whose vectors outgrow one machine; and its upload from a store.

A point's number is made of the id, so that an upload that was interrupted goes on, and none stands twice. Its payload
is {"id": ..., "source": ..., "row": which row of a store it was}; what made the vectors stands in the collection's
metadata (Qdrant 1.16 and later).
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..data.values import ids_of
from ..errors import ConfigError, DataError, reason
from ..saving.provenance import VECTOR_FIELDS, check_same
from ..store.gallery import Answer, check_queries
from ..store.lookup import check_allow
from ..store.vector_store import VectorStore

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

QDRANT_PREFIX = "qdrant:"
_NAMES = uuid.UUID("6f0f6ad4-5d0c-5d0a-9f0e-3c1b0e6f5a11")  # of the ids that point numbers are made of
_BATCH = 256
_STORAGE = "meta.json"  # what the client writes to a folder first
_EXAMPLES = "qdrant:http://localhost:6333/photos, or qdrant:FOLDER/photos for the client's own storage in a folder"


class QdrantGallery:
    """A collection, as a `Gallery`. The search is Qdrant's: approximate on a server, exact in local mode."""

    def __init__(self, client: QdrantClient, collection: str):
        """Search a collection that there is.

        Raises:
            DataError: the server does not answer, or has no such collection, or one of vectors with names.
        """
        from qdrant_client import models

        self.client, self.collection = client, collection
        with _server_errors(f"the collection {collection}"):
            if not client.collection_exists(collection):
                raise _no_collection(collection)
            config = client.get_collection(collection).config
        vectors = config.params.vectors
        if not isinstance(vectors, models.VectorParams):
            raise DataError(f"the collection {collection} has no vectors of one kind: make it with `mllm-embed upload`")
        self.dimension: int = vectors.size
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
        with _closed_on_error(client):
            return cls(client, collection)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the vectors, by the collection's metadata; empty where they do not say."""
        return self._provenance

    def __len__(self) -> int:
        """Return the number of points, as the server counts them."""
        with _server_errors(f"the collection {self.collection}"):
            return self.client.count(self.collection, exact=True).count

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """Return the best k points for each query, as `Gallery.nearest`."""
        from qdrant_client import models

        check_queries(self.dimension, queries, k, exclude)
        check_allow(allow)
        excluded: Sequence[Collection[str]] = exclude if exclude is not None else [()] * len(queries)
        # Qdrant takes a filter of unknown ids without a word
        self._points(set(chain(allow or (), *excluded)))
        asked = []
        for query, names in zip(queries, excluded, strict=True):
            limits = _limits(allow, names)
            asked.append(models.QueryRequest(query=query.tolist(), filter=limits, limit=k, with_payload=["id"]))
        with _server_errors(f"the collection {self.collection}"):
            answers = self.client.query_batch_points(self.collection, asked)
        return [_answer(answer.points) for answer in answers]

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Return where the pictures of rows lie, None where that is not known."""
        points = self._points(ids, payload=True)
        return [points[number(name)].payload.get("source") for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        """Add rows, [n, D] float32 of unit length. Raises DataError for an id that is there already, or given twice."""
        ids = ids_of(ids)
        twice = next((name for name, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise DataError(f'the id "{twice}" is given twice')
        there = list(self._marks(ids))
        if there:
            raise DataError(f'the id "{there[0]}" is in the collection {self.collection} already: remove it first')
        self._put(ids, np.asarray(vectors), [None] * len(ids) if sources is None else sources)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there."""
        from qdrant_client import models

        gone = list(ids)
        self._points(gone)
        with _server_errors(f"the collection {self.collection}"):
            self.client.delete(self.collection, models.PointIdsList(points=[number(name) for name in gone]), wait=True)

    def upload(self, store: VectorStore, show_progress: bool | None = None) -> int:
        """Make the collection hold what the store holds, and return how many points it has not had before.

        What is there already is not sent again, but for ids that have another vector now, and what was removed from the
        store since goes: an upload that was interrupted is called again. Points that did not come from this store stay.

        Raises:
            ConfigError: the collection's vectors were made by something else.
            DataError: the server does not answer.
        """
        check_same(self.provenance, store.provenance, VECTOR_FIELDS, f"the collection {self.collection}")
        alive, sent = store.alive, 0
        hide = None if show_progress is None else not show_progress
        with tqdm(total=len(store), desc="uploading", unit="row", disable=hide, mininterval=1) as bar:
            for first in range(0, len(store), _BATCH):
                rows = np.arange(first, min(first + _BATCH, len(store)))
                there = self._marks([store.ids[row] for row in rows])
                sent += self._send_new(store, rows[alive[rows]], there)
                self._remove_gone(store, rows[~alive[rows]], there)
                bar.update(len(rows))
        return sent

    def _send_new(self, store: VectorStore, rows: np.ndarray, there: Mapping[str, str | None]) -> int:
        """Send the rows [R] int64 of a store that are not there, or have another vector there.

        Returns how many were not there.
        """
        new = np.array([row for row in rows.tolist() if there.get(store.ids[row]) != store.mark(row)], np.int64)
        if len(new):
            ids, sources, marks = zip(
                *((store.ids[row], store.sources[row], store.mark(row)) for row in new), strict=True
            )
            self._put(ids, store.take(new), sources, marks)
        return sum(store.ids[row] not in there for row in new)

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
        marks: Sequence[str | None] | None = None,
    ) -> None:
        """Write points, in place of older ones of these ids; a mark tells whose vector of a store a point has."""
        from qdrant_client import models

        with _server_errors(f"the collection {self.collection}"):
            for at in range(0, len(ids), _BATCH):
                part = slice(at, at + _BATCH)
                rows = zip(ids[part], vectors[part], sources[part], (marks or [None] * len(ids))[part], strict=True)
                points = [
                    models.PointStruct(
                        id=number(name), vector=vector.tolist(), payload={"id": name, "source": source, "row": mark}
                    )
                    for name, vector, source, mark in rows
                ]
                self.client.upsert(self.collection, points, wait=True)

    def _marks(self, ids: Collection[str]) -> dict[str, str | None]:
        """Return those of the ids that the collection has, each with the mark of its vector, None where it has none."""
        with _server_errors(f"the collection {self.collection}"):
            found = self.client.retrieve(self.collection, [number(name) for name in ids], with_payload=["id", "row"])
        return {_payload(point)["id"]: _payload(point).get("row") for point in found}

    def _points(self, ids: Collection[str], payload: bool = False) -> dict[str, Any]:
        """Return the points of ids by their numbers. Raises DataError for an id that is not there."""
        found: dict[str, Any] = {}
        names = list(ids)
        with _server_errors(f"the collection {self.collection}"):
            for at in range(0, len(names), _BATCH):
                some = [number(name) for name in names[at : at + _BATCH]]
                found |= {str(point.id): point for point in self.client.retrieve(self.collection, some, payload)}
        unknown = next((name for name in names if number(name) not in found), None)
        if unknown is not None:
            raise DataError(f'the id "{unknown}" is not in the collection {self.collection}')
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

    with _closed_on_error(client):
        with _server_errors(place):
            if not client.collection_exists(collection):
                size = models.VectorParams(size=store.dimension, distance=models.Distance.COSINE)
                client.create_collection(collection, vectors_config=size, metadata={"made_by": dict(store.provenance)})
        gallery = QdrantGallery(client, collection)
        if gallery.dimension != store.dimension:
            raise ConfigError(
                f"{place} keeps vectors of {gallery.dimension} numbers, {store.folder} of {store.dimension}"
            )
        return gallery, gallery.upload(store, show_progress)


def connected(place: str, *, make: bool = True) -> tuple[QdrantClient, str]:
    """Return client and name of a collection, as `QdrantGallery.open` reads its place.

    Args:
        place: of the collection.
        make: whether a folder that is not there, or holds no storage of the client's, becomes one.

    Raises:
        ConfigError: the place is of another form, or qdrant-client is not installed.
        DataError: the client's own storage in a folder cannot be used, or is not there.
    """
    home, mark, collection = place.removeprefix(QDRANT_PREFIX).rpartition("/")
    if not (place.startswith(QDRANT_PREFIX) and home and mark and collection):
        raise ConfigError(f"'{place}' names no Qdrant collection; give {_EXAMPLES}")
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise ConfigError('Qdrant needs its client: pip install "mllm_embed[qdrant]"') from error
    if "://" not in home:
        if not make and not (Path(home) / _STORAGE).is_file():  # the client would make it
            raise _no_collection(collection, f" ({home} holds no Qdrant storage)")
        with _server_errors(f"the folder {home}"):
            return QdrantClient(path=home), collection
    return QdrantClient(url=home, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False), collection


def _no_collection(name: str, why: str = "") -> DataError:
    return DataError(f"there is no Qdrant collection '{name}': make it with `mllm-embed upload`{why}")


def number(id: str) -> str:
    """Return the number of a point: a UUID made of its id, since Qdrant takes no other words."""
    return str(uuid.uuid5(_NAMES, id))


def _limits(allow: Collection[str] | None, exclude: Collection[str]) -> models.Filter | None:
    """Return Qdrant's filter of the ids that may answer and that may not; None for none."""
    from qdrant_client import models

    def ids(names: Collection[str]) -> models.HasIdCondition:
        return models.HasIdCondition(has_id=[number(name) for name in names])

    if allow is None and not exclude:
        return None
    return models.Filter(must=None if allow is None else [ids(allow)], must_not=[ids(exclude)] if exclude else None)


def _answer(points: Iterable[models.ScoredPoint]) -> Answer:
    return [(_payload(point)["id"], point.score) for point in points]


def _payload(point: models.ScoredPoint | models.Record) -> dict[str, Any]:
    """Return what stands beside a point's vector. Raises DataError for a point that this library did not write."""
    if point.payload is None or "id" not in point.payload:
        raise DataError(f"point {point.id} of the Qdrant collection has no id: it was not sent by `mllm-embed upload`")
    return point.payload


@contextmanager
def _closed_on_error(client: QdrantClient) -> Iterator[None]:
    """Close a client where anything goes wrong: it holds a lock on its own storage in a folder."""
    with ExitStack() as stack:
        stack.callback(client.close)
        yield
        stack.pop_all()


@contextmanager
def _server_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong with a server, or with the client's own storage, into a DataError of one sentence."""
    import httpx
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    # in a folder it is SQLite and JSON that fail, and a lock: a RuntimeError
    except (ApiException, httpx.HTTPError, OSError, sqlite3.Error, ValueError, RuntimeError) as error:
        raise DataError(f"{where} cannot be reached or used ({reason(error)})") from error
