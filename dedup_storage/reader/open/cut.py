"""One version of a dataset, opened without Spark: its tables, whatever format keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from dedup_storage.lake.stored_users import StoredUsers
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.reader.cache.file_cache import FileCache
from dedup_storage.reader.open.scan import TableScan
from dedup_storage.reader.options import Filters

__all__ = ["Cut", "CutTable", "StoredTable"]


class StoredTable(Protocol):
    """A table at one snapshot, as its format keeps it."""

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties now."""

    def types(self) -> dict[str, pa.DataType]:
        """Arrow type of each column of the log that the snapshot has."""

    def plan(self, name: str, spec: DatasetSpec, filters: Filters, cache: FileCache | None = None) -> TableScan:
        """The snapshot's files, without those that the filters rule out, to be read through a cache where there is one.

        Raises:
            StorageError: the table's metadata cannot be read, or a file is no Parquet file.
            ConfigError: dates are filtered in a dataset that has none.
        """


@dataclass(frozen=True)
class CutTable:
    """One table at the snapshot that a version names.

    Attributes:
        name, role: Which table.
        stored: The table at that snapshot.
        snapshot_id: Iceberg's snapshot or Delta's version.
        definition: Feature group that the table holds, as JSON.
    """

    name: str
    role: TableRole
    stored: StoredTable
    snapshot_id: int
    definition: str | None = None

    @property
    def properties(self) -> Mapping[str, str]:
        """The table's properties now."""
        return self.stored.properties


@dataclass(frozen=True)
class Cut:
    """One version of a dataset: a snapshot of each of its tables.

    Attributes:
        spec: The dataset's description.
        version: Its number.
        tables: The tables by name, feature groups included.
        samples: Named sample -> its record, of the dataset and no version.
        users: The stored users of named samples.
    """

    spec: DatasetSpec
    version: int
    tables: dict[str, CutTable]
    samples: Mapping[str, str] = field(default_factory=dict)
    users: StoredUsers = field(default_factory=StoredUsers)

    @property
    def snapshots(self) -> dict[str, int]:
        """Snapshot id by table name."""
        return {name: t.snapshot_id for name, t in sorted(self.tables.items())}

    def by_role(self, role: TableRole) -> tuple[CutTable, ...]:
        """Tables of one role, by name."""
        return tuple(t for _, t in sorted(self.tables.items()) if t.role is role)
