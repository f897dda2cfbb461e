"""Compaction of a whole dataset: measure every table, rewrite what has decayed, measure again."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.compact import Compactor, working_branches
from dedup_storage.dataset.upkeep.decay import Limits, SegmentDecay, measure_decay
from dedup_storage.dataset.upkeep.maintain_summary import Gain
from dedup_storage.lake.branch import branch_name
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.requests import Request
from dedup_storage.layout import LABEL_TIMES, TableRole

__all__ = ["Restoring"]

_COMPACTED = (
    TableRole.REQUESTS, TableRole.IMPRESSIONS, TableRole.LOGS, TableRole.EVENTS, TableRole.FEATURES
)  # fmt: skip


class Restoring:
    """Restores the order of one dataset's segments.

    Args:
        handle: The dataset.
        run_id: Names the version.
        limits: What counts as decayed.
        request: What the run is asked to do.
    """

    def __init__(self, handle: Handle, run_id: str, limits: Limits, request: Request) -> None:
        self.handle, self.tables, self.spec = handle, handle.tables, handle.spec
        self.run_id, self.limits, self.request = run_id, limits, request

    def run(self, meta: DatasetMetadata, *, done: int | None = None, dry_run: bool = False) -> tuple[Gain, ...]:
        """Do it; gives each table before and after.

        Args:
            meta: The dataset's tables.
            done: The version in which this run compacted; what has decayed since is another run's.
            dry_run: Measure, change nothing.
        """
        before = self._measure(meta)
        decayed = {name: [s for s in listed if s.reasons] for name, listed in before.items()}
        own, skipped = branch_name(self.run_id), {}
        for name, listed in decayed.items():
            if listed and done is not None:
                skipped[name] = f"the run {self.run_id} compacted already, as version {done}: give another run id"
            elif listed and working_branches(self.tables, self.spec.name, name, own):
                skipped[name] = "a run is at work on the table"
        chosen = {name: listed for name, listed in decayed.items() if listed and name not in skipped}
        after = before
        if chosen and not dry_run:
            version = Compactor(self.handle, self.run_id, self.request).compact(meta, chosen)
            if version is None:
                skipped |= dict.fromkeys(chosen, "another run changed the segments meanwhile")
            after = self._measure(self.handle.metadata())
        return tuple(_gain(name, before[name], after[name], skipped.get(name)) for name in before)

    def drop_own(self, meta: DatasetMetadata) -> None:
        """Remove what this run, killed between publication and clean-up, left behind."""
        for name in meta.tables:
            self.tables.branch(self.spec.name, name, self.run_id).drop()

    def _measure(self, meta: DatasetMetadata) -> dict[str, list[SegmentDecay]]:
        found = {}
        for name, snapshot_id in meta.snapshots(meta.current).items():
            if meta.role(name) in _COMPACTED or name == LABEL_TIMES:
                found[name] = measure_decay(self.tables.files(meta, name, snapshot_id), name, self.limits)
        return found


def _gain(name: str, before: list[SegmentDecay], after: list[SegmentDecay], skipped: str | None) -> Gain:
    return Gain(
        table=name,
        segments=len(before),
        decayed_segments=sum(1 for s in before if s.reasons),
        files_before=sum(s.files for s in before),
        files_after=sum(s.files for s in after),
        bytes_before=sum(s.bytes for s in before),
        bytes_after=sum(s.bytes for s in after),
        hidden_rows_before=sum(s.hidden_rows for s in before),
        hidden_rows_after=sum(s.hidden_rows for s in after),
        overlapping_files_before=sum(s.overlapping_files for s in before),
        overlapping_files_after=sum(s.overlapping_files for s in after),
        skipped=skipped,
    )
