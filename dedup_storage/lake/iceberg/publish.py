"""Publication on Iceberg: many tables, one atomic step, no lock, no server.

A run's data lies in staged snapshots, which no branch contains; a hold (``holds``) keeps each from staging on. To
publish version N:

1. finish whatever another run decided but did not complete;
2. check that nothing published since the run began contradicts it;
3. create the tag ``claim-v<N>`` on the anchor at the run's staged anchor snapshot, and in the same commit the property
   that names the members: each table's staged snapshot, its rows and files; where the dataset has other columns from
   here on, its description too. The catalog lets exactly one writer create a tag, so this decides the version;
4. bring each member onto main (Iceberg's cherry-pick) and tag it ``v<N>``, in one commit that takes its hold away; the
   anchor last (``complete``). Where a REST catalog offers it, that is one commit for all of them (``one_commit``).

Steps 1 and 4 are the same code, safe to repeat and safe to run twice at once: a crash after 3 is finished by the
next run, whoever it is; a crash before 3 leaves only what is held, which maintenance lets go after some days. A version
that can never be completed is given up (``abandon``); its number is not used again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError, ForeignCommitError, VersionNotFoundError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import atomic_change
from dedup_storage.lake.engine.iceberg import IcebergTable
from dedup_storage.lake.iceberg.abandon import Abandonment
from dedup_storage.lake.iceberg.branch import came_first, load_java, main_id
from dedup_storage.lake.iceberg.complete import Completion, compacted
from dedup_storage.lake.iceberg.files import all_partition_fields, buckets_in
from dedup_storage.lake.iceberg.holds import back_tag, held, hold_tag, holds
from dedup_storage.lake.iceberg.metadata import (
    ABANDONED_PREFIX,
    DESCRIBED_PREFIX,
    MEMBERS_PREFIX,
    IcebergMetadata,
    Lake,
)
from dedup_storage.lake.iceberg.snapshots import ancestors, is_empty, live_rows, snapshot_summary, tags
from dedup_storage.lake.iceberg.stage import Staging
from dedup_storage.lake.iceberg.whole import refuse_lost_files
from dedup_storage.lake.members import Member, Members
from dedup_storage.lake.protocol import TAKE_IN, UNTAGGED
from dedup_storage.lake.publishing import LostRaceError, PublisherBase, restored_version
from dedup_storage.lake.runs import Run, staged_gone
from dedup_storage.layout import DatasetSpec, claim_tag, version_tag
from dedup_storage.spark.errors import JAVA_ERRORS, root_message

__all__ = ["Publisher"]


class Publisher(PublisherBase[IcebergMetadata]):
    """Publishes staged snapshots of one catalog."""

    lake: Lake
    raced_for = "catalog"

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        self._completion = Completion(spark, settings, lake)
        self._abandonment = Abandonment(spark, settings, lake)
        self.staging = Staging(spark, settings, lake)

    def _prepare(self, meta: IcebergMetadata, name: str, run: Run) -> None:
        if run.segments is not None:
            self.staging.restage(meta, name, run)
        elif run.replaces(name):
            self.staging.rebase(meta, name, run)

    def _claim_and_complete(self, meta: IcebergMetadata, version: int, run: Run, members: Sequence[str]) -> int:
        spec = meta.spec
        named = self._members(self.lake.load(spec.name), run, members)
        reached("publish:before-claim")
        try:
            self._claim(spec, version, run, named)
        except JAVA_ERRORS as error:
            if came_first(error):
                raise LostRaceError(root_message(error)) from error
            raise
        reached("publish:after-claim")
        meta = self.lake.load(spec.name)
        if version in meta.abandoned and claim_tag(version) in tags(meta.anchor):
            # Another claim came and was given up just before ours: a REST catalog compares no properties.
            self.untag(spec.name, spec.anchor.name, claim_tag(version))
            raise LostRaceError(f"version {version} was decided by another run, and given up")
        self.complete(meta, version)
        return version

    def _members(self, meta: IcebergMetadata, run: Run, members: Sequence[str]) -> Members:
        """What this attempt is to bring into which tables: everything that it staged, held and whole.

        Raises:
            StorageError: something of it is gone.
            VersionNotFoundError: the version that it brings back has expired.
        """
        before = meta.snapshots(meta.current) if meta.current else {}
        if restored_version(meta, run) is not None:
            return self._restored(meta, run)
        staged = {name: held(table, run.attempt) for name, table in meta.tables.items()}
        wanted = {*members, *self.staging.names(run.attempt), meta.spec.anchor.name}
        for name in sorted(wanted):
            if staged.get(name) is None:
                raise staged_gone(name, run.run_id)
        found = {n: self._member(meta, n, s, run, fresh=n not in before) for n, s in staged.items() if s is not None}
        if run.facts.get("kind") == TAKE_IN:
            for name, main in compacted(meta).items():
                if back_tag(run.attempt) in tags(meta.tables[name]) and name != meta.spec.anchor.name:
                    found[name] = Member(total=live_rows(meta.tables[name], main), snapshot=main)
        left_out = {*run.facts.get(UNTAGGED, "").split(",")}
        tables = [name for name in dict.fromkeys((*before, *found)) if name not in left_out]
        return Members(meta.current, tuple(tables), found)

    @staticmethod
    def _restored(meta: IcebergMetadata, run: Run) -> Members:
        """What a rollback holds; its version was there after it was held, and so whole before."""
        tag = back_tag(run.attempt)
        restored = {name: tags(table)[tag] for name, table in meta.tables.items() if tag in tags(table)}
        found = {n: Member(total=live_rows(meta.tables[n], s), snapshot=s) for n, s in restored.items()}
        return Members(meta.current, tuple(restored), found)

    def hold_back(self, spec: DatasetSpec, run: Run, snapshots: Mapping[str, int]) -> None:
        """Hold what a rollback brings back.

        Raises:
            VersionNotFoundError: its version expired.
        """
        try:
            self.staging.hold_back(spec, run.attempt, snapshots)
        except JAVA_ERRORS as error:
            self.discard(spec, run)
            try:
                restored_version(self.lake.load(spec.name), run)
            except VersionNotFoundError as expired:
                raise expired from error
            raise

    def _member(self, meta: IcebergMetadata, name: str, staged: Snapshot, run: Run, *, fresh: bool) -> Member:
        table, summary = meta.tables[name], snapshot_summary(staged)
        refuse_lost_files(meta, name, staged, run.run_id)
        _refuse_other_buckets(meta, table, staged, run)
        rows = int(summary.get("added-records", 0))
        fits = staged.parent_snapshot_id == main_id(table)
        total = live_rows(table, staged.snapshot_id) if fits else live_rows(table, main_id(table)) + rows
        if fresh:
            # Completing takes out what other versions left in it.
            total = rows
        return Member(
            rows=rows,
            files=int(summary.get("added-data-files", 0)),
            total=total,
            snapshot=staged.snapshot_id,
            replaced=run.replaced if run.segments is None and run.replaces(name) else None,
            buckets=run.buckets if run.segments is None and run.replaces(name) else None,
        )

    def _claim(self, spec: DatasetSpec, version: int, run: Run, members: Members) -> None:
        tag, claim, parent = version_tag(version), claim_tag(version), version_tag(members.parent)
        full = f"{self.settings.catalog.name}.{spec.name}.{spec.anchor.name}"
        with atomic_change(self.spark, full) as change:
            staged = change.ref(hold_tag(run.attempt))
            decided = change.ref(claim) is not None or change.ref(tag) is not None
            # A slow writer may have seen the tables long ago.
            if decided or change.property(ABANDONED_PREFIX + tag) or (members.parent and change.ref(parent) is None):
                raise LostRaceError(f"version {version} was decided by another run")
            if staged is None:
                raise LostRaceError("the run was given up, or another writer came first")
            change.rest_on(hold_tag(run.attempt))
            change.tag(claim, staged)
            change.set_property(MEMBERS_PREFIX + tag, members.to_json())
            if run.described is not None:
                change.set_property(DESCRIBED_PREFIX + tag, run.described.to_json())

    def complete(self, meta: IcebergMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        self._completion.complete(meta, version)

    def mended(self, meta: IcebergMetadata) -> bool:
        """See ``PublisherBase``."""
        return self._completion.mended(meta)

    def abandon(self, meta: IcebergMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        self._abandonment.abandon(meta, version)

    def undo(self, meta: IcebergMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        self._abandonment.undo(meta, version)

    def untag(self, dataset: str, name: str, tag: str) -> None:
        """Remove a tag, if it is there."""
        for retry in self._retrying():
            with retry:
                if tag not in tags(self.lake.catalog.load_table((dataset, name))):
                    return
                try:
                    self._java(dataset, name).remove_tag(tag)
                except JAVA_ERRORS as error:
                    raise LostRaceError(str(error)) from error

    def tag(self, dataset: str, name: str, tag: str, snapshot_id: int) -> None:
        """Create a tag, or find it there."""
        for retry in self._retrying():
            with retry:
                if tags(self.lake.catalog.load_table((dataset, name))).get(tag) == snapshot_id:
                    return
                try:
                    self._java(dataset, name).create_tag(tag, snapshot_id)
                except JAVA_ERRORS as error:
                    raise LostRaceError(str(error)) from error

    def _refuse_foreign(self, meta: IcebergMetadata, name: str) -> None:
        """Main must hold the current version: a commit from elsewhere belongs to no version."""
        expected, table = meta.snapshots(meta.current).get(name) if meta.current else None, meta.tables[name]
        known = {expected}
        if expected is None:
            if is_empty(table):
                # It may have held rows of a version that was abandoned, or of versions that expired.
                return
            # Rows of versions that were rolled back; completing takes them out.
            known = {meta.snapshots(version).get(name) for version in meta.version_numbers}
        for snapshot in ancestors(table, main_id(table)):
            if snapshot.snapshot_id in known:
                return
            # Compaction by other tools moves rows and changes none.
            if snapshot_summary(snapshot).get("operation") != "replace":
                self._refuse_stale(meta)
                raise ForeignCommitError(
                    f"the table {meta.spec.name}.{name} was changed outside the toolkit",
                    expected=f"its main branch at version {meta.current}",
                    got=f"snapshot {snapshot.snapshot_id}",
                    fix="Write through dedup_storage, or return to a version: dedup-storage versions rollback N.",
                )

    def _refuse_stale(self, meta: IcebergMetadata) -> None:
        """A version decided after ``meta`` was read explains what looks foreign in it."""
        anchor = self.lake.catalog.load_table((meta.spec.name, meta.spec.anchor.name))
        if claim_tag(meta.following) in tags(anchor):
            raise LostRaceError("another version was decided")

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """See ``Staging``."""
        self.staging.discard(spec, run)

    def discard_former(self, meta: IcebergMetadata, run: Run) -> None:
        """See ``PublisherBase``; the snapshots go with the next maintenance."""
        for hold in holds(meta.tables):
            if hold.run_id == run.run_id and hold.attempt != run.attempt:
                self.staging.drop(meta.spec.name, hold.table, hold.tag)

    def _java(self, dataset: str, table: str) -> IcebergTable:
        """The table in Iceberg's own API, freshly loaded."""
        return load_java(self.spark, self.settings, dataset, table)


def _refuse_other_buckets(meta: IcebergMetadata, table: Table, staged: Snapshot, run: Run) -> None:
    """Refuse files that were written while a change of the number of buckets was half complete, then given up.

    A table that another tool partitioned anew is written by that tool's partitions, and read as it is.

    Raises:
        ConflictError: they lie in buckets of another number than the version's and the table's own.
    """
    counts = {number: buckets_in(fields) for number, fields in all_partition_fields(table).items()}
    if len({*counts.values()}) == 1:
        return
    wanted = (run.described or meta.spec).buckets
    fitting = {None, wanted, counts[table.spec().spec_id]}
    for manifest in staged.manifests(table.io):
        added = manifest.added_snapshot_id == staged.snapshot_id and manifest.added_files_count != 0
        found = counts[manifest.partition_spec_id]
        if added and manifest.content is ManifestContent.DATA and found not in fitting:
            raise ConflictError(
                f"what the run {run.run_id} staged in {meta.spec.name}.{table.name()[-1]} lies in buckets of a version "
                "that was given up",
                expected=f"{wanted} buckets",
                got=f"{found}",
                fix="Nothing was published. Run the job again.",
            )
