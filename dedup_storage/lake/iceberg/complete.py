"""Completes a decided Iceberg version: each table's held snapshot onto main, tagged, its hold gone, in one commit; that
of all tables at once where the catalog offers it.

Whoever meets a decided version may complete it, and several may at once. What a table gets is named by the claim and
held; nothing is ever taken from the version before in its place. A table whose tag is there is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError, StorageError, StuckPublicationError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import atomic_change
from dedup_storage.lake.engine.iceberg import IcebergTable
from dedup_storage.lake.iceberg.branch import came_first, load_java
from dedup_storage.lake.iceberg.bring import Part, bring
from dedup_storage.lake.iceberg.holds import ATTEMPT, back_tag, deciding_attempt, hold_tag, newest_staged
from dedup_storage.lake.iceberg.metadata import IcebergMetadata, Lake
from dedup_storage.lake.iceberg.one_commit import OneCommit
from dedup_storage.lake.iceberg.snapshots import STANDS_FOR, ancestors, snapshot_summary, tags
from dedup_storage.lake.members import Member, Members
from dedup_storage.lake.protocol import TAKE_IN, UNTAGGED
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.lake.retries import small_commits
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec, version_tag
from dedup_storage.spark.errors import JAVA_ERRORS, java_class, root_message

__all__ = ["Completion", "compacted", "stage_again"]

# Iceberg's answers that a snapshot cannot be brought onto main as it is.
_UNFIT = {"ValidationException", "DuplicateWAPCommitException", "CherrypickAncestorCommitException"}


class Completion:
    """Completes versions of one catalog's datasets.

    Args:
        spark, settings, lake: Where the tables are.
    """

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        self._one_commit = OneCommit(spark, settings, lake)
        # Dataset -> parts that its catalog said it made in one commit, until somebody looks.
        self._said: dict[str, list[Part]] = {}

    def complete(self, meta: IcebergMetadata, version: int) -> None:
        """Bring a decided version's snapshots onto main, the anchor last.

        Raises:
            StuckPublicationError: a member is gone, or fits main no longer.
        """
        name = meta.spec.name
        if any(part.version == version for part in self._said.get(name, ())) and self.mended(meta):
            return
        parts = self._parts(meta, version)
        if len(parts) > 1 and self._one_commit.usable(meta) and self._one_commit.complete(name, parts):
            self._said[name] = parts
            reached(f"publish:after-tag-{meta.spec.anchor.name}")
            return
        if self._one_by_one(meta, parts):
            self._one_commit.succeeded_apart()

    def mended(self, meta: IcebergMetadata) -> bool:
        """See ``PublisherBase``; looks only at what is loaded."""
        parts = self._said.pop(meta.spec.name, [])
        lost = [part for part in parts if _lost(meta, part)]
        if not lost:
            return False
        self._one_commit.note_lost(meta, [part.name for part in lost])
        if max(meta.current, meta.pending or 0) > lost[0].version:
            raise _lost_for_good(meta, lost[0], "another version came on top")
        try:
            self._one_by_one(meta, parts)
        except StuckPublicationError as error:
            if lost[0].version not in meta.version_numbers:
                raise
            raise _lost_for_good(meta, lost[0], "it fits the table no longer") from error
        return True

    def _one_by_one(self, meta: IcebergMetadata, parts: Sequence[Part]) -> bool:
        """Bring the parts in, a commit for each; ``False`` where the version was given up meanwhile."""
        for part in parts:
            if not self._bring(meta, part):
                return False
            reached(f"publish:after-{'tag' if part.name == meta.spec.anchor.name else 'pick'}-{part.name}")
        return True

    def _parts(self, meta: IcebergMetadata, version: int) -> list[Part]:
        facts, anchor = meta.claim(version), meta.spec.anchor.name
        attempt = deciding_attempt(meta, version) or ""
        members = meta.members(version) or self._unnamed(meta, version, attempt, facts)
        before = meta.snapshots(members.parent) if members.parent else {}
        back = {
            name: facts.get("kind") == "rollback" or (facts.get("kind") == TAKE_IN and name != anchor)
            for name in members.staged
        }
        described = meta.described.get(version)
        buckets: tuple[str, int] | None = None
        if described is not None and described.buckets != meta.spec_of(members.parent).buckets:
            # The number that a table writes by belongs to the table, not to its snapshots.
            buckets = (described.schema_.user, described.buckets)
        return [
            Part(name, version, attempt, members.staged.get(name), before.get(name), back.get(name, False), buckets)
            # The anchor last: its tag is the version.
            for name in (*sorted(n for n in members.tables if n != anchor), anchor)
        ]

    def _bring(self, meta: IcebergMetadata, part: Part) -> bool:
        """Bring a part into its table, once; ``False`` where the version was given up meanwhile."""
        found = True

        def once() -> None:
            nonlocal found
            found = self._bring_once(meta, part)

        self._until_first(once, meta, part.name, part.version)
        return found

    def _bring_once(self, meta: IcebergMetadata, part: Part) -> bool:
        try:
            with atomic_change(self.spark, self._full(meta, part.name)) as change:
                found = bring(change, part)
        except JAVA_ERRORS as error:
            if came_first(error):
                raise LostRaceError(root_message(error)) from error
            if part.member is None or not java_class(error) & _UNFIT:
                raise
            if not self._reapplied(meta, part, part.member):
                why = "it fits the table no longer"
                raise self._stuck(meta, part.name, part.version, why, root_message(error)) from error
            raise LostRaceError("staged again on what compaction left") from error
        if found:
            return True
        if part.version in self.lake.load(meta.spec.name).abandoned:
            return False
        raise self._stuck(meta, part.name, part.version, "it is held no longer", f"no tag {part.hold}")

    def _reapplied(self, meta: IcebergMetadata, part: Part, member: Member) -> bool:
        """Fit a member to a main that other commits moved since: mark one that is there already as held by main, or
        stage a replacement again where only compaction came between. ``False`` where neither can be."""
        name = part.name
        table = self.lake.catalog.load_table((meta.spec.name, name))
        staged = tags(table).get(part.hold)
        if staged is None:
            raise LostRaceError("brought in, or given up, by another writer")
        holder = _holder(table, staged)
        if holder is not None:
            # Brought by a release that tagged in a commit of its own, and stopped before it.
            with atomic_change(self.spark, self._full(meta, name)) as change:
                if change.ref(part.tag) is None and change.ref(part.hold) == staged:
                    change.tag(part.tag, holder)
                    change.untag(part.hold)
            return True
        newer = _newer(table, part.before)
        if member.replaced is None or newer is None or not _compactions(newer):
            return False
        stage_again(self._java(meta, name), meta.spec, table, staged, (member.replaced, member.buckets))
        anew = newest_staged(self.lake.catalog.load_table((meta.spec.name, name)), part.attempt)
        with atomic_change(self.spark, self._full(meta, name)) as change:
            if anew is not None and change.ref(part.hold) == staged:
                change.tag(part.hold, anew.snapshot_id)
        return True

    def _unnamed(self, meta: IcebergMetadata, version: int, attempt: str, facts: Mapping[str, str]) -> Members:
        """The members of a version decided by a release whose claims did not name them; holds them."""
        parent = meta.snapshots(version - 1) if version > 1 else {}
        untagged = {*facts.get(UNTAGGED, "").split(",")}
        if facts.get("kind") == "rollback":
            restored = meta.snapshots(int(facts["parent"]))
            for name, snapshot_id in restored.items():
                self._hold(meta, name, version, back_tag(attempt), snapshot_id)
            return Members(version - 1, tuple(restored), {n: Member(snapshot=s) for n, s in restored.items()})
        staged = {}
        for name, table in meta.tables.items():
            snapshot = newest_staged(table, attempt)
            if snapshot is not None and name not in untagged:
                self._hold(meta, name, version, hold_tag(attempt), snapshot.snapshot_id)
                staged[name] = Member(snapshot=snapshot.snapshot_id)
        lost = [name for name in facts.get("tables", "").split(",") if name and name not in {*staged, *untagged}]
        if facts.get("job") == "write" and lost:
            raise self._stuck(meta, lost[0], version, "it is gone", "no staged snapshot of the run")
        return Members(version - 1, tuple(dict.fromkeys((*(n for n in parent if n not in untagged), *staged))), staged)

    def _hold(self, meta: IcebergMetadata, name: str, version: int, hold: str, snapshot_id: int) -> None:
        def take() -> None:
            with atomic_change(self.spark, self._full(meta, name)) as change:
                if change.ref(version_tag(version)) is None and change.ref(hold) is None:
                    change.tag(hold, snapshot_id)

        self._until_first(take, meta, name, version)

    def _until_first(self, commit: Callable[[], None], meta: IcebergMetadata, name: str, version: int) -> None:
        """Make a commit again as long as others come first."""
        try:
            for attempt in small_commits(lambda error: isinstance(error, LostRaceError) or came_first(error)):
                with attempt:
                    commit()
        except (LostRaceError, *JAVA_ERRORS) as error:
            if not isinstance(error, LostRaceError) and not came_first(error):
                raise
            raise ConflictError(
                f"other commits to {meta.spec.name}.{name} came first each time that version {version} was completed",
                got=str(error)[:200] if isinstance(error, LostRaceError) else root_message(error),
                fix="The version is decided; whoever writes next completes it. Run the job again with the same run id.",
            ) from error

    def _stuck(self, meta: IcebergMetadata, name: str, version: int, why: str, found: str) -> StuckPublicationError:
        staged = (members.staged.get(name) if (members := meta.members(version)) else None) or Member()
        return StuckPublicationError(
            f"version {version} of {meta.spec.name} is decided and cannot be completed: "
            f"what its run {meta.claim(version).get('run-id', '')} staged in {name} cannot be brought in, {why}",
            expected=f"{staged.rows:,} rows in snapshot {staged.snapshot}" if staged.snapshot else None,
            got=found[:200],
            fix=f"Readers are not affected. Give it up: dedup-storage versions abandon {version}, then run its job "
            "again.",
        )

    def _full(self, meta: IcebergMetadata, name: str) -> str:
        return f"{self.settings.catalog.name}.{meta.spec.name}.{name}"

    def _java(self, meta: IcebergMetadata, name: str) -> IcebergTable:
        return load_java(self.spark, self.settings, meta.spec.name, name)


def stage_again(
    java: IcebergTable,
    spec: DatasetSpec,
    table: Table,
    staged: int,
    replaced: tuple[tuple[tuple[str, str], ...], tuple[int, ...] | None],
) -> None:
    """Stage the files of a staged snapshot as a replacement on today's main (metadata only).

    Spark's own overwrite takes a filter on columns, not on user buckets.

    Args:
        java, table: The table, in Iceberg's API and as PyIceberg loads it.
        spec: The dataset.
        staged: The snapshot.
        replaced: Ranges of event dates, and the user buckets that they are confined to.
    """
    snapshot = table.snapshot_by_id(staged)
    summary = snapshot_summary(snapshot) if snapshot is not None else {}
    facts = {k: v for k, v in summary.items() if k == ATTEMPT or k.startswith(PROPERTY_PREFIX)}
    ranges, buckets = replaced
    java.stage_replacement(
        java.added_files(staged),
        spec.event_date_column,
        ranges,
        None if buckets is None else (spec.schema_.user, spec.buckets, buckets),
        {STANDS_FOR: str(staged), **facts},
    )


def compacted(meta: IcebergMetadata) -> dict[str, int]:
    """Tables whose main is ahead of the newest version by other tools' compaction alone -> main's snapshot."""
    found = {}
    for name, snapshot_id in meta.snapshots(meta.current).items() if meta.current else ():
        newer = _newer(meta.tables[name], snapshot_id)
        # An erasure that was stopped wrote manifests anew: the files are the version's own.
        if newer and _compactions(newer) and not any(STANDS_FOR in snapshot_summary(s) for s in newer):
            found[name] = newer[0].snapshot_id
    return found


def _lost(meta: IcebergMetadata, part: Part) -> bool:
    """Whether a part that was said to be made is not there, and could be: its hold is still there, or it is a tag."""
    names = tags(meta.tables[part.name]) if part.name in meta.tables else {}
    if part.version in meta.abandoned or part.tag in names:
        return False
    if part.member is None:
        # A version that expired meanwhile has lost its tags.
        return part.name in meta.tables and part.version in (*meta.version_numbers, meta.pending)
    return part.hold in names


def _lost_for_good(meta: IcebergMetadata, part: Part, why: str) -> StorageError:
    return StorageError(
        f"version {part.version} of {meta.spec.name} is published and lacks its part of {part.name}: the catalog lost "
        f"that, and {why}",
        fix=f"Go back to the version before (dedup-storage versions rollback {part.version - 1}), and run the jobs "
        "since then again under other run ids.",
    )


def _holder(table: Table, staged: int) -> int | None:
    """Main's snapshot that holds a staged one: itself after a fast-forward, else the one picked from it."""
    for snapshot in ancestors(table, table.metadata.current_snapshot_id):
        if snapshot.snapshot_id == staged or snapshot_summary(snapshot).get("source-snapshot-id") == str(staged):
            return snapshot.snapshot_id
    return None


def _newer(table: Table, current: int | None) -> list[Snapshot] | None:
    """Main's snapshots after a version's, newest first; ``None`` where the version's is not on main's line."""
    line = ancestors(table, table.metadata.current_snapshot_id)
    if current is None:
        return line
    ids = [snapshot.snapshot_id for snapshot in line]
    return line[: ids.index(current)] if current in ids else None


def _compactions(snapshots: Sequence[Snapshot]) -> bool:
    """Whether files were joined and no row changed."""
    return all(snapshot_summary(snapshot).get("operation") == "replace" for snapshot in snapshots)
