"""The table of a gallery in PostgreSQL: how it is made and filled, and its upload from a store.

    number    which row of a store it was, or the next: equal scores come in this order
    id        each once
    vector    of unit length
    source    where the picture lies
    metadata  {"price": 40, ...}
    mark      what tells a row of a store from any other that its id may have had; null for one that was added here

What made the vectors stands in the table's comment, which goes with it through renaming, dump and restoration.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..store.vector_store import VectorStore
from ..text import printable
from .postgres import Address

if TYPE_CHECKING:
    from psycopg import Connection

_FORMAT = "mllm_embed table 1"
_MAKE = """
CREATE TABLE {table} (
    number bigint NOT NULL,
    id text COLLATE "C" PRIMARY KEY,
    vector vector({dimension}) NOT NULL,
    source text,
    metadata jsonb NOT NULL,
    mark text
)
"""
_SEND = """
INSERT INTO {table} (number, id, vector, source, metadata, mark)
VALUES (%(number)s, %(id)s, %(vector)b, %(source)s, %(metadata)s, %(mark)s)
"""
_REPLACE = """
ON CONFLICT (id) DO UPDATE SET (number, vector, source, metadata, mark)
    = (excluded.number, excluded.vector, excluded.source, excluded.metadata, excluded.mark)
"""


_INDEXES = """
SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    JOIN pg_opclass ON pg_opclass.oid = indclass[0]
WHERE indrelid = to_regclass(%(name)s) AND indisvalid AND amname = 'hnsw' AND opcname = 'halfvec_ip_ops'
"""


class Row(NamedTuple):
    """A row of the table, as its columns."""

    number: int
    id: str
    vector: np.ndarray
    source: str | None
    metadata: Mapping[str, Any]
    mark: str | None


def read_about(connection: Connection, address: Address) -> dict[str, Any] | None:
    """Return what a table's comment says: "made_by" and "dimension"; None where there is no such table.

    Raises DataError for a table that `make_table` did not make.
    """
    text = "SELECT obj_description(oid, 'pg_class') FROM pg_class WHERE oid = to_regclass(%(name)s)"
    found = connection.execute(text, {"name": address.identifier.as_string(connection)}).fetchall()
    if not found:
        return None
    try:
        about = json.loads(found[0][0] or "")
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise DataError(
            f"{address} was not made by `mllm-embed upload`, as its comment would say: give the name of another table"
        )
    return about


def make_table(connection: Connection, address: Address, store: VectorStore) -> None:
    """Make the table for the vectors of a store."""
    from psycopg.sql import Literal

    about = {"format": _FORMAT, "dimension": store.dimension, "made_by": dict(store.provenance)}
    connection.execute(address.statement(_MAKE, dimension=Literal(store.dimension)))
    connection.execute(address.statement("CREATE INDEX ON {table} (number, id)"))
    connection.execute(address.statement("CREATE INDEX ON {table} USING gin (metadata jsonb_path_ops)"))
    # a comment takes no parameters: the driver writes the words with their quotes
    connection.execute(address.statement("COMMENT ON TABLE {table} IS {about}", about=Literal(json.dumps(about))))


def has_index(connection: Connection, address: Address) -> bool:
    """Return whether there is an index that `make_index` made."""
    name = address.identifier.as_string(connection)
    return bool(connection.execute(_INDEXES, {"name": name}).fetchall())


def make_index(connection: Connection, address: Address, dimension: int) -> None:
    """Make an index of the vectors in half precision, which takes half the room, and up to 4,000 numbers."""
    from psycopg.sql import Literal

    text = "CREATE INDEX ON {table} USING hnsw ((vector::halfvec({dimension})) halfvec_ip_ops)"
    connection.execute(address.statement(text, dimension=Literal(dimension)))


def send(connection: Connection, address: Address, rows: Sequence[Row], replace: bool = False) -> None:
    """Write rows; with `replace` in the place of those that have their ids.

    Raises DataError for a row with a zero byte, which PostgreSQL keeps in no text.
    """
    from pgvector import Vector
    from psycopg.types.json import Jsonb

    for row in rows:
        _check_texts(row)
    values = [row._asdict() | {"vector": Vector(row.vector), "metadata": Jsonb(dict(row.metadata))} for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany(address.statement(_SEND + (_REPLACE if replace else "")), values)


def _check_texts(row: Row) -> None:
    """Raise DataError, naming the place, for a row with a zero byte."""
    own = {"id": row.id, "source": row.source or ""}
    for column, held in chain(own.items(), row.metadata.items()):
        texts = held if isinstance(held, list) else [held]
        if "\0" in column or any(isinstance(text, str) and "\0" in text for text in texts):
            raise DataError(
                f'"{printable(row.id)}" has a zero byte in its column "{printable(column)}", which PostgreSQL does not '
                "keep: take it out"
            )


def known_marks(connection: Connection, address: Address, ids: Collection[str]) -> dict[str, str | None]:
    """Return those of the ids that the table has, each with its mark."""
    statement = address.statement("SELECT id, mark FROM {table} WHERE id = ANY(%(ids)s)")
    return dict(connection.execute(statement, {"ids": list(ids)}).fetchall())
