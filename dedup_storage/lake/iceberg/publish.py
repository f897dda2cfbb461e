"""Publication on Iceberg: many tables, one atomic step, no lock, no server.

A run's data lies in staged snapshots, which no branch contains. To publish version N+1:

1. finish whatever another run decided but did not complete;
2. check that nothing published since the run began contradicts it;
3. create the tag ``claim-v<N+1>`` on the anchor at the run's staged anchor snapshot. The catalog lets exactly one
   writer create a tag, so this decides the version;
4. bring each table's staged snapshot onto main (Iceberg's cherry-pick), tag it ``v<N+1>``, the anchor last.

Steps 1 and 4 are the same code, safe to repeat and safe to run twice at once: a crash after 3 is finished by the
next run, whoever it is; a crash before 3 leaves only unreferenced data.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ForeignCommitError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.iceberg import IcebergTable
from dedup_storage.lake.iceberg.branch import RunBranch, commit_again, load_java, main_id
from dedup_storage.lake.iceberg.metadata import IcebergMetadata, Lake
from dedup_storage.lake.iceberg.snapshots import ancestors, definition_text, snapshot_summary, tags
from dedup_storage.lake.protocol import UNTAGGED
from dedup_storage.lake.publishing import LostRaceError, PublisherBase, version_facts
from dedup_storage.lake.runs import Run, staged_gone
from dedup_storage.layout import (
    DEFINITION,
    PROPERTY_PREFIX,
    ROLE_PROPERTY,
    DatasetSpec,
    TableRole,
    claim_tag,
    version_tag,
)
from dedup_storage.spark.errors import JAVA_ERRORS

__all__ = ["Publisher"]


class Publisher(PublisherBase[IcebergMetadata]):
    """Publishes staged snapshots of one catalog."""

    lake: Lake
    raced_for = "catalog"

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake

    def _prepare(self, meta: IcebergMetadata, name: str, run: Run) -> None:
        if run.segments is not None:
            self._restage(meta, name, run)
        elif run.replaces(name):
            self._rebase(meta, name, run)

    def _claim_and_complete(self, spec: DatasetSpec, version: int, run: Run, members: Sequence[str]) -> int:
        anchor = self.lake.catalog.load_table((spec.name, spec.anchor.name))
        staged = self.find_staged(anchor, run.attempt)
        reached("publish:before-claim")
        try:
            self._java(spec.name, spec.anchor.name).create_tag(claim_tag(version), staged.snapshot_id)
        except JAVA_ERRORS as error:
            meta = self.lake.load(spec.name)
            if tags(meta.anchor).get(claim_tag(version)) != staged.snapshot_id:
                raise LostRaceError(str(error)) from error
        reached("publish:after-claim")
        self.complete(self.lake.load(spec.name), version)
        return version

    def complete(self, meta: IcebergMetadata, version: int) -> None:
        """Bring a decided version's snapshots onto main and tag them, the anchor last."""
        facts = meta.claim(version)
        anchor, dataset = meta.spec.anchor.name, meta.spec.name
        before = meta.snapshots(version - 1) if version > 1 else {}
        claimed = meta.anchor.snapshot_by_id(int(facts["staged"]))
        attempt = snapshot_summary(claimed)["wap.id"] if claimed else ""
        restored = meta.snapshots(int(facts["parent"])) if facts.get("kind") == "rollback" else None
        untagged = set(facts.get(UNTAGGED, "").split(","))
        others = [name for name in meta.tables if name != anchor and name not in untagged]
        for name in (*others, anchor):
            if restored is not None:
                if name in restored:
                    self._restore(dataset, name, restored[name], version)
            else:
                snapshot_id = self._pick(dataset, name, attempt) or before.get(name)
                reached(f"publish:after-pick-{name}")
                if snapshot_id is not None:
                    self.tag(dataset, name, version_tag(version), snapshot_id)
            reached(f"publish:after-tag-{name}")

    def find_staged(self, table: Table, attempt: str) -> Snapshot:
        """The snapshot an attempt staged in a table.

        Raises:
            StorageError: there is none.
        """
        found = self._staged(table, attempt)
        if found is None:
            raise staged_gone(table.name()[-1], attempt.partition("/")[0])
        return found

    def count_staged(self, spec: DatasetSpec, name: str, attempt: str) -> int:
        """Snapshots that an attempt staged in a table."""
        snapshots = self.lake.catalog.load_table((spec.name, name)).metadata.snapshots
        return sum(snapshot_summary(snapshot).get("wap.id") == attempt for snapshot in snapshots)

    @staticmethod
    def _staged(table: Table, attempt: str) -> Snapshot | None:
        # A rebased snapshot comes after the one it replaces, so the newest counts.
        for snapshot in reversed(table.metadata.snapshots):
            if snapshot_summary(snapshot).get("wap.id") == attempt:
                return snapshot
        return None

    def _pick(self, dataset: str, name: str, attempt: str) -> int | None:
        """Bring an attempt's staged snapshot onto main once; gives main's snapshot that holds it."""
        table = self.lake.catalog.load_table((dataset, name))
        staged = self._staged(table, attempt)
        if staged is None:
            return None
        for retry in self._retrying():
            with retry:
                lost: Exception | None = None
                if _holder(table, staged.snapshot_id) is None:
                    try:
                        self._java(dataset, name).pick(staged.snapshot_id)
                    except JAVA_ERRORS as error:
                        lost = error
                    table = self.lake.catalog.load_table((dataset, name))
                holder = _holder(table, staged.snapshot_id)
                if holder is None:
                    raise LostRaceError(str(lost)) from lost
                return holder
        return None

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

    def _restore(self, dataset: str, name: str, snapshot_id: int, version: int) -> None:
        """Set main back and tag it in one commit, so that a slow helper cannot set main back a second time."""
        tag = version_tag(version)
        for retry in self._retrying():
            with retry:
                if tag in tags(self.lake.catalog.load_table((dataset, name))):
                    return
                try:
                    self._java(dataset, name).set_back(snapshot_id, tag)
                except JAVA_ERRORS as error:
                    raise LostRaceError(str(error)) from error

    def _refuse_foreign(self, meta: IcebergMetadata, name: str) -> None:
        """Main must hold the current version: a commit from elsewhere belongs to no version."""
        expected = meta.snapshots(meta.current).get(name) if meta.current else None
        for snapshot in ancestors(meta.tables[name], meta.tables[name].metadata.current_snapshot_id):
            if snapshot.snapshot_id == expected:
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
        if claim_tag(meta.current + 1) in tags(anchor):
            raise LostRaceError("another version was decided")

    def _rebase(self, meta: IcebergMetadata, name: str, run: Run) -> None:
        """Stage a replacement again on today's main, from the same files; Iceberg picks none across a commit."""
        table = meta.tables[name]
        staged = self.find_staged(table, run.attempt)
        if staged.parent_snapshot_id != table.metadata.current_snapshot_id:
            self._stage_again(meta.spec, name, staged, run)

    def replace_segments(self, spec: DatasetSpec, name: str, run: Run) -> None:
        """Turn an attempt's staged append into a replacement of segments, from the same files (metadata only).

        Spark's own overwrite takes a filter on columns, not on user buckets.
        """
        staged = self.find_staged(self.lake.catalog.load_table((spec.name, name)), run.attempt)
        self._stage_again(spec, name, staged, run)

    def _stage_again(self, spec: DatasetSpec, name: str, staged: Snapshot, run: Run) -> None:
        java = self._java(spec.name, name)
        summary = snapshot_summary(staged)
        java.stage_replacement(
            java.added_files(staged.snapshot_id),
            spec.event_date_column,
            run.replaced or (),
            None if run.buckets is None else (spec.schema_.user, spec.buckets, run.buckets),
            {k: v for k, v in summary.items() if k == "wap.id" or k.startswith("dedup-storage.")},
        )

    def facts(self, spec: DatasetSpec, name: str, run: Run) -> dict[str, str]:
        """What a staged snapshot says of its run; on the anchor table, all that the version remembers."""
        facts = {"run-id": run.run_id, "job": run.job, **run.table_facts.get(name, {})}
        if name == spec.anchor.name:
            facts |= version_facts(run)
        elif DEFINITION not in facts:
            # Rows rewritten by a run that knows nothing of definitions: the group stays what it was.
            stored = self.lake.catalog.load_table((spec.name, name))
            if stored.properties.get(ROLE_PROPERTY) == TableRole.FEATURES and stored.current_snapshot() is not None:
                text = definition_text(stored, main_id(stored) or 0)
                facts |= {DEFINITION: text} if text else {}
        return {PROPERTY_PREFIX + key: value for key, value in facts.items()}

    def _restage(self, meta: IcebergMetadata, name: str, run: Run) -> None:
        """Stage a run's branch as one snapshot on today's main, or for a table it leaves alone a snapshot of no files.

        Nothing since the run began touched its segments, so its files fit as they are.
        """
        table, changes = meta.tables[name], run.segments or {}
        staged = self._staged(table, run.attempt)
        if staged is not None and (name not in changes or staged.parent_snapshot_id == main_id(table)):
            return
        facts = {"wap.id": run.attempt, **self.facts(meta.spec, name, run)}
        if name not in changes:
            self._java(meta.spec.name, name).mark(facts)
            return
        parts = RunBranch(self.spark, self.settings, self.lake, meta.spec.name, name, str(run.branch))
        parts.stage(meta.snapshots(run.base)[name], facts)
        reached(f"publish:restaged-{name}")

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove an attempt's staged snapshots and the files that only they hold.

        An attempt whose version is decided keeps them, whatever went wrong after that: the next run completes it.
        """
        meta = self.lake.load(spec.name)
        if meta.pending is not None:
            claimed = meta.anchor.snapshot_by_id(int(meta.claim(meta.pending)["staged"]))
            if claimed is not None and snapshot_summary(claimed).get("wap.id") == run.attempt:
                return
        for name in meta.tables:
            table = self.lake.catalog.load_table((spec.name, name))
            for snapshot in table.metadata.snapshots:
                if snapshot_summary(snapshot).get("wap.id") != run.attempt:
                    continue
                if snapshot.snapshot_id in tags(table).values() or _holder(table, snapshot.snapshot_id) is not None:
                    continue
                self._expire(spec.name, name, snapshot.snapshot_id)

    def _expire(self, dataset: str, name: str, snapshot_id: int) -> None:
        commit_again(lambda: self._java(dataset, name).expire([snapshot_id]))

    def _java(self, dataset: str, table: str) -> IcebergTable:
        """The table in Iceberg's own API, freshly loaded."""
        return load_java(self.spark, self.settings, dataset, table)


def _holder(table: Table, staged: int) -> int | None:
    """Main's snapshot that holds a staged one: itself after a fast-forward, else the one picked from it."""
    for snapshot in ancestors(table, table.metadata.current_snapshot_id):
        if snapshot.snapshot_id == staged or snapshot_summary(snapshot).get("source-snapshot-id") == str(staged):
            return snapshot.snapshot_id
    return None
