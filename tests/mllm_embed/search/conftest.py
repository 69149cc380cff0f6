"""A PostgreSQL server that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server with pgvector; its owner is "owner" with the password "secret"."""
    server = PostgresServer()
    yield server
    server.remove()
