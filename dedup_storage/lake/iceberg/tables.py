"""Which tables of a namespace are a dataset's."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from dedup_storage.lake.iceberg.catalog import is_scratch
from dedup_storage.layout import ROLE_PROPERTY

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

__all__ = ["member_tables"]


def member_tables(catalog: Catalog, dataset: str, but: Collection[str] = ()) -> dict[str, Table]:
    """Tables of a namespace that say they are a dataset's, whether there is one or not.

    Args:
        catalog: The catalog.
        dataset: The namespace.
        but: Names of tables to leave out.
    """
    from pyiceberg.exceptions import NoSuchTableError

    found = {}
    for *_, name in catalog.list_tables((dataset,)):
        if name in but or is_scratch(name):
            continue
        try:
            table = catalog.load_table((dataset, name))
        except NoSuchTableError:
            # Dropped since it was listed.
            continue
        if ROLE_PROPERTY in table.properties:
            found[name] = table
    return found
