"""One maintenance run: measure, compact, expire, remove orphans."""

from __future__ import annotations

from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.dataset.upkeep.maintain_summary import Gain, MaintainSummary, TableExpiry
from dedup_storage.dataset.upkeep.restore import Restoring
from dedup_storage.faults import reached
from dedup_storage.lake.iceberg.expire import Expiry, Policy
from dedup_storage.lake.iceberg.metadata import DatasetMetadata
from dedup_storage.spark.errors import translated
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.steps import TimedSteps

__all__ = ["Maintenance"]


class Maintenance(TimedSteps):
    """Keeps one dataset healthy.

    Args:
        handle: The dataset.
        run_id: Names the version of the compaction.
        limits: What counts as decayed.
        policy: Which versions stay.
        compact, expire, orphans: Which steps to take.
        dry_run: Measure and tell, change nothing.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        run_id: str,
        limits: Limits | None = None,
        policy: Policy | None = None,
        compact: bool = True,
        expire: bool = True,
        orphans: bool = True,
        dry_run: bool = False,
    ) -> None:
        self.spark, self.tables, self.settings, self.spec = handle.spark, handle.tables, handle.settings, handle.spec
        self.run_id, self.dry_run = run_id, dry_run
        self.limits, self.policy = limits or Limits(), policy or Policy()
        self.compact, self.expire, self.orphans = compact, expire, orphans
        self.seconds: dict[str, float] = {}

    def run(self) -> MaintainSummary:
        """Do it.

        Raises:
            VersionNotFoundError: the dataset holds no version yet.
        """
        with translated():
            meta = self.tables.metadata(self.spec.name) if self.dry_run else self.tables.settle(self.spec)
            meta.resolve(None)
            restoring = Restoring(self.spark, self.tables, self.spec, self.run_id, self.limits)
            if not self.dry_run and meta.version_of_run(self.run_id) is not None:
                restoring.drop_own(meta)
                meta = self.tables.metadata(self.spec.name)
            stored = self._stored_bytes(meta)
            gains: tuple[Gain, ...] = ()
            if self.compact:
                with self.timed("compact"):
                    gains = restoring.run(meta, dry_run=self.dry_run)
            meta = self.tables.metadata(self.spec.name)
            expired: list[int] = []
            abandoned: list[tuple[str, str]] = []
            if self.expire:
                with self.timed("expire"):
                    expired, abandoned = self._expire(meta)
            expiry = self._clean(self.tables.metadata(self.spec.name))
            meta = self.tables.metadata(self.spec.name)
            kept = [n for n in meta.version_numbers if n not in expired]
            return MaintainSummary(
                dataset=self.spec.name,
                run_id=self.run_id,
                version=meta.current,
                dry_run=self.dry_run,
                compaction=gains,
                expired_versions=tuple(expired),
                kept_versions=tuple(kept),
                abandoned_branches=tuple(f"{table}.{branch}" for table, branch in abandoned),
                expiry=expiry,
                stored_bytes_before=stored,
                stored_bytes_after=stored if self.dry_run else self._stored_bytes(meta),
                seconds=self.seconds,
            )

    def _name(self, table: str, metadata_table: str) -> str:
        return f"{self.settings.catalog.name}.{self.spec.name}.{table}.{metadata_table}"

    # -- expiry -------------------------------------------------------------------------------------------------

    def _expire(self, meta: DatasetMetadata) -> tuple[list[int], list[tuple[str, str]]]:
        expiry = self._expiry()
        versions, abandoned = expiry.expired_versions(meta), expiry.abandoned(meta)
        if not self.dry_run:
            expiry.drop_abandoned(abandoned)
            expiry.expire(meta, versions)
        return versions, abandoned

    def _expiry(self) -> Expiry:
        return Expiry(self.spark, self.tables, self.settings, self.spec, self.policy)

    def _clean(self, meta: DatasetMetadata) -> tuple[TableExpiry, ...]:
        expiry, found = self._expiry(), []
        for name in meta.tables:
            unneeded = expiry.unneeded(meta, name) if self.expire else []
            if unneeded and not self.dry_run:
                with self.timed("expire"):
                    expiry.remove_snapshots(name, unneeded)
                reached("maintain:cleaned")
            orphans = 0
            if self.orphans:
                with self.timed("orphans"):
                    orphans = expiry.orphans(name, dry_run=self.dry_run)
            found.append(TableExpiry(table=name, snapshots=len(unneeded), orphan_files=orphans))
        return tuple(found)

    def _stored_bytes(self, meta: DatasetMetadata) -> int:
        total = 0
        for name in meta.tables:
            files = self.spark.read.table(self._name(name, "all_files")).select("file_path", "file_size_in_bytes")
            # A file that several snapshots hold is listed several times.
            row = only_row(files.distinct().agg(F.coalesce(F.sum("file_size_in_bytes"), F.lit(0)).alias("b")))
            total += int(row["b"])
        return total
