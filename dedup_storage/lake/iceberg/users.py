"""Stored users of named samples, read from Iceberg tables by PyIceberg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.expressions import EqualTo

from dedup_storage.lake.stored_users import StoredUsers

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["iceberg_users"]


@dataclass(frozen=True)
class _Users:
    """The ``FlaggedRows`` of Iceberg."""

    table: Table

    def flagged(self, snapshot_id: int, where: str, columns: Sequence[str]) -> pa.Table:
        # Loads the client of REST catalogs, which a list of versions needs not wait for.
        from dedup_storage.lake.iceberg.origin import open_access

        flag = EqualTo(term=where, value=True)

        def read(client: Any) -> pa.Table:
            scan = self.table.scan(row_filter=flag, selected_fields=tuple(columns), snapshot_id=snapshot_id)
            scan.io = client
            return scan.to_arrow()

        return open_access(self.table).read("the stored users of a sample were read", read)


def iceberg_users(tables: Mapping[str, Table]) -> StoredUsers:
    """Stored users among Iceberg tables."""
    named = {(name, tag): ref.snapshot_id for name, table in tables.items() for tag, ref in table.metadata.refs.items()}
    return StoredUsers({name: _Users(table) for name, table in tables.items()}, named)
