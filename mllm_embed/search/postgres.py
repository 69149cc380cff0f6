"""PostgreSQL: the address of a table, connections that threads share, and errors of one sentence without a password."""

from __future__ import annotations

import json
import re
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..data.filters import LARGEST
from ..errors import ConfigError, DataError, InputError, UnreachableError, first_line, reason
from ..text import half_character

if TYPE_CHECKING:
    from psycopg import Connection, sql

POSTGRES_PREFIXES = ("postgresql://", "postgres://")
_TABLE = re.compile(r"(?:([^\s/@:?#.]+)\.)?([^\s/@:?#.]+)")
_LONGEST = 63  # bytes of a name, which the server would cut without a word
_WAIT = 10  # seconds for a connection, where the address does not say: the driver would wait for minutes
_EXAMPLE = "postgresql://USER@HOST/DATABASE#TABLE"


@dataclass(frozen=True)
class Address:
    """Where a table is.

    Args:
        parameters: of the connection, as libpq names them.
        schema: of the table; None for the first one of the server's search path.
        table: its name.
    """

    parameters: dict[str, Any]
    schema: str | None
    table: str

    @classmethod
    def of(cls, place: str) -> Address:
        """Return the address that a place names: a PostgreSQL URL, and the table behind a "#".

        Raises:
            ConfigError: it is of another form, or psycopg or pgvector is not installed. What the place says is not
                repeated, since a part of it may be a password.
        """
        if half_character(place):
            raise _unreadable()
        url, _, table = place.rpartition("#")
        named = _TABLE.fullmatch(table)
        if not (url.startswith(POSTGRES_PREFIXES) and named):
            raise ConfigError(
                f"the PostgreSQL address names no table: give {_EXAMPLE}, or #SCHEMA.TABLE behind the database, "
                "names without spaces and / @ : ? # ."
            )
        too_long = next((name for name in named.groups() if name and len(name.encode()) > _LONGEST), None)
        if too_long:
            raise ConfigError(f"the name {too_long} is longer than the {_LONGEST} bytes that PostgreSQL keeps of one")
        return cls(_parameters(url), named[1], named[2])

    def __str__(self) -> str:
        """Return the address without user and password."""
        known = self.parameters
        host, port = known.get("host", ""), known.get("port")
        home = "" if host.startswith("/") else host  # the folder of a socket
        behind = f":{port}" if port and "," not in host else ""
        return f"postgresql://{home}{behind}/{known.get('dbname', '')}#{self.name}"

    @property
    def name(self) -> str:
        """The table's name, with its schema where that was given."""
        return ".".join(filter(None, (self.schema, self.table)))

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name as SQL has it."""
        from psycopg import sql

        return sql.Identifier(*filter(None, (self.schema, self.table)))

    def statement(self, text: str, **parts: sql.Composable) -> sql.Composed:
        """Return a statement whose {table} is the table's name, and other words in braces other parts of SQL."""
        from psycopg import sql

        return sql.SQL(text).format(table=self.identifier, **parts)


