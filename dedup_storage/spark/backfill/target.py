"""The one table a backfill rewrites: where it is, its keys, its files by segment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.errors import UnknownColumnError, UsageError, known_names
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.schema import DateGrain
from dedup_storage.tables.features import feature_groups
from dedup_storage.tables.metadata import DatasetMetadata
from dedup_storage.tables.segments import Segment
from dedup_storage.tables.sql import quoted

__all__ = ["Target", "bucket_column", "date_column", "files_by_segment", "find_target", "segments_sql", "table_of"]

_REWRITTEN = (TableRole.REQUESTS, TableRole.IMPRESSIONS, TableRole.LOGS, TableRole.FEATURES)


@dataclass(frozen=True)
class Target:
    """A table as one version holds it.

    Attributes:
        table: Its name.
        snapshot_id: The version's snapshot of it.
        keys: Its key columns.
        columns: All its columns.
    """

    table: str
    snapshot_id: int
    keys: tuple[str, ...]
    columns: tuple[str, ...]


def table_of(meta: DatasetMetadata, version: int, table: str) -> Target:
    """A table of a version."""
    columns = _columns(meta, version, table)
    spec = meta.spec
    keys = spec.impression_key if spec.position_column in columns else spec.request_key
    return Target(table, meta.snapshots(version)[table], keys, columns)


def _columns(meta: DatasetMetadata, version: int, table: str) -> tuple[str, ...]:
    """Columns of a table as a version has them; the table may have got more since."""
    stored = meta.tables[table]
    snapshot = stored.snapshot_by_id(meta.snapshots(version)[table])
    schemas = stored.schemas()
    own = schemas.get(snapshot.schema_id) if snapshot is not None and snapshot.schema_id is not None else None
    return tuple(field.name for field in (own or stored.schema()).fields)


def find_target(meta: DatasetMetadata, version: int, columns: Sequence[str]) -> Target:
    """The table that holds the columns.

    Raises:
        UnknownColumnError: no table of the dataset has one of them.
        UsageError: they lie in several tables, or one of them decides where a row lies.
    """
    spec = meta.spec
    fixed = {*spec.impression_key, spec.event_date_column, spec.schema_.event_time}
    found: dict[str, str] = {}
    present: list[str] = []
    moved = {g.table for g in feature_groups(meta, version).values() if g.promoted is not None}
    for table in meta.snapshots(version):
        if meta.role(table) not in _REWRITTEN or table in moved:
            continue
        names = [c for c in _columns(meta, version, table) if c not in fixed]
        present += names
        found |= dict.fromkeys(names, table)
    for column in columns:
        if column in fixed:
            raise UsageError(
                f"the column {column} cannot be backfilled: it decides where a row lies",
                fix="Write the event dates again instead: dedup-storage write --mode replace.",
            )
        if column not in found:
            raise UnknownColumnError(
                f"no table of the dataset {spec.name} has the column {column}", expected=known_names(column, present)
            )
    tables = sorted({found[c] for c in columns})
    if len(tables) > 1:
        raise UsageError(
            "one backfill rewrites one table",
            expected="columns of one table",
            got="; ".join(f"{found[c]}.{c}" for c in columns),
            fix="Run one backfill for each table.",
        )
    return table_of(meta, version, tables[0])


def bucket_column(spec: DatasetSpec, catalog: str) -> Column:
    """A row's user bucket (int), the same function as the partition's."""
    return F.expr(_bucket_sql(spec, catalog, "")).cast("int")


def date_column(spec: DatasetSpec) -> Column:
    """A row's date part (string)."""
    if spec.event_date_column is None or spec.date_grain is DateGrain.NONE:
        return F.lit("")
    pattern = "yyyy-MM-dd" if spec.date_grain is DateGrain.DAY else "yyyy-MM"
    return F.coalesce(F.date_format(F.col(spec.event_date_column), pattern), F.lit(""))


def _bucket_sql(spec: DatasetSpec, catalog: str, alias: str) -> str:
    return f"{quoted(catalog)}.system.bucket({spec.buckets}, {alias}{quoted(spec.schema_.user)})"


def segments_sql(spec: DatasetSpec, catalog: str, segments: Iterable[Segment], alias: str = "") -> str:
    """A SQL condition that holds for the rows of the segments, in a form that Iceberg prunes partitions by."""
    prefix = f"{quoted(alias)}." if alias else ""
    bucket = _bucket_sql(spec, catalog, prefix)
    dates: dict[tuple[int, ...], list[str]] = {}
    by_date: dict[str, set[int]] = {}
    for segment in segments:
        by_date.setdefault(segment.date, set()).add(segment.bucket)
    for part, buckets in sorted(by_date.items()):
        dates.setdefault(tuple(sorted(buckets)), []).append(part)
    clauses = []
    for listed, parts in dates.items():
        inside = f"{bucket} IN ({', '.join(map(str, listed))})"
        clauses.append(f"({_dates_sql(spec, parts, prefix)} AND {inside})")
    return "(" + " OR ".join(clauses) + ")" if clauses else "FALSE"


def _dates_sql(spec: DatasetSpec, parts: Sequence[str], prefix: str) -> str:
    if spec.event_date_column is None or spec.date_grain is DateGrain.NONE:
        return "TRUE"
    column = prefix + quoted(spec.event_date_column)
    clauses = [f"{column} IS NULL"] if "" in parts else []
    dated = [p for p in parts if p]
    if dated and spec.date_grain is DateGrain.DAY:
        listed = ", ".join(f"DATE'{date.fromisoformat(p)}'" for p in dated)
        clauses.append(f"{column} IN ({listed})")
    elif dated:
        for part in dated:
            low = date.fromisoformat(part + "-01")
            high = (low + timedelta(days=32)).replace(day=1)
            clauses.append(f"({column} >= DATE'{low}' AND {column} < DATE'{high}')")
    return "(" + " OR ".join(clauses) + ")"


def files_by_segment(frame: DataFrame, fields: Sequence[tuple[str, str]]) -> DataFrame:
    """Data files of Iceberg's ``files`` table with their segment.

    Args:
        frame: The ``files`` metadata table of one snapshot.
        fields: Partition field -> its transform.

    Returns:
        ``date`` string, ``bucket`` int, ``content`` (0 data, 1 deletes), ``file_path``, ``rows``, ``bytes``.
    """
    when, bucket = F.lit(""), F.lit(0)
    for name, transform in fields:
        value = F.col("partition").getField(name)
        if transform == "identity":
            when = F.date_format(value, "yyyy-MM-dd")
        elif transform == "month":
            when = F.date_format(F.add_months(F.lit("1970-01-01").cast("date"), value.cast("int")), "yyyy-MM")
        elif transform.startswith("bucket"):
            bucket = value.cast("int")
    size = F.when(F.col("content") == 0, F.col("file_size_in_bytes")).otherwise(
        F.coalesce(F.col("content_size_in_bytes"), F.col("file_size_in_bytes"))
    )
    return frame.select(
        F.coalesce(when, F.lit("")).alias("date"),
        bucket.alias("bucket"),
        "content",
        "file_path",
        F.col("record_count").alias("rows"),
        size.alias("bytes"),
    )
