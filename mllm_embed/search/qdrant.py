"""A Qdrant collection as a gallery, for those whose vectors outgrow one machine; and its upload from a store.

A point's number is made of the id, so that an upload that was interrupted goes on, and none stands twice. Its payload
is {"id": ..., "source": ...}; what made the vectors stands in the collection's metadata (Qdrant 1.16 and later).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..errors import ConfigError, DataError
from ..saving.provenance import VECTOR_FIELDS, check_same
from ..store.gallery import Answer, check_queries
from ..store.vector_store import VectorStore

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

PREFIX = "qdrant:"
_NAMES = uuid.UUID("6f0f6ad4-5d0c-5d0a-9f0e-3c1b0e6f5a11")  # of the ids that point numbers are made of
_BATCH = 256
_EXAMPLES = "qdrant:http://localhost:6333/photos, or qdrant:FOLDER/photos for the client's own storage in a folder"


class QdrantGallery:
    """A collection, as a `Gallery`. The search is Qdrant's: approximate on a server, exact in local mode."""

    def __init__(self, client: QdrantClient, collection: str):
        """Raises DataError where the server does not answer or has no such collection."""
        self.client, self.collection = client, collection
        with _told(f"the collection {collection}"):
            if not client.collection_exists(collection):
                raise DataError(f"there is no Qdrant collection '{collection}': make it with `mllm-embed upload`")
            config = client.get_collection(collection).config
        self.dimension: int = config.params.vectors.size
        self._provenance: dict[str, Any] = (getattr(config, "metadata", None) or {}).get("made_by", {})

    @classmethod
    def open(cls, place: str) -> QdrantGallery:
        """The collection at "qdrant:URL/COLLECTION" or "qdrant:FOLDER/COLLECTION"; QDRANT_API_KEY is the server's key.

        Raises ConfigError for another form and where qdrant-client is not installed, DataError as above.
        """
        return cls(*connected(place))

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self._provenance

    def __len__(self) -> int:
        return self.client.count(self.collection, exact=True).count

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[Answer]:
        """As `Gallery.nearest`."""
        from qdrant_client import models

        check_queries(self.dimension, queries, k, exclude)
        if allow is not None and not len(allow):
            raise DataError("allow names no id: nothing could be found")
        left_out = list(exclude) if exclude is not None else [()] * len(queries)
        self._points({name for names in (allow or (), *left_out) for name in names})
        allowed = [models.HasIdCondition(has_id=[number(name) for name in allow])] if allow is not None else None
        asked = []
        for query, names in zip(queries, left_out, strict=True):
            gone = [models.HasIdCondition(has_id=[number(name) for name in names])] if names else None
            limits = models.Filter(must=allowed, must_not=gone) if allowed or gone else None
            asked.append(models.QueryRequest(query=query.tolist(), filter=limits, limit=k, with_payload=["id"]))
        with _told(f"the collection {self.collection}"):
            found = self.client.query_batch_points(self.collection, asked)
        return [[(point.payload["id"], point.score) for point in answer.points] for answer in found]

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        points = self._points(ids, payload=True)
        return [points[number(name)].payload.get("source") for name in ids]

    def add(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None] | None = None) -> None:
        there = self._there(ids)
        if there:
            raise DataError(f'the id "{there[0]}" is in the collection {self.collection} already: remove it first')
        self._put(ids, np.asarray(vectors), sources or [None] * len(ids))

    def remove(self, ids: Iterable[str]) -> None:
        from qdrant_client import models

        gone = list(ids)
        self._points(gone)
        with _told(f"the collection {self.collection}"):
            self.client.delete(self.collection, models.PointIdsList(points=[number(name) for name in gone]), wait=True)

    def upload(self, store: VectorStore, show_progress: bool | None = None) -> int:
        """Make the collection hold what the store holds; returns how many points were sent.

        What is there already is not sent again, and what was removed from the store since goes: an upload that was
        interrupted is called again. Points that did not come from this store stay.

        Raises ConfigError where the collection's vectors were made by something else.
        """
        check_same(self.provenance, store.provenance, VECTOR_FIELDS, f"the collection {self.collection}")
        alive, sent = store.alive, 0
        hide = None if show_progress is None else not show_progress
        with tqdm(total=len(store), desc="uploading", unit="row", disable=hide, mininterval=1) as bar:
            for first in range(0, len(store), _BATCH):
                rows = np.arange(first, min(first + _BATCH, len(store)))
                names = [store.ids[row] for row in rows]
                there = set(self._there(names))
                new = [row for row, name in zip(rows, names, strict=True) if alive[row] and name not in there]
                if new:
                    self._put([store.ids[at] for at in new], store.take(new), [store.sources[at] for at in new])
                gone = [name for row, name in zip(rows, names, strict=True) if not alive[row] and name in there]
                gone = [name for name in gone if name not in store.living]  # it may have come again
                if gone:
                    self.remove(gone)
                sent += len(new)
                bar.update(len(rows))
        return sent

    def _put(self, ids: Sequence[str], vectors: np.ndarray, sources: Sequence[str | None]) -> None:
        from qdrant_client import models

        with _told(f"the collection {self.collection}"):
            for at in range(0, len(ids), _BATCH):
                part = slice(at, at + _BATCH)
                points = [
                    models.PointStruct(id=number(name), vector=vector.tolist(), payload={"id": name, "source": source})
                    for name, vector, source in zip(ids[part], vectors[part], sources[part], strict=True)
                ]
                self.client.upsert(self.collection, points, wait=True)

    def _there(self, ids: Collection[str]) -> list[str]:
        """Those of the ids that the collection has."""
        with _told(f"the collection {self.collection}"):
            found = self.client.retrieve(self.collection, [number(name) for name in ids], with_payload=["id"])
        return [point.payload["id"] for point in found]

    def _points(self, ids: Collection[str], payload: bool = False) -> dict[str, Any]:
        """The points of ids by their numbers. Raises DataError for an id that is not there."""
        found: dict[str, Any] = {}
        names = list(ids)
        with _told(f"the collection {self.collection}"):
            for at in range(0, len(names), _BATCH):
                some = [number(name) for name in names[at : at + _BATCH]]
                found |= {str(point.id): point for point in self.client.retrieve(self.collection, some, payload)}
        unknown = next((name for name in names if number(name) not in found), None)
        if unknown is not None:
            raise DataError(f'the id "{unknown}" is not in the collection {self.collection}')
        return found


