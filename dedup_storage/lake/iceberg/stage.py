"""What a run has staged in Iceberg tables: held from the start, staged again where main moved, let go at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import AtomicChange
from dedup_storage.lake.engine.iceberg import IcebergTable
from dedup_storage.lake.facts import BUCKETS
from dedup_storage.lake.iceberg.branch import RunBranch, change_again, commit_again, commit_or_find, load_java, main_id
from dedup_storage.lake.iceberg.complete import stage_again
from dedup_storage.lake.iceberg.files import buckets_in, partition_fields
from dedup_storage.lake.iceberg.holds import ATTEMPT, back_tag, held, hold_tag, newest_staged, pending_attempt
from dedup_storage.lake.iceberg.metadata import IcebergMetadata, Lake
from dedup_storage.lake.iceberg.snapshots import ancestors, definition_text, snapshot_summary, tags
from dedup_storage.lake.publishing import require_buckets, version_facts
from dedup_storage.lake.runs import Run, staged_gone
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, ROLE_PROPERTY, DatasetSpec, TableRole

__all__ = ["STAGING", "Partitions", "Staging"]

# The property of a table without which Spark appends what is to be staged.
STAGING = "write.wap.enabled"


@dataclass(frozen=True)
class Partitions:
    """Partitions of a table beside its default ones.

    Attributes:
        number: Their id.
        fields: Source column and transform of each field, in order.
    """

    number: int
    fields: tuple[tuple[str, str], ...]


class Staging:
    """Staged snapshots of one catalog's datasets.

    Args:
        spark, settings, lake: Where the tables are.
    """

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        # What attempts of this process staged: a member whose hold is gone must not be taken for one never staged.
        self._staged: dict[str, set[str]] = {}

    def names(self, attempt: str) -> Collection[str]:
        """Tables that an attempt of this process staged something in."""
        return self._staged.get(attempt, ())

    def begin(self, spec: DatasetSpec, name: str, run: Run) -> Partitions | None:
        """See to it that a table keeps staged rows apart: without the property they would be appended for all to see.

        Other tools may have changed it, and a table of a sample that an early release made has none.

        Returns:
            By what the rows are to lie, where the run gives the table another number of buckets: partitions that are
            the table's own once the version is complete. ``None`` for those that it has.

        Raises:
            ConflictError: it got another number of buckets since the run began.
        """
        table = self.lake.catalog.load_table((spec.name, name))
        if table.properties.get(STAGING) != "true":
            commit_again(lambda: self._java(spec.name, name).set_property(STAGING, "true"))
        fields = partition_fields(table)
        buckets = buckets_in(fields)
        if buckets in (None, spec.buckets):
            return None
        if BUCKETS not in run.table_facts.get(name, {}):
            self._fit(spec, name, buckets)
            return None
        names = [str(table.schema().find_column_name(f.source_id)) for f in table.spec().fields]
        transforms = [f"bucket[{spec.buckets}]" if t.startswith("bucket[") else t for _, t in fields]
        number = self._numbered(spec.name, name, spec.schema_.user, spec.buckets)
        return Partitions(number, tuple(zip(names, transforms, strict=True)))

    def _numbered(self, dataset: str, name: str, user: str, buckets: int) -> int:
        numbers: list[int] = []
        commit_again(lambda: numbers.append(self._java(dataset, name).partitions_of_buckets(user, buckets)))
        return numbers[-1]

    def _fit(self, spec: DatasetSpec, name: str, buckets: int | None) -> None:
        """Give a table that today's version does not have the dataset's buckets: it was made when there were others.
        One that it has was partitioned anew by another tool, and is read as it is.

        Raises:
            ConflictError: the dataset got another number of buckets since the run began.
        """
        meta = self.lake.load(spec.name)
        require_buckets(meta, spec, buckets)
        if not meta.current or name in meta.snapshots(meta.current):
            return
        user = spec.schema_.user
        change_again(self.spark, self.settings, spec.name, name, lambda c: c.set_buckets(user, spec.buckets))

    def hold(self, spec: DatasetSpec, name: str, attempt: str) -> Snapshot:
        """Hold what an attempt staged in a table, in place of what it staged there before; gives the snapshot.

        Raises:
            StorageError: it is gone: an expiry took it in the moment before.
        """
        table = self.lake.catalog.load_table((spec.name, name))
        staged = newest_staged(table, attempt)
        if staged is None:
            raise StorageError(
                f"what was just staged in {spec.name}.{name} is gone: another tool expires snapshots of any age",
                fix="Nothing was published. Run the job again.",
            )
        self._move(spec.name, name, hold_tag(attempt), staged.snapshot_id)
        self._staged.setdefault(attempt, set()).add(name)
        return staged

    def hold_back(self, spec: DatasetSpec, attempt: str, snapshots: Mapping[str, int]) -> None:
        """Hold what a rollback brings back."""
        for name, snapshot_id in snapshots.items():
            self._move(spec.name, name, back_tag(attempt), snapshot_id)

    def _move(self, dataset: str, name: str, tag: str, snapshot_id: int) -> None:
        def move(change: AtomicChange) -> None:
            if change.ref(tag) != snapshot_id:
                change.tag(tag, snapshot_id)

        change_again(self.spark, self.settings, dataset, name, move)

    def drop(self, dataset: str, name: str, tag: str) -> None:
        """Take a hold away, if it is there."""

        def untag(change: AtomicChange) -> None:
            if change.ref(tag) is not None:
                change.untag(tag)

        change_again(self.spark, self.settings, dataset, name, untag)

    def stage_nothing(self, spec: DatasetSpec, name: str, run: Run) -> None:
        """Stage a snapshot of no files, and hold it: by the table's metadata alone, no job of Spark."""
        facts = {ATTEMPT: run.attempt, **self.facts(spec, name, run)}
        commit_or_find(
            lambda: self._java(spec.name, name).mark(facts), lambda: self.count(spec, name, run.attempt) == 1
        )
        if not run.part:
            self.hold(spec, name, run.attempt)

    def find_staged(self, table: Table, attempt: str, *, held_only: bool = True) -> Snapshot:
        """The snapshot an attempt staged in a table and holds; of a part of a longer work, which nothing holds, its
        newest.

        Raises:
            StorageError: there is none.
        """
        found = held(table, attempt) if held_only else newest_staged(table, attempt)
        if found is None:
            raise staged_gone(table.name()[-1], attempt.partition("/")[0])
        return found

    def count(self, spec: DatasetSpec, name: str, attempt: str) -> int:
        """Snapshots that an attempt staged in a table."""
        return len(_staged_by(self.lake.catalog.load_table((spec.name, name)), attempt))

    def rebase(self, meta: IcebergMetadata, name: str, run: Run) -> None:
        """Stage a replacement again on today's main, from the same files; Iceberg picks none across a commit."""
        table = meta.tables[name]
        staged = self.find_staged(table, run.attempt)
        if staged.parent_snapshot_id != table.metadata.current_snapshot_id:
            self._stage_again(meta.spec, table, staged, run)

    def replace_segments(self, spec: DatasetSpec, name: str, run: Run) -> None:
        """Turn an attempt's staged append into a replacement of segments, from the same files (metadata only)."""
        table = self.lake.catalog.load_table((spec.name, name))
        self._stage_again(spec, table, self.find_staged(table, run.attempt), run)

    def _stage_again(self, spec: DatasetSpec, table: Table, staged: Snapshot, run: Run) -> None:
        name = table.name()[-1]
        java = self._java(spec.name, name)
        stage_again(java, spec, table, staged.snapshot_id, (run.replaced or (), run.buckets))
        self.hold(spec, name, run.attempt)

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

    def restage(self, meta: IcebergMetadata, name: str, run: Run) -> None:
        """Stage a run's branch as one snapshot on today's main, or for a table it leaves alone a snapshot of no files.

        Nothing since the run began touched its segments, so its files fit as they are.
        """
        table, changes = meta.tables[name], run.segments or {}
        staged = held(table, run.attempt)
        if staged is not None and (name not in changes or staged.parent_snapshot_id == main_id(table)):
            return
        if name not in changes:
            self.stage_nothing(meta.spec, name, run)
            return
        facts = {ATTEMPT: run.attempt, **self.facts(meta.spec, name, run)}
        parts = RunBranch(self.spark, self.settings, self.lake, meta.spec.name, name, str(run.branch))
        parts.stage(meta.snapshots(run.base)[name], facts)
        self.hold(meta.spec, name, run.attempt)
        reached(f"publish:restaged-{name}")

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove an attempt's staged snapshots and the files that only they hold.

        An attempt whose version is decided keeps them, whatever went wrong after that: the next run completes it.
        """
        meta = self.lake.load(spec.name)
        if pending_attempt(meta) == run.attempt:
            return
        for name, table in meta.tables.items():
            for tag in (hold_tag(run.attempt), back_tag(run.attempt)):
                if tag in tags(table):
                    self.drop(spec.name, name, tag)
        # Nobody else stages under this attempt, so tables without its snapshots need no second look.
        staged = [name for name, table in meta.tables.items() if _staged_by(table, run.attempt)]
        for name in staged:
            table = self.lake.catalog.load_table((spec.name, name))
            line = ancestors(table, main_id(table))
            picked = {snapshot_summary(s).get("source-snapshot-id") for s in line}
            kept = {*tags(table).values(), *(s.snapshot_id for s in line)}
            for snapshot in _staged_by(table, run.attempt):
                if snapshot.snapshot_id not in kept and str(snapshot.snapshot_id) not in picked:
                    self._expire(spec.name, name, snapshot.snapshot_id)

    def _expire(self, dataset: str, name: str, snapshot_id: int) -> None:
        commit_again(lambda: self._java(dataset, name).expire([snapshot_id]))

    def _java(self, dataset: str, table: str) -> IcebergTable:
        """The table in Iceberg's own API, freshly loaded."""
        return load_java(self.spark, self.settings, dataset, table)


def _staged_by(table: Table, attempt: str) -> list[Snapshot]:
    """Snapshots that an attempt staged in a table."""
    return [s for s in table.metadata.snapshots if snapshot_summary(s).get(ATTEMPT) == attempt]
