"""Places where vectors live, and what is there; `SERVERS` has a line for each kind of server."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..index.files import SETTINGS_FILE
from ..store.files import MANIFEST
from ..store.gallery import Gallery, StoreGallery
from ..store.several.gallery import MultiGallery, keeps_several
from ..store.vector_store import VectorStore
from . import pgvector_upload, qdrant
from .pgvector import PgvectorGallery
from .postgres import POSTGRES_PREFIXES, Address
from .qdrant import QDRANT_PREFIX, QdrantGallery

_USER = re.compile(r"//.*@")  # of a URL, perhaps with a password
_EXAMPLES = "qdrant:URL/COLLECTION for a Qdrant server, or postgresql://HOST/DATABASE#TABLE for PostgreSQL"


@dataclass(frozen=True)
class Server:
    """A kind of server that keeps vectors.

    Args:
        prefixes: how its places begin.
        open: opens what is at a place.
        upload: makes what is at a place hold what a store holds; returns it, and how many rows were new. The third
            argument is whether to show a bar, None for one on a terminal.
        shown: returns a place without what is secret.
        shared: returns whether several processes can have a place open.
        index: makes an index of what `upload` returned; None where the server makes its own.
    """

    prefixes: tuple[str, ...]
    open: Callable[[str], Gallery]
    upload: Callable[[VectorStore, str, bool | None], tuple[Gallery, int]]
    shown: Callable[[str], str]
    shared: Callable[[str], bool]
    index: Callable[[Any], None] | None = None


def _without_user(place: str) -> str:
    return _USER.sub("//", place)


SERVERS = (
    # in a folder it is the client's own storage, which locks it
    Server((QDRANT_PREFIX,), QdrantGallery.open, qdrant.upload, _without_user, lambda place: "://" in place),
    Server(
        POSTGRES_PREFIXES,
        PgvectorGallery.open,
        pgvector_upload.upload,
        lambda place: str(Address.of(place)),
        lambda place: True,
        PgvectorGallery.make_index,
    ),
)


def stored_gallery(place: str | os.PathLike[str], verify: bool = True) -> Gallery | None:
    """Open the store, index, Qdrant collection or PostgreSQL table at `place`; None for another folder, perhaps of
    pictures.

    `verify` is as of `VectorStore.open` and `Index.open`.

    Raises:
        DataError: it is damaged, or not there.
        ConfigError: it is another URL, or on a server whose client is not installed.
    """
    server = _server(os.fspath(place))
    if server is not None:
        return server.open(os.fspath(place))
    if (Path(place) / MANIFEST).is_file():
        store = VectorStore.open(place, verify=verify)
        return MultiGallery(store) if keeps_several(store) else StoreGallery(store)
    if (Path(place) / SETTINGS_FILE).is_file():
        from ..index.faiss_index import Index

        return Index.open(place, verify=verify)
    _check_folder(os.fspath(place))
    return None


def upload(
    store: VectorStore, place: str, show_progress: bool | None = None, index: bool = False
) -> tuple[Gallery, int]:
    """Make the Qdrant collection or PostgreSQL table at `place` hold what a store holds.

    Args:
        store: what to send.
        place: where to.
        show_progress: None shows a bar on a terminal.
        index: make an index, as of `PgvectorGallery.make_index`, with which searches are faster, and approximate.

    Returns:
        It, and how many rows were sent, since they were not there or have changed.

    Raises:
        ConfigError: the place is none of a server, holds vectors of another model or length, or takes no index.
        DataError: the server cannot be reached, or refuses.
    """
    server = _server(place)
    if server is None:
        raise ConfigError(f"'{shown_place(place)}' names no Qdrant collection or PostgreSQL table: give {_EXAMPLES}")
    if index and server.index is None:
        raise ConfigError(f"{shown_place(place)} takes no --index: such a server makes its own")
    store.rows(0, 0)  # a store of several vectors a row says so before anything is made
    gallery, sent = server.upload(store, place, show_progress)
    if index and server.index is not None:
        server.index(gallery)
    return gallery, sent


def shown_place(place: str | os.PathLike[str]) -> str:
    """Return a place as it may be printed, without user and password. Raises ConfigError for one that is malformed."""
    server = _server(os.fspath(place))
    return server.shown(os.fspath(place)) if server is not None else _without_user(os.fspath(place))


def shared(place: str) -> bool | None:
    """Return whether several processes can have a gallery of a server open; None where each reads files for itself."""
    server = _server(place)
    return None if server is None else server.shared(place)


def _server(place: str) -> Server | None:
    return next((server for server in SERVERS if place.startswith(server.prefixes)), None)


def _check_folder(place: str) -> None:
    """Raise an error for what can be no gallery: a URL, a file, or nothing at all."""
    if "://" in place:
        raise ConfigError(f"{shown_place(place)} is a URL, and nothing is downloaded: give a local folder, {_EXAMPLES}")
    if Path(place).is_file():
        raise DataError(f"{place} is a file: make a store of it with `mllm-embed encode`, and search that")
    if not Path(place).exists():
        raise DataError(
            f"{place} is missing: give a store, an index, a Qdrant collection, a PostgreSQL table, or a folder of "
            "pictures"
        )
