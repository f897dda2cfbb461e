"""The short answer: a dataset's stored bytes against the flat log it was made from, column by column."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.report.parquet.footers import OnFile
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles, read_totals
from dedup_storage.schema import Grain
from dedup_storage.words import human_bytes

__all__ = ["ColumnSaving", "Summary", "summarize", "summary_table"]


@dataclass(frozen=True)
class ColumnSaving:
    """Stored bytes of one column in the flat log and in the dataset (over all tables that repeat it)."""

    column: str
    sequence: bool
    flat_bytes: int
    dataset_bytes: int

    @property
    def ratio(self) -> float | None:
        """How many times smaller; ``None`` when the dataset stores nothing of it."""
        return self.flat_bytes / self.dataset_bytes if self.dataset_bytes else None


@dataclass(frozen=True)
class Summary:
    """A dataset against its flat log.

    Attributes:
        columns: Sequence columns first, then by flat bytes.
        flat_bytes, dataset_bytes: File sizes, footers included.
        flat_rows: Impressions (B): rows of the flat log, or candidates of one with a row for each request.
        request_rows: Rows of the request table (R); ``None`` in flat layout.
    """

    columns: tuple[ColumnSaving, ...]
    flat_bytes: int
    dataset_bytes: int
    flat_rows: int
    request_rows: int | None

    @property
    def ratio(self) -> float | None:
        """How many times smaller the dataset is."""
        return self.flat_bytes / self.dataset_bytes if self.dataset_bytes else None

    @property
    def dedup_factor(self) -> float | None:
        """B / R."""
        return self.flat_rows / self.request_rows if self.request_rows else None


def summarize(dataset: DatasetFiles, flat: TableFiles, *, on_file: OnFile | None = None) -> Summary:
    """Compare a dataset with the flat log it was made from, from footers alone.

    Args:
        dataset: A version's files (``dataset_files``).
        flat: The log's files (``folder_files``).
        on_file: Called with the number of footers read, for progress.

    Raises:
        StorageError: names a file that cannot be read.
    """
    flat_totals = read_totals(flat, on_file)
    totals = {table.name: read_totals(table, on_file) for table in dataset.tables}
    sequences = set(dataset.spec.schema_.sequence_columns)
    stored: dict[str, int] = {}
    for table in dataset.tables:
        for name, column in totals[table.name].columns.items():
            # Users and positions of events are no columns of the log: they belong to its lists.
            shown = name if table.role != TableRole.EVENTS.value or name in sequences else f"{table.name}.{name}"
            stored[shown] = stored.get(shown, 0) + column.stored_bytes
    histories = sequences | {*dataset.spec.runs_columns}
    events = {group.table for group in dataset.spec.events}
    # A list of candidates is held against the impression columns that became of it.
    made = _made_of_lists(dataset.spec, flat_totals.columns, stored)
    for listed, parts in made.items():
        stored[listed] = stored.get(listed, 0) + sum(stored.pop(part, 0) for part in parts if part != listed)
    names = list(dict.fromkeys([*flat_totals.columns, *stored]))
    savings = [
        ColumnSaving(
            name,
            name in histories or name.split(".")[0] in events,
            flat_totals.columns[name].stored_bytes if name in flat_totals.columns else 0,
            stored.get(name, 0),
        )
        for name in names
    ]
    requests = next((totals[t.name].rows for t in dataset.tables if t.role == "requests"), None)
    impressions = next((totals[t.name].rows for t in dataset.tables if t.role in ("impressions", "logs")), None)
    return Summary(
        columns=tuple(sorted(savings, key=lambda s: (not s.sequence, -s.flat_bytes, s.column))),
        flat_bytes=flat_totals.size_bytes,
        dataset_bytes=sum(t.size_bytes for t in totals.values()) + sum(t.delete_bytes for t in dataset.tables),
        flat_rows=impressions if made and impressions is not None else flat_totals.rows,
        request_rows=requests,
    )


def _made_of_lists(spec: DatasetSpec, log: Container[str], stored: Iterable[str]) -> dict[str, list[str]]:
    """Lists of candidates in a log with a row for each request -> impression columns that they became."""
    lists = {column: name for column, name in spec.schema_.candidates.items() if column in log}
    named, grains = {*lists.values()}, spec.schema_.declared_grains()
    rest = [c for c in stored if c not in log and c not in named and grains.get(c) is Grain.IMPRESSION]
    made: dict[str, list[str]] = {}
    for column, name in lists.items():
        # What several lists of objects hold is told of the first one.
        made[column], rest = ([name], rest) if name != "*" else (rest, [])
    return made


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}x" if value < 100 else f"{value:.0f}x"


def summary_table(summary: Summary, title: str = "Stored bytes") -> RichTable:
    """The summary for a terminal."""
    table = RichTable(title=Text(title), title_justify="left")
    table.add_column("column")
    for heading in ("flat log", "dataset", "smaller by"):
        table.add_column(heading, justify="right")
    for column in summary.columns:
        name = f"{column.column} (sequence)" if column.sequence else column.column
        flat = human_bytes(column.flat_bytes) if column.flat_bytes else "added"
        ratio = _ratio(column.ratio) if column.flat_bytes else ""
        table.add_row(Text(name), flat, human_bytes(column.dataset_bytes), ratio)
    table.add_section()
    table.add_row("files", human_bytes(summary.flat_bytes), human_bytes(summary.dataset_bytes), _ratio(summary.ratio))
    return table
