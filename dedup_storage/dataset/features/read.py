"""Feature groups beside the log's own columns: joined by key, without a shuffle where buckets are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut
from dedup_storage.errors import UsageError
from dedup_storage.lake.groups import FeatureGroup, by_table, find_group, promoted_columns
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.schema import DateGrain, Grain

__all__ = ["GroupReader", "attach"]


def attach(spec: DatasetSpec, rows: DataFrame, tables: Iterable[tuple[Sequence[FeatureGroup], DataFrame]]) -> DataFrame:
    """The rows with the columns of groups after their own; null where a group has no row.

    Args:
        spec: The dataset.
        rows: With the groups' keys, and the event date unless they come from ``requests()`` of flat layout.
        tables: Groups that one table holds, with its rows: one join each.
    """
    for groups, table in tables:
        on = list(groups[0].key(spec))
        # The event date aligns partitions; where it is no part of them, rows without one must match as well.
        if spec.event_date_column in rows.columns and spec.date_grain is not DateGrain.NONE:
            on.append(str(spec.event_date_column))
        columns = [F.col(c).cast(kind).alias(c) for group in groups for c, kind in group.types.items()]
        # Never a broadcast: Iceberg's size estimate takes a list for a few bytes.
        rows = rows.join(table.select(*on, *columns).hint("merge"), on, "left")
    return rows


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
