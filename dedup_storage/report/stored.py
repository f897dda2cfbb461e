"""What footers say of a log's tables, as rows of the report: tables, columns, grains, dates, buckets."""

from __future__ import annotations

from collections.abc import Mapping

from dedup_storage.layout import TableRole
from dedup_storage.report.draw.repetition import Repetition
from dedup_storage.report.model import ColumnReport, PartReport, TableReport
from dedup_storage.report.parquet.footers import Totals
from dedup_storage.report.parquet.measured import Measured
from dedup_storage.report.parquet.raw_bytes import element_count, raw_bytes
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.schema import Grain

__all__ = ["column_reports", "grain_parts", "parts_by", "skew", "table_report"]


# The grain of an event's columns, in layout ``user``.
_EVENT = "event"


def table_report(table: TableFiles, totals: Totals) -> TableReport:
    """One table."""
    return TableReport(
        name=table.name,
        role=table.role,
        files=totals.files,
        rows=totals.rows,
        row_groups=totals.row_groups,
        size_bytes=totals.size_bytes,
        column_bytes=totals.column_bytes,
        overhead_bytes=totals.overhead_bytes,
        delete_files=table.delete_files,
        delete_bytes=table.delete_bytes,
        deleted_rows=table.deleted_rows,
    )


def column_reports(measured: Measured, factors: Mapping[str, Repetition], stored: int) -> list[ColumnReport]:
    """The columns of all tables: those of histories first, the largest first.

    Args:
        measured: Footers and pages.
        factors: Column of the log -> how often it repeats itself.
        stored: Stored bytes of all files.
    """
    grains, found = measured.schema.declared_grains(), []
    for table in measured.tables:
        of_events, histories = table.role == TableRole.EVENTS.value, measured.history_columns(table)
        totals, pages = measured.totals[table.name], measured.pages[table.name]
        for name, column in totals.columns.items():
            kind = totals.arrow_schema.field(name).type
            seen = pages.get(name) or pages.get(name.split(".")[0])
            raw, known = raw_bytes(kind, column, totals.rows, seen)
            # A draw knows the log's lists, not the events that they are made of.
            factor = None if of_events else factors.get(name)
            grain = grains.get(name)
            found.append(
                ColumnReport(
                    table=table.name,
                    column=name,
                    type=str(kind),
                    grain=_EVENT if of_events else grain.value if grain is not None else None,
                    sequence=name in histories,
                    rows=totals.rows,
                    values=element_count(kind, column),
                    raw_bytes=raw,
                    raw_known=known,
                    encoded_bytes=column.encoded_bytes,
                    stored_bytes=column.stored_bytes,
                    ratio=raw / column.stored_bytes if column.stored_bytes else None,
                    share=column.stored_bytes / stored if stored else 0.0,
                    encodings=dict(seen.encodings if seen and seen.encodings else column.encodings),
                    codecs=dict(column.codecs),
                    page_bytes=seen.mean_bytes if seen else None,
                    largest_page_bytes=seen.largest_bytes if seen and seen.pages else None,
                    rows_per_run=factor.rows_per_run if factor else None,
                    rows_per_request_value=factor.rows_per_request_value if factor else None,
                    rows_per_user_value=factor.rows_per_user_value if factor else None,
                )
            )
    return sorted(found, key=lambda c: (not c.sequence, -c.stored_bytes, c.table, c.column))


def grain_parts(columns: list[ColumnReport]) -> tuple[PartReport, ...]:
    """What the columns of each grain sum to."""
    parts = []
    for grain in (Grain.REQUEST.value, Grain.IMPRESSION.value, _EVENT, None):
        of_grain = [c for c in columns if c.grain == grain]
        if of_grain:
            parts.append(
                PartReport(
                    value=grain or "system",
                    files=0,
                    rows=max(c.rows for c in of_grain),
                    stored_bytes=sum(c.stored_bytes for c in of_grain),
                    sequence_bytes=sum(c.stored_bytes for c in of_grain if c.sequence),
                )
            )
    return tuple(parts)


def parts_by(measured: Measured, key: str | None) -> tuple[PartReport, ...]:
    """What the files of each value of a partition field sum to, over the tables that have it."""
    sums: dict[str, list[int]] = {}
    for table in measured.tables:
        histories = measured.history_columns(table)
        for (name, value), part in measured.totals[table.name].partitions.items():
            if name == key:
                of_sequences = sum(part.column_bytes.get(c, 0) for c in histories)
                row = sums.setdefault(value, [0, 0, 0, 0])
                for i, n in enumerate((part.files, part.rows, part.size_bytes, of_sequences)):
                    row[i] += n
    ordered = sorted(sums.items(), key=lambda kv: (len(kv[0]), kv[0]))
    return tuple(
        PartReport(value=value, files=f, rows=r, stored_bytes=s, sequence_bytes=q) for value, (f, r, s, q) in ordered
    )


def skew(parts: tuple[PartReport, ...]) -> float:
    """Stored bytes of the largest part over those of the mean."""
    return max(p.stored_bytes for p in parts) * len(parts) / max(1, sum(p.stored_bytes for p in parts))
