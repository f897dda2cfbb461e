"""Iceberg's own API: commits that neither Spark's SQL nor PyIceberg has.

Iceberg's file objects are passed through as they are; what they hold is asked of the table that gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession

from dedup_storage.errors import StorageError
from dedup_storage.lake.engine.java import iterate
from dedup_storage.lake.engine.net import Files

__all__ = ["IcebergTable", "buckets_changed", "load_java_table", "load_table"]

_ALL_SNAPSHOTS = 2**31 - 1


def load_table(spark: SparkSession, name: str) -> IcebergTable:
    """A table as it is now.

    Args:
        spark: Session with its catalog.
        name: ``catalog.namespace.table``.
    """
    return IcebergTable(spark, load_java_table(spark, name))


def load_java_table(spark: SparkSession, name: str) -> Any:
    """The same as Iceberg's own ``Table``."""
    util = spark._jvm.org.apache.iceberg.spark.Spark3Util  # type: ignore[union-attr]
    return util.loadIcebergTable(spark._jsparkSession, name)


def buckets_changed(java: Any, begin: Callable[[], Any], jvm: Any, column: str, count: int) -> Any | None:
    """Iceberg's change, not committed, by which a table's default partitions get another number of buckets of a column;
    ``None`` where they have it, or no bucket at all.

    Args:
        java: The table.
        begin: Begins a change of its partitions.
        jvm: The session's Java.
        column, count: The column, and the number wanted.
    """
    fields = [f for f in iterate(java.spec().fields()) if str(f.transform()).startswith("bucket[")]
    if not fields or str(fields[0].transform()) == f"bucket[{count}]":
        return None
    change = begin().removeField(str(fields[0].name()))
    # Without a name of its own: Iceberg takes the field of before again where there was one of this number.
    return change.addField(jvm.org.apache.iceberg.expressions.Expressions.bucket(column, count))


def _note(change: Any, note: Mapping[str, str | None] | None) -> None:
    """Change properties in a transaction, and commit it."""
    there = change.table().properties()
    wanted = {key: value for key, value in (note or {}).items() if there.get(key) != value}
    if wanted:
        properties = change.updateProperties()
        for key, value in wanted.items():
            properties = properties.remove(key) if value is None else properties.set(key, value)
        properties.commit()
    change.commitTransaction()


