"""The methods of ``Dataset`` that read: its grains, its flat log, its tables joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.features.read import GroupReader, source_typed
from dedup_storage.dataset.samples.methods import sampled
from dedup_storage.lake.iceberg.metadata import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DatasetSpec, Layout, TableRole
from dedup_storage.schema import Grain
from dedup_storage.spark.errors import translated

if TYPE_CHECKING:
    from dedup_storage.dataset.facade import Dataset

__all__ = ["ReadMethods"]


class ReadMethods:
    """A version's rows, as frames that nothing has run yet."""

    settings: Settings
    spec: DatasetSpec
    tables: TableFormat

    def metadata(self) -> DatasetMetadata:
        """The dataset's tables as the catalog shows them now."""
        return self.tables.metadata(self.spec.name)

    def _table(self, role: TableRole, version: int | None) -> DataFrame:
        meta = self.metadata()
        table = self.spec.table(role).name
        return self.tables.read(self.spec.name, table, meta.snapshots(meta.resolve(version))[table])

    def _groups(self, version: int | None, features: Sequence[str] | None) -> GroupReader:
        meta = self.metadata()
        return GroupReader(self.tables, self.spec, meta, meta.resolve(version), features)

    def requests(
        self, version: int | None = None, *, features: Sequence[str] | None = None, sample: str | None = None
    ) -> DataFrame:
        """Request rows (R): the request keys and every request-grain column, in the source's types.

        In flat layout they are collapsed on reading.

        Args:
            version: ``None`` takes the newest.
            features: Feature groups whose columns come after the log's own, by name; ``None`` for all at request
                grain, ``()`` for none.
            sample: Only a named sample's requests, with ``request_weight``.
        """
        if sample is not None:
            return sampled(
                cast("Dataset", self), sample, self.requests(version, features=features), Grain.REQUEST, version
            )
        with translated():
            groups = self._groups(version, features)
            keys, own = self.spec.request_key, self.spec.columns_of(Grain.REQUEST)
            shown = (*keys, *own, *groups.columns(Grain.REQUEST))
            if self.spec.layout is Layout.SPLIT:
                rows = groups.attach(groups.own(TableRole.REQUESTS), Grain.REQUEST)
                return source_typed(self.spec, rows, shown)
            stored = (*own, *groups.promoted(Grain.REQUEST))
            rows = source_typed(self.spec, groups.own(TableRole.LOGS), (*keys, *stored))
            wide = [F.first(c).alias(c) for c in stored]
            grouped = rows.groupBy(*keys).agg(*wide) if wide else rows.select(*keys).distinct()
            return groups.attach(grouped, Grain.REQUEST).select(*shown)

    def impressions(
        self, version: int | None = None, *, features: Sequence[str] | None = None, sample: str | None = None
    ) -> DataFrame:
        """Impression rows (B): the request keys, the position and every impression-grain column.

        Args:
            version: ``None`` takes the newest.
            features: As for ``requests``, at impression grain.
            sample: Only a named sample's impressions, with ``impression_weight``.
        """
        if sample is not None:
            return sampled(
                cast("Dataset", self), sample, self.impressions(version, features=features), Grain.IMPRESSION, version
            )
        with translated():
            groups = self._groups(version, features)
            role = TableRole.IMPRESSIONS if self.spec.layout is Layout.SPLIT else TableRole.LOGS
            own = (*self.spec.impression_key, *self.spec.columns_of(Grain.IMPRESSION))
            rows = groups.attach(groups.own(role), Grain.IMPRESSION)
            return source_typed(self.spec, rows, dict.fromkeys((*own, *groups.columns(Grain.IMPRESSION))))

    def logs(
        self, version: int | None = None, *, features: Sequence[str] | None = None, sample: str | None = None
    ) -> DataFrame:
        """The flat log (B rows), equal to the source row for row, columns in the source's order and types.

        Args:
            version: ``None`` takes the newest.
            features: Feature groups whose columns come after the source's, by name; ``None`` for all, ``()`` for none.
            sample: Only a named sample's rows, with ``impression_weight``.
        """
        if sample is not None:
            return sampled(cast("Dataset", self), sample, self.logs(version, features=features), None, version)
        with translated():
            groups = self._groups(version, features)
            shown = (*self.spec.source_columns, *groups.columns(Grain.REQUEST, Grain.IMPRESSION))
            if self.spec.layout is Layout.FLAT:
                rows = groups.attach(groups.own(TableRole.LOGS), Grain.REQUEST, Grain.IMPRESSION)
                return source_typed(self.spec, rows, shown)
            requests = groups.attach(groups.own(TableRole.REQUESTS), Grain.REQUEST)
            impressions = groups.attach(groups.own(TableRole.IMPRESSIONS), Grain.IMPRESSION)
            on = list(self.spec.request_key)
            if self.spec.event_date_column:
                on.append(self.spec.event_date_column)
            # Never a broadcast: Iceberg's size estimate takes a list for a few bytes.
            joined = impressions.join(requests.hint("merge"), on)
            return source_typed(self.spec, joined, shown)

    def join(self, left: str = "impressions", right: str = "requests", **options: Any) -> DataFrame:
        """Two tables of the dataset joined inside their buckets, without moving a row.

        Args:
            left, right: Tables of the dataset, or any bucketed table by its full name.
            options: Of ``dedup_storage.dataset.joins.tables.join_tables``: ``on``, ``how``, ``version``, ``columns``, …

        Raises:
            ShuffleRefusedError: rows would move; says why and what to do.
        """
        from dedup_storage.dataset.joins.tables import join_tables

        return join_tables(cast("Dataset", self), left, right, **options)

    def compression_report(self, version: int | None = None, *, sample: str | None = None, **options: Any) -> Any:
        """What every column of a version needs, and what the same rows would need otherwise.

        Args:
            version: ``None`` takes the newest.
            sample: Measure what else could be on a named sample's users, in place of a share of them.
            options: Of ``dedup_storage.report.measure.measure_dataset``, such as ``baselines=()`` for footers alone.

        Returns:
            A ``dedup_storage.report.model.Report``.
        """
        from dedup_storage.report.draw.named import named_users
        from dedup_storage.report.measure import measure_dataset
        from dedup_storage.report.parquet.dataset_files import dataset_files

        if sample is not None:
            options["named"] = named_users(self.settings, self.spec.name, sample)
        return measure_dataset(dataset_files(self.settings, self.spec.name, version), **options)
