"""Rewrites decayed segments to sorted order and publishes that as a version of its own.

The rows are the same, so it is a version that changes nothing: replacements of dates ignore it, a backfill that met it
begins anew by itself, and it gives way to both: it takes no table that a run is at work on, and when another run
was faster it leaves the segments as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError, StorageError
from dedup_storage.faults import reached
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec
from dedup_storage.spark.backfill.parts import MOST_SEGMENTS, done_segments, files_of, swap_rows
from dedup_storage.spark.backfill.target import Target, segments_sql, table_of
from dedup_storage.spark.errors import translated
from dedup_storage.spark.maintain.decay import SegmentDecay
from dedup_storage.tables.changes import ROWS_KEPT
from dedup_storage.tables.iceberg_branch import BRANCH_PREFIX, PART, RunBranch
from dedup_storage.tables.metadata import DatasetMetadata, live_rows, tags
from dedup_storage.tables.protocol import Run, TableFormat
from dedup_storage.tables.segments import MAINTAIN, Segment, encode_segments
from dedup_storage.tables.sessions import move_to, run_session

__all__ = ["Compactor", "working_branches"]

PART_BYTES = 4 * 1024**3


def working_branches(meta: DatasetMetadata, table: str, own: str = "") -> list[str]:
    """Branches of runs that are at work on a table, or were stopped there."""
    return [tag for tag in tags(meta.tables[table]) if tag.startswith(BRANCH_PREFIX) and tag != own]


class Compactor:
    """Rewrites segments of one dataset.

    Args:
        spark, tables, settings, spec: As for ``Backfill``.
        run_id: The run; parts that an earlier attempt finished are kept.
    """

    def __init__(
        self, spark: SparkSession, tables: TableFormat, settings: Settings, spec: DatasetSpec, run_id: str
    ) -> None:
        self.tables, self.settings, self.spec, self.run_id = tables, settings, spec, run_id
        self.session = run_session(spark)

    def compact(self, meta: DatasetMetadata, decayed: Mapping[str, Sequence[SegmentDecay]]) -> int | None:
        """Rewrite segments; gives the version, ``None`` when another run was faster.

        Args:
            meta: The dataset's tables.
            decayed: Table -> segments to rewrite.
        """
        version = meta.current
        segments = {name: frozenset(s.segment for s in listed) for name, listed in decayed.items() if listed}
        branches = {name: self.tables.branch(self.spec.name, name, self.run_id) for name in segments}
        run = Run(
            run_id=self.run_id,
            job="maintain",
            attempt=f"{self.run_id}/{uuid.uuid4().hex[:12]}",
            base=version,
            dates=tuple(sorted({s.date for listed in segments.values() for s in listed})),
            segments=segments,
            branch=next(iter(branches.values())).name,
            facts={"mode": MAINTAIN},
            table_facts={name: {ROWS_KEPT: "true"} for name in segments},
        )
        try:
            with translated():
                for name, branch in branches.items():
                    self._rewrite(meta, run, table_of(meta, version, name), branch, decayed[name])
                reached("maintain:rewritten")
                members = list(dict.fromkeys((*segments, self.spec.anchor.name)))
                found = self.tables.publish(self.spec, run, members)
                reached("maintain:published")
        except ConflictError:
            return None
        finally:
            self.tables.discard(self.spec, run)
            for branch in branches.values():
                branch.drop()
        return found

    def _rewrite(
        self, meta: DatasetMetadata, run: Run, target: Target, branch: RunBranch, decayed: Sequence[SegmentDecay]
    ) -> None:
        parts = branch.parts()
        finished: set[Segment] = set()
        if parts and parts[0].parent_snapshot_id == target.snapshot_id:
            finished = done_segments(branch)
        else:
            branch.open(target.snapshot_id)
        for part in _parts(s for s in decayed if s.segment not in finished):
            files = self.session.read.option("versionAsOf", str(target.snapshot_id)).table(
                f"{self.settings.catalog.name}.{self.spec.name}.{target.table}.files"
            )
            # The files of at most MOST_SEGMENTS segments.
            paths = [row["file_path"] for row in files_of(files, meta, target.table, part).collect()]
            rows = move_to(self.session, self.tables.read(self.spec.name, target.table, target.snapshot_id))
            rows = rows.filter(F.expr(segments_sql(self.spec, self.settings.catalog.name, part)))
            facts = {PART: encode_segments({target.table: part}), PROPERTY_PREFIX + "run-id": self.run_id}
            swap_rows(self.tables, self.spec, self.session, branch, run, target, rows, paths, facts)
            reached("maintain:part")
        self._same_rows(target, branch)

    def _same_rows(self, target: Target, branch: RunBranch) -> None:
        table = self.tables.metadata(self.spec.name).tables[target.table]
        before, after = live_rows(table, target.snapshot_id), live_rows(table, branch.tip())
        if before != after:
            raise StorageError(
                f"compaction of {target.table} would change the number of rows",
                expected=f"{before} rows",
                got=str(after),
                fix="Nothing was published. Please report it.",
            )


def _parts(decayed: Iterable[SegmentDecay]) -> list[list[Segment]]:
    """At most ``MOST_SEGMENTS`` segments and some gigabytes each."""
    found: list[list[Segment]] = []
    size = 0
    for segment in decayed:
        if not found or len(found[-1]) == MOST_SEGMENTS or size + segment.bytes > PART_BYTES:
            found.append([])
            size = 0
        found[-1].append(segment.segment)
        size += segment.bytes
    return found
