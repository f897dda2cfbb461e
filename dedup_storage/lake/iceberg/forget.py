"""One erasure: a new version without the users, the kept versions made anew, everything else removed, a final scan.

Each step finds by itself what is left to do, so an erasure that was killed is finished by running it again.
"""

from __future__ import annotations

import uuid
from typing import cast

from dedup_storage.dataset.upkeep.compact import working_branches
from dedup_storage.dataset.upkeep.forget import ForgettingBase
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, TableErasure
from dedup_storage.faults import reached
from dedup_storage.lake.iceberg.branch import (
    PART,
    RunBranch,
    branch_name,
)
from dedup_storage.lake.iceberg.expire import Expiry, Policy
from dedup_storage.lake.iceberg.kept import KeptVersions, find_touched, telling
from dedup_storage.lake.iceberg.metadata import DatasetMetadata, tags
from dedup_storage.lake.iceberg.rewrite import TableRewriter, Touched
from dedup_storage.lake.protocol import Run, TableFormat
from dedup_storage.lake.segments import encode_segments
from dedup_storage.layout import PROPERTY_PREFIX

__all__ = ["Forgetting"]


class Forgetting(ForgettingBase[TableFormat, DatasetMetadata]):
    """Erases users from one dataset of Iceberg tables."""

    def _erase(self, meta: DatasetMetadata, count: int) -> ForgetSummary:
        if not self.dry_run:
            self._drop_own(meta)
            meta = self.tables.metadata(self.spec.name)
        tables, name = self.tables, self.spec.name
        self._refuse_busy(f"{table}.{tag}" for table in meta.tables for tag in working_branches(tables, name, table))
        run = self._new_run(meta.current)
        rewriters = self._rewriters(meta, run)
        with self.timed("find"):
            found = {name: find_touched(meta, name, rewriter) for name, rewriter in rewriters.items()}
            current = meta.snapshots(meta.current)
            rows = {n: r.count(current[n]) if n in current else 0 for n, r in rewriters.items()}
        files = {name: {p for t in refs.values() for fs in t.values() for p in fs} for name, refs in found.items()}
        erasures = {n: TableErasure(table=n, rows=rows[n], files=len(files[n])) for n in rewriters}
        if self.dry_run:
            return self._summary(count, meta.current, (), erasures, clean=None)
        kept = KeptVersions(self.spark, self.tables, self.settings, self.spec, self.run_id)
        try:
            with self.timed("current"):
                self._current(meta, run, rewriters, found)
            with self.timed("versions"):
                meta = self.tables.metadata(self.spec.name)
                again, versions = kept.make_anew(meta, rewriters)
        finally:
            self.tables.discard(self.spec, run)
        with self.timed("remove"):
            self._remove()
        reached("forget:removed")
        with self.timed("scan"):
            meta = self.tables.metadata(self.spec.name)
            found_left = {
                n: {
                    "snapshots_rewritten": again[n],
                    "rows_left": r.left(meta.tables[n].location()),
                    "snapshots_left": len(telling(meta, n)),
                }
                for n, r in rewriters.items()
            }
        erasures = {n: e.model_copy(update=found_left[n]) for n, e in erasures.items()}
        clean = not any(e.rows_left or e.snapshots_left for e in erasures.values())
        return self._summary(count, meta.current, versions, erasures, clean=clean)

    def _drop_own(self, meta: DatasetMetadata) -> None:
        """Remove the branches that a killed attempt of this run left."""
        for name, table in meta.tables.items():
            ids = [self.run_id, *(f"{self.run_id}/{s.snapshot_id}" for s in table.metadata.snapshots)]
            there = set(tags(table))
            for run_id in ids:
                if branch_name(run_id) in there:
                    self.tables.branch(self.spec.name, name, run_id).drop()

    def _new_run(self, base: int) -> Run:
        attempt = f"{self.run_id}/{uuid.uuid4().hex[:12]}"
        return Run(run_id=self.run_id, job="forget-user", attempt=attempt, base=base, branch=branch_name(self.run_id))

    def _rewriters(self, meta: DatasetMetadata, run: Run) -> dict[str, TableRewriter]:
        user, found = self.spec.schema_.user, {}
        # The parts' own attempt: the run's attempt names what is published.
        part = Run(run_id=run.run_id, job=run.job, attempt=f"{run.attempt}/part", base=run.base)
        for name, table in meta.tables.items():
            if table.metadata.snapshots and any(f.name == user for f in table.schema().fields):
                found[name] = TableRewriter(self.spark, self.tables, self.settings, meta, name, self.users, part)
        return found

    # -- the current version ------------------------------------------------------------------------------------

    def _current(
        self,
        meta: DatasetMetadata,
        run: Run,
        rewriters: dict[str, TableRewriter],
        found: dict[str, dict[int, Touched]],
    ) -> None:
        """Publish a version without the users."""
        current = meta.snapshots(meta.current)
        touched = {n: found[n][s] for n, s in current.items() if n in found and s in found[n]}
        if not touched:
            return
        segments = {name: frozenset(t) for name, t in touched.items()}
        run = Run(
            run_id=run.run_id,
            job=run.job,
            attempt=run.attempt,
            base=meta.current,
            dates=tuple(sorted({s.date for listed in segments.values() for s in listed})),
            segments=segments,
            branch=run.branch,
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

    def _remove(self) -> None:
        """Remove every snapshot that has no name, and the files that only they hold."""
        meta = self.tables.metadata(self.spec.name)
        expiry = Expiry(self.spark, self.tables, self.settings, self.spec, Policy())
        for name, table in meta.tables.items():
            named = set(tags(table).values())
            unnamed = [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id not in named]
            expiry.remove_snapshots(name, unnamed)
            reached("forget:cleared")