class Connections:
    """Connections to one server, one for each of the threads that ask at the same time; kept for those that come."""

    def __init__(self, address: Address, make_extension: bool = False):
        """Connect to an address, when it is asked for.

        Args:
            address: of a table.
            make_extension: whether a database without pgvector gets it.
        """
        self._address, self._make_extension = address, make_extension
        self._idle: list[Connection] = []
        self._lock = Lock()
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Give a connection for what is done as a whole or not at all.

        Raises:
            UnreachableError: the server cannot be reached, or refuses.
            InputError: it cannot take a value.
            DataError: it has no pgvector.
        """
        with server_errors(self._address):
            connection = self._take()
            try:
                with connection.transaction():
                    yield connection
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """Close those that nobody uses, and each other one when it comes back."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for connection in idle:
            connection.close()

    def _take(self) -> Connection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            if _alive(connection):
                return connection
            connection.close()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not (self._closed or connection.closed):
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Connection:
        import psycopg

        usual: dict[str, Any] = {"connect_timeout": _WAIT, "fallback_application_name": "mllm_embed"}
        text = psycopg.conninfo.make_conninfo(**usual | self._address.parameters)
        # a statement that is prepared is planned without its values: an array of ids would be gone through for each row
        connection = psycopg.connect(text, autocommit=True, prepare_threshold=None)
        try:
            self._register(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _register(self, connection: Connection) -> None:
        """Let a connection send vectors. Raises DataError where the server has no pgvector."""
        from pgvector.psycopg import register_vector
        from psycopg import errors
        from psycopg.types import TypeInfo
        from psycopg.types.json import set_json_loads

        if TypeInfo.fetch(connection, "vector") is None:
            try:
                if self._make_extension:
                    with connection.transaction():
                        one_at_a_time(connection, "vector")
                        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except (errors.InsufficientPrivilege, errors.FeatureNotSupported, errors.UndefinedFile) as error:
                raise _no_extension(self._address, error) from error
            if TypeInfo.fetch(connection, "vector") is None:
                raise _no_extension(self._address, None)
        register_vector(connection)
        set_json_loads(partial(json.loads, parse_int=_number), connection)


def _number(digits: str) -> int | float:
    """Return a number without a point; PostgreSQL writes 1e20 as such a one too."""
    return float(digits) if abs(int(digits)) > LARGEST else int(digits)


def _no_extension(address: Address, error: BaseException | None) -> DataError:
    said = f" ({reason(error)})" if error else ""
    return DataError(
        f"the database of {address} has no pgvector{said}: install it on the server (github.com/pgvector/pgvector), "
        "then let an administrator run CREATE EXTENSION vector there"
    )


def one_at_a_time(connection: Connection, name: str) -> None:
    """Let no other transaction of this library that names the same go on before this one ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext(%(name)s))", {"name": f"mllm_embed {name}"})


@contextmanager
def server_errors(address: Address) -> Iterator[None]:
    """Turn what goes wrong with a server into an UnreachableError, with a value into an InputError, of one sentence."""
    import psycopg

    try:
        yield
    # a zero byte in words, or half a character; the address is left out, since whoever gave the value may not know it
    except (psycopg.DataError, UnicodeError) as error:
        raise InputError(f"PostgreSQL cannot take a value as it is ({_words(error)})") from error
    except (psycopg.Error, OSError) as error:
        raise UnreachableError(f"{address} cannot be reached or used ({_words(error)})") from error


def _words(error: BaseException) -> str:
    """Return what the server or the driver says, in one line."""
    diagnosis = getattr(error, "diag", None)
    detail = first_line(ValueError(diagnosis.message_detail)) if diagnosis and diagnosis.message_detail else ""
    return ": ".join(filter(None, (reason(error).removeprefix("connection failed: "), detail)))


def _parameters(url: str) -> dict[str, Any]:
    """Return the parameters that a PostgreSQL URL names. Raises ConfigError, which does not repeat it."""
    try:
        import pgvector  # noqa: F401
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise ConfigError('PostgreSQL needs its driver: pip install "mllm_embed[pgvector]"') from error
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        found = {"port": "unreadable"}
    # a password with one of these letters ends up in another place of the address, and from there in messages
    ports = str(found.get("port") or "0").split(",")
    if not all(port.isdigit() or not port for port in ports) or set("/@") & set(str(found.get("dbname", ""))):
        raise _unreadable()
    return {key: value for key, value in found.items() if value is not None}


def _unreadable() -> ConfigError:
    return ConfigError(
        f"the PostgreSQL address cannot be read: give {_EXAMPLE}, with / @ : # % ? of a password as %2F %40 %3A %23 "
        "%25 %3F, or leave the password to PGPASSWORD or ~/.pgpass"
    )


def _alive(connection: Connection) -> bool:
    """Return whether an idle connection can be used: one that the server has ended has something to read."""
    if connection.closed:
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return not selector.select(0)
