"""Feature groups beside the log's own columns: joined by key, without a shuffle where buckets are the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.errors import UsageError
from dedup_storage.lake.groups import FeatureGroup, feature_groups, find_group, promoted_columns
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.schema import DateGrain, Grain

__all__ = ["GroupReader", "attach", "source_typed"]


def source_typed(spec: DatasetSpec, rows: DataFrame, columns: Iterable[str]) -> DataFrame:
    """Columns in the types of the source: Iceberg has no 8- and 16-bit integers."""
    types = dict(zip(spec.source_columns, spec.source_types, strict=True))
    return rows.select(*(F.col(c).cast(types[c]).alias(c) if c in types else F.col(c) for c in columns))


def attach(
    spec: DatasetSpec,
    rows: DataFrame,
    groups: Sequence[tuple[FeatureGroup, DataFrame]],
) -> DataFrame:
    """The rows with the columns of groups after their own; null where a group has no row.

    Args:
        spec: The dataset.
        rows: With the groups' keys, and the event date unless they come from ``requests()`` of flat layout.
        groups: Each with the rows of its table.
    """
    for group, table in groups:
        on = list(group.key(spec))
        # The event date aligns partitions; where it is no part of them, rows without one must match as well.
        if spec.event_date_column in rows.columns and spec.date_grain is not DateGrain.NONE:
            on.append(str(spec.event_date_column))
        types = group.types
        columns = [F.col(c).cast(types[c]).alias(c) for c in group.names]
        # Never a broadcast: Iceberg's size estimate takes a list for a few bytes.
        rows = rows.join(table.select(*on, *columns).hint("merge"), on, "left")
    return rows


class GroupReader:
    """The feature groups of one version, chosen.

    Args:
        tables: The table format.
        spec: The dataset.
        meta: Its tables.
        version: Version to read.
        features: Names of groups; ``None`` for all, an empty sequence for none.

    Raises:
        UnknownColumnError: there is no group of that name.
    """

    def __init__(
        self,
        tables: TableFormat,
        spec: DatasetSpec,
        meta: DatasetMetadata,
        version: int,
        features: Sequence[str] | None = None,
    ) -> None:
        if isinstance(features, str):
            raise UsageError("features is one text", expected="a list of feature groups' names", got=features)
        self.tables, self.spec = tables, spec
        self._snapshots = meta.snapshots(version)
        known: Mapping[str, FeatureGroup] = feature_groups(meta, version)
        names = known if features is None else sorted(set(features))
        self.groups = tuple(find_group(known, n, spec.name) for n in names)

    def own(self, role: TableRole) -> DataFrame:
        """The version's rows of one of the log's own tables, with the columns promoted into it."""
        table = self.spec.table(role)
        rows = self.tables.read(self.spec.name, table.name, self._snapshots[table.name])
        # A column that is there beside these belongs to a group of another version.
        return rows.select(*table.columns, *promoted_columns(self.groups, table.name))

    def columns(self, *grains: Grain) -> tuple[str, ...]:
        """Columns of the groups of these grains, groups by name."""
        return tuple(c for g in self.groups if g.grain in grains for c in g.names)

    def promoted(self, grain: Grain) -> tuple[str, ...]:
        """Those that the grain's own table holds."""
        return tuple(c for g in self.groups if g.grain is grain and g.promoted is not None for c in g.names)

    def attach(self, rows: DataFrame, *grains: Grain) -> DataFrame:
        """The rows with the columns of all groups of these grains that have a table of their own."""
        chosen = [g for g in self.groups if g.grain in grains and g.promoted is None]
        read = [(g, self.tables.read(self.spec.name, g.table, self._snapshots[g.table])) for g in chosen]
        return attach(self.spec, rows, read)
