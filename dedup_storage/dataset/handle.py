"""What every room of ``dataset`` takes: one dataset in one session, and one version of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import Column, DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.lists import EventFeatures, with_feature_lists, with_lists
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.formats import table_format
from dedup_storage.lake.groups import FeatureGroup, feature_groups, known_columns
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.publishing import require_buckets
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.schema import LogSchema

__all__ = ["Cut", "Handle", "open_handle"]


@dataclass(frozen=True)
class Handle:
    """One dataset in one session.

    Attributes:
        spark: Session with the catalog defined (``dedup_storage.lake.session.get_spark``).
        settings: Settings of that catalog.
        spec: The dataset's description.
        tables: Its table format.
    """

    spark: SparkSession
    settings: Settings
    spec: DatasetSpec
    tables: TableFormat

    @property
    def name(self) -> str:
        """Dataset name."""
        return self.spec.name

    @property
    def schema(self) -> LogSchema:
        """The log's schema with every column's grain declared."""
        return self.spec.schema_

    @property
    def bucket(self) -> Column:
        """The user bucket of a row, as the tables are partitioned."""
        return self.tables.bucket(self.spec)

    def metadata(self) -> DatasetMetadata:
        """The dataset's tables as the catalog shows them now.

        Raises:
            ConflictError: it lies in another number of user buckets than when it was opened.
        """
        meta = self.tables.metadata(self.spec.name)
        require_buckets(meta, self.spec)
        return meta

    def cut(self, version: int | None = None) -> Cut:
        """One version as the catalog shows it now; ``None`` takes the newest.

        Raises:
            VersionNotFoundError: there is no such version, or none at all.
        """
        meta = self.metadata()
        return Cut(self, meta, meta.resolve(version))

    def for_run(self) -> Handle:
        """The dataset in a session of its own with the toolkit's settings, UTC among them.

        What a job computes and stores must not depend on the session that somebody called it from.
        """
        session = run_session(self.spark)
        return Handle(session, self.settings, self.spec, table_format(session, self.settings))

    def require(self, operation: str) -> None:
        """Refuse an operation that the format or the dataset does not have.

        Raises:
            UsageError: it does not have it.
        """
        self.tables.require(operation, self.spec)


@dataclass(frozen=True)
class Cut:
    """One version of a dataset, as metadata shows it that was read once.

    Attributes:
        handle: The dataset.
        meta: Its tables at that moment.
        version: The version; 0 for a dataset without any.
    """

    handle: Handle
    meta: DatasetMetadata
    version: int

    @cached_property
    def spec(self) -> DatasetSpec:
        """The dataset's description, as the version has it."""
        return self.meta.spec_of(self.version)

    @cached_property
    def snapshots(self) -> dict[str, int]:
        """Table -> snapshot id, anchor first."""
        return self.meta.snapshots(self.version)

    @cached_property
    def groups(self) -> dict[str, FeatureGroup]:
        """The feature groups by name."""
        return feature_groups(self.meta, self.version)

    def log_rows(self, role: TableRole) -> DataFrame:
        """All rows of one of the log's own tables, with the lists that were logged."""
        return self.rows(self.spec.table(role).name)

    def rows(self, table: str, features: Sequence[FeatureGroup] = ()) -> DataFrame:
        """All rows of a table, with the columns that the version has of it and the lists that were logged.

        In layout ``user`` these are made of the users' lists, which are read only where a list is asked for.

        Args:
            table: Its name.
            features: Groups at event grain: of the table of requests, whose rows get their lists too.
        """
        rows = self.stored(table)
        if not self.spec.events or table != self.spec.anchor.name:
            return rows
        of_events = (EventFeatures(g.events_of(self.spec), g.table, g.types, self.stored(g.table)) for g in features)
        rows = with_feature_lists(self.spec, rows, of_events)
        return with_lists(self.spec, rows, {group.name: self.stored(group.table) for group in self.spec.events})

    def stored(self, table: str, *, hidden: bool = False) -> DataFrame:
        """All rows of a table as they are stored, with the columns that the version has of it.

        Args:
            table: Its name.
            hidden: With the columns of ``TableFormat.hidden``, by which segments are found.
        """
        tables = self.handle.tables
        # What a format hides is known here; asked for a table alone, it looks the dataset up first.
        rows = tables.read(self.handle.name, table, self.snapshots[table], hidden=True)
        rows = rows if hidden else rows.drop(*tables.hidden(self.meta.spec))
        own = next((t.columns for t in self.spec.tables if t.name == table), None)
        if own is not None and set(rows.columns) <= set(own):
            return rows
        known = known_columns(self.spec, self.groups.values(), table)
        if known is None:
            return rows
        known |= set(self.handle.tables.hidden(self.spec))
        return rows.select(*(c for c in rows.columns if c in known))


def open_handle(spark: SparkSession, settings: Settings, name: str) -> Handle:
    """A dataset by name.

    Raises:
        DatasetNotFoundError: names the datasets that do exist.
    """
    tables = table_format(spark, settings)
    return Handle(spark, settings, tables.metadata(name).spec, tables)
