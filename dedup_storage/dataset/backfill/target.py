"""The one table a backfill rewrites: where it is, and its keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import Column
from pyspark.sql import functions as F

from dedup_storage.errors import UnknownColumnError, UsageError, known_names
from dedup_storage.lake.cells import Cell, whole_month
from dedup_storage.lake.groups import columns_of, feature_groups
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.segments import Segment
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.schema import DateGrain

__all__ = ["Target", "changed_fact", "date_column", "find_target", "table_of"]

# Of one snapshot's facts.
_MOST_CHARACTERS = 32_000

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
    snapshot_id, spec = meta.snapshots(version)[table], meta.spec_of(version)
    columns = columns_of(meta, version, table)
    keys = spec.impression_key if spec.position_column in columns else spec.request_key
    group = spec.event_group(table)
    if group is not None:
        keys = (spec.schema_.user, group.position_column)
    return Target(table, snapshot_id, keys, columns)


def find_target(meta: DatasetMetadata, version: int, columns: Sequence[str]) -> Target:
    """The table that holds the columns.

    Raises:
        UnknownColumnError: no table of the dataset has one of them.
        UsageError: they lie in several tables, or one of them decides where a row lies.
    """
    spec = meta.spec_of(version)
    fixed = {*spec.impression_key, spec.event_date_column, spec.schema_.event_time}
    owners: dict[str, str] = {}
    present: list[str] = []
    moved = {g.table for g in feature_groups(meta, version).values() if g.moved}
    for table in meta.snapshots(version):
        if meta.role(table) not in _REWRITTEN or table in moved:
            continue
        names = [c for c in columns_of(meta, version, table) if c not in fixed and c not in spec.runs_columns]
        present += names
        owners |= dict.fromkeys(names, table)
    for column in columns:
        if column in fixed:
            raise UsageError(
                f"the column {column} cannot be backfilled: it decides where a row lies",
                fix="Write the event dates again instead: dedup-storage write --mode replace.",
            )
        if column not in owners:
            raise UnknownColumnError(
                f"no table of the dataset {spec.name} has the column {column}", expected=known_names(column, present)
            )
    tables = sorted({owners[c] for c in columns})
    if len(tables) > 1:
        raise UsageError(
            "one backfill rewrites one table",
            expected="columns of one table",
            got="; ".join(f"{owners[c]}.{c}" for c in columns),
            fix="Run one backfill for each table.",
        )
    group = spec.event_group(tables[0])
    if group is not None:
        raise UsageError(
            f"the column {columns[0]} of a feature group at event grain cannot be backfilled: backfills choose rows "
            "of requests or impressions",
            expected=f"a column of another table than {tables[0]}",
            fix="Compute all of the group anew: dedup-storage features refresh NAME --full; for other values of some "
            "events give a frame with source and full=True.",
        )
    return table_of(meta, version, tables[0])


def date_column(spec: DatasetSpec) -> Column:
    """A row's date part (string)."""
    if spec.event_date_column is None or spec.date_grain is DateGrain.NONE:
        return F.lit("")
    pattern = "yyyy-MM-dd" if spec.date_grain is DateGrain.DAY else "yyyy-MM"
    return F.coalesce(F.date_format(F.col(spec.event_date_column), pattern), F.lit(""))


def changed_fact(segments: Iterable[Segment]) -> str:
    """Segments as a table's fact ``CHANGED`` says them; too many of them stand for all.

    Example: ``[("2024-01-31", 0)]`` -> ``'[["2024-01-31", "2024-01-31", 0]]'``
    """
    text = json.dumps([_cell(segment).to_list() for segment in sorted(set(segments))])
    return text if len(text) <= _MOST_CHARACTERS else json.dumps([Cell(None, None, None).to_list()])


def _cell(segment: Segment) -> Cell:
    if not segment.date:
        return Cell(None, None, segment.bucket)
    if segment.date.count("-") == 1:
        return Cell(*whole_month(date.fromisoformat(f"{segment.date}-01")), segment.bucket)
    day = date.fromisoformat(segment.date)
    return Cell(day, day, segment.bucket)
