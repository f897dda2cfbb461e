"""A run's work in parts: a branch of its own, each part one commit, all of them one snapshot in the end.

A backfill may take hours. It commits each finished group of segments to a branch that no reader looks at, and the
branch's snapshots are its progress: a run that was killed finds there what is done. To publish, the files that the
branch added, marked and took out become one staged snapshot on today's main (``newRowDelta().stageOnly()``), which the
publication protocol brings onto main like any other.

Iceberg picks no such snapshot across another commit, so it is staged again when main has moved; it is checked that
the files it marks or takes out are still there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError
from dedup_storage.lake import branch as neutral
from dedup_storage.lake.branch import BRANCH_PREFIX, RUN_ID, BranchPart, branch_gone, branch_name
from dedup_storage.lake.engine.atomic import AtomicChange, atomic_change
from dedup_storage.lake.engine.iceberg import IcebergTable, load_table
from dedup_storage.lake.iceberg.merge import merge_into
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.iceberg.snapshots import ancestors, begun_property, live_rows, snapshot_summary, tags
from dedup_storage.lake.retries import small_commits, unanswered_commits
from dedup_storage.lake.runs import Staged, staged_gone
from dedup_storage.lake.segments import Segment
from dedup_storage.layout import PROPERTY_PREFIX
from dedup_storage.spark.errors import JAVA_ERRORS, commit_unknown, java_class, root_message, translate

__all__ = [
    "BRANCH_PREFIX",
    "RunBranch",
    "branch_name",
    "came_first",
    "change_again",
    "commit_again",
    "commit_or_find",
    "load_java",
    "main_id",
]

PART = PROPERTY_PREFIX + neutral.PART
# SQLite's word for a database that another process holds; its errors have one class.
_BUSY = "SQLITE_BUSY"
# What a REST catalog says, under several classes, where another snapshot was added since the look, on whatever branch.
_STALE = re.compile(r"Cannot add (?:a )?snapshot\b.*(?:older than last sequence number|behind table next-row-id)")


def load_java(spark: SparkSession, settings: Settings, dataset: str, table: str) -> IcebergTable:
    """A table in Iceberg's own API, freshly loaded."""
    return load_table(spark, f"{settings.catalog.name}.{dataset}.{table}")


def main_id(table: Table) -> int | None:
    """Main's snapshot."""
    return table.metadata.current_snapshot_id


def commit_again(commit: Callable[[], None]) -> None:
    """Make a small change of a table's references, again and again when other writers' commits come first.

    Args:
        commit: Makes it, or finds that it is there.
    """
    for attempt in small_commits(came_first):
        with attempt:
            commit()


def change_again(
    spark: SparkSession, settings: Settings, dataset: str, table: str, change: Callable[[AtomicChange], None]
) -> None:
    """Make one atomic change of a table, again and again when other writers' commits come first.

    Args:
        spark, settings, dataset, table: Which table.
        change: Looks at the table as it is, and changes it or leaves it.
    """

    def commit() -> None:
        with atomic_change(spark, f"{settings.catalog.name}.{dataset}.{table}") as atomic:
            change(atomic)

    commit_again(commit)


def came_first(error: BaseException) -> bool:
    """Whether a commit failed because another one came first, or may have been made: looking again tells."""
    if not isinstance(error, JAVA_ERRORS):
        return False
    if "CommitFailedException" in java_class(error) or commit_unknown(error):
        return True
    told = root_message(error)
    return _BUSY in told or _STALE.search(told) is not None


def commit_or_find(commit: Callable[[], None], is_there: Callable[[], bool]) -> None:
    """Make a commit; where the catalog does not answer, look whether it is there.

    Args:
        commit: Makes it, once.
        is_there: Whether the table has it now.

    Raises:
        UnknownCommitError: the catalog did not answer, and the commit is not there so far.
    """
    try:
        commit()
    except JAVA_ERRORS as error:
        if not commit_unknown(error):
            raise
        unknown = translate(error)
        for attempt in unanswered_commits(lambda failed: failed is unknown):
            with attempt:
                if not _seen(is_there):
                    raise unknown from error


