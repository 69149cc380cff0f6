"""The upload of a store to a table of PostgreSQL, which goes on where it was and follows the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..errors import ConfigError
from ..saving.provenance import VECTOR_FIELDS, check_same
from ..store.vector_store import VectorStore
from .pgvector import PgvectorGallery
from .pgvector_table import Row, known_marks, make_table, read_about, send
from .postgres import Address, Connections, one_at_a_time

if TYPE_CHECKING:
    from psycopg import Connection

_BATCH = 1000  # rows of a transaction: what a kill costs


def upload(store: VectorStore, place: str, show_progress: bool | None = None) -> tuple[PgvectorGallery, int]:
    """Make the table at `place`, as of `PgvectorGallery.open`, hold what a store holds; made where it is not there.

    What is there already is not sent again, but for rows whose vector or kept values have changed since, and what was
    removed from the store goes. Rows that did not come from a store stay.

    Returns:
        The table, and how many rows were sent.

    Raises:
        ConfigError: the place is of another form, the driver is not installed, or the table holds vectors of another
            model or length.
        DataError: the server cannot be reached, has no pgvector, or refuses, or the table was made by somebody else.
    """
    address = Address.of(place)
    connections = Connections(address, make_extension=True)
    with connections.transaction() as connection:
        one_at_a_time(connection, address.name)  # looks for the table, and makes it
        if read_about(connection, address) is None:
            make_table(connection, address, store)
    gallery = PgvectorGallery(address, connections)
    if gallery.dimension != store.dimension:
        raise ConfigError(
            f"{address} keeps vectors of {gallery.dimension} numbers, {store.folder} of {store.dimension}"
        )
    check_same(gallery.provenance, store.provenance, VECTOR_FIELDS, str(address))
    if store.columns is not None:
        gallery.check_kinds(store.columns.kinds)
    sent, hide = 0, None if show_progress is None else not show_progress
    with tqdm(total=len(store), desc="uploading", unit="row", disable=hide, mininterval=1) as bar:
        for first in range(0, len(store), _BATCH):
            rows = np.arange(first, min(first + _BATCH, len(store)))
            with connections.transaction() as connection:
                sent += _send_rows(connection, address, store, rows)
            bar.update(len(rows))
    with connections.transaction() as connection:
        # the server plans with what it knows of the rows, and would look by itself a minute later
        connection.execute(address.statement("ANALYZE {table}"))
    return gallery, sent


def _send_rows(connection: Connection, address: Address, store: VectorStore, numbers: np.ndarray) -> int:
    """Make the table hold the rows [R] int64 of a store; return how many were sent."""
    alive = store.alive[numbers]
    there = known_marks(connection, address, [store.ids[number] for number in numbers])
    metadata = [{}] * int(alive.sum()) if store.columns is None else store.columns.rows(numbers[alive])
    marks = [_mark(store, number, held) for number, held in zip(numbers[alive].tolist(), metadata, strict=True)]
    # the mark of a row is that of its own vector: one that was added in PostgreSQL has none, and is replaced
    new = [at for at, number in enumerate(numbers[alive]) if there.get(store.ids[number], "") != marks[at]]
    vectors = store.take(numbers[alive][new])
    rows = [
        Row(int(number), store.ids[number], vector, store.sources[number], metadata[at], marks[at])
        for at, number, vector in zip(new, numbers[alive][new], vectors, strict=True)
    ]
    send(connection, address, rows, replace=True)
    _remove_rows(connection, address, store, numbers[~alive], there)
    return len(rows)


def _remove_rows(
    connection: Connection, address: Address, store: VectorStore, numbers: np.ndarray, there: Mapping[str, str | None]
) -> None:
    """Remove what came from the rows [R] int64 that a store has removed, and whose ids have not come again."""
    names = [store.ids[number] for number in numbers]
    gone = [name for name in names if there.get(name) is not None and name not in store.living]
    if gone:
        connection.execute(address.statement("DELETE FROM {table} WHERE id = ANY(%(ids)s)"), {"ids": gone})


def _mark(store: VectorStore, number: int, metadata: Mapping[str, Any]) -> str:
    """Return what tells a row with its kept values from any other that its id may have had or will have."""
    if not metadata:
        return store.mark(number)
    held = json.dumps(metadata, sort_keys=True).encode()
    return f"{store.mark(number)}:{hashlib.sha256(held).hexdigest()[:16]}"
