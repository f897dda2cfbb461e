"""Rewrites decayed segments to sorted order and publishes that as a version of its own.

The rows are the same, so it is a version that changes nothing: replacements of dates ignore it, a backfill that met it
begins anew by itself, and it gives way to both: it takes no table that a run is at work on, and when another run
was faster it leaves the segments as they are. Of events those go that no kept version's request refers to; requests
that came since it was looked for them may refer to some, so that these segments are looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pyspark.sql import functions as F

from dedup_storage.dataset.backfill.parts import MOST_SEGMENTS, SegmentFiles, done_segments, swap_rows
from dedup_storage.dataset.backfill.target import Target, table_of
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.decay import SegmentDecay
from dedup_storage.dataset.upkeep.unreferenced import GrownRequestsError, Referenced
from dedup_storage.errors import ConflictError, DedupStorageError, LostRacesError, StorageError
from dedup_storage.faults import reached
from dedup_storage.lake.branch import PART, RUN_ID, Branch, goes_on
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.facts import ROWS_KEPT
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, TableFormat
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import new_attempt
from dedup_storage.lake.segments import MAINTAIN, Segment, encode_segments
from dedup_storage.spark.errors import translated

__all__ = ["Compactor", "working_branches"]

PART_BYTES = 4 * 1024**3


def working_branches(tables: TableFormat, dataset: str, table: str, own: str = "") -> list[str]:
    """Branches of other runs that are at work on a table, or were stopped there."""
    return [name for name in tables.branches(dataset, table) if name != own]


class Compactor:
    """Rewrites segments of one dataset.

    Args:
        handle: The dataset.
        run_id: The run; parts that an earlier attempt finished are kept, but not of tables of which rows go.
        request: What the run is asked to do.
    """

    def __init__(self, handle: Handle, run_id: str, request: Request) -> None:
        self.tables, self.spec, self.run_id, self.request = handle.tables, handle.spec, run_id, request
        self.session = run_session(handle.spark)

    def compact(
        self,
        meta: DatasetMetadata,
        decayed: Mapping[str, Sequence[SegmentDecay]],
        referenced: Referenced | None = None,
    ) -> int | None:
        """Rewrite segments; gives the version, ``None`` when another run was faster.

        Args:
            meta: The dataset's tables.
            decayed: Table -> segments to rewrite.
            referenced: Which events stay in segments that have others.

        Raises:
            GrownRequestsError: requests came meanwhile that may refer to events which were to go; the finished parts of
                tables of which no row goes can be gone on with.
            StorageError: files or the catalog could not be read or written; the finished parts are kept.
            LostRacesError: others published all the time; the finished parts are kept.
        """
        version = meta.current
        segments = {name: frozenset(s.segment for s in listed) for name, listed in decayed.items() if listed}
        branches = {name: self.tables.branch(self.spec.name, name, self.run_id) for name in segments}
        run = Run(
            run_id=self.run_id,
            job="maintain",
            attempt=new_attempt(self.run_id),
            base=version,
            dates=tuple(sorted({s.date for listed in segments.values() for s in listed})),
            segments=segments,
            branch=next(iter(branches.values())).name,
            facts={"mode": MAINTAIN, **self.request.facts},
            table_facts={name: {ROWS_KEPT: "true"} for name in segments},
        )
        found: int | None = None
        dropping = referenced is not None and any(s.unreferenced_rows for listed in decayed.values() for s in listed)
        try:
            with translated():
                for name, branch in branches.items():
                    self._rewrite(meta, run, table_of(meta, version, name), branch, decayed[name], referenced)
                reached("maintain:rewritten")
                members = list(dict.fromkeys((*segments, self.spec.anchor.name)))
                verify = referenced.refuse_grown if referenced is not None and dropping else None
                found = self.tables.publish(self.spec, run, members, verify)
                reached("maintain:published")
        except LostRacesError as error:
            raise error.advised(goes_on(self.run_id)) from error
        except GrownRequestsError:
            raise
        except ConflictError:
            found = None
        except DedupStorageError as error:
            raise error.advised(goes_on(self.run_id)) from error
        finally:
            self.tables.discard(self.spec, run)
        for branch in branches.values():
            branch.drop()
        return found

    def _rewrite(
        self,
        meta: DatasetMetadata,
        run: Run,
        target: Target,
        branch: Branch,
        decayed: Sequence[SegmentDecay],
        referenced: Referenced | None,
    ) -> None:
        finished: set[Segment] = set()
        dropped = sum(s.unreferenced_rows for s in decayed)
        dropping = {s.segment for s in decayed if s.unreferenced_rows}
        # What an earlier attempt left out may be referred to by now.
        if branch.begun_at() == target.snapshot_id and not dropped:
            finished = done_segments(branch)
        else:
            branch.open(target.snapshot_id)
        left = [s for s in decayed if s.segment not in finished]
        files = SegmentFiles(
            lambda: move_to(self.session, self.tables.files(meta, target.table, target.snapshot_id)),
            (s.segment for s in left),
        )
        # Segments of which rows go in parts of their own: of all others each row stays, whoever refers to it.
        parts = [
            *_parts(s for s in left if s.segment not in dropping),
            *_parts(s for s in left if s.segment in dropping),
        ]
        for part in parts:
            # The files of at most MOST_SEGMENTS segments.
            paths = files.paths(part)
            rows = self.tables.read(self.spec.name, target.table, target.snapshot_id, hidden=True)
            spec = self.spec.partitioned(target.table)
            rows = move_to(self.session, rows).filter(F.expr(self.tables.inside(spec, part)))
            if referenced is not None and dropping.issuperset(part):
                rows = referenced.kept(target.table, rows)
            facts = {PART: encode_segments({target.table: part}), RUN_ID: self.run_id, **self.request.facts}
            swap_rows(self.tables, self.spec, self.session, branch, run, target, rows, paths, facts)
            reached("maintain:part")
        self._same_rows(meta, target, branch, dropped)
        if referenced is not None and dropped:
            referenced.require_whole(target.table, move_to(self.session, branch.rows()))

    def _same_rows(self, meta: DatasetMetadata, target: Target, branch: Branch, dropped: int) -> None:
        before, after = meta.totals(target.table, target.snapshot_id).rows, branch.count()
        if before - dropped != after:
            # No attempt may go on from these parts.
            branch.drop()
            raise StorageError(
                f"compaction of {target.table} would change the number of rows",
                expected=f"{before - dropped} rows",
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
