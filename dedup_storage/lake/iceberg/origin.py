"""Credentials that a REST catalog vends for a table, asked for anew: PyIceberg gets them once, with the table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import (
    NoSuchTableError,
    RESTError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from pyiceberg.io import load_file_io

from dedup_storage.errors import StorageError
from dedup_storage.lake.credentials import FileAccess

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["RestOrigin", "answers", "find_origin", "open_access", "plain_properties"]

_CREDENTIALS = ("s3.access-key-id", "s3.secret-access-key", "s3.session-token", "gcs.oauth2.token", "adls.")
_SIGNER = "s3.signer"
_AWAY = (ServerError, ServiceUnavailableError, TooManyRequestsError)


@contextmanager
def answers() -> Iterator[None]:
    """A REST catalog's "not now" as an I/O error, which the policies of ``lake.retries`` try again.

    Raises:
        ConnectionError: the catalog is away, for a moment.
    """
    try:
        yield
    except _AWAY as error:
        raise ConnectionError(f"the catalog does not answer: {_first_line(error)}") from error


@dataclass(frozen=True)
class RestOrigin:
    """An ``Origin``: a table of a REST catalog that vends credentials.

    Attributes:
        catalog: Name of the catalog.
        table: Namespace and name of the table.
        place: Address of the table's metadata, by which the catalog's credentials are chosen.
        settings: The catalog's properties, secrets included.
    """

    catalog: str
    table: tuple[str, ...]
    place: str
    settings: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"the table {'.'.join(self.table)} of the catalog {self.catalog}"

    @property
    def remedy(self) -> str:
        """See ``Origin``."""
        return (
            f"The keys are those that the catalog gives out now for {self}: let it give ones that may read its files. "
            "A store whose folders they may not list says the same of files that are missing."
        )

    def load(self, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Origin``: from the table's endpoint for credentials, or by loading the table where there is none."""
        try:
            with answers():
                catalog = _open_catalog(self.catalog, tuple(sorted(self.settings.items())))
                vended = self._vended(catalog)
                if not vended:
                    return plain_properties(catalog.load_table(self.table))
        except (RESTError, NoSuchTableError, ValueError) as error:
            raise StorageError(
                f"there are no new credentials for {self}: {_first_line(error)}",
                expected="a catalog that gives them until everything is read",
                fix="Let the catalog allow it. Where a token of the catalog has ended, set the variable "
                "DEDUP_STORAGE_CATALOG__CREDENTIAL, by which tokens are renewed. An epoch resumes from state_dict().",
            ) from error
        return {**{k: v for k, v in properties.items() if not k.startswith(_CREDENTIALS)}, **vended}

    def _vended(self, catalog: Catalog) -> Mapping[str, Any]:
        try:
            return catalog.load_credentials(self.table, self.place) if isinstance(catalog, RestCatalog) else {}
        except (NotImplementedError, NoSuchTableError):
            # An older server, or one that says so only when it is asked.
            return {}


def open_access(table: Table) -> FileAccess:
    """A table's files, with credentials that are renewed where the catalog vends them."""
    return FileAccess(partial(load_file_io, location=table.location()), plain_properties(table), find_origin(table))


def find_origin(table: Table) -> RestOrigin | None:
    """Where a table's credentials come from; ``None`` where the catalog vends none and the configured ones stay."""
    catalog, given = table.catalog, table.io.properties
    if not isinstance(catalog, RestCatalog) or _credentials(given) == _credentials(catalog.properties):
        return None
    settings = {key: value for key, value in catalog.properties.items() if isinstance(value, str)}
    return RestOrigin(catalog.name, tuple(table.name()), table.metadata_location, settings)


def plain_properties(table: Table) -> dict[str, Any]:
    """The properties of a table's file system, without the catalog's client among them.

    A signer of requests needs that client, and gets it as PyIceberg gives it.
    """
    found = table.io.properties
    return {key: value for key, value in found.items() if isinstance(value, str) or _SIGNER in found}


def _credentials(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in properties.items() if key.startswith(_CREDENTIALS)}


@lru_cache(maxsize=8)
def _open_catalog(name: str, settings: tuple[tuple[str, str], ...]) -> Catalog:
    return load_catalog(name, **dict(settings))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


# A forked process makes connections of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_catalog.cache_clear)
