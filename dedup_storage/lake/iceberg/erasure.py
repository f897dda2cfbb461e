"""Erasure from Iceberg tables: a version without the users, kept snapshots made anew, everything else removed."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import cast

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.branch import PART, RunBranch, branch_name
from dedup_storage.lake.iceberg.expire import Expiry
from dedup_storage.lake.iceberg.kept import KeptVersions, find_touched, telling
from dedup_storage.lake.iceberg.rewrite import TableRewriter, Touched
from dedup_storage.lake.iceberg.snapshots import tags
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.runs import Run
from dedup_storage.lake.segments import encode_segments
from dedup_storage.lake.upkeep import Found, MadeAnew, TableErasure
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec

__all__ = ["IcebergErasure"]


class IcebergErasure:
    """The ``Erasure`` of Iceberg.

    Args:
        spark, tables, settings: Where the tables are.
        spec: The dataset.
        users: The users, one column with the user column's name.
        run_id: The run.
    """

    def __init__(
        self,
        spark: SparkSession,
        tables: TableFormat,
        settings: Settings,
        spec: DatasetSpec,
        users: DataFrame,
        run_id: str,
    ) -> None:
        self.spark, self.tables, self.settings, self.spec = spark, tables, settings, spec
        self.users, self.run_id = users, run_id
        attempt = f"{run_id}/{uuid.uuid4().hex[:12]}"
        self._run = Run(run_id=run_id, job="forget-user", attempt=attempt, base=0, branch=branch_name(run_id))
        self._rewriters: dict[str, TableRewriter] = {}
        self._touched: dict[str, dict[int, Touched]] = {}

    def _metadata(self) -> DatasetMetadata:
        return self.tables.metadata(self.spec.name)

    def begin(self) -> None:
        """Remove the branches and holds that a killed attempt of this run left."""
        self.tables.abandon_run(self.spec, self.run_id)
        for name, table in self._metadata().tables.items():
            ids = [self.run_id, *(f"{self.run_id}/{s.snapshot_id}" for s in table.metadata.snapshots)]
            there = set(tags(table))
            for run_id in ids:
                if branch_name(run_id) in there:
                    self.tables.branch(self.spec.name, name, run_id).drop()

    def find(self) -> Found:
        """See ``Erasure``."""
        meta = self._metadata()
        self._run = replace(self._run, base=meta.current)
        self._rewriters = self._rewriters_of(meta)
        self._touched = {name: find_touched(meta, name, rewriter) for name, rewriter in self._rewriters.items()}
        current, found = meta.snapshots(meta.current), {}
        for name, rewriter in self._rewriters.items():
            files = {path for touched in self._touched[name].values() for listed in touched.values() for path in listed}
            rows = rewriter.count(current[name]) if name in current else 0
            found[name] = TableErasure(table=name, rows=rows, files=len(files))
        return Found(meta.current, found)

    def _rewriters_of(self, meta: DatasetMetadata) -> dict[str, TableRewriter]:
        user, run, found = self.spec.schema_.user, self._run, {}
        # The parts' own attempt: the run's attempt names what is published.
        part = Run(run_id=run.run_id, job=run.job, attempt=f"{run.attempt}/part", base=run.base, part=True)
        for name, table in meta.tables.items():
            if table.metadata.snapshots and any(f.name == user for f in table.schema().fields):
                found[name] = TableRewriter(self.spark, self.tables, self.settings, meta, name, self.users, part)
        return found

    def make_anew(self) -> MadeAnew:
        """See ``Erasure``."""
        try:
            self._current(self._metadata())
            kept = KeptVersions(self.spark, self.tables, self.settings, self.spec, self.run_id)
            snapshots, versions = kept.make_anew(self._metadata(), self._rewriters)
        finally:
            self.tables.discard(self.spec, self._run)
        return MadeAnew(snapshots, tuple(versions))

    def _current(self, meta: DatasetMetadata) -> None:
        """Publish a version without the users."""
        base, rewriters, found = self._run.base, self._rewriters, self._touched
        current = meta.snapshots(base)
        touched = {n: found[n][s] for n, s in current.items() if n in found and s in found[n]}
        if not touched:
            return
        segments = {name: frozenset(t) for name, t in touched.items()}
        run = replace(
            self._run,
            dates=tuple(sorted({s.date for listed in segments.values() for s in listed})),
            segments=segments,
            facts={"mode": "forget"},
        )
        branches = {n: cast(RunBranch, self.tables.branch(self.spec.name, n, self.run_id)) for n in touched}
        try:
            for name, branch in branches.items():
                branch.open(current[name])
                rewriters[name].write(current[name], touched[name])
                reached("forget:written")
                facts = {PART: encode_segments({name: segments[name]}), PROPERTY_PREFIX + "run-id": self.run_id}
                rewriters[name].swap(branch, touched[name], facts)
                reached("forget:part")
            members = list(dict.fromkeys((*touched, self.spec.anchor.name)))
            self.tables.publish(self.spec, run, members)
            reached("forget:published")
        finally:
            for branch in branches.values():
                branch.drop()

    def remove(self) -> None:
        """Remove every snapshot that has no name, and the files that only they hold."""
        expiry = Expiry(self.spark, self.tables, self.settings, self.spec)
        for name, table in self._metadata().tables.items():
            named = set(tags(table).values())
            unnamed = [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id not in named]
            expiry.remove_snapshots(name, unnamed)
            reached("forget:cleared")

    def left(self) -> dict[str, tuple[int, int]]:
        """See ``Erasure``."""
        meta = self._metadata()
        return {
            name: (rewriter.left(meta.tables[name].location()), len(telling(meta, name)))
            for name, rewriter in self._rewriters.items()
        }