def upload(store: VectorStore, place: str, show_progress: bool | None = None) -> tuple[QdrantGallery, int]:
    """Make the collection at `place`, as of `QdrantGallery.open`, hold what a store holds; made where it is not there.

    Gives the collection, and how many points were sent.

    Raises ConfigError where it holds vectors of another model, DataError where the server does not answer.
    """
    from qdrant_client import models

    client, collection = connected(place)
    with _told(place):
        if not client.collection_exists(collection):
            size = models.VectorParams(size=store.dimension, distance=models.Distance.COSINE)
            client.create_collection(collection, vectors_config=size, metadata={"made_by": dict(store.provenance)})
    gallery = QdrantGallery(client, collection)
    if gallery.dimension != store.dimension:
        raise ConfigError(f"{place} keeps vectors of {gallery.dimension} numbers, {store.folder} of {store.dimension}")
    return gallery, gallery.upload(store, show_progress)


def connected(place: str) -> tuple[QdrantClient, str]:
    """Client and name of a collection. Raises ConfigError for a place of another form, or without qdrant-client."""
    home, mark, collection = place.removeprefix(PREFIX).rpartition("/")
    if not (place.startswith(PREFIX) and home and mark and collection):
        raise ConfigError(f"'{place}' names no Qdrant collection; give {_EXAMPLES}")
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise ConfigError('Qdrant needs its client: pip install "mllm_embed[qdrant]"') from error
    if "://" not in home:
        return QdrantClient(path=home), collection
    return QdrantClient(url=home, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False), collection


def number(id: str) -> str:
    """The number of a point: a UUID of its id, since Qdrant takes no other words."""
    return str(uuid.uuid5(_NAMES, id))


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What goes wrong with a server becomes one sentence."""
    import httpx
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, httpx.HTTPError, OSError) as error:
        raise DataError(f"{where} cannot be reached or used ({str(error).strip().splitlines()[0]})") from error
