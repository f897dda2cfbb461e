"""What erasure does whatever the table format: the users, who is at work, the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar, cast

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, TableErasure, signed
from dedup_storage.errors import UsageError
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DatasetSpec
from dedup_storage.sources.named import typed_users
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps

__all__ = ["ForgettingBase"]

Tables = TypeVar("Tables", bound=TableFormat)
Metadata = TypeVar("Metadata", bound=DatasetMetadata)


class ForgettingBase(TimedSteps, ABC, Generic[Tables, Metadata]):
    """Erases users from one dataset.

    Args:
        spark, tables, settings, spec: As for ``Backfill``.
        users: Ids in one column (or in the user column).
        run_id: The run; running it again finishes what is left.
        dry_run: Count, change nothing.
    """

    # Distinct, in the type of the tables' column.
    users: DataFrame

    def __init__(
        self,
        spark: SparkSession,
        tables: Tables,
        settings: Settings,
        spec: DatasetSpec,
        users: DataFrame,
        *,
        run_id: str,
        dry_run: bool = False,
    ) -> None:
        self.spark, self.tables, self.settings, self.spec = spark, tables, settings, spec
        self.run_id, self.dry_run = run_id, dry_run
        self._given = users
        self._not_found = 0
        self.seconds: dict[str, float] = {}

    def run(self) -> ForgetSummary:
        """Do it.

        Raises:
            UsageError: no user is given, or a run is at work on the dataset, whose staged rows may be theirs.
            ConflictError: another run changed the same segments first; run again.
        """
        with translated():
            meta = self._settled()
            meta.resolve(None)
            anchor = self.spec.anchor.name
            rows = self.tables.read(self.spec.name, anchor, meta.snapshots(meta.current)[anchor])
            user = self.spec.schema_.user
            self.users = typed_users(self._given, user, rows.schema[user].dataType).persist()
            try:
                count = self.users.count()
                if not count:
                    raise UsageError("no user is given")
                self._not_found = self.users.join(rows.select(user), user, "left_anti").count()
                return self._erase(meta, count)
            finally:
                self.users.unpersist()

    def _settled(self) -> Metadata:
        found = self.tables.metadata(self.spec.name) if self.dry_run else self.tables.settle(self.spec)
        return cast(Metadata, found)

    @abstractmethod
    def _erase(self, meta: Metadata, count: int) -> ForgetSummary:
        """Erase so many users from the tables."""

    def _refuse_busy(self, busy: Iterable[str]) -> None:
        listed = ", ".join(busy)
        if listed and not self.dry_run:
            raise UsageError(
                f"runs are at work on {self.spec.name}, or were stopped there: {listed}",
                fix="Nothing was changed. Finish them, or drop them with maintain --abandoned-days 0.",
            )

    def _summary(
        self,
        count: int,
        version: int,
        versions: Iterable[int],
        erasures: Mapping[str, TableErasure],
        *,
        clean: bool | None,
    ) -> ForgetSummary:
        summary = ForgetSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            dry_run=self.dry_run,
            users=count,
            not_found=self._not_found,
            version=version,
            versions_rewritten=tuple(versions),
            clean=clean,
            tables=tuple(erasures.values()),
            seconds=self.seconds,
        )
        return signed(summary)
