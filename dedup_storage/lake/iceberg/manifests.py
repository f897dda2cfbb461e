"""Manifests that tell of no file but those their snapshot holds.

An ordinary commit lists the files it takes out, with the least and the greatest value of each of their columns. Where
such a value must not stay, as after an erasure, the manifests are written without these entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyiceberg.manifest import ManifestContent
from pyiceberg.table import Table
from pyspark.sql import SparkSession

from dedup_storage.lake.iceberg.branch import RunBranch, load_java
from dedup_storage.lake.iceberg.net import iterate

__all__ = ["lay_anew", "lists_removed", "rewrite_main"]


def lists_removed(table: Table, snapshot_id: int) -> bool:
    """Whether a snapshot's manifests still list data files that were taken out."""
    snapshot = table.snapshot_by_id(snapshot_id)
    manifests = snapshot.manifests(table.io) if snapshot is not None else []
    return any(m.content is ManifestContent.DATA and m.deleted_files_count for m in manifests)


def rewrite_main(spark: SparkSession, java: Any, facts: Mapping[str, str]) -> None:
    """Commit main's manifests anew, without the entries of files that were taken out."""
    # Any constant: all entries may share a manifest.
    same = spark._jvm.com.google.common.base.Functions.constant("")  # type: ignore[union-attr]
    change = java.rewriteManifests().clusterBy(same)
    for key, value in facts.items():
        change.set(key, value)
    change.commit()


def lay_anew(
    branch: RunBranch, base: int, added: Iterable[Any], removed: Iterable[str], facts: Mapping[str, str]
) -> None:
    """Make a snapshot anew on a branch, with other files in place of some, in manifests that tell of no others.

    Iceberg writes manifests anew on main alone. So a first commit takes everything out, and a second brings what
    stays: none of the first one's manifests has a file that is left.

    Args:
        branch: Of the table; opened here.
        base: The snapshot.
        added, removed: Iceberg's data files, and places of those they replace.
        facts: Snapshot properties.
    """
    branch.open(base)
    gone = set(removed)
    files: list[Any] = []
    vectors: dict[str, Any] = {}
    java = load_java(branch.spark, branch.settings, branch.dataset, branch.table)
    tasks = java.newScan().useSnapshot(base).includeColumnStats().planFiles()
    try:
        for task in iterate(tasks):
            if str(task.file().location()) in gone:
                continue
            files.append(task.file())
            vectors |= {f"{d.location()}@{d.contentOffset()}": d for d in iterate(task.deletes())}
    finally:
        tasks.close()
    everything = branch.spark._jvm.org.apache.iceberg.expressions.Expressions.alwaysTrue()  # type: ignore[union-attr]
    java.newDelete().toBranch(branch.name).deleteFromRowFilter(everything).commit()
    java.refresh()
    change = java.newRowDelta().toBranch(branch.name)
    for file in (*files, *added):
        change.addRows(file)
    for vector in vectors.values():
        change.addDeletes(vector)
    for key, value in facts.items():
        change.set(key, value)
    change.commit()
