"""Compaction of a whole dataset: measure every table, rewrite what has decayed, measure again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.chosen import chosen_segments
from dedup_storage.dataset.upkeep.compact import Compactor, working_branches
from dedup_storage.dataset.upkeep.decay import Limits, SegmentDecay, measure_decay
from dedup_storage.dataset.upkeep.maintain_summary import Gain
from dedup_storage.dataset.upkeep.unreferenced import GrownRequestsError, Referenced, all_referenced
from dedup_storage.lake.branch import branch_name
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.requests import Request
from dedup_storage.layout import LABEL_TIMES, TableRole

__all__ = ["Restoring"]

_COMPACTED = (
    TableRole.REQUESTS, TableRole.IMPRESSIONS, TableRole.LOGS, TableRole.EVENTS, TableRole.FEATURES
)  # fmt: skip
# How often it is looked anew which events go, because others published meanwhile.
_ATTEMPTS = 3
_AT_WORK = "a run is at work on the table"
_BUSY = "other runs kept changing requests while it was looked for events that none refers to"


class Restoring:
    """Restores the order of one dataset's segments, and drops events that nothing refers to.

    Args:
        handle: The dataset.
        run_id: Names the version.
        limits: What counts as decayed.
        request: What the run is asked to do.
        compact: Rewrite whatever has decayed.
        events: Drop events that no request of a kept version refers to.
    """

    def __init__(
        self,
        handle: Handle,
        run_id: str,
        limits: Limits,
        request: Request,
        *,
        compact: bool = True,
        events: bool = True,
    ) -> None:
        self.handle, self.tables, self.spec = handle, handle.tables, handle.spec
        self.run_id, self.limits, self.request = run_id, limits, request
        self.compact, self.events = compact, events and bool(handle.spec.events)

    def run(
        self,
        meta: DatasetMetadata,
        kept: Callable[[DatasetMetadata], Collection[int]],
        *,
        done: int | None = None,
        dry_run: bool = False,
    ) -> tuple[Gain, ...]:
        """Do it; gives each table before and after.

        Args:
            meta: The dataset's tables.
            kept: The versions that stay.
            done: The version in which this run compacted; what has decayed since is another run's.
            dry_run: Measure, change nothing.
        """
        if not self.events or done is not None or all_referenced(meta):
            return self._restored(meta, None, done, dry_run)
        now = meta
        for _ in range(_ATTEMPTS):
            if not dry_run:
                # Of an attempt before: what was dropped there may be referred to by now, and versions that share a
                # table with its beginning would be kept for it.
                self._drop_events(meta)
            try:
                with Referenced.of(self.handle.for_run(), now, kept(now), meta) as referenced:
                    return self._restored(meta, referenced, done, dry_run)
            except GrownRequestsError:
                # What came left the files alone that this run replaces: the other tables are rewritten already.
                now = self.handle.metadata()
        self._drop_events(meta)
        gains = self._restored(meta, None, done, dry_run)
        return tuple(
            gain.model_copy(update={"skipped": gain.skipped or _BUSY}) if self.spec.event_group(gain.table) else gain
            for gain in gains
        )

    def _restored(
        self, meta: DatasetMetadata, referenced: Referenced | None, done: int | None, dry_run: bool
    ) -> tuple[Gain, ...]:
        events = self._events(meta.snapshots(meta.current)) if referenced is not None else {}
        # Rows are read to know what goes; not where nothing can go.
        busy = {name for name in events if self._is_busy(name)}
        looked = {name for name, table in events.items() if not busy & {name, table}}
        before = self._measure(meta, referenced, looked)
        chosen = chosen_segments(
            before, self._events(before), lambda name: self._left_alone(name, done), compact=self.compact
        )
        skipped = {**dict.fromkeys(busy, _AT_WORK), **chosen.skipped}
        after, dropped = before, dict.fromkeys(before, 0)
        if chosen.segments and not dry_run:
            version = Compactor(self.handle, self.run_id, self.request).compact(meta, chosen.segments, referenced)
            if version is None:
                skipped |= dict.fromkeys(chosen.segments, "another run changed the segments meanwhile")
            else:
                dropped |= {n: sum(s.unreferenced_rows for s in listed) for n, listed in chosen.segments.items()}
            after = self._measure(self.handle.metadata())
        return tuple(
            _gain(name, before[name], after[name], chosen.decayed[name], dropped[name], skipped.get(name))
            for name in before
        )

    def _left_alone(self, table: str, done: int | None) -> str | None:
        """Why a table that has decayed is not compacted."""
        if done is not None:
            return f"the run {self.run_id} compacted already, as version {done}: give another run id"
        return _AT_WORK if self._is_busy(table) else None

    def _is_busy(self, table: str) -> bool:
        return bool(working_branches(self.tables, self.spec.name, table, branch_name(self.run_id)))

    def _events(self, tables: Iterable[str]) -> dict[str, str]:
        """Tables with a row an event -> the table of the events."""
        groups = {name: self.spec.event_group(name) for name in tables}
        return {name: group.table for name, group in groups.items() if group is not None}

    def drop_own(self, meta: DatasetMetadata) -> None:
        """Remove what this run, killed between publication and clean-up, left behind."""
        self._drop(meta.tables)

    def _drop_events(self, meta: DatasetMetadata) -> None:
        self._drop(name for name in meta.tables if self.spec.event_group(name) and self._begun(name))

    def _begun(self, table: str) -> bool:
        return branch_name(self.run_id) in self.tables.branches(self.spec.name, table)

    def _drop(self, tables: Iterable[str]) -> None:
        for name in tables:
            self.tables.branch(self.spec.name, name, self.run_id).drop()

    def _measure(
        self, meta: DatasetMetadata, referenced: Referenced | None = None, looked: Collection[str] = ()
    ) -> dict[str, list[SegmentDecay]]:
        found = {}
        for name, snapshot_id in meta.snapshots(meta.current).items():
            of_events = self.spec.event_group(name) is not None
            if of_events or (self.compact and (meta.role(name) in _COMPACTED or name == LABEL_TIMES)):
                unreferenced = referenced.unreferenced(name) if referenced is not None and name in looked else None
                files = self.tables.files(meta, name, snapshot_id)
                found[name] = measure_decay(files, name, self.limits, unreferenced)
        return found


def _gain(
    name: str,
    before: list[SegmentDecay],
    after: list[SegmentDecay],
    decayed: int,
    dropped: int,
    skipped: str | None,
) -> Gain:
    unreferenced = sum(s.unreferenced_rows for s in before)
    return Gain(
        table=name,
        segments=len(before),
        decayed_segments=decayed,
        files_before=sum(s.files for s in before),
        files_after=sum(s.files for s in after),
        bytes_before=sum(s.bytes for s in before),
        bytes_after=sum(s.bytes for s in after),
        hidden_rows_before=sum(s.hidden_rows for s in before),
        hidden_rows_after=sum(s.hidden_rows for s in after),
        overlapping_files_before=sum(s.overlapping_files for s in before),
        overlapping_files_after=sum(s.overlapping_files for s in after),
        unreferenced_rows_before=unreferenced,
        unreferenced_rows_after=unreferenced - dropped,
        skipped=skipped,
    )
