"""Maintenance of Iceberg tables: what a policy lets go, and what no version needs any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from pyiceberg.table import Table
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import CatalogType, Settings
from dedup_storage.faults import reached
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.branch import BRANCH_PREFIX, PART
from dedup_storage.lake.iceberg.expire import MAIN, VERSION_OF_TAG, Expiry, version_named
from dedup_storage.lake.iceberg.holds import HOLD_PREFIX, holds, pending_attempt
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.iceberg.scratch import drop_left
from dedup_storage.lake.iceberg.snapshots import ancestors, begun_ms, is_empty, snapshot_summary, tags
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.sql import quoted
from dedup_storage.lake.stores import scheme_of
from dedup_storage.lake.upkeep import COMING_AND_GOING, DAY_MS, Outdated, Policy, TableExpiry
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, DatasetSpec
from dedup_storage.spark.rows import only_row

__all__ = ["IcebergUpkeep"]


class IcebergUpkeep:
    """The ``Upkeep`` of Iceberg.

    Args:
        spark, tables, settings: Where the tables are.
        spec: The dataset.
        policy: What stays.
    """

    def __init__(
        self, spark: SparkSession, tables: TableFormat, settings: Settings, spec: DatasetSpec, policy: Policy
    ) -> None:
        self.spark, self.tables, self.settings, self.spec, self.policy = spark, tables, settings, spec, policy
        self.meta = tables.metadata(spec.name)
        self._expiry = Expiry(spark, tables, settings, spec)
        self._now_ms = int(time.time() * 1000)

    def stored_bytes(self) -> int:
        """See ``Upkeep``; all files that the tables' snapshots name."""
        total = 0
        for name in self.meta.tables:
            place = f"{self.settings.catalog.name}.{self.spec.name}.{name}.all_files"
            files = self.spark.read.table(place).select("file_path", "file_size_in_bytes")
            # A file that several snapshots hold is listed several times.
            row = only_row(files.distinct().agg(F.coalesce(F.sum("file_size_in_bytes"), F.lit(0)).alias("b")))
            total += int(row["b"])
        return total

    def outdated(self, coming: int = 0) -> Outdated:
        """See ``Upkeep``."""
        return Outdated(tuple(self._expired_versions(self.meta, coming)), tuple(self._abandoned(self.meta)))

    def expire(self, outdated: Outdated) -> Outdated:
        """See ``Upkeep``; the snapshots of dropped branches and holds go with ``clean``."""
        for table, name in outdated.branches:
            if name.startswith(HOLD_PREFIX):
                self.tables.untag(self.spec.name, table, name)
            else:
                self._expiry.drop_branch(table, name)
        self._expiry.expire(self.meta, outdated.versions)
        there = self.tables.metadata(self.spec.name).version_numbers
        return replace(outdated, versions=tuple(v for v in outdated.versions if v not in there))

    def clean(self, outdated: Outdated | None, *, orphans: bool, dry_run: bool) -> tuple[TableExpiry, ...]:
        """See ``Upkeep``; counts snapshots, whose files Iceberg compares."""
        meta, found = self.tables.metadata(self.spec.name), []
        names = {
            name: _names_after(meta, name, outdated) if dry_run and outdated is not None else tags(table)
            for name, table in meta.tables.items()
        }
        left = {name for name in meta.tables if outdated is not None and self._is_left(meta, name, names[name])}
        for name in () if dry_run else sorted(left):
            self._expiry.empty(name)
            reached("maintain:emptied")
        if left and not dry_run:
            meta = self.tables.metadata(self.spec.name)
            names = {name: tags(table) for name, table in meta.tables.items()}
        for name in meta.tables:
            named = {} if dry_run and name in left else names[name]
            unneeded = self._unneeded(meta, name, named) if outdated is not None else []
            if unneeded and not dry_run:
                self._expiry.remove_snapshots(meta.tables[name], unneeded)
                reached("maintain:cleaned")
            gone = self._orphans(name, dry_run=dry_run) if orphans else 0
            found.append(TableExpiry(table=name, snapshots=len(unneeded), orphan_files=gone))
        if orphans and not dry_run and self.settings.catalog.type is CatalogType.REST:
            # Only such a catalog is tried, in tables of their own; a run that was killed may have left one.
            old = self._now_ms - self.policy.orphan_days * DAY_MS
            drop_left(self.spark, self.settings, Lake(self.settings).catalog, self.spec.name, int(old))
        return tuple(found)

    def _expired_versions(self, meta: DatasetMetadata, coming: int) -> list[int]:
        """Versions that the policy lets go, oldest first; pinned ones stay."""
        anchor = meta.spec.anchor.name
        kept_snapshots: set[tuple[str, int | None]] = {
            (name, snapshot_id)
            for name, table in meta.tables.items()
            for tag, snapshot_id in tags(table).items()
            if VERSION_OF_TAG.fullmatch(tag) is None
            and tag != MAIN
            and not tag.startswith(BRANCH_PREFIX)
            # A pin keeps its own version, which the anchor tells: another one may share a table's snapshot with it, and
            # a pin that was stopped has not come to the anchor.
            and (name == anchor or version_named(tag) is None)
        }
        # A run that is at work reads the version its branch began at.
        kept_snapshots |= {
            (name, _beginning(table, tag))
            for name, table in meta.tables.items()
            for tag in tags(table)
            if tag.startswith(BRANCH_PREFIX)
        }
        # Whatever else names a snapshot of the version keeps it: a pin, a sample, somebody's own tag.
        return [
            info.version
            for info in self.policy.outdated(meta, self._now_ms, coming)
            if kept_snapshots.isdisjoint(info.snapshots.items())
        ]

    def _abandoned(self, meta: DatasetMetadata) -> list[tuple[str, str]]:
        """(table, branch or hold) of runs that stopped long ago."""
        old = self._now_ms - self.policy.abandoned_days * DAY_MS
        decided = pending_attempt(self.tables.metadata(self.spec.name))  # type: ignore[arg-type]
        found = [(h.table, h.tag) for h in holds(meta.tables) if h.since_ms < old and h.attempt != decided]
        for name, table in meta.tables.items():
            for tag, snapshot_id in tags(table).items():
                tip = table.snapshot_by_id(snapshot_id)
                if not tag.startswith(BRANCH_PREFIX) or tip is None:
                    continue
                # Until its first part a branch names a version's snapshot.
                if max(tip.timestamp_ms, begun_ms(table, tag)) < old:
                    found.append((name, tag))
        return found

    @staticmethod
    def _is_left(meta: DatasetMetadata, name: str, names: Mapping[str, int]) -> bool:
        """Whether main alone names what a table holds, since every version that had the table expired."""
        return meta.role(name) in COMING_AND_GOING and names.keys() == {MAIN} and not is_empty(meta.tables[name])

    def _unneeded(self, meta: DatasetMetadata, name: str, names: Mapping[str, int]) -> list[int]:
        """Snapshots of a table that no version, pin or branch names, and no run can be about to publish.

        Args:
            meta: The dataset's tables.
            name: The table.
            names: Its tags and branches; none of one that would be emptied, whose main goes too.
        """
        table = meta.tables[name]
        old = self._now_ms - self.policy.orphan_days * DAY_MS
        kept: set[int] = {*names.values(), *self._defining(meta, name, names)}
        for tag, snapshot_id in names.items():
            if tag.startswith(BRANCH_PREFIX):
                line = ancestors(table, snapshot_id)
                kept |= {s.snapshot_id for s in takewhile(lambda s: PART in snapshot_summary(s), line)}
        main = {s.snapshot_id for s in ancestors(table, table.metadata.current_snapshot_id)}
        return [
            s.snapshot_id
            for s in table.metadata.snapshots
            if s.snapshot_id not in kept and (s.snapshot_id in main or s.timestamp_ms < old)
        ]

    def _defining(self, meta: DatasetMetadata, name: str, names: Mapping[str, int]) -> set[int]:
        """Snapshots whose summaries hold the definitions that kept snapshots of a feature group refer to."""
        table, key = meta.tables[name], PROPERTY_PREFIX + DEFINITION
        found: set[int] = set()
        for snapshot_id in set(names.values()):
            for snapshot in ancestors(table, snapshot_id):
                summary = snapshot_summary(snapshot)
                source = table.snapshot_by_id(int(summary.get("source-snapshot-id", 0)))
                if key in summary:
                    found.add(snapshot.snapshot_id)
                    break
                if source is not None and key in snapshot_summary(source):
                    found |= {snapshot.snapshot_id, source.snapshot_id}
                    break
        return found

    def _orphans(self, name: str, *, dry_run: bool) -> int:
        """Remove files of a table's folder that no snapshot names, if older than the safe age; gives their number."""
        before = datetime.now(UTC) - timedelta(days=self.policy.orphan_days)
        catalog = quoted(self.settings.catalog.name)
        # On a store the table's own client lists, with the keys that the catalog may vend; Spark's may have none.
        stored = scheme_of(self.meta.tables[name].location()) not in ("", "file", "hdfs", "viewfs")
        rows = self._expiry.call(
            f"CALL {catalog}.system.remove_orphan_files(table => '{self.spec.name}.{name}', "
            f"older_than => TIMESTAMP '{before:%Y-%m-%d %H:%M:%S}Z', dry_run => {str(dry_run).lower()}, "
            f"prefix_listing => {str(stored).lower()})"
        )
        return int(rows.count())


def _names_after(meta: DatasetMetadata, name: str, going: Outdated) -> dict[str, int]:
    """A table's tags and branches without those that go with what expires, and with it those of versions that are none
    (``Expiry.tidy``)."""
    found, there = {}, {*meta.version_numbers} - {*going.versions}
    for tag, snapshot_id in tags(meta.tables[name]).items():
        version = version_named(tag)
        stays = version is None or version in there or version > meta.current
        if stays and (name, tag) not in going.branches:
            found[tag] = snapshot_id
    return found


def _beginning(table: Table, branch: str) -> int | None:
    """The snapshot that a run's branch began at."""
    for snapshot in ancestors(table, tags(table)[branch]):
        if PART not in snapshot_summary(snapshot):
            return snapshot.snapshot_id
    return None
