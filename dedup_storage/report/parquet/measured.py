"""What footers and pages say of the tables of one log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dedup_storage.errors import InputError
from dedup_storage.layout import TableRole
from dedup_storage.report.parquet.footers import OnFile, Totals
from dedup_storage.report.parquet.pages import ColumnPages, read_pages
from dedup_storage.report.parquet.tables import TableFiles, read_totals
from dedup_storage.schema import LogSchema

__all__ = ["Measured"]


@dataclass(frozen=True)
class Measured:
    """What footers and pages say of the tables of one log.

    Attributes:
        schema: Meaning of the columns.
        tables: Its tables.
        totals: Table name -> sums over footers.
        pages: Table name -> column -> page facts.
    """

    schema: LogSchema
    tables: tuple[TableFiles, ...]
    totals: Mapping[str, Totals]
    pages: Mapping[str, Mapping[str, ColumnPages]]

    @classmethod
    def read(cls, schema: LogSchema, tables: tuple[TableFiles, ...], on_file: OnFile | None = None) -> Measured:
        """Read all footers and the pages of a few files.

        Raises:
            StorageError: names a file that cannot be read.
            InputError: there is not one row.
        """
        totals = {t.name: read_totals(t, on_file) for t in tables}
        if not any(t.rows for t in totals.values()):
            names = ", ".join(t.name for t in tables)
            raise InputError(f"there are no rows in {names}", expected="at least one row to report on")
        pages = {t.name: read_pages(t.files, resolve=t.resolve) for t in tables}
        return cls(schema, tables, totals, pages)

    def of_role(self, role: TableRole) -> Totals | None:
        """Sums over the footers of the table of a role; ``None`` where there is none."""
        return next((self.totals[t.name] for t in self.tables if t.role == role.value), None)
