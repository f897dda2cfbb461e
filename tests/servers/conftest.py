"""Servers as fixtures: one of each for all tests of a process, or a reason to skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import postgres as postgres_server
from tests.servers import rest, store
from tests.servers.processes import Unavailable

# Every character that an address gives a meaning to.
PASSWORD = "it's @ /a:%40 ${pass} #?&=+ wörd"  # noqa: S105


@pytest.fixture(scope="session")
def object_store() -> Iterator[store.ObjectStore]:
    """An S3 store whose keys need a session token."""
    try:
        with store.object_store() as made:
            yield made
    except Unavailable as reason:
        pytest.skip(f"no S3 store can be started here: {reason}")


@pytest.fixture(scope="session")
def rest_catalog(object_store: store.ObjectStore) -> Iterator[rest.RestCatalog]:
    """Iceberg's REST catalog over the store, with OAuth and vended credentials."""
    try:
        with rest.rest_catalog(object_store) as made:
            yield made
    except Unavailable as reason:
        pytest.skip(f"no REST catalog can be started here: {reason}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Postgres]:
    """A PostgreSQL server."""
    pytest.importorskip("psycopg2", reason="PyIceberg reaches PostgreSQL by psycopg2")
    try:
        with postgres_server.postgres(PASSWORD) as made:
            yield made
    except Unavailable as reason:
        pytest.skip(f"no PostgreSQL server can be started here: {reason}")