def _seen(is_there: Callable[[], bool]) -> bool:
    try:
        return is_there()
    except Exception:  # noqa: BLE001 - a catalog that answers no commit may answer no look; what is said is that
        return False


class RunBranch:
    """One run's branch of one table: the ``Branch`` of Iceberg.

    Args:
        spark, settings, lake: Where the table is.
        dataset, table: Which table.
        name: The branch's name, from ``branch_name``.
    """

    def __init__(
        self, spark: SparkSession, settings: Settings, lake: Lake, dataset: str, table: str, name: str
    ) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        self.dataset, self.table, self.name = dataset, table, name

    @property
    def identifier(self) -> str:
        """What Spark writes to (quoted)."""
        return f"`{self.settings.catalog.name}`.`{self.dataset}`.`{self.table}`.`branch_{self.name}`"

    def _load(self) -> Table:
        return self.lake.catalog.load_table((self.dataset, self.table))

    def _java(self) -> IcebergTable:
        return load_java(self.spark, self.settings, self.dataset, self.table)

    def tip(self) -> int | None:
        """The branch's snapshot; ``None`` when there is no branch."""
        return tags(self._load()).get(self.name)

    def exists(self) -> bool:
        """See ``Branch``."""
        return self.tip() is not None

    def begun_at(self) -> int | None:
        """See ``Branch``."""
        parts = self._parts(self._load())
        return parts[0].parent_snapshot_id if parts else None

    def parts(self) -> list[BranchPart]:
        """See ``Branch``; each is a snapshot of its own."""
        listed = (snapshot_summary(s) for s in self._parts(self._load()))
        own = ({k.removeprefix(PROPERTY_PREFIX): v for k, v in facts.items()} for facts in listed)
        return [BranchPart(facts) for facts in own]

    def _parts(self, table: Table) -> list[Snapshot]:
        found = []
        for snapshot in ancestors(table, tags(table).get(self.name)):
            if PART not in snapshot_summary(snapshot):
                break
            found.append(snapshot)
        return found[::-1]

    def open(self, base: int) -> None:
        """Begin at a snapshot; what the branch held before is dropped."""
        self.drop()

        def create() -> None:
            # The same run at work in another process may have been faster.
            if self.tip() is None:
                now = str(time.time_ns() // 1_000_000)
                self._java().create_branch(self.name, base, {begun_property(self.name): now})

        commit_again(create)

    def drop(self) -> None:
        """Remove the branch, its snapshots, and the files that only they hold."""
        parts = self._parts(self._load())

        def remove() -> None:
            if self.tip() is not None:
                self._java().remove_branch(self.name, {begun_property(self.name): None})

        def expire() -> None:
            there = {s.snapshot_id for s in self._load().metadata.snapshots}
            self._java().expire(part.snapshot_id for part in parts if part.snapshot_id in there)

        commit_again(remove)
        if parts:
            commit_again(expire)

    def swap(self, staged: Staged, removed: Iterable[str], facts: Mapping[str, str]) -> None:
        """Commit a part: a staged snapshot's new files in place of the files at the places named.

        Rows appended to the same segments in between lie in other files and stay.
        """
        staged_id = staged.snapshot_id
        if self._load().snapshot_by_id(staged_id) is None:
            raise staged_gone(self.table, facts[RUN_ID])
        try:
            self.exchange(self._java().added_files(staged_id), removed, _prefixed(facts))
        finally:
            # After a part that another process stored first, too.
            commit_again(lambda: self._java().expire([staged_id]))

    def merge(
        self,
        values: DataFrame,
        keys: Iterable[str],
        changed: Mapping[str, str],
        segments: Iterable[Segment],
        facts: Mapping[str, str],
    ) -> None:
        """Commit a part by Spark's MERGE; the table's own merge mode makes it deletion vectors."""
        spec, before, stored = self.lake.description(self.dataset), self.tip(), _prefixed(facts)

        def merge() -> None:
            merge_into(self.identifier, spec, self.settings.catalog.name, values, keys, changed, segments, stored)

        commit_or_find(merge, lambda: self._has_part(stored))
        if self.tip() == before:
            self.mark(stored)

    def rows(self) -> DataFrame:
        """See ``Branch``."""
        tip = self.tip()
        if tip is None:
            raise branch_gone(self.dataset, self.table)
        name = f"{self.settings.catalog.name}.{self.dataset}.{self.table}"
        return self.spark.read.option("versionAsOf", str(tip)).table(name)

    def count(self) -> int:
        """See ``Branch``."""
        table = self._load()
        return live_rows(table, tags(table).get(self.name))

    def exchange(self, added: Iterable[Any], removed: Iterable[str], facts: Mapping[str, str]) -> None:
        """Commit a part: Iceberg's files ``added`` in place of those at the places named.

        Raises:
            ConflictError: the same run in another process took one of them out, or dropped the branch.
        """
        java = self._java()
        wanted = set(removed)
        try:
            gone = java.files_of(self.name, wanted)
            if len(gone) != len(wanted):
                raise self._taken()
            commit_or_find(lambda: java.exchange(self.name, added, gone, facts), lambda: self._has_part(facts))
        except JAVA_ERRORS as error:
            if "ValidationException" in java_class(error):
                raise self._taken() from error
            if not self.exists():
                raise branch_gone(self.dataset, self.table) from error
            raise

    def _taken(self) -> ConflictError:
        return ConflictError(
            f"files of {self.dataset}.{self.table} are gone from the branch of the run",
            fix="Run the job again with the same run id.",
        )

    def hand_over(self, names: Iterable[str]) -> None:
        """Let tags (or main) name the branch's snapshot, and remove the branch."""
        listed, tip = list(names), self.tip()

        def change() -> None:
            if tip is None or self.tip() is None:
                return
            self._java().point(listed, tip, instead_of=self.name, note={begun_property(self.name): None})

        commit_again(change)

    def mark(self, facts: Mapping[str, str]) -> None:
        """Commit a part that changed no file."""
        commit_or_find(lambda: self._java().mark(facts, self.name), lambda: self._has_part(facts))

    def _has_part(self, facts: Mapping[str, str]) -> bool:
        """Whether a part says just this of itself."""
        return any(facts.items() <= snapshot_summary(s).items() for s in self._parts(self._load()))

    def stage(self, base: int, facts: Mapping[str, str]) -> None:
        """Stage the whole branch as one snapshot on today's main.

        Args:
            base: The snapshot that the branch began at.
            facts: Snapshot properties, the attempt (``wap.id``) among them.

        Raises:
            ConflictError: files that the run marks or takes out are gone, or the branch was dropped meanwhile.
        """
        java, table = self._java(), self._load()
        parts = self._parts(table)
        tip = tags(table).get(self.name)
        if not parts or parts[0].parent_snapshot_id != base:
            raise branch_gone(self.dataset, self.table)
        main = main_id(table)

        def staged() -> bool:
            listed = self._load().metadata.snapshots
            return any(facts.items() <= snapshot_summary(s).items() and s.parent_snapshot_id == main for s in listed)

        try:
            commit_or_find(lambda: java.stage_parts(base, [p.snapshot_id for p in parts], facts), staged)
        except JAVA_ERRORS as error:
            if "ValidationException" in java_class(error):
                raise ConflictError(
                    f"files of {self.dataset}.{self.table} that this run replaces are gone",
                    fix="Nothing was published. Run the job again.",
                ) from error
            raise
        # The files stay as long as one snapshot holds them. Until now that was the branch: had the same run in
        # another process dropped it before this commit, they could be gone.
        if self.tip() != tip:
            raise branch_gone(self.dataset, self.table)


def _prefixed(facts: Mapping[str, str]) -> dict[str, str]:
    return {PROPERTY_PREFIX + key: value for key, value in facts.items()}
