"""The way in: ``connect(settings)`` gives a lake of datasets. Spark starts when something needs it, not before.

Needs: ``lake.catalogs`` for what metadata answers, ``dataset`` for everything else.
Gives: ``connect``, ``Lake``.
May import: nothing heavy before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dedup_storage.config import Settings, load_settings
from dedup_storage.errors import DedupStorageError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.lake.admin import Admin, DatasetDescription, DropSummary, RenameSummary
    from dedup_storage.layout import EpochGrain, Layout
    from dedup_storage.reader.vocabulary import IdVocabulary
    from dedup_storage.schema import DateGrain, LogSchema
    from dedup_storage.sources.raw import RawLog

__all__ = ["Lake", "connect"]


def connect(settings: Settings | str | Path | None = None, *, spark: SparkSession | None = None) -> Lake:
    """Connect to a lake.

    Args:
        settings: Settings, or the file to read them from; ``None`` takes the one that ``DEDUP_STORAGE_CONFIG`` names,
            else ``conf/local.yaml`` of the working directory, else the embedded defaults. The environment is read
            too, unless settings are given.
        spark: A session to use; left out, one is joined or started when it is needed.

    Raises:
        ConfigError: the settings are not valid.

    Example:
        >>> lake = connect()  # doctest: +SKIP
        >>> lake.datasets()   # doctest: +SKIP
        ['clicks']
        >>> clicks = lake.open("clicks")  # doctest: +SKIP
    """
    return Lake(settings if isinstance(settings, Settings) else load_settings(settings), spark)


class Lake:
    """The datasets of one catalog and warehouse.

    ``datasets``, ``describe``, ``drop`` and ``rename`` need no Spark; ``open`` and ``create`` start it. As a context
    manager it stops the session that it started.

    Attributes:
        settings: Which catalog, warehouse and table format.
    """

    def __init__(self, settings: Settings, spark: SparkSession | None = None) -> None:
        self.settings = settings
        self._spark, self._own_spark = spark, False

    @property
    def spark(self) -> SparkSession:
        """The Spark session, joined or started on first use.

        Raises:
            ConfigError: a session runs already with another catalog under the same name.
        """
        if self._spark is None:
            from pyspark.sql import SparkSession

            from dedup_storage.lake.session import get_spark

            self._own_spark = SparkSession.getActiveSession() is None
            self._spark = get_spark(self.settings)
        return self._spark

    def datasets(self) -> list[str]:
        """Names of the datasets, in order."""
        return self._admin.datasets()

    def open(self, name: str) -> Dataset:
        """Open a dataset.

        Raises:
            DatasetNotFoundError: names the datasets that do exist, and where they were looked for.
        """
        from dedup_storage.dataset.facade import Dataset

        if self._spark is None:
            # A wrong name is told before Spark starts.
            self._admin.load(name)
        return Dataset.open(self.spark, self.settings, name)

    def create(
        self,
        name: str,
        schema: LogSchema,
        raw: RawLog,
        *,
        layout: Layout | str | None = None,
        date_grain: DateGrain | str | None = None,
        buckets: int | None = None,
        epoch_grain: EpochGrain | str | None = None,
    ) -> Dataset:
        """Create a dataset for logs like ``raw``, or open it when it is there and agrees; nothing is written yet.

        Args:
            name: Dataset name.
            schema: Meaning of the columns; grains left open are detected from ``raw``.
            raw: A log: its columns, types and size decide what is not given.
            layout: ``split`` (default), ``flat``, or ``user`` (each event of a user stored once).
            date_grain, buckets: Segments; from the schema, else proposed from the size of ``raw``.
            epoch_grain: Layout ``user``: epochs by which events are partitioned, ``month`` or ``none``; else proposed.

        Raises:
            DatasetExistsError: it is there and differs in what was given.
            SchemaError: the schema does not fit the log.
            UsageError: epochs for a dataset that has none.
        """
        from dedup_storage.dataset.facade import Dataset

        return Dataset.create(
            self.spark, self.settings, name, schema, raw, layout=layout, date_grain=date_grain, buckets=buckets,
            epoch_grain=epoch_grain,
        )  # fmt: skip

    def describe(self, name: str) -> DatasetDescription:
        """What a dataset's metadata says: rows, versions, bytes, feature groups, samples.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        return self._admin.describe(name)

    def vocabulary(
        self,
        name: str,
        columns: str | Sequence[str],
        *,
        version: int | None = None,
        min_count: int = 1,
        filters: Mapping[str, Any] | None = None,
        sample: str | None = None,
    ) -> IdVocabulary:
        """Ids for the values of columns: built once from a version, stored beside the dataset, and read from then on.

        Args, Raises: as ``dedup_storage.reader.open_vocabulary``.
        """
        from dedup_storage.reader.open.vocabulary import open_vocabulary

        return open_vocabulary(
            name, columns, self.settings, version=version, min_count=min_count, filters=filters, sample=sample
        )

    def drop(self, name: str, *, force: bool = False, dry_run: bool = False) -> DropSummary:
        """Remove a dataset: its tables, and every file in their folders. A drop that was stopped is finished.

        The files of a log that was adopted stay.

        Args:
            name: The dataset.
            force: Also when runs are at work on it or versions are pinned.
            dry_run: Say what would be removed, or why nothing would be; change nothing.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
            UsageError: runs are at work on it, or versions are pinned; nothing was changed.
        """
        return self._admin.drop(name, force=force, dry_run=dry_run)

    def rename(self, name: str, new_name: str, *, force: bool = False, dry_run: bool = False) -> RenameSummary:
        """Give a dataset another name. A rename that was stopped is finished by the same call.

        Whatever names the dataset elsewhere keeps the old name: lookups of other datasets' feature groups, saved
        states of readers, pins that were written down. Datasets that were opened before must be opened again.

        Args:
            name: The dataset.
            new_name: Its name from now on.
            force: Also when runs are at work on it.
            dry_run: Say what would be renamed, or why nothing would be; change nothing.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
            DatasetExistsError: the new name is taken.
            UsageError: runs are at work on it, or the format cannot rename there; nothing was changed.
        """
        return self._admin.rename(name, new_name, force=force, dry_run=dry_run)

    def close(self) -> None:
        """Stop the Spark session, if it was started here."""
        if self._own_spark and self._spark is not None:
            self._spark.stop()
        self._spark, self._own_spark = None, False

    def __enter__(self) -> Lake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        settings = self.settings
        catalog = f"{settings.format}, catalog {settings.catalog.name}" if settings.has_catalog else settings.format
        try:
            count = len(self.datasets())
            held = f"{count} dataset" if count == 1 else f"{count} datasets"
        except DedupStorageError as error:
            held = f"cannot be read: {error.what}"
        return f"<Lake {settings.warehouse_uri} ({catalog}): {held}>"

    @property
    def _admin(self) -> Admin[Any]:
        from dedup_storage.lake.catalogs import open_admin

        return open_admin(self.settings)
