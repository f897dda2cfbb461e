"""Maintenance of Delta tables: versions expire by policy, files that no kept version names are deleted.

Delta's own VACUUM goes by the age of a removal and knows nothing of versions, so the tables keep everything and this
decides.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from pyspark.sql import SparkSession

from dedup_storage.faults import reached
from dedup_storage.lake.delta.branch import DeltaBranch, branches_of
from dedup_storage.lake.delta.empty import empty_table
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.stage import StagedStore
from dedup_storage.lake.folders import delete_files, is_hidden, list_files, open_folder
from dedup_storage.lake.upkeep import COMING_AND_GOING, DAY_MS, Outdated, Policy, TableExpiry
from dedup_storage.layout import DatasetSpec

__all__ = ["DeltaUpkeep"]


@dataclass(frozen=True)
class _Unneeded:
    """Files of one table that may go: places in its folder.

    Attributes:
        expired: Those that only expired versions name.
        orphans: Those that nothing names.
        left: Those that the table's log names, and no version; it must not name them any more when they go.
    """

    expired: tuple[str, ...]
    orphans: tuple[str, ...]
    left: tuple[str, ...]


class DeltaUpkeep:
    """The ``Upkeep`` of Delta.

    Args:
        spark, lake: Where the tables are.
        spec: The dataset.
        policy: Which versions stay, and how long files that nothing names do.
    """

    def __init__(self, spark: SparkSession, lake: DeltaLake, spec: DatasetSpec, policy: Policy) -> None:
        self.spark, self.lake, self.spec, self.policy = spark, lake, spec, policy
        self.meta = lake.load(spec.name)
        self._properties = lake.settings.catalog.properties
        self._store = StagedStore(lake.uri(spec.name), self._properties)
        self._now_ms = int(time.time() * 1000)

    def stored_bytes(self) -> int:
        """See ``Upkeep``; all files that versions name."""
        meta, total = self.meta, 0
        for ref in meta.tables.values():
            sizes: dict[str, int] = {}
            for snapshot in {meta.snapshots(n).get(ref.name) for n in meta.version_numbers} - {None}:
                files = live_files(ref, snapshot)
                sizes |= dict(zip(files.paths, files.table["size_bytes"].to_pylist(), strict=True))
            total += sum(sizes.values())
        return total

    def outdated(self, coming: int = 0) -> Outdated:
        """See ``Upkeep``; a branch that is dropped keeps no version. What attempts staged is named by them."""
        old = self._now_ms - self.policy.abandoned_days * DAY_MS
        dropped, begun = [], set()
        for name in self.meta.tables:
            for branch in self._branches(name):
                if branch.last_ms() < old:
                    dropped.append((name, branch.name))
                else:
                    begun.add((name, branch.held()[0]))
        for attempt, since_ms in self._store.attempts().items():
            if since_ms < old and attempt not in self.meta.decided:
                dropped += [(table, attempt) for table in self._store.tables(attempt)]
        outdated = self.policy.outdated(self.meta, self._now_ms, coming)
        versions = (info.version for info in outdated if begun.isdisjoint(info.snapshots.items()))
        return Outdated(tuple(versions), tuple(dropped))

    def expire(self, outdated: Outdated) -> Outdated:
        """See ``Upkeep``."""
        for table, name in outdated.branches:
            if not _is_attempt(name):
                DeltaBranch(self.spark, self.lake, self.spec.name, table, name).drop()
        for attempt in dict.fromkeys(name for _, name in outdated.branches if _is_attempt(name)):
            self._store.take_back(attempt, partial(self._has_decided, attempt))
        self._store.forget_done(self.meta.decided, self.meta.pending)
        gone = self.lake.log(self.spec.name).forget(outdated.versions)
        reached("maintain:unnamed")
        return replace(outdated, versions=tuple(v for v in outdated.versions if v in gone))

    def clean(self, outdated: Outdated | None, *, orphans: bool, dry_run: bool) -> tuple[TableExpiry, ...]:
        """See ``Upkeep``; counts files."""
        expired, found = outdated.versions if outdated is not None else (), []
        # A rollback may have brought a version back before it expired: its files are a new one's.
        now = self.lake.load(self.spec.name)
        for name, ref in self.meta.tables.items():
            unneeded = self._unneeded(now, ref, expired, orphans=orphans)
            if not dry_run:
                if unneeded.left:
                    empty_table(self.spark, ref, unneeded.left)
                    reached("maintain:emptied")
                delete_files(ref.uri, (*unneeded.expired, *unneeded.orphans), self._properties)
            found.append(
                TableExpiry(
                    table=name,
                    snapshots=0,
                    expired_files=len(unneeded.expired),
                    orphan_files=len(unneeded.orphans),
                )
            )
        return tuple(found)

    def _has_decided(self, attempt: str) -> bool:
        return attempt in self.lake.load(self.spec.name).decided

    def _branches(self, table: str) -> list[DeltaBranch]:
        """Branches of runs that are at work on a table, or were stopped there."""
        names = branches_of(self.lake, self.spec.name, table)
        return [DeltaBranch(self.spark, self.lake, self.spec.name, table, name) for name in names]

    def _is_left(self, ref: DeltaRef, expired: Collection[int]) -> bool:
        """Whether every version that had a table is gone, or among those that expire, and none is under way.

        Asked once the table's files were read: of a version that has brought some, the claim is there by then.
        """
        if self.meta.role(ref.name) not in COMING_AND_GOING or self.meta.kept(ref.name, expired):
            return False
        now = self.lake.load(self.spec.name)
        return now.pending is None and not now.kept(ref.name, expired) and not self._branches(ref.name)

    def _unneeded(self, now: DeltaMetadata, ref: DeltaRef, expired: Collection[int], *, orphans: bool) -> _Unneeded:
        """What expired versions alone name, and what nothing names for long enough.

        Args:
            now: The dataset's tables now.
            ref: One of them.
            expired: The versions.
            orphans: Whether to look for what nothing names.
        """
        meta, old = self.meta, self._now_ms - self.policy.orphan_days * DAY_MS
        # What runs hold is looked at before what the table holds: it goes from the one to the other.
        needed = set(self._store.paths(ref.name, old))
        for branch in self._branches(ref.name):
            needed |= branch.held()[1]
        live = set(live_files(ref).paths)
        left = live if live and (expired or orphans) and self._is_left(ref, expired) else set()
        needed |= live - left
        for snapshot in now.kept(ref.name, expired):
            needed |= set(live_files(ref, snapshot).paths)
        gone = set(left)
        for snapshot in {meta.snapshots(n)[ref.name] for n in expired if ref.name in meta.snapshots(n)}:
            gone |= set(live_files(ref, snapshot).paths)
        _, root = open_folder(ref.uri, self._properties)
        unnamed = []
        for file in list_files(ref.uri, self._properties) if orphans else []:
            place = file.path[len(root) :].strip("/")
            if not is_hidden(place) and place not in needed and place not in gone and file.mtime_ns < old * 1_000_000:
                unnamed.append(place)
        # Files of a log that was adopted lie outside and are never deleted.
        inside = (p for p in gone - needed if "://" not in p and not p.startswith(("/", "file:")))
        return _Unneeded(tuple(sorted(inside)), tuple(sorted(unnamed)), tuple(sorted(left)))


def _is_attempt(name: str) -> bool:
    """Whether a name is that of an attempt, which begins with its run's id, and no branch's."""
    return "/" in name
