"""What a feature is computed from: the log's rows of one version, inside a window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.dataset.features.read import attach
from dedup_storage.dataset.features.window import Window
from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.lists import source_typed
from dedup_storage.lake.groups import FeatureGroup, by_table, grain_table, promoted_columns
from dedup_storage.layout import Layout
from dedup_storage.schema import Grain

__all__ = ["Inputs"]


class Inputs:
    """Frames over one version of a dataset, and which tables they were made from.

    Args:
        cut: The version.
        grain: Grain of the feature group.
        groups: Groups of the version whose columns may be read.
        uses: Those whose columns the frames have too.
        window: Event dates and buckets to read, history included.
        sequence: At event grain the sequence group (``EventInputs``).
    """

    def __init__(
        self,
        cut: Cut,
        *,
        grain: Grain,
        groups: Mapping[str, FeatureGroup],
        uses: Iterable[FeatureGroup],
        window: Window,
        sequence: str | None = None,
    ) -> None:
        self.cut, self.spec = cut, cut.spec
        self.grain, self.groups, self.uses, self.window = grain, groups, tuple(uses), window
        self.read = {grain_table(cut.spec, grain, sequence).name}
        self.lookups: dict[str, int] = {}

    @property
    def key(self) -> tuple[str, ...]:
        """Key of the grain."""
        return self.spec.request_key if self.grain is Grain.REQUEST else self.spec.impression_key

    @property
    def dates(self) -> tuple[str, ...]:
        """The event date column, where there is one."""
        return (self.spec.event_date_column,) if self.spec.event_date_column else ()

    @property
    def snapshots(self) -> dict[str, int]:
        """Snapshot of every table that was read."""
        return {name: self.cut.snapshots[name] for name in sorted(self.read)}

    @property
    def other_columns(self) -> tuple[str, ...]:
        """Columns that ``wide`` has and ``narrow`` has not."""
        if self.grain is Grain.REQUEST:
            return ()
        groups = [g for g in (*self.uses, *self.groups.values()) if g.grain is Grain.REQUEST]
        return (*self.spec.columns_of(Grain.REQUEST), *(c for g in groups for c in g.names))

    def looked_up(self, table: str, spark: SparkSession) -> DataFrame:
        """A table of the same catalog that is no part of the dataset, ``namespace.table``, at the state remembered."""
        handle = self.cut.handle
        state = handle.tables.state(table)
        namespace, _, name = table.partition(".")
        if state is None:
            # Spark's own words where there is no such table; an empty one has no snapshot to name.
            return spark.read.table(f"{handle.settings.catalog.name}.{table}")
        self.lookups[table] = state
        return handle.tables.read(namespace, name, state)

    def keys(self, window: Window) -> DataFrame:
        """The keys that the grain's table has inside a window, the event date beside them; each once."""
        rows = self._rows(grain_table(self.spec, self.grain).name, window)
        rows = rows.select(*dict.fromkeys((*self.key, *self.dates)))
        repeated = self.spec.layout is Layout.FLAT and self.grain is Grain.REQUEST
        return rows.distinct() if repeated else rows

    def narrow(self) -> DataFrame:
        """The grain's own rows."""
        return self.requests() if self.grain is Grain.REQUEST else self.impressions()

    def requests(self) -> DataFrame:
        """R rows: request key, event date, every request-grain column; groups named by ``uses``."""
        rows = self._own(Grain.REQUEST)
        if self.spec.layout is Layout.FLAT:
            key = self.spec.request_key
            wide = [F.first(c).alias(c) for c in rows.columns if c not in key]
            rows = rows.groupBy(*key).agg(*wide) if wide else rows.distinct()
        return self._with_uses(rows, Grain.REQUEST)

    def impressions(self) -> DataFrame:
        """B rows: request key, event date, position, every impression-grain column; groups named by ``uses``."""
        return self._with_uses(self._own(Grain.IMPRESSION), Grain.IMPRESSION)

    def wide(self) -> DataFrame:
        """The grain's rows with the columns of the other grain beside them (requests: none to add)."""
        if self.grain is Grain.REQUEST:
            return self.requests()
        on = [*self.spec.request_key, *self.dates]
        return self.impressions().join(self.requests().hint("merge"), on)

    def _own(self, grain: Grain) -> DataFrame:
        table = grain_table(self.spec, grain).name
        keys = self.spec.request_key if grain is Grain.REQUEST else self.spec.impression_key
        own = (*keys, *self.dates, *self.spec.columns_of(grain))
        promoted = [c for g in self.groups.values() if g.grain is grain for c in promoted_columns([g], table)]
        return source_typed(self.spec, self._rows(table, self.window), dict.fromkeys((*own, *promoted)))

    def _rows(self, table: str, window: Window) -> DataFrame:
        self.read.add(table)
        return window.only(self.cut.handle, self.cut.rows(table))

    def _with_uses(self, rows: DataFrame, grain: Grain) -> DataFrame:
        used = [g for g in self.uses if g.grain is grain]
        # The own table of a group that was promoted or bundled has no rows, and tells when its values change.
        self.read |= {g.table for g in used}
        joined = by_table(g for g in used if g.promoted is None)
        tables = {name: self.window.only(self.cut.handle, self.cut.rows(name)) for name in joined}
        return attach(self.spec, rows, [(groups, tables[name]) for name, groups in joined.items()])
