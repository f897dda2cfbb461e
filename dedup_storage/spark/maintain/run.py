"""One maintenance run: measure, compact, expire, remove orphans."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.layout import DatasetSpec, TableRole
from dedup_storage.spark.errors import translated
from dedup_storage.spark.maintain.compact import Compactor, working_branches
from dedup_storage.spark.maintain.decay import Limits, SegmentDecay, measure_decay
from dedup_storage.spark.maintain.expire import Expiry, Policy
from dedup_storage.spark.maintain.summary import Gain, MaintainSummary, TableExpiry
from dedup_storage.spark.steps import TimedSteps
from dedup_storage.tables.iceberg_branch import branch_name
from dedup_storage.tables.metadata import DatasetMetadata
from dedup_storage.tables.protocol import TableFormat
from dedup_storage.tables.rows import only_row

__all__ = ["Maintenance"]

_COMPACTED = (TableRole.REQUESTS, TableRole.IMPRESSIONS, TableRole.LOGS, TableRole.FEATURES)


class Maintenance(TimedSteps):
    """Keeps one dataset healthy.

    Args:
        spark, tables, settings, spec: As for ``Backfill``.
        run_id: Names the version of the compaction.
        limits: What counts as decayed.
        policy: Which versions stay.
        compact, expire, orphans: Which steps to take.
        dry_run: Measure and tell, change nothing.
    """

    def __init__(
        self,
        spark: SparkSession,
        tables: TableFormat,
        settings: Settings,
        spec: DatasetSpec,
        *,
        run_id: str,
        limits: Limits | None = None,
        policy: Policy | None = None,
        compact: bool = True,
        expire: bool = True,
        orphans: bool = True,
        dry_run: bool = False,
    ) -> None:
        self.spark, self.tables, self.settings, self.spec = spark, tables, settings, spec
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
            if not self.dry_run and meta.version_of_run(self.run_id) is not None:
                # Killed between publication and clean-up, the run left its branches behind.
                for name in meta.tables:
                    self.tables.branch(self.spec.name, name, self.run_id).drop()
                meta = self.tables.metadata(self.spec.name)
            stored = self._stored_bytes(meta)
            gains: tuple[Gain, ...] = ()
            if self.compact:
                with self.timed("compact"):
                    gains = self._compact(meta)
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

    # -- compaction ---------------------------------------------------------------------------------------------

    def _compact(self, meta: DatasetMetadata) -> tuple[Gain, ...]:
        before = self._measure(meta)
        decayed = {name: [s for s in listed if s.reasons] for name, listed in before.items()}
        own, skipped = branch_name(self.run_id), {}
        for name, listed in decayed.items():
            if listed and working_branches(meta, name, own):
                skipped[name] = "a run is at work on the table"
        chosen = {name: listed for name, listed in decayed.items() if listed and name not in skipped}
        after = before
        if chosen and not self.dry_run:
            version = Compactor(self.spark, self.tables, self.settings, self.spec, self.run_id).compact(meta, chosen)
            if version is None:
                skipped |= dict.fromkeys(chosen, "another run changed the segments meanwhile")
            after = self._measure(self.tables.metadata(self.spec.name))
        return tuple(_gain(name, before[name], after[name], skipped.get(name)) for name in before)

    def _measure(self, meta: DatasetMetadata) -> dict[str, list[SegmentDecay]]:
        found = {}
        for name, snapshot_id in meta.snapshots(meta.current).items():
            if meta.role(name) not in _COMPACTED:
                continue
            files = self.spark.read.option("versionAsOf", str(snapshot_id)).table(self._name(name, "files"))
            fields = [(f.name, str(f.transform)) for f in meta.tables[name].spec().fields]
            found[name] = measure_decay(files, self.spec, name, fields, self.limits)
        return found

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


def _gain(name: str, before: list[SegmentDecay], after: list[SegmentDecay], skipped: str | None) -> Gain:
    return Gain(
        table=name,
        segments=len(before),
        decayed_segments=sum(1 for s in before if s.reasons),
        files_before=sum(s.files for s in before),
        files_after=sum(s.files for s in after),
        bytes_before=sum(s.bytes for s in before),
        bytes_after=sum(s.bytes for s in after),
        hidden_rows_before=sum(s.hidden_rows for s in before),
        hidden_rows_after=sum(s.hidden_rows for s in after),
        overlapping_files_before=sum(s.overlapping_files for s in before),
        overlapping_files_after=sum(s.overlapping_files for s in after),
        skipped=skipped,
    )
