"""A Qdrant server, or the client's own storage in a folder: where it is, what its points hold, and what goes wrong."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError, UnreachableError, reason

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

QDRANT_PREFIX = "qdrant:"
_NAMES = uuid.UUID("6f0f6ad4-5d0c-5d0a-9f0e-3c1b0e6f5a11")  # of the ids that point numbers are made of
_STORAGE = "meta.json"  # what the client writes to a folder first
_EXAMPLES = "qdrant:http://localhost:6333/photos, or qdrant:FOLDER/photos for the client's own storage in a folder"


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
            raise no_collection(collection, f" ({home} holds no Qdrant storage)")
        with server_errors(f"the folder {home}"):
            return QdrantClient(path=home), collection
    return QdrantClient(url=home, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False), collection


def no_collection(name: str, why: str = "") -> DataError:
    """Return the error about a collection that is not there."""
    return DataError(f"there is no Qdrant collection '{name}': make it with `mllm-embed upload`{why}")


def number(id: str) -> str:
    """Return the number of a point: a UUID made of its id, since Qdrant takes no other words."""
    return str(uuid.uuid5(_NAMES, id))


def payload_of(point: models.ScoredPoint | models.Record) -> dict[str, Any]:
    """Return what stands beside a point's vector. Raises DataError for a point that this library did not write."""
    if point.payload is None or "id" not in point.payload:
        raise DataError(f"point {point.id} of the Qdrant collection has no id: it was not sent by `mllm-embed upload`")
    return point.payload


@contextmanager
def closed_on_error(client: QdrantClient) -> Iterator[None]:
    """Close a client where anything goes wrong: it holds a lock on its own storage in a folder."""
    with ExitStack() as stack:
        stack.callback(client.close)
        yield
        stack.pop_all()


@contextmanager
def server_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong with a server, or with the client's own storage, into an UnreachableError, one sentence."""
    import httpx
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    # in a folder it is SQLite and JSON that fail, and a lock: a RuntimeError
    except (ApiException, httpx.HTTPError, OSError, sqlite3.Error, ValueError, RuntimeError) as error:
        raise UnreachableError(f"{where} cannot be reached or used ({reason(error)})") from error
