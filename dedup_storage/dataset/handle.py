"""What every room of ``dataset`` takes: one dataset in one session."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.formats import table_format
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import LogSchema

__all__ = ["Handle", "open_handle"]


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

    def metadata(self) -> DatasetMetadata:
        """The dataset's tables as the catalog shows them now."""
        return self.tables.metadata(self.spec.name)

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


def open_handle(spark: SparkSession, settings: Settings, name: str) -> Handle:
    """A dataset by name.

    Raises:
        DatasetNotFoundError: names the datasets that do exist.
    """
    tables = table_format(spark, settings)
    return Handle(spark, settings, tables.metadata(name).spec, tables)
