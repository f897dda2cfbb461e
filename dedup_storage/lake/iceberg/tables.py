"""Which tables of a namespace are a dataset's."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from dedup_storage.lake.iceberg.catalog import is_scratch
from dedup_storage.layout import ROLE_PROPERTY

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

__all__ = ["is_member", "member_tables", "namespace_tables"]


def member_tables(catalog: Catalog, dataset: str, but: Collection[str] = ()) -> dict[str, Table]:
    """Tables of a namespace that say they are a dataset's, whether there is one or not.

    Args:
        catalog, dataset, but: As for ``namespace_tables``.
    """
    return {name: table for name, table in namespace_tables(catalog, dataset, but).items() if is_member(table)}


def is_member(table: Table) -> bool:
    """Whether a table says that it is a dataset's."""
    return ROLE_PROPERTY in table.properties


def namespace_tables(catalog: Catalog, namespace: str, but: Collection[str] = ()) -> dict[str, Table]:
    """All tables of a namespace, those of probes left out.

    Args:
        catalog: The catalog.
        namespace: The namespace.
        but: Names of tables to leave out.
    """
    from pyiceberg.exceptions import NoSuchTableError

    found = {}
    for *_, name in catalog.list_tables((namespace,)):
        if name in but or is_scratch(name):
            continue
        try:
            found[name] = catalog.load_table((namespace, name))
        except NoSuchTableError:
            # Dropped since it was listed.
            continue
    return found
