"""Takes versions' names, and removes snapshots that nothing names.

A version that expires loses its name first (the anchor's tag, which makes it a version), then the tags of its other
tables, then its snapshots and the files that no other snapshot holds. A crash in between leaves tags of a version
that is none; the next maintenance removes them. Its run id stays known (a property of the anchor table), so that
running it again still changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from pyiceberg.table import Table
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import CatalogType, Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import AtomicChange, atomic_change
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.branch import BRANCH_PREFIX, change_again, commit_again, load_java
from dedup_storage.lake.iceberg.metadata import ABANDONED_PREFIX, EXPIRED_PREFIX, MEMBERS_PREFIX
from dedup_storage.lake.iceberg.snapshots import NO_GROUP, begun_property, snapshot_summary, tags
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.retries import passing_failures
from dedup_storage.lake.sql import quoted
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec, claim_tag, parse_version_tag, version_tag
from dedup_storage.spark.errors import JAVA_ERRORS, is_gone, root_message

__all__ = ["MAIN", "VERSION_OF_TAG", "Expiry", "version_named"]

VERSION_OF_TAG = re.compile(r"(?:claim-)?v([1-9][0-9]*)")
_PIN = re.compile(r"pin-v([1-9][0-9]*)-")
MAIN = "main"
_MOST_CHARACTERS = 1_000
_MOST_IDS = 500
# What a snapshot's summary counts, and how many files all of a table's may list where Spark's jobs take longer.
_COUNTED = {"total-data-files", "total-delete-files"}
_FEW_FILES = 10_000
_NAMED = re.compile(r"Cannot expire (\d+)\. Still referenced by refs")


def version_named(tag: str) -> int | None:
    """The version that a tag, or a pin, is of; ``None`` for other names."""
    match = VERSION_OF_TAG.fullmatch(tag) or _PIN.match(tag)
    return int(match.group(1)) if match else None


class Expiry:
    """Expiry of one dataset.

    Args:
        spark, tables, settings: Where the tables are.
        spec: The dataset.
    """

    def __init__(self, spark: SparkSession, tables: TableFormat, settings: Settings, spec: DatasetSpec) -> None:
        self.spark, self.tables, self.settings, self.spec = spark, tables, settings, spec

    def expire(self, meta: DatasetMetadata, versions: Iterable[int]) -> None:
        """Remove versions' names, the anchor's first; one that was pinned meanwhile stays."""
        for version in versions:
            self._note(meta, version)
            reached("maintain:remembered")
            self._unname(version)
            reached("maintain:unnamed")
        self.tidy(self.tables.metadata(self.spec.name))

    def _unname(self, version: int) -> None:
        """Take the name that makes a version, unless something else names its snapshot by then."""
        place, tag = f"{self.settings.catalog.name}.{self.spec.name}.{self.spec.anchor.name}", version_tag(version)
        taken: int | None = None

        def untag() -> None:
            nonlocal taken
            # Looked at and removed in one commit: nobody can pin the version in between.
            with atomic_change(self.spark, place) as change:
                named = change.ref(tag)
                if named is not None and _is_free(change.names(named)):
                    change.untag(tag)
                    taken = named

        def put_back() -> None:
            # A REST catalog compares no names that a commit does not set: there somebody can, and kept the snapshot.
            with atomic_change(self.spark, place) as change:
                if taken is not None and change.ref(tag) is None and not _is_free(change.names(taken)):
                    change.tag(tag, taken)

        commit_again(untag)
        if taken is not None and self.settings.catalog.type is CatalogType.REST:
            commit_again(put_back)

    def remember(self, meta: DatasetMetadata, versions: Iterable[int]) -> None:
        """Keep what versions say of their runs apart from the snapshots that said it, and let these go."""
        for version in versions:
            if claim_tag(version) in tags(meta.anchor):
                self._note(meta, version)
                self.tables.untag(self.spec.name, self.spec.anchor.name, claim_tag(version))

    def _note(self, meta: DatasetMetadata, version: int) -> None:
        facts = {k: v for k, v in meta.claim(version).items() if len(v) <= _MOST_CHARACTERS and k != "staged"}
        text = json.dumps(facts, sort_keys=True)
        anchor = self.spec.anchor.name

        def note() -> None:
            table = load_java(self.spark, self.settings, self.spec.name, anchor)
            table.set_property(f"{EXPIRED_PREFIX}{version_tag(version)}", text)

        commit_again(note)

    def tidy(self, meta: DatasetMetadata) -> None:
        """Remove tags, and pins, of versions that are none any more."""
        there = set(meta.version_numbers)
        for name, table in meta.tables.items():
            for tag in tags(table):
                version = version_named(tag)
                # The version after the current one may be in the middle of its publication.
                if version is not None and version <= meta.current and version not in there:
                    self.tables.untag(self.spec.name, name, tag)
                    reached("maintain:untagged")
        # What claims said of their tables; an abandoned number needs no mention once later ones were used.
        for prefix in (MEMBERS_PREFIX, ABANDONED_PREFIX):
            for key in meta.anchor.properties:
                version = parse_version_tag(key.removeprefix(prefix)) if key.startswith(prefix) else None
                done = version is not None and version < meta.current and version not in there
                if done and meta.abandoned.get(version or 0, True):
                    self._forget(key)

    def _forget(self, key: str) -> None:
        def forget() -> None:
            load_java(self.spark, self.settings, self.spec.name, self.spec.anchor.name).set_property(key, None)

        commit_again(forget)

    def empty(self, name: str) -> None:
        """Take every row out of a table that main alone names, unless it has another name by then."""

        def empty(change: AtomicChange) -> None:
            if change.refs() == {MAIN}:
                change.empty({PROPERTY_PREFIX + "job": "maintain", **NO_GROUP})

        change_again(self.spark, self.settings, self.spec.name, name, empty)

    def drop_branch(self, name: str, branch: str) -> None:
        """Remove a run's branch; its snapshots go with the next ``remove_snapshots``."""

        def drop() -> None:
            table = load_java(self.spark, self.settings, self.spec.name, name)
            if table.has_reference(branch):
                table.remove_branch(branch, {begun_property(branch): None})

        commit_again(drop)

    def remove_snapshots(self, table: Table, snapshot_ids: list[int]) -> None:
        """Remove snapshots of a table and the files that only they hold.

        One that somebody named since it was looked for stays: another run may hold it, or a user have pinned it.

        Args:
            table: As it was looked at.
            snapshot_ids: Which.
        """
        name = table.name()[-1]
        remove = self._remove_here if _names_few_files(table) else self._remove_by_spark
        for start in range(0, len(snapshot_ids), _MOST_IDS):
            self._remove_unnamed(lambda ids: remove(name, ids), snapshot_ids[start : start + _MOST_IDS])

    def _remove_unnamed(self, remove: Callable[[list[int]], object], snapshot_ids: list[int]) -> None:
        while snapshot_ids:
            try:
                remove(snapshot_ids)
            except JAVA_ERRORS as error:
                # Iceberg refuses all for one, before it removes any, and names that one.
                named = {int(told) for told in _NAMED.findall(root_message(error))}
                if not named & set(snapshot_ids):
                    raise
                snapshot_ids = [s for s in snapshot_ids if s not in named]
            else:
                return

    def _remove_here(self, name: str, snapshot_ids: list[int]) -> None:
        """Iceberg reads the manifests in this process, and compares what they list.

        It does so after its commit, of every snapshot that it saw: again when one of them went meanwhile.
        """

        def expire() -> None:
            load_java(self.spark, self.settings, self.spec.name, name).expire(snapshot_ids)

        passing_failures(is_gone)(commit_again, expire)

    def _remove_by_spark(self, name: str, snapshot_ids: list[int]) -> None:
        """Spark compares the lists of files."""
        listed = ", ".join(f"{int(s)}L" for s in snapshot_ids)
        # Nothing but the snapshots named: by default Iceberg would take all that are five days old.
        self.call(
            f"CALL {quoted(self.settings.catalog.name)}.system.expire_snapshots("
            f"table => '{self.spec.name}.{name}', snapshot_ids => ARRAY({listed}), "
            "older_than => TIMESTAMP '1970-01-02 00:00:00')"
        )

    def call(self, sql: str) -> DataFrame:
        """Run a procedure that looks at every snapshot, again when one of them went meanwhile: runs drop their own."""
        return passing_failures(is_gone)(self.spark.sql, sql)


def _names_few_files(table: Table) -> bool:
    """Whether all of a table's snapshots list so few files that one process reads their manifests at once."""
    listed = 0
    for snapshot in table.metadata.snapshots:
        summary = snapshot_summary(snapshot)
        if not summary.keys() >= _COUNTED:
            return False
        listed += sum(int(summary[key]) for key in _COUNTED)
    return listed <= _FEW_FILES


def _is_free(names: Iterable[str]) -> bool:
    """Whether nothing but versions, main and branches is among a snapshot's names."""
    others = (name for name in names if not VERSION_OF_TAG.fullmatch(name))
    return all(other == MAIN or other.startswith(BRANCH_PREFIX) for other in others)
