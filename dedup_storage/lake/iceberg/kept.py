"""The kept versions without some users: every named snapshot that has or tells of their rows, made anew.

Names move from the old snapshot to the new one. A snapshot tells of rows that it does not hold when its manifests list
files that were taken out, with the least and the greatest id in them. The current version is written anew on main
itself, so that nobody who publishes meanwhile is undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from pyiceberg.table import Table
from pyiceberg.types import NestedField
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.branch import BRANCH_PREFIX
from dedup_storage.lake.facts import ERASING
from dedup_storage.lake.groups import columns_of
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.branch import RunBranch, commit_again, load_java, main_id
from dedup_storage.lake.iceberg.expire import Expiry
from dedup_storage.lake.iceberg.holds import HOLD_PREFIX
from dedup_storage.lake.iceberg.manifests import lists_removed
from dedup_storage.lake.iceberg.rewrite import TableRewriter, Touched
from dedup_storage.lake.iceberg.snapshots import (
    STANDS_FOR,
    ancestors,
    definition_text,
    snapshot_summary,
    tags,
)
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, DatasetSpec, TableRole

__all__ = ["KeptVersions", "find_touched", "kept_snapshots", "refuse_dropped", "refuse_renamed"]


def find_touched(meta: DatasetMetadata, name: str, rewriter: TableRewriter) -> dict[int, Touched]:
    """Named snapshots of a table that hold rows of the users -> the files that do."""
    found = {s: rewriter.touched(s) for s in dict.fromkeys(_kept_tags(meta.tables[name]).values())}
    return {snapshot_id: touched for snapshot_id, touched in found.items() if touched}


def kept_snapshots(table: Table) -> set[int]:
    """Snapshots of a table that versions, pins, samples, others' tags or main name."""
    return set(_kept_tags(table).values())


def refuse_renamed(meta: DatasetMetadata, name: str) -> None:
    """Refuse to make a table's kept snapshots anew where another tool gave a column another name since: the rows that
    are written again would lose its values, under either name.

    Raises:
        UsageError: names the column, and the command that gives its name back.
    """
    table = meta.tables[name]
    now = {field.field_id: field.name for field in table.schema().fields}
    for snapshot_id in kept_snapshots(table):
        for field in _fields(table, snapshot_id):
            new = now.get(field.field_id, field.name)
            if new != field.name:
                raise UsageError(
                    f"the column {field.name} of {meta.spec.name}.{name} was renamed by another tool",
                    expected=f"the name {field.name}, as kept versions have it",
                    got=new,
                    fix="Nothing was changed. Give it its name back: "
                    f"ALTER TABLE {meta.spec.name}.{name} RENAME COLUMN {new} TO {field.name}.",
                )


def refuse_dropped(meta: DatasetMetadata, name: str) -> None:
    """Refuse to make a table's kept snapshots anew where another tool dropped a column that a version shows: a snapshot
    that is made anew has the table's columns of today, in all of its rows. One that was added again under the same name
    is another column.

    Raises:
        UsageError: names the column and the versions.
    """
    table = meta.tables[name]
    now, showing = {field.field_id for field in table.schema().fields}, dict[str, list[str]]()
    for version in meta.version_numbers:
        snapshot_id = meta.snapshots(version).get(name)
        gone = {f.name for f in _fields(table, snapshot_id) if f.field_id not in now} if snapshot_id else ()
        # Columns that no version shows are taken away when a group is promoted under their name.
        for column in columns_of(meta, version, name) if gone else ():
            if column in gone:
                showing.setdefault(column, []).append(f"v{version}")
    for column, versions in showing.items():
        raise UsageError(
            f"the column {column} of {meta.spec.name}.{name} was dropped by another tool, and kept versions show it",
            expected=f"the column {column} in the table, since versions are made anew with its columns",
            got=f"versions that would lose its values: {', '.join(versions)}",
            fix="Nothing was changed. Let these versions expire (dedup-storage maintain). Where the newest one is among"
            " them, convert it (dedup-storage convert), erase in the new dataset, and drop this one.",
        )


def _fields(table: Table, snapshot_id: int) -> tuple[NestedField, ...]:
    """A table's columns as a snapshot has them."""
    snapshot = table.snapshot_by_id(snapshot_id)
    schema = table.schemas().get(snapshot.schema_id) if snapshot and snapshot.schema_id is not None else None
    return schema.fields if schema is not None else ()


