"""Several changes of one Iceberg table as one commit, checked against the very state that the commit is made on.

Iceberg's transactions look at the table when they begin. Their changes of references are not made again on a later
state: where another commit came first, the whole transaction fails with ``CommitFailedException`` and changes nothing.
So whatever is read of a change before it is committed still holds when it is.

A REST catalog compares less: of the references, those alone that a commit sets. There a change says what else it rests
on (``rest_on``); what it takes away it always rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from dedup_storage.lake.engine.iceberg import buckets_changed, load_java_table
from dedup_storage.lake.engine.java import has_method

__all__ = ["AtomicChange", "ChangesTogether", "atomic_change"]

_MAIN = "main"


class AtomicChange:
    """One commit in the making; what is read of it includes the changes that were made to it.

    Args:
        jvm: The session's Java.
        java: Iceberg's ``Transaction``.
    """

    def __init__(self, jvm: Any, java: Any) -> None:
        self._jvm, self._java = jvm, java

    def ref(self, name: str) -> int | None:
        """The snapshot that a tag or branch names; ``None`` where there is no such name."""
        found = self._java.table().refs().get(name)
        return int(found.snapshotId()) if found is not None else None

    def refs(self) -> set[str]:
        """Every tag and branch."""
        return {str(name) for name in self._java.table().refs()}

    def names(self, snapshot_id: int) -> list[str]:
        """Tags and branches that name a snapshot."""
        refs = self._java.table().refs()
        return [str(name) for name in refs if int(refs[name].snapshotId()) == snapshot_id]

    def property(self, key: str) -> str | None:
        """A table property."""
        found = self._java.table().properties().get(key)
        return str(found) if found is not None else None

    def properties(self) -> list[str]:
        """Names of the table's properties."""
        return [str(key) for key in self._java.table().properties()]

    def on_main(self, snapshot_id: int) -> bool:
        """Whether a snapshot is main's, or one that main's was made from."""
        table = self._java.table()
        snapshot = table.currentSnapshot()
        while snapshot is not None and snapshot.snapshotId() != snapshot_id:
            parent = snapshot.parentId()
            snapshot = table.snapshot(parent) if parent is not None else None
        return snapshot is not None

    def holds_files(self) -> bool:
        """Whether main names any data file."""
        snapshot = self._java.table().currentSnapshot()
        return snapshot is not None and snapshot.summary().get("total-data-files") != "0"

    def pick(self, snapshot_id: int) -> int:
        """Bring a staged snapshot onto main; gives main's snapshot that holds it then."""
        self._java.manageSnapshots().cherrypick(snapshot_id).commit()
        return int(self._java.table().currentSnapshot().snapshotId())

    def set_main(self, snapshot_id: int) -> None:
        """Let main name another snapshot that is there."""
        self._java.manageSnapshots().replaceBranch(_MAIN, snapshot_id).commit()

    def empty(self, facts: Mapping[str, str]) -> None:
        """Take every row out of main, by a snapshot with some properties."""
        everything = self._jvm.org.apache.iceberg.expressions.Expressions.alwaysTrue()
        change = self._java.newDelete().deleteFromRowFilter(everything)
        for key, value in facts.items():
            change.set(key, value)
        change.commit()

    def tag(self, name: str, snapshot_id: int) -> None:
        """Name a snapshot; a name that is there is moved."""
        change = self._java.manageSnapshots()
        there = self.ref(name) is not None
        (change.replaceTag if there else change.createTag)(name, snapshot_id).commit()

    def rest_on(self, *names: str) -> None:
        """Have the commit refused where one of some tags that are there names another snapshot by then, or is gone."""
        for name in names:
            snapshot_id = self.ref(name)
            # Set as it was, so that it is compared; each step alone, since Iceberg sends nothing for the two together.
            self._java.manageSnapshots().removeTag(name).commit()
            self._java.manageSnapshots().createTag(name, snapshot_id).commit()

    def untag(self, *names: str) -> None:
        """Remove tags that are there, unless one of them names another snapshot by then, or is gone."""
        self.rest_on(*names)
        change = self._java.manageSnapshots()
        for name in names:
            change = change.removeTag(name)
        change.commit()

    def set_buckets(self, column: str, count: int) -> None:
        """Let what is written from here on lie in so many buckets of a column; nothing where it does so already."""
        spec = buckets_changed(self._java.table(), self._java.updateSpec, self._jvm, column, count)
        if spec is not None:
            spec.commit()

    def set_property(self, key: str, value: str | None) -> None:
        """Set a table property, or remove it."""
        change = self._java.updateProperties()
        (change.remove(key) if value is None else change.set(key, value)).commit()


class ChangesTogether:
    """Changes of several tables as one commit of a REST catalog that offers it: all of them are made, or none.

    Args:
        spark: Session with its catalog.
        catalog: The catalog's name.
    """

    def __init__(self, spark: SparkSession, catalog: str) -> None:
        self._spark, self._catalog = spark, catalog
        self._jvm: Any = spark._jvm
        self._begun: list[tuple[str, Any]] = []

    @property
    def possible(self) -> bool:
        """Whether the session's client of the catalog has such commits; whether the server has is another question."""
        return has_method(self._client(), "commitTransaction")

    def change(self, table: str) -> AtomicChange:
        """A change of ``namespace.table`` as it is now; committed with the others, in the order of these calls."""
        java = load_java_table(self._spark, f"{self._catalog}.{table}").newTransaction()
        self._begun.append((table, java))
        return AtomicChange(self._jvm, java)

    def commit(self) -> None:
        """Commit what was changed.

        Raises:
            Py4JJavaError: with ``CommitFailedException`` where another commit came first.
        """
        commits = self._jvm.java.util.ArrayList()
        catalog = self._jvm.org.apache.iceberg.catalog
        for table, java in self._begun:
            if not java.currentMetadata().changes().isEmpty():
                identifier = catalog.TableIdentifier.parse(table)
                commits.add(catalog.TableCommit.create(identifier, java.startMetadata(), java.currentMetadata()))
        if not commits.isEmpty():
            self._client().commitTransaction(commits)

    def _client(self) -> Any:
        util = self._jvm.org.apache.iceberg.spark.Spark3Util
        return util.loadIcebergCatalog(self._spark._jsparkSession, self._catalog)


@contextmanager
def atomic_change(spark: SparkSession, name: str) -> Iterator[AtomicChange]:
    """A change of a table as it is now, committed at the end of the block; an exception inside commits nothing.

    Args:
        spark: Session with its catalog.
        name: ``catalog.namespace.table``.

    Raises:
        Py4JJavaError: with ``CommitFailedException`` where another commit came first, ``ValidationException`` where a
            snapshot cannot be brought onto main, ``CommitStateUnknownException`` where the catalog did not answer.
    """
    jvm: Any = spark._jvm
    java = load_java_table(spark, name).newTransaction()
    yield AtomicChange(jvm, java)
    java.commitTransaction()
