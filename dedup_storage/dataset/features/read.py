"""Feature groups beside the log's own columns: joined by key, without a shuffle where buckets are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StructType

from dedup_storage.dataset.handle import Cut
from dedup_storage.errors import UsageError
from dedup_storage.lake.groups import FeatureGroup, by_table, find_group, promoted_columns
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.schema import DateGrain, Grain

__all__ = ["GroupReader", "attach"]

# Copies of narrow columns that take about as long as one more join of narrow rows; of a list as many as that.
_WORTH_A_JOIN, _LIST = 100, 50


def attach(spec: DatasetSpec, rows: DataFrame, tables: Iterable[tuple[Sequence[FeatureGroup], DataFrame]]) -> DataFrame:
    """The rows with the columns of groups after their own; null where a group has no row.

    Args:
        spec: The dataset.
        rows: With the groups' keys, and the event date unless they come from ``requests()`` of flat layout.
        tables: Groups that one table holds, with its rows: one join each.
    """
    listed = list(tables)
    columns = [*rows.columns, *(c for groups, _ in listed for group in groups for c in group.names)]
    by_key: dict[tuple[str, ...], list[DataFrame]] = {}
    for groups, table in listed:
        on = _joined_on(spec, groups[0], rows)
        values = [F.col(c).cast(kind).alias(c) for group in groups for c, kind in group.types.items()]
        by_key.setdefault(on, []).append(table.select(*on, *values))
    for on, brought in by_key.items():
        # Each join writes its rows anew. Lists would be copied once for each group, so groups are then joined to the
        # keys alone, and these to the rows once.
        apart = _weight(rows, on) * (len(brought) - 1) >= _WORTH_A_JOIN
        found = rows.select(*on).distinct() if apart else rows
        for table in brought:
            found = _joined(found, table, on)
        rows = _joined(rows, found, on) if apart else found
    return rows.select(*columns)


def _joined(rows: DataFrame, table: DataFrame, on: Sequence[str]) -> DataFrame:
    # Never a broadcast: Iceberg's size estimate takes a list for a few bytes.
    return rows.join(table.hint("merge"), list(on), "left")


def _joined_on(spec: DatasetSpec, group: FeatureGroup, rows: DataFrame) -> tuple[str, ...]:
    """Columns that a group's rows are matched by, the position last: rows sorted by it are sorted for a join of
    requests, too."""
    key, date = group.key(spec), spec.event_date_column
    # The event date aligns partitions; where it is no part of them, rows without one must match as well.
    if date is None or date not in rows.columns or spec.date_grain is DateGrain.NONE:
        return key
    shared = spec.request_key
    return (*(c for c in key if c in shared), date, *(c for c in key if c not in shared))


def _weight(rows: DataFrame, on: Sequence[str]) -> int:
    """What a join copies of a row beside its key, in narrow columns."""
    kinds = (field.dataType for field in rows.schema.fields if field.name not in on)
    return sum(_LIST if isinstance(kind, (ArrayType, MapType, StructType)) else 1 for kind in kinds)


class GroupReader:
    """The feature groups of one version, chosen.

    Args:
        cut: The version.
        features: Names of groups; ``None`` for all, an empty sequence for none.

    Raises:
        UnknownColumnError: there is no group of that name.
    """

    def __init__(self, cut: Cut, features: Sequence[str] | None = None) -> None:
        if isinstance(features, str):
            raise UsageError(
                "features must be a list, not one text", expected="a list of feature groups' names", got=features
            )
        self._cut = cut
        names = cut.groups if features is None else sorted(set(features))
        self.groups = tuple(find_group(cut.groups, n, cut.spec.name) for n in names)

    def own(self, role: TableRole) -> DataFrame:
        """The version's rows of one of the log's own tables, with the columns promoted into it; requests with a list
        for each feature of events."""
        table = self._cut.spec.table(role)
        events = tuple(g for g in self.groups if g.grain is Grain.EVENT) if role is TableRole.REQUESTS else ()
        lists = (c for group in events for c in group.names)
        # A column that is there beside these belongs to a group of another version.
        columns = (*table.columns, *promoted_columns(self.groups, table.name), *lists)
        return self._cut.rows(table.name, events).select(*columns)

    def columns(self, *grains: Grain) -> tuple[str, ...]:
        """Columns of the groups of these grains, groups by name."""
        return tuple(c for g in self.groups if g.grain in grains for c in g.names)

    def promoted(self, grain: Grain) -> tuple[str, ...]:
        """Those that the grain's own table holds."""
        return tuple(c for g in self.groups if g.grain is grain and g.promoted is not None for c in g.names)

    def attach(self, rows: DataFrame, *grains: Grain) -> DataFrame:
        """The rows with the columns of all groups of these grains that the grain's own table does not hold."""
        chosen = by_table(g for g in self.groups if g.grain in grains and g.promoted is None)
        return attach(self._cut.spec, rows, [(groups, self._cut.rows(table)) for table, groups in chosen.items()])
