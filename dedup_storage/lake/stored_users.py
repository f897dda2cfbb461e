"""Records of named samples and their stored users, read without Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyiceberg.expressions import EqualTo

from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.sampling.stored import SAMPLE_PREFIX

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

__all__ = ["StoredUsers", "iceberg_users", "sample_records"]


def sample_records(properties: Mapping[str, str]) -> dict[str, str]:
    """Named sample -> its record, from a table's properties."""
    return {p.removeprefix(SAMPLE_PREFIX): text for p, text in properties.items() if p.startswith(SAMPLE_PREFIX)}


def iceberg_users(tables: Mapping[str, Table]) -> StoredUsers:
    """Stored users among Iceberg tables."""
    named = {(name, tag): ref.snapshot_id for name, table in tables.items() for tag, ref in table.metadata.refs.items()}
    return StoredUsers(tables, named)


@dataclass(frozen=True)
class StoredUsers:
    """Tables of samples' users.

    Attributes:
        tables: By name, as PyIceberg or ``deltalake`` finds them.
        tags: (table, tag) -> snapshot.
    """

    tables: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def read(self, table: str, tag: str, where: str, columns: Sequence[str]) -> pa.Table | None:
        """Columns of the rows in which a flag is set, at the snapshot that a tag names; ``None`` when it is gone."""
        snapshot_id, found = self.tags.get((table, tag)), self.tables.get(table)
        if snapshot_id is None or found is None:
            return None
        if isinstance(found, DeltaRef):
            import pyarrow.dataset as pads

            files = found.load(snapshot_id).to_pyarrow_dataset()
            return files.to_table(columns=list(columns), filter=pads.field(where))
        flag = EqualTo(term=where, value=True)
        return found.scan(row_filter=flag, selected_fields=tuple(columns), snapshot_id=snapshot_id).to_arrow()
