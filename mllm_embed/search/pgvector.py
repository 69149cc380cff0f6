"""A PostgreSQL table with pgvector as a gallery, for those who have such a server; `pgvector_table` says what it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.filters import KINDS, Filter, check_columns
from ..data.values import ids_of
from ..errors import ConfigError, DataError, InputError, UnknownIdError
from ..store.columns import Columns, ColumnSummary
from ..store.exact import Answer
from ..store.lookup import check_allow, check_page, check_queries, near_id
from ..text import half_character
from ..vectors.unit import unit
from .pgvector_table import Row, has_index, known_marks, make_index, read_about, send
from .postgres import Address, Connections
from .sql_columns import KIND_OF, SUMMARY, SUMMARY_PLACES, column_summaries, filter_conditions

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import SQL

# what is added to it keeps an index from being taken, whoever made one
_EXACT = (
    "SELECT id, (vector <#> %(query)b) + 0 AS distance FROM {table} {where} ORDER BY distance, number, id LIMIT %(k)s"
)
_INDEXED = """
SELECT id, vector <#> %(query)b AS distance FROM (
    SELECT number, id, vector FROM {table} {where}
    ORDER BY vector::halfvec({dimension}) <#> (%(query)b)::halfvec({dimension}) LIMIT %(near)s
) AS near ORDER BY distance, number, id LIMIT %(k)s
"""
# of the index: rows that are looked at, and on until enough of them may answer
_EFFORT = "SELECT set_config('hnsw.ef_search', %(near)s, true), set_config('hnsw.iterative_scan', 'strict_order', true)"
_KIND = """
SELECT type FROM {table}, jsonb_typeof(jsonb_path_query_first(metadata -> %(column)s, '$[*]')) AS type
WHERE jsonb_exists(metadata, %(column)s) AND type IN ('string', 'number', 'boolean') LIMIT 1
"""
_LONGEST_INDEXED = 4000  # numbers of a vector in half precision
_SUGGESTED = 10_000  # ids among which a misspelt one is looked for


class PgvectorGallery:
    """A table, as a `Gallery`, which threads may share.

    The search is exact, and equal scores come in order of the rows. With an index, by `make_index`, it is approximate:
    some answers may not be the best, but as many come as may answer.
    """

    def __init__(self, address: Address, connections: Connections):
        """Search a table that there is.

        Raises:
            DataError: the server cannot be reached, or has no such table, or one that `mllm-embed upload` did not make.
        """
        self.address, self.connections = address, connections
        with connections.transaction() as connection:
            about = read_about(connection, address)
            self.indexed = has_index(connection, address)
        if about is None:
            raise DataError(f"there is no table {address}: make it with `mllm-embed upload`")
        self._provenance: dict[str, Any] = about["made_by"]
        self.dimension: int = about["dimension"]
        self._kinds: dict[str, str] = {}

    @classmethod
    def open(cls, place: str) -> PgvectorGallery:
        """Open the table at "postgresql://USER@HOST/DATABASE#TABLE", or "...#SCHEMA.TABLE".

        Everything before the "#" is as libpq reads it; the password may also come from PGPASSWORD or ~/.pgpass.

        Raises:
            ConfigError: the place is of another form, or the driver is not installed.
            DataError: as `PgvectorGallery`.
        """
        address = Address.of(place)
        return cls(address, Connections(address))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the vectors, by the table's comment; empty where it does not say."""
        return self._provenance

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ask("SELECT count(*) FROM {table}")[0][0])

    def close(self) -> None:
        """Close the connections."""
        self.connections.close()

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        where: Filter | None = None,
    ) -> list[Answer]:
        """Return the best k rows for each query, as `Gallery.nearest`."""
        from pgvector import Vector
        from psycopg.sql import SQL

        check_queries(self.dimension, queries, k, exclude)
        check_allow(allow)
        excluded: Sequence[Collection[str]] = exclude if exclude is not None else [()] * len(queries)
        self._check_known(list(dict.fromkeys(chain(allow or (), *excluded))))
        conditions, values = self._limits(where)
        if allow is not None:
            conditions.append("id = ANY(%(allow)s)")
            values["allow"] = list(allow)
        if any(map(len, excluded)):
            conditions.append("id <> ALL(%(exclude)s)")
        limits = SQL(_all(conditions))
        found = []
        with self.connections.transaction() as connection:
            for query, names in zip(unit(queries), excluded, strict=True):
                asked = values | {"query": Vector(query), "exclude": list(names), "k": k}
                found.append([(name, -distance) for name, distance in self._best(connection, limits, asked)])
        return found

    def _best(self, connection: Connection, limits: SQL, asked: dict[str, Any]) -> list[tuple[str, float]]:
        """Return ids and distances of the best rows: by an index, if there is one that finds as many as asked."""
        from psycopg.sql import Literal

        if self.indexed:
            # half precision finds more than are asked for, of which exact scores choose
            near = 2 * asked["k"] + 20
            connection.execute(_EFFORT, {"near": str(min(max(near, 40), 1000))})
            statement = self.address.statement(_INDEXED, where=limits, dimension=Literal(self.dimension))
            found = connection.execute(statement, asked | {"near": near}).fetchall()
            # an index gives up where few of the rows that it meets may answer
            if len(found) == asked["k"]:
                return found
        return connection.execute(self.address.statement(_EXACT, where=limits), asked).fetchall()

    def make_index(self) -> None:
        """Make an HNSW index of the vectors in half precision, where there is none; rows that come later join it.

        Raises:
            ConfigError: the vectors are longer than pgvector indexes.
            DataError: the server refuses.
        """
        if self.dimension > _LONGEST_INDEXED:
            raise ConfigError(
                f"{self.address} keeps vectors of {self.dimension:,} numbers, and pgvector indexes no more than "
                f"{_LONGEST_INDEXED:,}: search without an index, which is exact"
            )
        with self.connections.transaction() as connection:
            if not has_index(connection, self.address):
                make_index(connection, self.address, self.dimension)
        self.indexed = True

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return those of some ids that are not there, in the order given."""
        found = self._found(ids, "id")
        return [name for name in ids if name not in found]

    def sources(self, ids: Sequence[str]) -> list[str | None]:
        """Return where the pictures of rows lie, None where that is not known."""
        return self._values_of(ids, "source")

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the kept values of rows, as `Gallery.metadata`."""
        return self._values_of(ids, "metadata")

    def summary(self) -> dict[str, ColumnSummary]:
        """Return what the kept columns hold, as `Gallery.summary`; all rows are read."""
        return column_summaries(self._ask(SUMMARY, places=SUMMARY_PLACES))

    def page(self, offset: int, limit: int, where: Filter | None = None) -> tuple[list[str], int]:
        """Return some ids in order of the rows, and how many fit, as `Gallery.page`."""
        check_page(offset, limit)
        conditions, values = self._limits(where)
        fitting = f"FROM {{table}} {_all(conditions)}"
        some = f"SELECT id {fitting} ORDER BY number, id LIMIT %(limit)s OFFSET %(offset)s"
        names = [name for (name,) in self._ask(some, **values, limit=limit, offset=offset)]
        return names, int(self._ask(f"SELECT count(*) {fitting}", **values)[0][0])

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        sources: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows, as `Gallery.add`: all of them or none."""
        names, vectors = ids_of(ids), np.asarray(vectors)
        self._check_new(names, vectors)
        kept = Columns.of([{}] * len(names) if metadata is None else metadata)
        self.check_kinds(kept.kinds)
        places = [None] * len(names) if sources is None else list(sources)
        values = zip(names, unit(vectors), places, kept.rows(range(len(names))), strict=True)
        with self.connections.transaction() as connection:
            there = known_marks(connection, self.address, names)
            if there:
                first = next(name for name in names if name in there)
                raise DataError(f'the id "{first}" is in {self.address} already: remove it first')
            last = connection.execute(
                self.address.statement("SELECT coalesce(max(number), -1) FROM {table}")
            ).fetchall()
            rows = [Row(number, *value, None) for number, value in enumerate(values, int(last[0][0]) + 1)]
            send(connection, self.address, rows)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows. Raises DataError for an id that is not there, and removes none."""
        gone = list(dict.fromkeys(ids))
        self._check_known(gone)
        with self.connections.transaction() as connection:
            statement = self.address.statement("DELETE FROM {table} WHERE id = ANY(%(ids)s)")
            if connection.execute(statement, {"ids": gone}).rowcount != len(gone):
                raise DataError(
                    f"somebody else has just removed rows of {self.address}: look again, and remove the rest"
                )

    def check_kinds(self, kinds: Mapping[str, str | None]) -> None:
        """Raise InputError for columns that hold values of another kind in the table."""
        for column, kind in kinds.items():
            held = self._kind(column, kind)
            if kind is not None and held is not None and kind != held:
                raise InputError(
                    f'the column "{column}" holds {KINDS[held]} in the table {self.address.name}, and would hold '
                    f"{KINDS[kind]}: write all of it as one kind, or to another table"
                )

    def _limits(self, where: Filter | None) -> tuple[list[str], dict[str, Any]]:
        """Return a filter as conditions and their parameters. Raises InputError where it does not fit the columns."""
        if not where:
            return [], {}
        kinds = {one.column: self._kind(one.column, one.kind) for one in where.conditions}
        if None in kinds.values():
            kinds = {name: summary.kind for name, summary in self.summary().items()}
        check_columns(where, kinds)
        return filter_conditions(where)

    def _kind(self, column: str, wanted: str | None) -> str | None:
        """Return what kind of values a column holds; None where no row has any.

        One that was seen is asked for again where it is not the wanted one: others may have written to the table since.
        """
        if self._kinds.get(column) not in ((wanted,) if wanted else KINDS):
            found = self._ask(_KIND, column=column)
            if not found:
                return None
            self._kinds[column] = KIND_OF[found[0][0]]
        return self._kinds[column]

    def _check_known(self, ids: Sequence[str]) -> None:
        """Raise UnknownIdError for an id that is not there: in a condition the server would take it without a word."""
        self._values_of(ids, "id")

    def _values_of(self, ids: Sequence[str], column: str) -> list[Any]:
        """Return what a column of the table has for some ids. Raises UnknownIdError for one that is not there."""
        found = self._found(ids, column)
        unknown = next((name for name in ids if name not in found), None)
        if unknown is not None:
            some = self._ask("SELECT id FROM {table} LIMIT %(most)s", most=_SUGGESTED)
            near = near_id(unknown, [name for (name,) in some])
            raise UnknownIdError(f'the id "{unknown}" is not in {self.address}{near}', unknown)
        return [found[name] for name in ids]

    def _found(self, ids: Collection[str], column: str) -> dict[str, Any]:
        """Return what a column of the table has for those of some ids that are there."""
        # others the server could not even be asked for
        names = [name for name in ids if "\0" not in name and not half_character(name)]
        text = f"SELECT id, {column} FROM {{table}} WHERE id = ANY(%(ids)s)"
        return dict(self._ask(text, ids=names)) if names else {}

    def _ask(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows that a query answers."""
        with self.connections.transaction() as connection:
            return connection.execute(self.address.statement(text), values).fetchall()

    def _check_new(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Raise DataError for ids that are given twice, and vectors that no table holds."""
        twice = next((name for name, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise DataError(f'the id "{twice}" is given twice')
        if vectors.shape != (len(ids), self.dimension):
            raise DataError(f"{len(ids)} ids do not fit vectors of shape {vectors.shape}: give [n, {self.dimension}]")
        if not np.isfinite(vectors).all():
            raise DataError("a vector holds NaN or infinite numbers: nothing could find it")


def _all(conditions: Sequence[str]) -> str:
    """Return conditions that must all hold as a clause of SQL; nothing for none."""
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""
