"""The files of tables, and the sums over their footers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from dedup_storage.lake.folders import resolve_uri
from dedup_storage.layout import DatasetSpec
from dedup_storage.report.parquet.footers import DataFile, OnFile, Resolve, Totals, iter_footers

__all__ = ["DatasetFiles", "TableFiles", "read_totals"]


@dataclass(frozen=True)
class TableFiles:
    """The files of one table at one snapshot.

    Attributes:
        name: Table name, or the folder.
        role: ``requests``, ``impressions``, ``logs``, ``features``; a plain input is ``logs``.
        files: Its data files.
        properties: The table's properties, among them its Parquet encoding; empty for a folder.
        resolve: Finds the file system of a path, with the table's own credentials.
        delete_files, delete_bytes: Delete files and deletion vectors that lie beside the data.
        deleted_rows: Rows in the data files that they take away.
        arrow_schema: One schema over all files, columns of their paths included; ``None`` where each file has it.
    """

    name: str
    role: str
    files: tuple[DataFile, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    resolve: Resolve = resolve_uri
    delete_files: int = 0
    delete_bytes: int = 0
    deleted_rows: int = 0
    arrow_schema: pa.Schema | None = None

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes that the table's metadata states."""
        return sum(f.size_bytes or 0 for f in self.files)

    def columns(self, totals: Totals) -> list[str]:
        """Names of its columns: of the one schema where there is one, else of all its footers."""
        return list((totals.arrow_schema if self.arrow_schema is None else self.arrow_schema).names)


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one version of a dataset, anchor table first."""

    spec: DatasetSpec
    version: int
    tables: tuple[TableFiles, ...]


def read_totals(table: TableFiles, on_file: OnFile | None = None) -> Totals:
    """Sum the footers of one table."""
    return Totals.of(iter_footers(table.files, resolve=table.resolve, on_file=on_file))