def _telling(meta: DatasetMetadata, name: str) -> list[int]:
    """Named snapshots of a table whose manifests list files that were taken out."""
    table = meta.tables[name]
    return [s for s in dict.fromkeys(_kept_tags(table).values()) if lists_removed(table, s)]


def _kept_tags(table: Table) -> dict[str, int]:
    """Names that keep content: not those of runs that began after the erasure looked for such."""
    return {n: s for n, s in tags(table).items() if not n.startswith((HOLD_PREFIX, BRANCH_PREFIX))}


class KeptVersions:
    """Makes the kept versions of one dataset anew.

    Args:
        spark, tables, settings, spec: As for ``Backfill``.
        run_id: The run.
    """

    def __init__(
        self, spark: SparkSession, tables: TableFormat, settings: Settings, spec: DatasetSpec, run_id: str
    ) -> None:
        self.spark, self.tables, self.settings, self.spec, self.run_id = spark, tables, settings, spec, run_id

    def make_anew(self, meta: DatasetMetadata, rewriters: Mapping[str, TableRewriter]) -> None:
        """Do it.

        Raises:
            ConflictError: another run published meanwhile; run again.
        """
        # What versions say of their runs must outlive the snapshots that say it.
        Expiry(self.spark, self.tables, self.settings, self.spec).remember(meta, meta.version_numbers)
        reached("forget:remembered")
        meta = self.tables.metadata(self.spec.name)
        current = meta.snapshots(meta.current)
        for name, rewriter in rewriters.items():
            found = find_touched(meta, name, rewriter)
            for snapshot_id in dict.fromkeys((*found, *_telling(meta, name))):
                touched = found.get(snapshot_id, {})
                named = [t for t, s in _kept_tags(meta.tables[name]).items() if s == snapshot_id]
                # Main holds the current version, except in tables that this version leaves out.
                names = [t for t in named if t != "main" or name not in current]
                if current.get(name) != snapshot_id:
                    self._older(meta, rewriter, snapshot_id, touched, names)
                elif touched:
                    raise self._overtaken()
                else:
                    self._current(meta, name, snapshot_id, names)

    def _older(
        self, meta: DatasetMetadata, rewriter: TableRewriter, snapshot_id: int, touched: Touched, names: Sequence[str]
    ) -> None:
        if not names:
            return
        rewriter.write(snapshot_id, touched)
        branch = cast(RunBranch, self.tables.branch(self.spec.name, rewriter.table, f"{self.run_id}/{snapshot_id}"))
        rewriter.lay_anew(branch, snapshot_id, touched, self._facts(meta, rewriter.table, snapshot_id))
        reached("forget:made")
        branch.hand_over(names)
        reached("forget:renamed")

    def _current(self, meta: DatasetMetadata, name: str, snapshot_id: int, names: Sequence[str]) -> None:
        table = self._with_rows_of(name, snapshot_id)
        if lists_removed(table, main_id(table) or 0):
            facts = self._facts(meta, name, snapshot_id)
            java = load_java(self.spark, self.settings, self.spec.name, name)
            commit_again(lambda: java.rewrite_manifests(facts))
            reached("forget:manifests")
            table = self._with_rows_of(name, snapshot_id)
        tip = main_id(table) or 0

        def follow() -> None:
            load_java(self.spark, self.settings, self.spec.name, name).point(names, tip)

        commit_again(follow)

    def _with_rows_of(self, name: str, snapshot_id: int) -> Table:
        """The table, whose main must have the rows of the snapshot."""
        table = self.tables.metadata(self.spec.name).tables[name]
        for snapshot in ancestors(table, main_id(table)):
            if snapshot.snapshot_id == snapshot_id:
                return table
            if snapshot_summary(snapshot).get("operation") != "replace":
                break
        raise self._overtaken()

    def _facts(self, meta: DatasetMetadata, name: str, snapshot_id: int) -> dict[str, str]:
        facts = {
            PROPERTY_PREFIX + "run-id": self.run_id,
            PROPERTY_PREFIX + "job": ERASING,
            STANDS_FOR: str(snapshot_id),
        }
        if meta.role(name) == TableRole.FEATURES:
            # The snapshot that held the group's definition goes, and with it the rows it names.
            text = definition_text(meta.tables[name], snapshot_id)
            facts |= {PROPERTY_PREFIX + DEFINITION: text} if text else {}
        return facts

    def _overtaken(self) -> ConflictError:
        return ConflictError(
            f"another run published to {self.spec.name} while users were erased from it",
            fix="Versions may hold rows of the users. Run the job again with the same run id.",
        )