class IcebergTable:
    """One loaded table; each method that changes it is one commit.

    Args:
        spark: The session that it was loaded with.
        java: Iceberg's ``Table``.
    """

    def __init__(self, spark: SparkSession, java: Any) -> None:
        self._jvm: Any = spark._jvm
        self._java = java

    # -- references and properties ------------------------------------------------------------------------------

    def has_reference(self, name: str) -> bool:
        """Whether a branch or a tag has the name."""
        return self._java.refs().get(name) is not None

    def create_branch(self, name: str, snapshot_id: int, note: Mapping[str, str | None] | None = None) -> None:
        """Let a new branch begin at a snapshot; no expiry of snapshots by age or number takes one from its line.

        Args:
            name, snapshot_id: Which.
            note: Table properties to set in the same commit.
        """
        change = self._java.newTransaction()
        begun = change.manageSnapshots().createBranch(name, snapshot_id)
        begun.setMinSnapshotsToKeep(name, _ALL_SNAPSHOTS).commit()
        _note(change, note)

    def remove_branch(self, name: str, note: Mapping[str, str | None] | None = None) -> None:
        """Remove a branch, and set or remove (``None``) table properties with it; its snapshots stay until they
        expire."""
        change = self._java.newTransaction()
        change.manageSnapshots().removeBranch(name).commit()
        _note(change, note)

    def create_tag(self, name: str, snapshot_id: int) -> None:
        """Name a snapshot; exactly one writer can."""
        self._java.manageSnapshots().createTag(name, snapshot_id).commit()

    def remove_tag(self, name: str) -> None:
        """Remove a name."""
        self._java.manageSnapshots().removeTag(name).commit()

    def point(
        self,
        names: Iterable[str],
        snapshot_id: int,
        *,
        instead_of: str | None = None,
        note: Mapping[str, str | None] | None = None,
    ) -> None:
        """Let tags and branches name another snapshot, and remove the branch ``instead_of``, with a note as above."""
        whole = self._java.newTransaction()
        change = whole.manageSnapshots()
        for name in names:
            there = self._java.refs().get(name)
            branch = there is not None and there.isBranch()
            change = (change.replaceBranch if branch else change.replaceTag)(name, snapshot_id)
        if instead_of is not None:
            change = change.removeBranch(instead_of)
        change.commit()
        _note(whole, note)

    def set_property(self, key: str, value: str | None) -> None:
        """Set a table property, or remove it."""
        change = self._java.updateProperties()
        (change.remove(key) if value is None else change.set(key, value)).commit()

    def expire(self, snapshot_ids: Iterable[int]) -> None:
        """Remove snapshots and the files that only they hold."""
        # By default Iceberg takes every unnamed one that is five days old as well.
        change = self._java.expireSnapshots().expireOlderThan(1)
        for snapshot_id in snapshot_ids:
            change = change.expireSnapshotId(snapshot_id)
        change.commit()

    def delete_below(self, folder: str) -> None:
        """Delete everything below a folder, by the client that the table's files are read with: it has the keys that
        the catalog may vend."""
        self._java.io().deletePrefix(f"{folder.rstrip('/')}/")

    # -- files --------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """See what was committed since."""
        self._java.refresh()

    def added_files(self, snapshot_id: int) -> Iterator[Any]:
        """Data files that a snapshot added.

        Raises:
            StorageError: the snapshot is gone.
        """
        snapshot = self._java.snapshot(snapshot_id)
        if snapshot is None:
            raise StorageError(
                f"the snapshot {snapshot_id} of the table {self._java.name()} is gone: it was expired, or its table "
                "set back",
                fix="Run the job again with the same run id.",
            )
        yield from iterate(snapshot.addedDataFiles(self._java.io()))

    def partition_path(self, file: Any) -> str:
        """A file's partition, such as ``event_date=2024-01-31/user_id_bucket=3``."""
        spec = self._java.specs().get(file.specId())
        return str(spec.partitionToPath(file.partition()))

    def partitions_of_buckets(self, column: str, count: int) -> int:
        """Id of partitions like the default ones, with another number of buckets of a column; they are added beside
        the default ones where they are not there yet."""
        wanted = self._with_buckets(count)
        found = self._partitions_like(wanted)
        if found is None:
            change = buckets_changed(self._java, self._java.updateSpec, self._jvm, column, count)
            if change is not None:
                change.addNonDefaultSpec().commit()
                self._java.refresh()
            found = self._partitions_like(wanted)
        return int(self._java.spec().specId()) if found is None else found

    def _partitions_like(self, wanted: list[tuple[int, str]]) -> int | None:
        return next((number for number, spec in self._specs().items() if spec == wanted), None)

    def _specs(self) -> dict[int, list[tuple[int, str]]]:
        """Partitions by id: source column's id and transform of each field."""
        specs = self._java.specs()
        return {
            int(number): [(int(f.sourceId()), str(f.transform())) for f in iterate(specs[number].fields())]
            for number in specs
        }

    def _with_buckets(self, count: int) -> list[tuple[int, str]]:
        own = self._specs()[int(self._java.spec().specId())]
        others = [field for field in own if not field[1].startswith("bucket[")]
        source = next((field[0] for field in own if field[1].startswith("bucket[")), 0)
        return [*others, (source, f"bucket[{count}]")]

    def files_of(self, branch: str, places: Collection[str]) -> list[Any]:
        """Those of a branch's data files that lie at some places."""
        tasks = self._java.newScan().useRef(branch).planFiles()
        try:
            return [task.file() for task in iterate(tasks) if str(task.file().location()) in places]
        finally:
            tasks.close()

    def exchange(self, branch: str, added: Iterable[Any], removed: Iterable[Any], facts: Mapping[str, str]) -> None:
        """Put files in place of others on a branch."""
        change = self._java.newOverwrite().toBranch(branch)
        for file in added:
            change.addFile(file)
        for file in removed:
            change.deleteFile(file)
        _commit(change, facts)

    def mark(self, facts: Mapping[str, str], branch: str | None = None) -> None:
        """Commit facts and no file: to a branch, or staged where no branch names it."""
        change = self._java.newFastAppend()
        _commit(change.stageOnly() if branch is None else change.toBranch(branch), facts)

    def stage_replacement(
        self,
        added: Iterable[Any],
        column: str | None,
        ranges: Iterable[tuple[str, str]],
        bucket: tuple[str, int, Iterable[int]] | None,
        facts: Mapping[str, str],
    ) -> None:
        """Stage files in place of the rows of some event dates.

        Args:
            added: The files.
            column: The event date.
            ranges: Half-open (ISO); an empty text is no bound.
            bucket: Column, number of buckets, and the buckets that the replacement is confined to.
            facts: Snapshot properties.
        """
        change = self._java.newOverwrite().overwriteByRowFilter(self._inside(column, ranges, bucket))
        for file in added:
            change.addFile(file)
        change.stageOnly()
        _commit(change, facts)

    def _inside(
        self,
        column: str | None,
        ranges: Iterable[tuple[str, str]],
        bucket: tuple[str, int, Iterable[int]] | None,
    ) -> Any:
        java = self._jvm.org.apache.iceberg.expressions.Expressions
        both, either = getattr(java, "and"), getattr(java, "or")
        whole = java.alwaysFalse()
        for low, high in ranges:
            part = java.alwaysTrue()
            part = both(part, java.greaterThanOrEqual(column, low)) if low else part
            part = both(part, java.lessThan(column, high)) if high else part
            whole = either(whole, part)
        if bucket is None:
            return whole
        user, count, chosen = bucket
        inside = java.alwaysFalse()
        for number in chosen:
            inside = either(inside, java.equal(java.bucket(user, count), number))
        return both(whole, inside)

    def stage_parts(self, base: int, snapshot_ids: Sequence[int], facts: Mapping[str, str]) -> None:
        """Stage what several snapshots changed together as one on today's main.

        Args:
            base: The snapshot before the first.
            snapshot_ids: Oldest first.
            facts: Snapshot properties.

        Raises:
            Py4JJavaError: with ``ValidationException`` where files that are marked or taken out are gone.
        """
        files = Files.of(self._java, snapshot_ids)
        change = self._java.newRowDelta().validateFromSnapshot(base).validateDeletedFiles()
        for file in files.added.values():
            change.addRows(file)
        for file in files.removed.values():
            change.removeRows(file)
        referenced = self._jvm.java.util.ArrayList()
        for file in files.marks.values():
            change.addDeletes(file)
            referenced.add(file.referencedDataFile())
        for file in files.unmarked.values():
            change.removeDeletes(file)
        change.validateDataFilesExist(referenced)
        change.stageOnly()
        _commit(change, facts)

    # -- manifests ----------------------------------------------------------------------------------------------

    def rewrite_manifests(self, facts: Mapping[str, str]) -> None:
        """Commit main's manifests anew, without the entries of files that were taken out."""
        # Any constant: all entries may share a manifest.
        same = self._jvm.com.google.common.base.Functions.constant("")
        _commit(self._java.rewriteManifests().clusterBy(same), facts)

    def lay_anew(
        self, branch: str, base: int, added: Iterable[Any], removed: Collection[str], facts: Mapping[str, str]
    ) -> None:
        """Make a snapshot anew on a branch that begins there, in manifests that tell of no other files.

        Iceberg writes manifests anew on main alone. So a first commit takes everything out, and a second brings what
        stays: none of the first one's manifests has a file that is left.

        Args:
            branch: The branch.
            base: The snapshot.
            added, removed: Data files, and places of those they replace.
            facts: Snapshot properties.
        """
        files: list[Any] = []
        vectors: dict[str, Any] = {}
        tasks = self._java.newScan().useSnapshot(base).includeColumnStats().planFiles()
        try:
            for task in iterate(tasks):
                if str(task.file().location()) in removed:
                    continue
                files.append(task.file())
                vectors |= {f"{d.location()}@{d.contentOffset()}": d for d in iterate(task.deletes())}
        finally:
            tasks.close()
        everything = self._jvm.org.apache.iceberg.expressions.Expressions.alwaysTrue()
        self._java.newDelete().toBranch(branch).deleteFromRowFilter(everything).commit()
        self._java.refresh()
        # Without a snapshot to look back to, Iceberg takes the deletion vectors of the branch's own past for
        # concurrent ones and refuses.
        change = (
            self._java.newRowDelta().toBranch(branch).validateFromSnapshot(self._java.snapshot(branch).snapshotId())
        )
        for file in (*files, *added):
            change.addRows(file)
        for vector in vectors.values():
            change.addDeletes(vector)
        _commit(change, facts)


def _commit(change: Any, facts: Mapping[str, str]) -> None:
    for key, value in facts.items():
        change.set(key, value)
    change.commit()
