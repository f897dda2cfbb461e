"""Erasure from Iceberg tables: a version without the users, kept snapshots made anew, everything else removed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import cast

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.facts import ERASING
from dedup_storage.lake.folders import VOCABULARIES
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.branch import PART, RunBranch, branch_name, commit_again, load_java
from dedup_storage.lake.iceberg.expire import Expiry
from dedup_storage.lake.iceberg.kept import KeptVersions, find_touched, kept_snapshots, refuse_dropped, refuse_renamed
from dedup_storage.lake.iceberg.manifests import named_files, removed_bounds
from dedup_storage.lake.iceberg.metadata import ERASURE_PREFIX
from dedup_storage.lake.iceberg.rewrite import TableRewriter, Touched
from dedup_storage.lake.iceberg.snapshots import tags
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.runs import Run, new_attempt
from dedup_storage.lake.segments import encode_segments
from dedup_storage.lake.stored_rows import count_present
from dedup_storage.lake.upkeep import Found, OvertakenError, Remains, TableErasure, remains_of
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec

__all__ = ["IcebergErasure"]


class IcebergErasure:
    """The ``Erasure`` of Iceberg.

    Args:
        spark, tables, settings: Where the tables are.
        spec: The dataset.
        users: The users, one column with the user column's name.
        run_id: The run.
        facts: Facts to keep with its version.
    """

    def __init__(
        self,
        spark: SparkSession,
        tables: TableFormat,
        settings: Settings,
        spec: DatasetSpec,
        users: DataFrame,
        run_id: str,
        facts: Mapping[str, str],
    ) -> None:
        self.spark, self.tables, self.settings, self.spec = spark, tables, settings, spec
        self.users, self.run_id, self.facts = users, run_id, facts
        attempt = new_attempt(run_id)
        self._run = Run(run_id=run_id, job=ERASING, attempt=attempt, base=0, branch=branch_name(run_id))
        self._rewriters: dict[str, TableRewriter] = {}
        self._touched: dict[str, dict[int, Touched]] = {}

    def _metadata(self) -> DatasetMetadata:
        return self.tables.metadata(self.spec.name)

    def begin(self, stopped: Collection[str] = ()) -> None:
        """Remove the branches and holds that killed attempts of this erasure and of others left."""
        for run_id in (self.run_id, *stopped):
            self.tables.abandon_run(self.spec, run_id)
            for name, table in self._metadata().tables.items():
                ids = [run_id, *(f"{run_id}/{s.snapshot_id}" for s in table.metadata.snapshots)]
                there = set(tags(table))
                for each in ids:
                    if branch_name(each) in there:
                        self.tables.branch(self.spec.name, name, each).drop()

    def remember(self, text: str) -> None:
        """See ``Erasure``; a property of the anchor table."""

        def remember() -> None:
            anchor = load_java(self.spark, self.settings, self.spec.name, self.spec.anchor.name)
            anchor.set_property(ERASURE_PREFIX + self.run_id, text)

        commit_again(remember)

    def find(self) -> Found:
        """See ``Erasure``."""
        meta = self._metadata()
        self._run = replace(self._run, base=meta.current)
        self._rewriters = self._rewriters_of(meta)
        for name in self._rewriters:
            refuse_renamed(meta, name)
            refuse_dropped(meta, name)
        self._touched = {name: find_touched(meta, name, rewriter) for name, rewriter in self._rewriters.items()}
        current, found = meta.snapshots(meta.current), {}
        for name, rewriter in self._rewriters.items():
            touched = self._touched[name]
            files = {path for segments in touched.values() for listed in segments.values() for path in listed}
            rows = rewriter.count(current[name]) if name in current else 0
            found[name] = TableErasure(table=name, rows=rows, files=len(files), snapshots_rewritten=len(touched))
        present = [move_to(self.spark, r.present(meta.tables[n].location())) for n, r in self._rewriters.items()]
        versions = (v for v in meta.version_numbers if any(s in self._touched.get(n, ()) for n, s in _held(meta, v)))
        return Found(meta.current, found, users=count_present(present), versions=tuple(versions))

    def _rewriters_of(self, meta: DatasetMetadata) -> dict[str, TableRewriter]:
        user, run, found = self.spec.schema_.user, self._run, {}
        # The parts' own attempt: the run's attempt names what is published.
        part = Run(run_id=run.run_id, job=run.job, attempt=f"{run.attempt}/part", base=run.base, part=True)
        for name, table in meta.tables.items():
            # In a table without a snapshot a killed run may have left files.
            if any(f.name == user for f in table.schema().fields):
                found[name] = TableRewriter(self.spark, self.tables, self.settings, meta, name, self.users, part)
        return found

    def make_anew(self) -> None:
        """See ``Erasure``."""
        try:
            self._current(self._metadata())
            kept = KeptVersions(self.spark, self.tables, self.settings, self.spec, self.run_id)
            kept.make_anew(self._metadata(), self._rewriters)
        finally:
            self.tables.discard(self.spec, self._run)

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
            facts={"mode": "forget", **self.facts},
        )
        branches = {n: cast(RunBranch, self.tables.branch(self.spec.name, n, self.run_id)) for n in touched}
        try:
            for name, branch in branches.items():
                branch.open(current[name])
                rewriters[name].write(current[name], touched[name])
                reached("forget:written")
                facts = {
                    PART: encode_segments({name: segments[name]}),
                    PROPERTY_PREFIX + "run-id": self.run_id,
                    **self.facts,
                }
                rewriters[name].swap(branch, touched[name], facts)
                reached("forget:part")
            members = list(dict.fromkeys((*touched, self.spec.anchor.name)))
            self.tables.publish(self.spec, run, members, lambda now: _refuse_grown(current, now))
            reached("forget:published")
        finally:
            for branch in branches.values():
                branch.drop()

    def remove(self) -> None:
        """Remove every snapshot that has no name, and the files that only they hold."""
        expiry = Expiry(self.spark, self.tables, self.settings, self.spec)
        for table in self._metadata().tables.values():
            named = set(tags(table).values())
            unnamed = [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id not in named]
            expiry.remove_snapshots(table, unnamed)
            reached("forget:cleared")
        anchor = load_java(self.spark, self.settings, self.spec.name, self.spec.anchor.name)
        # Those counted from rows that are gone hold their values, and are never read again.
        anchor.delete_below(f"{self._metadata().anchor.location().rstrip('/')}/{VOCABULARIES}")

    def remains(self) -> dict[str, Remains]:
        """See ``Erasure``."""
        meta, found, user = self._metadata(), {}, self.spec.schema_.user
        known = self._rewriters
        rewriters = known if known.keys() >= meta.tables.keys() else {**self._rewriters_of(meta), **known}
        for name, rewriter in ((n, r) for n, r in rewriters.items() if n in meta.tables):
            table = meta.tables[name]
            snapshots, place = kept_snapshots(table), table.location()
            named = named_files(table, snapshots)
            seen = rewriter.look(place, (path for path in named if not _below(place, path)))
            bounds = rewriter.count_bounds(removed_bounds(table, snapshots, user), place)
            found[name] = remains_of(meta, name, seen, named, bounds)
        return found


def _refuse_grown(current: Mapping[str, int], now: DatasetMetadata) -> None:
    """Versions appeared since the users were looked for; their requests may stand in events that go.

    Raises:
        OvertakenError: users' lists grew.
    """
    if now.has_other_lists(current):
        raise OvertakenError


def _held(meta: DatasetMetadata, version: int) -> Iterable[tuple[str, int]]:
    return meta.snapshots(version).items()


def _below(folder: str, path: str) -> bool:
    """Whether a file lies below a folder; local ones are written with one slash or three."""
    plain = [re.sub("^file:/+", "/", place) for place in (folder.rstrip("/"), path)]
    return plain[1].startswith(f"{plain[0]}/")
