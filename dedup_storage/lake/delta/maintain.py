"""Maintenance of Delta tables: versions expire by policy, files that no kept version names are deleted.

Delta's own VACUUM goes by the age of a removal and knows nothing of versions, so the tables keep everything and this
decides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from dedup_storage.config import Settings
from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.dataset.upkeep.maintain_summary import Gain, MaintainSummary, TableExpiry
from dedup_storage.dataset.upkeep.restore import Restoring
from dedup_storage.faults import reached
from dedup_storage.lake.delta.branch import DeltaBranch
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.format import DeltaFormat
from dedup_storage.lake.delta.metadata import DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.stage import StagedStore
from dedup_storage.lake.folders import delete_files, is_hidden, list_files, open_folder
from dedup_storage.lake.iceberg.expire import DAY_MS, Policy
from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps

__all__ = ["DeltaMaintenance"]


@dataclass(frozen=True)
class _Unneeded:
    """Files of one table that may go: places in its folder."""

    expired: tuple[str, ...]
    orphans: tuple[str, ...]


class DeltaMaintenance(TimedSteps):
    """Keeps one Delta dataset healthy.

    Args:
        tables, settings, spec: The dataset.
        run_id: Names the version of the compaction.
        limits: What counts as decayed.
        policy: Which versions stay, and how long files that nothing names do.
        compact, expire, orphans: Which steps to take.
        dry_run: Tell, change nothing.
    """

    def __init__(
        self,
        tables: DeltaFormat,
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
        self.tables, self.settings, self.spec, self.run_id = tables, settings, spec, run_id
        self.limits, self.policy = limits or Limits(), policy or Policy()
        self.compact, self.expire, self.orphans, self.dry_run = compact, expire, orphans, dry_run
        self.seconds: dict[str, float] = {}
        self._now_ms = int(time.time() * 1000)

    def run(self) -> MaintainSummary:
        """Do it.

        Raises:
            VersionNotFoundError: the dataset holds no version yet.
        """
        with translated():
            meta = self.tables.metadata(self.spec.name) if self.dry_run else self.tables.settle(self.spec)
            meta.resolve(None)
            stored = self._stored_bytes(meta)
            restoring = Restoring(self.tables.spark, self.tables, self.spec, self.run_id, self.limits)
            if not self.dry_run and meta.version_of_run(self.run_id) is not None:
                restoring.drop_own(meta)
            gains: tuple[Gain, ...] = ()
            if self.compact:
                with self.timed("compact"):
                    gains = restoring.run(meta, dry_run=self.dry_run)
                meta = self.tables.lake.load(self.spec.name)
            abandoned = self._abandoned(meta) if self.expire else []
            if not self.dry_run:
                for _, branch in abandoned:
                    branch.drop()
            expired = self.expired_versions(meta) if self.expire else []
            with self.timed("files"):
                unneeded = {name: self._unneeded(meta, ref, expired) for name, ref in meta.tables.items()}
            if not self.dry_run:
                if expired:
                    # The versions cease to exist before their files do.
                    self.tables.lake.log(self.spec.name).forget(expired)
                reached("maintain:unnamed")
                with self.timed("delete"):
                    for name, files in unneeded.items():
                        self._delete(meta.tables[name], (*files.expired, *files.orphans))
                meta = self.tables.metadata(self.spec.name)
            return MaintainSummary(
                dataset=self.spec.name,
                run_id=self.run_id,
                version=meta.current,
                dry_run=self.dry_run,
                compaction=gains,
                expired_versions=tuple(expired),
                kept_versions=tuple(n for n in meta.version_numbers if n not in expired),
                abandoned_branches=tuple(f"{table}.{branch.name}" for table, branch in abandoned),
                expiry=tuple(
                    TableExpiry(table=name, snapshots=0, expired_files=len(u.expired), orphan_files=len(u.orphans))
                    for name, u in unneeded.items()
                ),
                stored_bytes_before=stored,
                stored_bytes_after=stored if self.dry_run else self._stored_bytes(meta),
                seconds=self.seconds,
            )

    def expired_versions(self, meta: DeltaMetadata) -> list[int]:
        """Versions that the policy lets go, oldest first; pinned ones stay, and those that runs at work began at."""
        begun = {(name, branch.held()[0]) for name in meta.tables for branch in self._branches(name)}
        outdated = self.policy.outdated(meta, self._now_ms)
        return [info.version for info in outdated if begun.isdisjoint(info.snapshots.items())]

    def _branches(self, table: str) -> list[DeltaBranch]:
        """Branches of runs that are at work on a table, or were stopped there."""
        lake, dataset = self.tables.lake, self.spec.name
        names = self.tables.branches(dataset, table)
        return [DeltaBranch(self.tables.spark, lake, dataset, table, name) for name in names]

    def _abandoned(self, meta: DeltaMetadata) -> list[tuple[str, DeltaBranch]]:
        """(table, branch) of runs that stopped long ago."""
        old = self._now_ms - self.policy.abandoned_days * DAY_MS
        return [(name, b) for name in meta.tables for b in self._branches(name) if b.last_ms() < old]

    def _unneeded(self, meta: DeltaMetadata, ref: DeltaRef, expired: list[int]) -> _Unneeded:
        """What expired versions alone name, and what nothing names for long enough."""
        old = self._now_ms - self.policy.orphan_days * DAY_MS
        # What runs hold is looked at before what the table holds: it goes from the one to the other.
        needed = set(self._store().paths(ref.name, old))
        for branch in self._branches(ref.name):
            needed |= branch.held()[1]
        needed |= set(live_files(ref).paths)
        for snapshot in meta.kept(ref.name, expired):
            needed |= set(live_files(ref, snapshot).paths)
        gone: set[str] = set()
        for snapshot in {meta.snapshots(n)[ref.name] for n in expired if ref.name in meta.snapshots(n)}:
            gone |= set(live_files(ref, snapshot).paths)
        _, root = open_folder(ref.uri, self.settings.catalog.properties)
        orphans = []
        for file in list_files(ref.uri, self.settings.catalog.properties) if self.orphans else []:
            place = file.path[len(root) :].strip("/")
            if not is_hidden(place) and place not in needed and place not in gone and file.mtime_ns < old * 1_000_000:
                orphans.append(place)
        # Files of a log that was adopted lie outside and are never deleted.
        inside = (p for p in gone - needed if "://" not in p and not p.startswith(("/", "file:")))
        return _Unneeded(tuple(sorted(inside)), tuple(sorted(orphans)))

    def _store(self) -> StagedStore:
        return StagedStore(self.tables.lake.uri(self.spec.name), self.settings.catalog.properties)

    def _delete(self, ref: DeltaRef, places: tuple[str, ...]) -> None:
        delete_files(ref.uri, places, self.settings.catalog.properties)

    def _stored_bytes(self, meta: DeltaMetadata) -> int:
        """Bytes of all files that versions name; one that several name counts once."""
        total = 0
        for ref in meta.tables.values():
            sizes: dict[str, int] = {}
            for snapshot in {meta.snapshots(n).get(ref.name) for n in meta.version_numbers} - {None}:
                files = live_files(ref, snapshot)
                sizes |= dict(zip(files.paths, files.table["size_bytes"].to_pylist(), strict=True))
            total += sum(sizes.values())
        return total
