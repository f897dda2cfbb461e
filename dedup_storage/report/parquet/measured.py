"""What footers and pages say of the tables of one log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        runs: Columns of requests that hold where their lists stand in their users' lists.
    """

    schema: LogSchema
    tables: tuple[TableFiles, ...]
    totals: Mapping[str, Totals]
    pages: Mapping[str, Mapping[str, ColumnPages]]
    runs: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        schema: LogSchema,
        tables: tuple[TableFiles, ...],
        on_file: OnFile | None = None,
        *,
        runs: Iterable[str] = (),
    ) -> Measured:
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
        return cls(schema, tables, totals, pages, frozenset(runs))

    def history_columns(self, table: TableFiles) -> frozenset[str]:
        """Columns of a table that the log's histories take: their lists; in layout ``user`` runs, and all of events."""
        names = frozenset(self.totals[table.name].columns)
        if table.role == TableRole.EVENTS.value:
            return names
        return names & {*self.schema.sequence_columns, *self.runs}

    def history_bytes(self) -> int:
        """Stored bytes of these."""
        return sum(
            self.totals[table.name].columns[name].stored_bytes
            for table in self.tables
            for name in self.history_columns(table)
        )

    def of_role(self, role: TableRole) -> Totals | None:
        """Sums over the footers of the table of a role; ``None`` where there is none."""
        return next((self.totals[t.name] for t in self.tables if t.role == role.value), None)
